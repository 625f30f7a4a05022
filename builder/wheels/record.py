"""The record beside a wheel: everything that went into it, typed, written once and read by many.

``<wheel>.json`` says which file was verified (name, size, SHA-256), what it was made of, where and how. Anybody may
have written what stands there: a record is read from a regular file of bounded size, and believed only as far as it
has the types and the form that the builder gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import open_inside
from builder.wheels.inspect import shown

#: Version of the record's format.
SCHEMA: Literal[1] = 1
#: Bytes of a record; those of real builds have about 20,000, most of it changes made by hand.
RECORD_LIMIT = 4 << 20

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MOMENT = TypeAdapter(AwareDatetime)


class RecordError(TargetError):
    """What stands beside a wheel is not its record."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"{shown(name)} is no record of a wheel: {why}",
            kind=FailureKind.VERIFY,
            hint="remove it with its wheel; the next build makes both anew",
        )


def _printable(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError("control characters in it")
    return text


def _moment(text: str) -> str:
    try:
        _MOMENT.validate_python(text).astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("no such moment in UTC") from None
    return text


_Line = Annotated[str, Field(max_length=2000), AfterValidator(_printable)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,240}$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_RFC_3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$"
_Moment = Annotated[str, Field(pattern=_RFC_3339), AfterValidator(_moment)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Object = dict[str, JsonValue]


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Raise RecordError, with the record's file ``name``, for what a record that is made inside may not hold."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][:3])
        why = f"{place}: {first['msg']}" if place else str(first["msg"])
        raise RecordError(name, shown(why, quote=False)) from None


class WheelRecord(BaseModel):
    """What the record of a wheel says, in the order in which it is written.

    ``size`` is in bytes, times are RFC 3339. The parts with a default came later, or tell people more than programs;
    an older record lacks some. Parts that a later builder adds are kept.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    wheel: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,236}\.whl$")]
    sha256: _Digest
    size: _Count
    fingerprint: _Digest
    version: _Line | None = None
    platforms: list[_Line] = Field(default_factory=list)
    requires: list[_Line] = Field(default_factory=list)
    git_version: _Line | None = None
    #: What the wheel takes of CANN: symbols by library, ``declared`` where a header alone knows them.
    needs_cann: dict[str, list[_Line]] = Field(default_factory=dict)
    target: _Name
    #: None where an older builder did not record them.
    inputs: _Object | None = None
    tree: _Line | None = None
    commits: dict[str, _Line] = Field(default_factory=dict)
    overlay: JsonValue = None
    patches: JsonValue = None
    patches_passed_over: JsonValue = None
    custom_operators: JsonValue = None
    changes_by_hand: list[JsonValue] = Field(default_factory=list)
    compiler: _Line | None = None
    arguments: list[JsonValue] = Field(default_factory=list)
    variables: _Object = Field(default_factory=dict)
    cann: JsonValue = None
    tools: _Object = Field(default_factory=dict)
    platform: _Line | None = None
    #: How the toolchain differs from the matrix, in words; a build has accepted it.
    mismatches: list[_Line] = Field(default_factory=list)
    environment: _Object = Field(default_factory=dict)
    warnings: list[JsonValue] = Field(default_factory=list)
    files_compiled: _Count | None = None
    cache: _Object | None = None
    headers: _Object | None = None
    phases: list[_Object] = Field(default_factory=list)
    run: _Name
    started: _Moment | None = None
    finished: _Moment
    builder: _Line | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, content: Any, info: ValidationInfo) -> Any:
        """Make of what a build gives what a reader gets: names of files need not be Unicode, records are."""
        if info.mode == "json":
            return content
        return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", errors="replace"))

    @classmethod
    def from_json(cls, data: bytes, name: str) -> WheelRecord:
        """Read a record; ``name`` is that of its file, for messages. Raises RecordError for anything else."""
        with refusing(name):
            return cls.model_validate_json(data)

    def to_json(self) -> str:
        """The record as it is written."""
        return json.dumps(self.content, indent=2, ensure_ascii=False) + "\n"

    @property
    def content(self) -> dict[str, JsonValue]:
        """The parts that are written, by name."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def finished_at(self) -> datetime:
        """When the wheel was finished, in UTC."""
        return _MOMENT.validate_python(self.finished).astimezone(timezone.utc)


def record_path(wheel: Path) -> Path:
    """``<wheel>.json``, beside the wheel."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> WheelRecord:
    """The record beside ``wheel``. Raises RecordError, or OSError where no regular file stands there."""
    name = record_path(wheel).name
    with open_inside(wheel.parent, name) as stream:
        data = stream.read(RECORD_LIMIT + 1)
    if len(data) > RECORD_LIMIT:
        raise RecordError(name, f"it has more than {RECORD_LIMIT} bytes")
    record = WheelRecord.from_json(data, name)
    if record.wheel != wheel.name:
        raise RecordError(name, f"it is the record of {record.wheel}")
    return record
