"""Code generation cached by its inputs: the half of it that the builder runs.

Upstream's ``ci/build.sh`` stays what builds. Its setup.py starts ``bash generate_code.sh`` once; a ``bash`` that
stands first on PATH sees that command, and puts the result of an earlier generation with the same inputs into the
tree, or lets it run (``codegen_inside``). When to call what:

1. before the environment is opened, which settles who owns it, ``install`` with the folder of results;
2. the compile has ``path`` before the launcher on PATH, and the variables of ``environment``;
3. after the compile, whatever came of it, ``outcome`` says what became of the generation;
4. once the compile has ended well and the generated files were looked at, ``keep`` takes a new entry into the cache.
   Not before: upstream's scripts end well also where generation has failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.compilation.codegen_inside import key, run
from builder.compilation.codegen_inside.entries import read_entry
from builder.compilation.codegen_inside.tree import Unfit
from builder.workspace import atomic_write, open_inside

#: Below the folder of results of a build.
FOLDER = "codegen"
#: Below the cache.
CACHE = "generated"
#: Entries of one release line that are kept (2 to 3 MB each), and bytes of one that is taken.
KEPT = 12
LARGEST = 256 << 20
_LARGEST_RESULT = 1 << 20

_INSIDE = Path(__file__).resolve().parent / "codegen_inside"


@dataclass(frozen=True)
class Outcome:
    """What became of a generation.

    ``result`` is ``hit``, ``miss``, ``failed``, or, where generations are checked, ``same`` or ``differs``; ``key`` is
    that of the inputs, ``because`` are the inputs that no entry had, ``not_kept`` is why a new result is no entry,
    ``seconds`` what the generation took, or 0 where it did not run.
    """

    result: str
    key: str = ""
    because: tuple[str, ...] = ()
    not_kept: str = ""
    differs: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def describe(self) -> dict[str, Any]:
        """The outcome for a record: what there is to say."""
        values = {**vars(self), "because": list(self.because), "differs": list(self.differs)}
        return {name: value for name, value in values.items() if value}


def stores(cache: Path) -> list[Path]:
    """The folders of release lines in the cache folder, by name."""
    try:
        return sorted(path for path in (cache / CACHE).iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def install(out: Path) -> None:
    """Make ``out``/FOLDER: the ``bash`` for PATH, and what it runs. What an earlier build has left there is gone."""
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / _INSIDE.name
    inside.mkdir(parents=True)
    for source in sorted(_INSIDE.glob("*.py")):
        shutil.copyfile(source, inside / source.name)
    shutil.copyfile(_INSIDE / "bash", folder / "bash")
    (folder / "bash").chmod(0o755)


def path(out: str) -> str:
    """What goes first on PATH; ``out`` is the folder of results inside the environment."""
    return f"{out}/{FOLDER}"


def environment(cache: str, line: str, *, order_is_fixed: bool, check: bool = False) -> Mapping[str, str]:
    """Variables of a compile; ``cache`` is the cache inside the environment, ``line`` the release line's name.

    ``order_is_fixed``: no order of a set shows in what the generators of this tree write, so all Pythons share their
    results. ``check`` lets generation run also where the cache has its result, and the build fail where they differ.
    """
    return {
        run.CACHE: f"{cache}/{CACHE}/{line}",
        key.ORDER: "fixed" if order_is_fixed else "",
        run.MODE: "check" if check else "",
    }


def outcome(out: Path) -> Outcome | None:
    """What became of the generation of the build whose results are in ``out``; None where it was never reached."""
    try:
        with open_inside(out, f"{FOLDER}/{run.RESULT}") as stream:
            told = json.loads(stream.read(_LARGEST_RESULT))
        return Outcome(
            result=str(told["result"]),
            key=str(told.get("key", "")),
            because=tuple(map(str, told.get("because", ()))),
            not_kept=str(told.get("not_kept", "")),
            differs=tuple(map(str, told.get("differs", ()))),
            seconds=float(told.get("seconds", 0)),
            cpu_seconds=float(told.get("cpu_seconds", 0)),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def keep(out: Path, cache: Path, line: str) -> str | None:
    """Take the entry that a build has left in ``out`` into ``cache``; returns what is worth a warning, or None.

    The entry of a hit counts as used. Another entry of the same inputs with another result means that the same inputs
    do not give the same files: then neither stays.
    """
    folder = cache / CACHE / line
    done = outcome(out)
    if done is not None and done.result == "hit" and re.fullmatch(r"[0-9a-f]{64}", done.key):
        for entry in folder.glob(f"{done.key}.*.zip"):
            with suppress(OSError):
                os.utime(entry)
    try:
        with open_inside(out, f"{FOLDER}/{run.ENTRY}") as stream:
            data = stream.read(LARGEST + 1)
    except OSError:
        return None
    if len(data) > LARGEST:
        return f"the result of code generation is not kept: it has more than {LARGEST >> 20} MiB"
    beside = folder / f".{hashlib.sha256(data).hexdigest()}"
    try:
        atomic_write(beside, data)
        try:
            made = read_entry(beside, named=False)
            for other in _of_the_same_inputs(folder, made):
                differs = _differ(made, read_entry(other))
                if differs:
                    other.unlink()
                    return f"code generation gave another {differs} from the same inputs; it is not cached"
                return None
            beside.rename(folder / f"{made['key']}{beside.name}.zip")
        finally:
            beside.unlink(missing_ok=True)
        _prune(folder)
    except (OSError, Unfit) as error:
        return f"the result of code generation is not kept: {error}"
    return None


def _of_the_same_inputs(folder: Path, entry: Mapping[str, Any]) -> Iterator[Path]:
    """Whole entries of the key of ``entry`` that agree with it on every file that both have read."""
    for other in sorted(folder.glob(f"{entry['key']}.*.zip")):
        try:
            read = read_entry(other)["read"]
        except Unfit:
            continue
        if all(entry["read"].get(name, value) == value for name, value in read.items()):
            yield other


def _differ(one: dict[str, Any], other: dict[str, Any]) -> str:
    """A path to which one generation has done something else than the other; empty where there is none."""
    old, new = run.effects(other), run.effects(one)
    return next((name for name in sorted({*old, *new}) if old.get(name) != new.get(name)), "")


def _prune(folder: Path) -> None:
    """Leave the KEPT entries that were used last."""
    used = sorted(folder.glob("*.zip"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in used[KEPT:]:
        entry.unlink(missing_ok=True)
