"""Some files in place of all: which ones, and how either side compiles them after CMake has configured the tree."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache as once
from pathlib import Path
from types import ModuleType

from builder.compilation.ccache import LAUNCHER
from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Limits, Opened, Outcome

_INSIDE = Path(__file__).with_name("inside.py")
_WORD = "sample: "
#: The list of sources, in the results folder.
_LIST = "sample.txt"


@once
def _includes() -> ModuleType:
    """The launcher's own reading of a source's first includes; its modules belong to no package."""
    spec = importlib.util.spec_from_file_location("launcher_includes", LAUNCHER / "includes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_includes(text: str) -> tuple[str, ...]:
    """The includes with which a source begins, as they are spelt."""
    return tuple(include for include, _ in _includes().leading_includes(text))


def chosen(sources: Iterable[str], count: int, read: Callable[[str], str], always: str) -> list[str]:
    """``count`` of ``sources``, from groups with the same first includes in proportion to their size; always the same.

    ``read`` gives the text of one. The source that ends with ``always`` is among them, whatever its group.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for source in sorted(sources):
        groups.setdefault(first_includes(read(source)), []).append(source)
    # In this order, even steps take from each group as many as its share of all.
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ordered = [source for _, group in largest_first for source in group]
    count = min(count, len(ordered))
    found = [(2 * number + 1) * len(ordered) // (2 * count) for number in range(count)]
    wanted = next((at for at, source in enumerate(ordered) if source.endswith(always)), None)
    if wanted is not None and wanted not in found:
        # In place of the one that lies nearest to it: that is of its group, or of one like it.
        found[min(range(count), key=lambda number: abs(found[number] - wanted))] = wanted
    return [ordered[at] for at in found]


class Sample:
    """The files that both sides compile: chosen in the first tree that is configured, the same ever after."""

    def __init__(self, count: int, always: str) -> None:
        self._count = count
        self._always = always
        self.sources: list[str] = []
        #: How many files there are in all.
        self.total = 0

    def of(self, tree: Path, inside: str, sources: list[str]) -> list[str]:
        """The sample of ``sources``, whose paths begin with ``inside`` and which lie in ``tree`` on this machine."""
        if not self.sources:

            def read(source: str) -> str:
                path = tree / Path(source).relative_to(inside)
                return path.read_text(encoding="utf-8", errors="replace")

            self.total = len(sources)
            self.sources = chosen(sources, self._count, read, self._always)
        return self.sources


def configured(tree: Path, inside: str, lines: Iterable[str]) -> tuple[str, list[str]]:
    """The build folder of a configured tree, as the environment sees it, and all sources that CMake compiles there.

    ``inside`` is the tree's path there, ``lines`` what configuring said. Raises TargetError where CMake did not end.
    """
    commands = min(tree.glob("build/**/compile_commands.json"), key=lambda path: len(path.parts), default=None)
    if commands is None:
        raise TargetError("the tree was not configured", kind=FailureKind.COMPILE, details="\n".join(list(lines)[-30:]))
    entries = json.loads(commands.read_text(encoding="utf-8"))
    return f"{inside}/{commands.parent.relative_to(tree)}", sorted({entry["file"] for entry in entries})


def compile_sample(
    opened: Opened,
    python: Sequence[str],
    sources: Sequence[str],
    folder: str,
    out: Path,
    jobs: int,
    variables: Mapping[str, str],
    limits: Limits,
) -> tuple[Outcome, dict[str, float]]:
    """Compile ``sources`` of the build folder ``folder`` by CMake's own rules; what it took, and CPU seconds by source.

    ``python`` is the command of an interpreter inside. Raises TargetError where a file does not compile.
    """
    shutil.copyfile(_INSIDE, out / _INSIDE.name)
    (out / _LIST).write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    seconds: dict[str, float] = {}
    said: list[str] = []

    def take(line: str) -> None:
        if not line.startswith(_WORD):
            said.append(line)
            return
        told = json.loads(line.removeprefix(_WORD))
        seconds[told["source"]] = told["cpu"]

    there = opened.paths.out
    command = [*python, f"{there}/{_INSIDE.name}", folder, str(jobs), f"{there}/{_LIST}"]
    outcome = opened.run(command, env=variables, cwd=folder, on_line=take, limits=limits)
    if outcome.exit_code or len(seconds) != len(sources):
        raise TargetError("files of the sample do not compile", kind=FailureKind.COMPILE, details="\n".join(said[-30:]))
    return outcome, seconds
