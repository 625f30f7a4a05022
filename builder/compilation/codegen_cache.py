"""Code generation cached by its inputs: the half of it that the builder runs.

Upstream's ``ci/build.sh`` stays what builds. Its setup.py starts ``bash generate_code.sh`` once; a ``bash`` that
stands first on PATH sees that command, and puts the result of an earlier generation with the same inputs into the
tree, or lets it run (``builder/payload/codegen``). Builds see that ``bash`` and the entries of the cache
read-only; only the builder writes there. When to call what:

1. before the environment is opened, ``folders`` makes the folders of entries that the build may read;
2. the compile has INSIDE first on PATH, and the variables of ``environment``;
3. after the compile, whatever came of it, ``outcome`` says what became of the generation;
4. once the compile has ended well and the generated files were looked at, ``keep`` takes a new entry into the cache.
   Not before: upstream's scripts end well also where generation has failed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.core.statistics import Generation
from builder.core.trust import Trust
from builder.core.untrusted import UntrustedFolder, open_inside
from builder.payload import FOLDER
from builder.payload.codegen import key, run
from builder.payload.codegen.entries import read_entry
from builder.payload.codegen.tree import Unfit, digest

#: What stands in the environment: the ``bash`` for PATH, and what it runs.
INSIDE = FOLDER / "codegen"
#: Below a level's folder in the cache.
CACHE = "generated"
#: Entries of one release line that are kept (2 to 3 MB each), and bytes of one that is taken.
KEPT = 12
LARGEST = 256 << 20
_LARGEST_RESULT = 1 << 20


def store(cache: Path, trust: Trust, line: str) -> Path:
    """The folder of a release line's entries at a level of trust."""
    return cache / trust.value / CACHE / line


def stores(cache: Path) -> list[Path]:
    """The folders of release lines in the cache folder, by level and name."""
    found = []
    for trust in Trust:
        with suppress(OSError), UntrustedFolder(cache) as folder, folder.folder(f"{trust.value}/{CACHE}") as lines:
            found += [cache / trust.value / CACHE / name for name in lines.folders()]
    return found


def folders(cache: Path, trust: Trust, line: str) -> list[Path]:
    """The folders of entries that a build may read, those of the highest level first; the last one is its own.

    Absent ones are made. Raises OSError.
    """
    found = [store(cache, level, line) for level in (*trust.higher, trust)]
    for folder in found:
        folder.mkdir(parents=True, exist_ok=True)
        # A builder with another umask may have made it; builds read it as another user.
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    return found


def environment(generated: Sequence[str], out: str, *, order_is_fixed: bool, check: bool = False) -> Mapping[str, str]:
    """Variables of a compile: the folders of entries and the folder of results, as the environment sees them.

    ``order_is_fixed``: no order of a set shows in what the generators of this tree write, so all Pythons share their
    results. ``check`` lets generation run also where the cache has its result, and the build fail where they differ.
    """
    return {
        run.CACHE: ":".join(generated),
        run.OUT: out,
        key.ORDER: "fixed" if order_is_fixed else "",
        run.MODE: "check" if check else "",
    }


def outcome(out: Path) -> Generation | None:
    """What became of the generation of the build whose results are in ``out``; None where it was never reached."""
    try:
        with open_inside(out, run.RESULT) as stream:
            told = json.loads(stream.read(_LARGEST_RESULT))
        return Generation(
            result=str(told["result"]),
            key=str(told.get("key", "")),
            because=tuple(map(str, told.get("because", ()))),
            not_kept=str(told.get("not_kept", "")),
            differs=tuple(map(str, told.get("differs", ()))),
            seconds=float(told.get("seconds", 0)),
            cpu_seconds=float(told.get("cpu_seconds", 0)),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def keep(out: Path, folder: Path) -> str | None:
    """Take the entry that a build has left in ``out`` into ``folder`` (see ``store``).

    Returns what is worth a warning, or None. The entry of a hit counts as used. Another entry of the same inputs with
    another result means that the same inputs do not give the same files: then neither stays.
    """
    done = outcome(out)
    if done is not None and done.result == "hit" and re.fullmatch(r"[0-9a-f]{64}", done.key):
        _used(folder, done.key)
    beside = folder / f".{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with UntrustedFolder(out) as results:
                results.copy_to(run.ENTRY, beside, LARGEST)
        except FileNotFoundError:
            return None
        try:
            made = read_entry(beside, named=False)
            for other in _of_the_same_inputs(folder, made):
                differs = _differ(made, read_entry(other))
                if differs:
                    other.unlink()
                    return f"code generation gave another {differs} from the same inputs; it is not cached"
                return None
            beside.chmod(0o644)  # read by builds, whatever the umask is
            beside.rename(folder / f"{made['key']}.{digest(beside)}.zip")
        finally:
            beside.unlink(missing_ok=True)
        _prune(folder)
    except (OSError, Unfit) as error:
        return f"the result of code generation is not kept: {error}"
    return None


def _used(folder: Path, key: str) -> None:
    for entry in folder.glob(f"{key}.*.zip"):
        with suppress(OSError):
            os.utime(entry)


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
