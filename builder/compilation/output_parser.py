"""Reading what a build prints: how far it is, whether code generation broke, and what failed first.

torch_npu's code generation fails silently before 26.1.0 (its script has no ``set -e``), so its output
is the only early witness; two hours of compiling stale code come after it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence

#: ``[ 42%] Building`` by make, ``[12/983] Building`` by ninja.
_MAKE = re.compile(r"^\[\s*(\d{1,3})%\]")
_NINJA = re.compile(r"^\[(\d+)/(\d+)\]")
#: setuptools' first line after setup.py has run code generation and built the stub libraries.
_SETUPTOOLS = re.compile(r"^running (build|bdist_wheel|build_py|egg_info)\b")
#: What shells, sed and Python print when a step of code generation did not do its work.
_TROUBLE = r"(?:No module named|No such file or directory|command not found|can't |cannot |Permission denied)"
_STEP_FAILED = re.compile(rf"^(?:\S*(?:python[\d.]*|bash|sed|cp|mkdir)|\S+\.sh): .*{_TROUBLE}")
#: Scripts that run before code generation begins: the launcher's, CANN's, and upstream's ci/build.sh.
_BEFORE_GENERATION = re.compile(r"^(?:\S*/)?(?:run_build|set_env|setenv|build)\.sh: ")
#: What a traceback of code generation, or of setup.py's call of it, has in its frames.
_GENERATION = re.compile(r"gen(?:erat|[_.\W]|$)", re.IGNORECASE)
_SETUP = re.compile(r'^\s*File "(?:\S*/)?setup\.py"')
_COMPILER_ERROR = re.compile(
    r"^\S+?:\d+(?::\d+)?: (?:fatal )?error: "
    r"|^(?:\S*/)?(?:c\+\+|g\+\+|gcc|cc1plus|collect2|ld)\b.*: (?:fatal )?error"
    r"|undefined reference to "
    r"|^CMake Error"
)
_OTHER_ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception)\b[:(]|^make(?:\[\d+\])?: \*\*\*|^ninja: build stopped|\berror:", re.IGNORECASE
)

#: A compiler that the kernel killed, or that got no memory.
_KILLED = re.compile(
    r"fatal error: Killed signal|virtual memory exhausted|out of memory allocating|cc1plus: out of memory"
)

#: What a compiler warns of: at a place of a file, or of itself. Others that warn so (make, linkers) name no line.
_WARNING = re.compile(
    r"^(?:\S[^:]*:\d+(?::\d+)?|(?:\S*/)?(?:[\w-]*[gc]\+\+|[\w-]*gcc|cc)(?:-[\d.]+)?|cc1(?:plus)?): warning: "
)
_MAKEFILE = re.compile(r"^(?:\S*/)?(?:[Mm]akefile\d?|\S+\.(?:mk|make)):")
#: ``[-Wname]`` or ``[-Wname=]`` at the end says which kind of warning it is.
_KIND = re.compile(r"\[-W([\w+-]{1,60})[^\]\s]*\]$")
#: Kinds that are counted by name; what comes after so many is among the others.
_KINDS = 60
OTHER_WARNINGS = "other"
#: Colours, where a compiler was told to use them.
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")

#: How C, Python and shells write that a file could not be read or written (strerror of EACCES, EROFS and EIO in the C
#: locale), with the name of the file before it or behind it. ``Permission denied (publickey)`` of ssh is another thing.
_FAULTS = ("Permission denied", "Read-only file system", "Input/output error")
_FAULT = re.compile(
    r"(?:(?P<before>[^\s:'\"]+)['\"\u2019]?: )?(?:\[Errno (?:5|13|30)\] )?"
    rf"(?P<what>{'|'.join(_FAULTS)})"
    r"(?:: ['\"](?P<behind>[^'\"]+)['\"]|[.,;:\])]*$)"
)
_FULL = ("No space left on device", "Disk quota exceeded")
_TRACEBACK = "Traceback (most recent call last)"

#: Characters of a line that are looked at: patterns take time by the square of a line that is made for it.
LONGEST = 4096
#: Lines of the log that an error carries.
TAIL_LINES = 15
#: Lines from the first compiler error on: the source line and the caret follow it.
EXCERPT_LINES = 6


class OutputReader:
    """Follows the output of upstream's ``ci/build.sh``, line by line.

    ``folders`` are absolute paths that a build may write, as it sees them: where one of them fails it is the machine's
    fault. It may write nowhere else, so that what fails elsewhere is its own.
    """

    def __init__(self, folders: Sequence[str] = ()) -> None:
        self._folders = tuple(folders)
        self.generating = True
        self.percent: float | None = None
        self.activity = "code generation"
        self.generation_failure: str | None = None
        #: What went wrong before code generation had begun.
        self.early_failure: str | None = None
        self.disk_full = False
        self.killed = False
        #: The first line that says that a folder of the build failed, where the sources had not failed before.
        self.machine_fault: str | None = None
        self.first_error: str | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.excerpt: list[str] = []
        #: How often compilers warned, by kind (the name behind ``-W``).
        self.warnings: Counter[str] = Counter()
        self._excerpt_ends = False
        self._traceback: list[str] | None = None
        self._fallback: str | None = None

    def feed(self, line: str) -> None:
        """Take the next line; of a very long one the beginning."""
        text = line[:LONGEST].rstrip()
        self.tail.append(text)
        self.disk_full = self.disk_full or any(said in text for said in _FULL)
        self.killed = self.killed or _KILLED.search(text) is not None
        if self.generating and _SETUPTOOLS.match(text):
            self.generating = False
            self._end_traceback()
            self.activity = "configuring"
        self._look_for_fault(text)
        if self.generating:
            self._follow_generation(text)
        self._follow_progress(text)
        if "warning: " in text:
            self._count_warning(_COLOURS.sub("", text))
        if self.first_error is None and _COMPILER_ERROR.search(text):
            self.first_error = text
        # setup.py ends with a traceback of its own, which says no more; how soon depends on how two streams mix.
        self._excerpt_ends = self._excerpt_ends or (self.first_error is not None and text.startswith(_TRACEBACK))
        if self.first_error is not None and not self._excerpt_ends and len(self.excerpt) < EXCERPT_LINES:
            self.excerpt.append(text)
        elif self._fallback is None and not self.generating and _OTHER_ERROR.search(text):
            self._fallback = text

    def finish(self) -> None:
        """Say that no line follows."""
        self._end_traceback()

    @property
    def error(self) -> str | None:
        """The line that best says what failed: the first compiler error, else the first other error."""
        return self.first_error or self._fallback

    @property
    def of_the_machine(self) -> bool:
        """True where a folder of the build failed, and nothing that came after blames the sources."""
        return self.machine_fault is not None and self.first_error in (None, self.machine_fault)

    def _look_for_fault(self, text: str) -> None:
        if self.machine_fault is not None or self.first_error is not None or self.generation_failure is not None:
            return
        # The pattern alone takes time by the square of a line's length.
        if not any(said in text for said in _FAULTS):
            return
        for found in _FAULT.finditer(text):
            path = found["behind"] or found["before"]
            if found["what"].startswith("Input/output") or (path is not None and self._is_own(path)):
                self.machine_fault = text
                return

    def _is_own(self, path: str) -> bool:
        """True below the folders of the build, in which relative names are, too."""
        return not path.startswith("/") or any(path == top or path.startswith(f"{top}/") for top in self._folders)

    def _count_warning(self, text: str) -> None:
        if _WARNING.match(text) is None or _MAKEFILE.match(text):
            return
        found = _KIND.search(text)
        kind = found[1] if found else OTHER_WARNINGS
        self.warnings[kind if kind in self.warnings or len(self.warnings) < _KINDS else OTHER_WARNINGS] += 1

    def _follow_generation(self, text: str) -> None:
        if self.generation_failure is not None:
            return
        if text.startswith(_TRACEBACK):
            self._traceback = [text]
        elif self._traceback is not None:
            self._traceback.append(text)
            # A traceback ends with the first line that is not indented: the exception itself.
            if text and not text.startswith((" ", "Traceback")):
                self._end_traceback()
        elif _BEFORE_GENERATION.match(text):
            self.early_failure = self.early_failure or text
        elif _STEP_FAILED.match(text):
            self.generation_failure = text

    def _end_traceback(self) -> None:
        if self._traceback:
            of_setup = len(self._traceback) > 1 and _SETUP.match(self._traceback[1])
            if of_setup and not any(map(_GENERATION.search, self._traceback)):
                self.early_failure = self.early_failure or self._traceback[-1]
            else:
                self.generation_failure = self.generation_failure or self._traceback[-1]
        self._traceback = None

    def _follow_progress(self, text: str) -> None:
        if match := _MAKE.match(text):
            self.percent = float(match.group(1))
        elif match := _NINJA.match(text):
            self.percent = 100.0 * int(match.group(1)) / max(1, int(match.group(2)))
        else:
            return
        # `Building CXX object a/b/File.cpp.o`: the file is what a person recognises.
        self.activity = text.rsplit("/", 1)[-1].removesuffix(".o") if "Building" in text else text.split("] ", 1)[-1]


def missing_outputs(expected: Sequence[str], ages: dict[str, float | None], started: float) -> list[str]:
    """Names of expected generated files that are absent (age None) or older than ``started`` (epoch seconds)."""
    missing = []
    for name in expected:
        modified = ages.get(name)
        if modified is None:
            missing.append(f"{name} (missing)")
        elif modified < started:
            missing.append(f"{name} (stale)")
    return missing
