"""What a night keeps on this machine until it is published: which night it is, its commits, its finished wheels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from builder.untrusted import remove_tree
from builder.wheels.standing import Standing, records
from builder.workspace import Workspace, atomic_json

SCHEMA = 1
#: A night that was begun longer ago is not gone on with: the next one is due. Its finished wheels still count.
GOES_ON = timedelta(hours=20)


@dataclass(frozen=True)
class Unfinished:
    """A night that was begun: its name, when, the store it is for, its commits by branch and repository."""

    name: str
    began: str
    store: str
    commits: Mapping[str, Mapping[str, str]]

    def goes_on(self, store: str, wanted: date | None) -> bool:
        """True where the same command means this night; ``wanted`` is the night that was asked for by its date."""
        if self.store != store:
            return False
        if wanted is not None:
            return self.name.partition(".")[0] == wanted.isoformat()
        return datetime.now(timezone.utc) - datetime.fromisoformat(self.began) < GOES_ON


class Bench:
    """``<workspace>/nightly/<channel>/``: ``night.json``, finished wheels, and those carried over from earlier nights.

    It is there from the moment that something is to be built until the night is published.
    """

    def __init__(self, workspace: Workspace, channel: str) -> None:
        self._root = workspace.root / "nightly" / channel
        self._workspace = workspace
        self._file = self._root / "night.json"

    @property
    def wheels(self) -> Path:
        """Where builds of this night put their wheels."""
        return self._root / "wheels"

    @property
    def carried(self) -> Path:
        """Where wheels of earlier nights wait to be published again."""
        return self._root / "carried"

    def workspace(self) -> Workspace:
        """The workspace, with wheels coming here instead of into the output folder."""
        return Workspace(root=self._workspace.root, output=self.wheels)

    def unfinished(self) -> Unfinished | None:
        """The night that was begun and not published; None where there is none, or its note cannot be read."""
        try:
            note = json.loads(self._file.read_text(encoding="utf-8"))
            if note.pop("schema") != SCHEMA:
                return None
            found = Unfinished(**note)
            datetime.fromisoformat(found.began)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return found

    def begin(self, name: str, store: str, commits: Mapping[str, Mapping[str, str]]) -> None:
        """Note which night begins."""
        began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        atomic_json(self._file, {"schema": SCHEMA, **asdict(Unfinished(name, began, store, commits))})

    def finished(self) -> Standing:
        """Finished wheels with their records, by target."""
        return records(self.wheels)

    def clear(self) -> None:
        """Forget the night. What says that it is unfinished goes last: half of this is done again."""
        remove_tree(self.wheels)
        remove_tree(self.carried)
        self._file.unlink(missing_ok=True)
