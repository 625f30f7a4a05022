"""What a compile command says: source, output, dependency file, and the flags that decide what a header means.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import hashlib
import os
import re

#: In the folder of each target of a build, since CMake 3.20; since then compilers write dependency files, too.
TIMESTAMP = "compiler_depend.ts"
#: Sources that a C++ precompiled header can serve.
CXX = (".cpp", ".cc", ".cxx", ".c++", ".C", ".CPP")
#: Options whose value is the next argument.
_WITH_VALUE = {"-D", "-U", "-I", "-isystem", "-iquote", "-idirafter", "-o", "-MF", "-MT", "-MQ", "--param"}
_OUTPUTS = ("-o", "-MF", "-MT", "-MQ")
#: Options under which a precompiled header gives the same object as the text it stands for. Everything else is
#: compiled plainly: also options that may be harmless, but that nobody compared.
_SUITABLE = re.compile(
    r"-(?:[DUI].*|(?:isystem|iquote|idirafter).*|std=.*|O\w*|g0|w|W(?!p,)[^\s]*|f[^\s]+|m[^\s]+|pthread|pipe|pie|no-pie"
    r"|pedantic(?:-errors)?|ansi|c|MD|param.*|-param=.*)"
)
#: Options of the kinds above that write further files, keep names of files in the object, or change what a header is.
_UNSUITABLE = re.compile(
    r"-f(?:lto|profile|test-coverage|coverage|auto-profile|modules?|pch|plugin|dump|random-seed|preprocessed"
    r"|directives-only|sanitize|working-directory|save-optimization|callgraph|stack-usage|syntax-only|compare-debug"
    r"|record-gcc-switches|opt-info|diagnostics-format|report-bug|openmp-targets|offload|instrument)"
)
#: Names that the compiler defines itself, for each file anew.
_PER_FILE = {"__FILE__", "__BASE_FILE__", "__FILE_NAME__", "__COUNTER__", "__INCLUDE_LEVEL__", "__LINE__"}
_DEFINE = re.compile(r"-D\s*([^=(]+)(?:\([^)]*\))?(?:=(.*))?", re.DOTALL)
_WORD = re.compile(r"""(?:[^\s'"\\]+|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""", re.DOTALL)
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\]+)""", re.DOTALL)


class UnsuitableError(Exception):
    """The command is compiled as it is; the text says why, in one word."""


class Command:
    """A C++ compile that a precompiled header could serve."""

    def __init__(self, argv: list[str], cwd: str) -> None:
        """Read ``argv`` (compiler first). Raises UnsuitableError."""
        self.argv = argv
        self.cwd = cwd
        self.compiler = argv[0]
        self.source = ""
        self.output = ""
        self.depfile: str | None = None
        #: All flags, without those that name this file.
        self.flags: list[str] = []
        #: Folders of ``-iquote`` and of the other options, in the order in which they are searched.
        self.quoted: list[str] = []
        self.folders: list[str] = []
        writes_dependencies = self._read(argv[1:])
        if "-c" not in argv or not self.source or not self.output:
            raise UnsuitableError("not-a-compile")
        if writes_dependencies != (self.depfile is not None):
            raise UnsuitableError("dependencies")
        self.flags = [flag for flag in self._joined(self.flags) if not self._names_this_file(flag)]
        self.kind = self._kind()

    def _read(self, arguments: list[str]) -> bool:
        """Sort the arguments; true where dependencies are to be written."""
        writes = False
        folders: dict[str, list[str]] = {"-I": [], "-isystem": [], "-iquote": [], "-idirafter": []}
        rest = iter(arguments)
        for argument in rest:
            value = next(rest, "") if argument in _WITH_VALUE else None
            if argument in _OUTPUTS:
                self.output = value or "" if argument == "-o" else self.output
                self.depfile = value if argument == "-MF" else self.depfile
            elif not argument.startswith("-"):
                if self.source or not argument.endswith(CXX):
                    raise UnsuitableError("not-a-compile")
                self.source = argument
            elif not _SUITABLE.fullmatch(argument) or _UNSUITABLE.match(argument):
                raise UnsuitableError("option:" + argument.split("=")[0])
            elif argument == "-MD":
                writes = True
            elif argument != "-c":
                self.flags += [argument] if value is None else [argument, value]
                for option, found in folders.items():
                    if argument.startswith(option):
                        found.append(value if value is not None else argument[len(option) :])
        self.quoted = folders["-iquote"]
        self.folders = folders["-I"] + folders["-isystem"] + folders["-idirafter"]
        return writes

    @staticmethod
    def _joined(flags: list[str]) -> list[str]:
        """``-D X`` as ``-DX``: so that one flag is one argument."""
        found = []
        rest = iter(flags)
        for flag in rest:
            if flag in _WITH_VALUE:
                value = next(rest)
                found += [flag, value] if flag == "--param" else [flag + value]
            else:
                found.append(flag)
        return found

    def _names_this_file(self, flag: str) -> bool:
        """True for a define that differs from file to file.

        It may be left out of a header's own compile: gcc refuses a precompiled header in which a name occurs, in
        whatever role, that is defined where the header is used but was not where it was made.
        """
        define = _DEFINE.fullmatch(flag)
        if define is None:
            return False
        value = (define[2] or "").strip("\"'\\")
        names = "$<" in value or value.endswith(os.path.basename(self.source))
        if define[1] in _PER_FILE:
            raise UnsuitableError("redefines:" + define[1])
        return names

    def _kind(self) -> str:
        """A name for all compiles that could share a header, whatever order ccache puts their options in."""
        defines = [flag for flag in self.flags if flag[:2] in ("-D", "-U")]
        folders = [flag for flag in self.flags if flag[:2] == "-I" or flag[:2] == "-i"]
        # Flags of the linker, and what ccache adds for a terminal, mean nothing to a header.
        others = [
            flag
            for flag in self.flags
            if flag[:2] not in ("-D", "-U", "-I", "-i") and not flag.startswith(("-Wl,", "-fdiagnostics-color"))
        ]
        return digest("\0".join([find_program(self.compiler), self.cwd, *defines, "", *folders, "", *others]))


def find_program(name: str) -> str:
    """The path of a program, as ccache finds it too; the name itself where there is none."""
    if os.sep in name:
        return name
    paths = (os.path.join(folder, name) for folder in os.get_exec_path())
    return next((path for path in paths if os.access(path, os.X_OK) and os.path.isfile(path)), name)


def digest(text: str) -> str:
    """A short name for ``text``."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def split(line: str) -> list[str]:
    """The words of a shell command that holds nothing but words."""
    words = []
    for word in _WORD.findall(line):
        if "'" not in word and '"' not in word and "\\" not in word:
            words.append(word)
            continue
        pieces = []
        for single, double, escaped, bare in _PIECE.findall(word):
            pieces.append(single or re.sub(r'\\(["\\$`])', r"\1", double) or escaped or bare)
        words.append("".join(pieces))
    return words


