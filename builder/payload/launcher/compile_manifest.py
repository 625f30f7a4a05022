"""What a build's compiles take in, written down. Runs in the environment: Python 3.7 or later, nothing installed.

``before`` the build: what every compile depends on beyond its own files goes into ``<out>/inputs``, which ccache
hashes with each file (the compiler proper, which ccache's own check of the driver does not see, and include names whose
meaning a new file may change); the interpreter's headers get their one name; and the cache folder is tried.

``after`` it: ``<out>/compile-manifest.json.gz`` says of each object its command and what it was made of, by content.
Two of these explain every miss of the second build.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

INPUTS = "inputs"
MANIFEST = "compile-manifest.json.gz"
#: Programs that make an object, and how the driver names them.
TOOLS = ("cc1plus", "cc1", "as")
SOURCES = (".c", ".cc", ".cpp", ".cxx", ".C")
HEADERS = (".h", ".hh", ".hpp", ".hxx", ".inc", ".inl", ".ipp", ".tpp", ".def")
#: Folders of a tree that no source is included from, or that builds make.
SKIPPED = {".git", "build", "dist", "docs", "test", "__pycache__"}
INCLUDE = re.compile(rb'^[ \t]*#[ \t]*(?:include|include_next|import)[ \t]*([<"])([^">\n]+)[">]', re.MULTILINE)
ASKED = re.compile(rb'__has_include(?:_next)?[ \t]*\([ \t]*([<"])([^">\n]+)[">]')
#: Macros whose value no file holds; what they stand in is compiled anew by the day.
CLOCKS = (b"__DATE__", b"__TIME__", b"__TIMESTAMP__")
#: The first ccache that notices every change of a file whose digest it remembers
#: (https://github.com/ccache/ccache/issues/1215). Each environment has a newer one of its own; this is for what else
#: may stand on PATH where that could not be had.
OLDEST = (4, 7, 4)
#: Files and folders that are tried whether they can be read, and those of them that are named where they cannot.
LOOKED_AT = 20000
NAMED = 20
#: Options whose value follows as a word of its own, and says only where results go.
PLACES = {"-o", "-MF", "-MT", "-MQ"}


def digest_of(text: bytes) -> str:
    """A digest of a file's content."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def text_of(path: str) -> Optional[bytes]:
    """A file's content; None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def output_of(argv: List[str]) -> str:
    """What a program prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return os.fsdecode(done.stdout)


# Before the build.


def tool_lines() -> Iterator[str]:
    """``tool NAME DIGEST`` for each program behind the drivers on PATH."""
    seen: Set[Tuple[str, str]] = set()
    for driver in ("c++", "g++", "cc", "gcc"):
        if shutil.which(driver) is None:
            continue
        for name in TOOLS:
            path = shutil.which(output_of([driver, "-print-prog-name=" + name]).strip())
            text = text_of(path) if path else None
            if text is not None and (name, digest_of(text)) not in seen:
                seen.add((name, digest_of(text)))
                yield f"tool {name} {digest_of(text)}"


def system_folders() -> List[str]:
    """Where the compiler looks for ``<name>`` on its own."""
    command = "LC_ALL=C exec c++ -E -v -x c++ /dev/null 2>&1 >/dev/null"
    listed = output_of(["sh", "-c", command]).partition("#include <...> search starts here:")[2]
    listed = listed.partition("End of search list")[0]
    return [line.strip() for line in listed.splitlines() if line.strip()]


def files_below(root: str) -> Iterator[str]:
    """Paths of what a source may include below ``root``, relative to it."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if folder != root or name not in SKIPPED)
        within = os.path.relpath(folder, root)
        for name in sorted(names):
            yield name if within == "." else within + "/" + name


def spelled(root: str, names: Iterable[str]) -> Tuple[Set[str], Set[str]]:
    """What the sources and headers below ``root`` write after ``#include``, and what they ask ``__has_include``."""
    included: Set[bytes] = set()
    asked: Set[bytes] = set()
    for name in names:
        text = text_of(os.path.join(root, name)) if name.endswith(SOURCES + HEADERS) else None
        if text is None:
            continue
        included.update(match[1] for match in INCLUDE.findall(text))
        if b"__has_include" in text:
            asked.update(match[1] for match in ASKED.findall(text))
    return _stripped(included), _stripped(asked)


