"""What a night keeps on this machine until it is published: which night it is, its commits, its finished wheels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from builder.core.untrusted import read_regular, remove_tree
from builder.core.workspace import Workspace, atomic_json
from builder.wheels.standing import Standing, records

SCHEMA = 1
#: Bytes of the largest note.
_LARGEST = 16 << 20
#: A night that was begun longer ago is not gone on with: the next one is due. Its finished wheels still count.
GOES_ON = timedelta(hours=20)


class Unfinished(BaseModel):
    """A night that was begun: its name, when, the store it is for, its commits by branch and repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[0-9]+)?$")
    began: AwareDatetime
    store: str
    commits: dict[str, dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]]]

    def goes_on(self, store: str, wanted: date | None) -> bool:
        """True where the same command means this night; ``wanted`` is the night that was asked for by its date."""
        if self.store != store:
            return False
        if wanted is not None:
            return self.name.partition(".")[0] == wanted.isoformat()
        return abs(datetime.now(timezone.utc) - self.began) < GOES_ON


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
            note = json.loads(read_regular(self._file, _LARGEST))
            if not isinstance(note, dict) or note.pop("schema", None) != SCHEMA:
                return None
            return Unfinished.model_validate(note)
        except (OSError, ValueError, RecursionError):
            return None

    def begin(self, name: str, store: str, commits: Mapping[str, Mapping[str, str]]) -> None:
        """Note which night begins."""
        began = datetime.now(timezone.utc).replace(microsecond=0)
        note = Unfinished(name=name, began=began, store=store, commits={key: dict(commits[key]) for key in commits})
        atomic_json(self._file, {"schema": SCHEMA, **note.model_dump(mode="json")})

    def finished(self) -> Standing:
        """Finished wheels with their records, by target."""
        return records(self.wheels)

    def clear(self) -> None:
        """Forget the night. What says that it is unfinished goes last: half of this is done again."""
        remove_tree(self.wheels)
        remove_tree(self.carried)
        self._file.unlink(missing_ok=True)
