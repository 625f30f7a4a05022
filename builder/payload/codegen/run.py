"""What stands in the place of ``bash generate_code.sh``."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .entries import STAGING, find_entry, nearest, read_entry, restore, write_entry
from .key import SCHEMA, forbidden, inputs, key_of
from .tree import Unfit, changes, contents, read_files, scan, watch

#: Folders of entries, separated as in PATH; where it is not set, upstream's script just runs.
CACHE = "BUILDER_CODEGEN_CACHE"
#: The folder that takes RESULT and ENTRY.
OUT = "BUILDER_CODEGEN_OUT"
#: "check" runs the generation although there is an entry, and fails where the two differ.
MODE = "BUILDER_CODEGEN_MODE"
#: What this leaves for the builder: a new entry, and what became of the generation.
ENTRY = "codegen-entry.zip"
RESULT = "codegen-result.json"


class Generation:
    """One generation: ``command`` is ``[bash, generate_code.sh, ...]``, ``beside`` takes ENTRY and RESULT."""

    def __init__(self, command: Sequence[str], beside: Path) -> None:
        self.command = list(command)
        self.root = Path(os.path.realpath(command[1])).parent
        self.beside = beside
        self.listing = scan(self.root)
        self.held = contents(self.root, self.listing)
        arguments = [os.path.basename(command[1]), *command[2:]]
        self.inputs = inputs(self.root, arguments, self.held)
        self.key = key_of(self.inputs)

    def restore(self, entry: Path) -> None:
        """Take the result from ``entry``. Raises as ``entries.restore`` does."""
        found = restore(self.root, self.listing, entry)
        files, saved = len(found["outputs"]), found["cpu_seconds"]
        say(f"{files} files from the cache, made by Python {found['python']} in {saved:.0f} CPU-s")
        self.tell({"result": "hit", "key": self.key, "files": files, "saved_cpu_seconds": saved})

    def run(self, because: Sequence[str]) -> int:
        """Run upstream's script and leave an entry; returns the script's status."""
        say(f"runs, because of {', '.join(because[:5])}" if because else "runs for the first time")
        watched = watch(self.root, self.listing)
        status, took = timed(self.command)
        result = {"result": "miss", "key": self.key, "because": list(because[:20]), "watched": watched, **took}
        if status != 0:
            self.tell({**result, "result": "failed"})
            return status
        try:
            described = self.described(watched, took)
            write_entry(self.beside / ENTRY, self.root, described)
            result["files"] = len(described["outputs"])
        except (Unfit, OSError, ValueError) as error:
            result["not_kept"] = str(error)
            say(f"its result is not kept: {error}")
        self.tell(result)
        return status

    def described(self, watched: bool, took: dict[str, float]) -> dict[str, Any]:
        """The entry of what the script has just done. Raises Unfit where it cannot be kept."""
        after = scan(self.root)
        made = changes(self.root, self.listing, after)
        hidden = [text.encode() for text in forbidden(self.root, self.command[2:])]
        for item in made["outputs"]:
            data = (self.root / item["path"]).read_bytes()
            for text in hidden:
                if text in data:
                    raise Unfit(f"{item['path']} holds {text.decode()!r}, which changes with every commit")
        read = read_files(self.root, self.listing, after, self.held, made)
        return {
            "schema": SCHEMA,
            "key": self.key,
            "inputs": self.inputs,
            "read": {path: self.held[path] for path in sorted(read)},
            "watched": watched,
            "python": platform.python_version(),
            **took,
            **made,
        }

    def checked(self, entry: Path) -> int:
        """Run the script, and compare what it does with ``entry``: status 1 where that is something else."""
        status, took = timed(self.command)
        if status != 0:
            self.tell({"result": "failed", "key": self.key, **took})
            return status
        try:
            old, new = effects(read_entry(entry)), effects(changes(self.root, self.listing, scan(self.root)))
        except (Unfit, OSError) as error:
            old, new = {}, {f"{entry.name}: {error}": ""}
        differs = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        say(f"other than in the cache: {', '.join(differs[:5])}" if differs else "the same as in the cache")
        self.tell({"result": "differs" if differs else "same", "key": self.key, "differs": differs, **took})
        return 1 if differs else 0

    def tell(self, result: dict[str, Any]) -> None:
        """Leave ``result`` for the builder. Where it cannot be written, the tree is as good without it."""
        try:
            (self.beside / RESULT).write_text(json.dumps(result), encoding="utf-8")
        except OSError as error:
            say(f"its result is not recorded: {error}")


def effects(made: dict[str, Any]) -> dict[str, Any]:
    """What was done to each path."""
    return {
        **{item["path"]: (item["mode"], item["sha256"]) for item in made["outputs"]},
        **{item["path"]: "a folder" for item in made["folders"]},
        **dict.fromkeys([*made["removed"], *made["removed_folders"]], "removed"),
    }


def timed(command: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Run a command: its status, and the seconds and CPU seconds that it took."""
    started, before = time.monotonic(), _children()
    status = subprocess.call(command)
    took = {"seconds": time.monotonic() - started, "cpu_seconds": _children() - before}
    return status, {name: round(value, 3) for name, value in took.items()}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(command: Sequence[str]) -> int:
    """The exit status that ``command`` has, or would have had; its effect on the tree is there in either case."""
    folders = [Path(folder) for folder in os.environ.get(CACHE, "").split(os.pathsep) if folder]
    beside = Path(os.environ.get(OUT) or os.curdir)
    # A second generation starts from what the first one has left; upstream's setup.py starts only one.
    if not folders or (beside / RESULT).exists():
        return subprocess.call(command)
    try:
        generation = Generation(command, beside)
        entry, because = find_entry(folders, generation.key, generation.held)
        if entry is not None and os.environ.get(MODE) == "check":
            return generation.checked(entry)
        if entry is not None:
            try:
                generation.restore(entry)
                return 0
            except Unfit as error:
                because = [f"{entry.name}: {error}"]
        return generation.run(because or nearest(folders, generation.inputs))
    except OSError as error:
        if os.path.lexists(Path(os.path.realpath(command[1])).parent / STAGING):
            say(f"the tree is spoilt, build it again: {error}")
            return 1
        say(f"runs without its cache: {error}")
        return subprocess.call(command)


def say(text: str) -> None:
    """A line for the build's log."""
    print(f"code generation: {text}", flush=True)