def _stripped(spellings: Set[bytes]) -> Set[str]:
    return {re.sub(r"^(?:\.\.?/)+", "", os.fsdecode(spelling)) for spelling in spellings}


def ambiguous_includes(tree: str, torch: str) -> List[str]:
    """``include SPELLING PATH...`` for each spelling in ``tree`` whose meaning a file that comes or goes may change.

    ccache knows the files that a compile read, not those that it would have read had they been there: a new header
    that hides another is none of the files it checks. So a name is listed once several files answer to it; one that
    ``__has_include`` asks for, once any does.
    """
    inside = list(files_below(tree))
    shared = list(files_below(torch))
    by_name: Dict[str, List[Tuple[str, str]]] = {}
    for mark, names in (("", inside), ("torch:", shared)):
        for name in names:
            by_name.setdefault(name.rpartition("/")[2], []).append((mark, name))
    system = system_folders()
    spellings, asked = spelled(tree, inside)
    # Inside PyTorch's headers, others of them are spelled from the folders that its CMake package names.
    for name in inside:
        for mark, other in by_name[name.rpartition("/")[2]]:
            if mark:
                spellings.add(other)
                spellings.add(re.sub("^torch/csrc/api/include/", "", other))
    lines = []
    for spelling in sorted(spellings | asked):
        answers = [
            mark + name
            for mark, name in by_name.get(spelling.rpartition("/")[2], ())
            if name == spelling or name.endswith("/" + spelling)
        ]
        if spelling not in asked and not any(not answer.startswith("torch:") for answer in answers):
            continue
        if any(os.path.exists(os.path.join(folder, spelling)) for folder in system):
            answers.append("system:" + spelling)
        if len(answers) > (0 if spelling in asked else 1):
            lines.append(" ".join(["include", spelling, *sorted(answers)]))
    return lines


def try_cache(folder: str) -> Dict[str, str]:
    """Whether the cache in ``folder`` can be used: ``state`` is writable, read-only or unusable, ``why`` the reason."""
    version = re.match(r"ccache version (\d+(?:\.\d+)*)", output_of(["ccache", "--version"]))
    if version and tuple(map(int, version[1].split("."))) < OLDEST:
        least = ".".join(map(str, OLDEST))
        why = f"{version[0]} may give the object of an earlier state of a file, {least} and later do not"
        return {"state": "unusable", "why": why + "; Pythons and builds share no objects"}
    probe = os.path.join(folder, ".probe.%d" % os.getpid())
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "wb") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
        return {"state": "writable", "why": ""}
    except OSError as error:
        readable = os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK) and bool(os.listdir(folder))
        return {"state": "read-only" if readable else "unusable", "why": error.strerror or str(error)}
    finally:
        with suppress(OSError):
            os.unlink(probe)


def unreadable(paths: Iterable[str]) -> Iterator[str]:
    """Files and folders that this user cannot read, of ``paths`` and, as far as LOOKED_AT goes, of what is below."""
    left = list(reversed(list(paths)))
    for _ in range(LOOKED_AT):
        if not left:
            return
        path = left.pop()
        if os.path.isdir(path) and not os.path.islink(path):
            if os.access(path, os.R_OK | os.X_OK):
                with suppress(OSError):
                    left.extend(os.path.join(path, name) for name in sorted(os.listdir(path), reverse=True))
                continue
        elif not os.path.exists(path) or os.access(path, os.R_OK):
            continue
        yield path