def expanded(argv: list[str], folder: str, source: str) -> list[str]:
    """The arguments as make passes them on: some release lines have functions of make in their compile commands.

    ``folder`` is the working folder. What make calls the first prerequisite (``$<``) is the source with CMake before
    3.20, and since then a file of CMake's own, the same for all sources of a target (CMake 3.25 does both, the former
    with CMAKE_DEPENDS_USE_COMPILER=OFF).
    """
    if not any("$" in argument for argument in argv):
        return argv
    first = timestamp_of(argv, folder) or source
    return [expand(argument, first) for argument in argv]


def timestamp_of(argv: list[str], folder: str) -> str | None:
    """CMake's own file for the target that ``argv`` compiles for; None where this CMake makes none."""
    path = os.path.join(folder, value_of(argv, "-o").partition(".dir/")[0] + ".dir", TIMESTAMP)
    return path if os.path.exists(path) else None


def value_of(argv: list[str], option: str) -> str:
    """The argument that follows ``option``; empty where there is none."""
    return next((argv[at + 1] for at, argument in enumerate(argv[:-1]) if argument == option), "")


def expand(text: str, first: str) -> str:
    """Carry out make's functions in ``text``; ``first`` is what make calls the first prerequisite."""
    innermost = re.compile(r"\$\((abspath|realpath|notdir|subst) ([^$()]*)\)")
    text = text.replace("$<", first)
    while True:
        match = innermost.search(text)
        if match is None:
            return text
        function, value = match.groups()
        if function == "subst":
            old, new, value = value.split(",", 2)
            value = value.replace(old, new)
        elif function == "notdir":
            value = os.path.basename(value)
        else:
            value = os.path.abspath(value) if function == "abspath" else os.path.realpath(value)
        text = text[: match.start()] + value + text[match.end() :]


class Names:
    """What the launcher changes in a command, for all Pythons and all versions of a release line to share objects.

    The launcher itself does it with POSIX sh; this is for commands that are read elsewhere.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.include = env.get("BUILDER_PYTHON_INCLUDE", "")
        self.alias = env.get("BUILDER_PYTHON_INCLUDE_AS", "")
        self.define = ""
        self.keep: set[str] = set()
        try:
            with open(env.get("BUILDER_VERSION_DEFINE") or "/nonexistent", encoding="utf-8") as file:
                self.define, *keep = file.read().split("\n")
                self.keep = set(keep)
        except OSError:
            pass

    def apply(self, argv: list[str], source: str) -> list[str]:
        """The command as the launcher passes it on."""
        found = []
        for argument in argv:
            if self.define and source not in self.keep and argument.startswith("-D" + self.define + "="):
                continue
            if self.include and self.alias:
                for option in ("-I", "-isystem", ""):
                    path = option + self.include
                    if argument == path or argument.startswith(path + "/"):
                        argument = option + self.alias + argument[len(path) :]
                        break
            found.append(argument)
        return found