def before(options: argparse.Namespace) -> None:
    """Write ``inputs``, give the interpreter's headers their name, and print what the cache folder allows."""
    lines = [*tool_lines(), *ambiguous_includes(options.tree, options.torch)]
    with open(os.path.join(options.out, INPUTS), "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write("".join(line + "\n" for line in lines))
    include, name = os.environ.get("BUILDER_PYTHON_INCLUDE"), os.environ.get("BUILDER_PYTHON_INCLUDE_AS")
    if include and name:
        if os.path.islink(name):
            os.unlink(name)
        os.symlink(include, name)
    state = try_cache(options.cache) if options.cache else {"state": "unused", "why": ""}
    print("before: " + json.dumps(state))
    print("unreadable: " + json.dumps(list(itertools.islice(unreadable(options.read), NAMED))))


# After it.


class Files:
    """Files that compiles read, each looked at once."""

    def __init__(self) -> None:
        self.rows: List[Tuple[str, Optional[str], bool]] = []
        self._numbers: Dict[str, int] = {}

    def number(self, path: str) -> int:
        """The number of a file by its normal absolute path."""
        found = self._numbers.get(path)
        if found is None:
            found = self._numbers[path] = len(self.rows)
            text = text_of(path)
            clock = text is not None and any(clock in text for clock in CLOCKS)
            self.rows.append((path, None if text is None else digest_of(text), clock))
        return found


class Reader:
    """Numbers of the files that words of a dependency list name, seen from one folder."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self._numbers: Dict[str, int] = {}

    def runs(self, words: Iterable[str]) -> List[int]:
        """The files' numbers in order, as pairs of a first number and how many follow it without a gap."""
        numbers = set()
        for word in words:
            number = self._numbers.get(word)
            if number is None:
                path = os.path.normpath(os.path.join(self._folder, word))
                number = self._numbers[word] = self._files.number(path)
            numbers.add(number)
        runs: List[int] = []
        first = last = -2
        for number in sorted(numbers):
            if number != last + 1:
                if first >= 0:
                    runs += (first, last - first + 1)
                first = number
            last = number
        if first >= 0:
            runs += (first, last - first + 1)
        return runs


def words_of(text: str) -> Optional[List[str]]:
    """The prerequisites of the first rule of a dependency file; None where there is none."""
    rule, found, rest = text.partition(": ")
    if not found or "\n" in rule.replace("\\\n", ""):
        return None
    rest = rest.replace("\\\n", " ").partition("\n")[0]
    if "\\" not in rest and "$" not in rest:
        return rest.split()
    words = re.findall(r"(?:\\.|[^\\\s])+", rest)
    return [re.sub(r"\\([ #])", r"\1", word).replace("$$", "$") for word in words]


def ninja_lists(build: str) -> Dict[str, List[str]]:
    """What ninja keeps in its own file instead of one list beside each object, by the object's path."""
    if not os.path.exists(os.path.join(build, ".ninja_deps")) or shutil.which("ninja") is None:
        return {}
    return parse_ninja(output_of(["ninja", "-C", build, "-t", "deps"]).splitlines())


def parse_ninja(lines: Iterable[str]) -> Dict[str, List[str]]:
    """The lists that ``ninja -t deps`` prints, by object."""
    lists: Dict[str, List[str]] = {}
    current: List[str] = []
    for line in lines:
        if line.startswith(" "):
            current.append(line.strip())
        elif ": #deps " in line:
            current = lists[line.partition(": #deps ")[0]] = []
    return lists


def kept_arguments(words: List[str], keeps: bool, macro: str) -> List[str]:
    """Words of a command that can change its object, in the form in which the launcher hands them to ccache."""
    include, name = os.environ.get("BUILDER_PYTHON_INCLUDE"), os.environ.get("BUILDER_PYTHON_INCLUDE_AS")
    kept: List[str] = []
    skip = False
    for position, word in enumerate(words):
        if skip or word in PLACES or word == "-c" or (word.endswith(SOURCES) and not word.startswith("-")):
            skip = not skip and word in PLACES
            continue
        if macro and not keeps and word.startswith("-D" + macro + "="):
            continue
        if include and name and position:
            for option in ("-I", "-isystem", ""):
                if word == option + include or word.startswith(option + include + "/"):
                    word = option + name + word[len(option + include) :]
                    break
        kept.append(word)
    return kept


def version_define() -> Tuple[str, Set[str]]:
    """The macro that the launcher drops, and the sources that keep it (see the launcher)."""
    try:
        with open(os.environ.get("BUILDER_VERSION_DEFINE") or os.devnull, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError:
        lines = []
    return (lines[0], set(lines[1:])) if lines else ("", set())


def results_of(log: str) -> Dict[str, str]:
    """What became of each source, by the launcher's own log: its last word where one was compiled twice."""
    results = {}
    with suppress(OSError), open(log, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            word, _, source = line.rstrip("\n").partition(" ")
            results[source.replace("%20", " ")] = word
    return results


def databases(tree: str) -> Iterator[str]:
    """Every compile_commands.json below ``tree``."""
    for folder, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if name not in {".git", "CMakeFiles", "test", "docs"}]
        if "compile_commands.json" in names:
            yield os.path.join(folder, "compile_commands.json")


def objects_of(
    database: str, results: Dict[str, str], files: Files, arguments: Dict[Tuple[str, ...], int]
) -> Iterator[Dict[str, object]]:
    """One entry for each object of ``database`` that the log speaks of."""
    macro, keepers = version_define()
    build = os.path.dirname(database)
    kept_by_ninja = ninja_lists(build)
    readers: Dict[str, Reader] = {}
    with open(database, encoding="utf-8", errors="surrogateescape") as stream:
        commands = json.load(stream)
    for command in commands:
        folder = command["directory"]
        source = os.path.normpath(os.path.join(folder, command["file"]))
        result = results.get(source) or results.get(command["file"])
        if result is None:
            continue
        words = command.get("arguments") or shlex.split(command["command"])
        output = words[words.index("-o") + 1] if "-o" in words[:-1] else command.get("output", "")
        listed = words[words.index("-MF") + 1] if "-MF" in words[:-1] else output + ".d"
        reader = readers.setdefault(folder, Reader(files, folder))
        try:
            with open(os.path.join(folder, listed), encoding="utf-8", errors="surrogateescape") as stream:
                prerequisites = words_of(stream.read())
        except OSError:
            prerequisites = kept_by_ninja.get(os.path.relpath(os.path.join(folder, output), build))
        kept = tuple(kept_arguments(words, source in keepers or command["file"] in keepers, macro))
        yield {
            "source": source,
            "object": os.path.normpath(os.path.join(folder, output)),
            "result": result,
            "arguments": arguments.setdefault(kept, len(arguments)),
            "files": None if prerequisites is None else reader.runs(prerequisites),
        }


def after(options: argparse.Namespace) -> None:
    """Write the manifest, whole or not at all."""
    files = Files()
    arguments: Dict[Tuple[str, ...], int] = {}
    results = results_of(options.log)
    objects = [
        entry for database in databases(options.tree) for entry in objects_of(database, results, files, arguments)
    ]
    try:
        with open(os.path.join(options.out, INPUTS), encoding="utf-8", errors="surrogateescape") as stream:
            inputs = stream.read().splitlines()
    except OSError:
        inputs = []
    manifest = {
        "tree": options.tree,
        "python_include": os.environ.get("BUILDER_PYTHON_INCLUDE_AS") or os.environ.get("BUILDER_PYTHON_INCLUDE") or "",
        "inputs": inputs,
        "files": files.rows,
        "arguments": [list(words) for words in arguments],
        "objects": objects,
    }
    beside = os.path.join(options.out, MANIFEST + ".part")
    with gzip.open(beside, "wb", 6) as stream:
        stream.write(json.dumps(manifest, separators=(",", ":")).encode("utf-8", "replace"))
    os.replace(beside, os.path.join(options.out, MANIFEST))
    print("after: %d objects, %d files" % (len(objects), len(files.rows)))


def main(argv: List[str]) -> int:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("before", "after"))
    parser.add_argument("--tree", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--torch", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--log", default="")
    parser.add_argument("--read", action="append", default=[])
    options = parser.parse_args(argv)
    {"before": before, "after": after}[options.step](options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
