"""What a prepared tree's record must hold before anything relies on it: a person's tree may hold anything."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA = 1
#: Of git, in either of its hashes.
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
_Patch = dict[str, str]


class _Strict(BaseModel):
    """What builders of other versions note besides is left as it is."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Overlay(_Strict):
    source: str
    commit: str = ""


class _Origin(_Strict):
    """What the tree was made of (``checkout.describe``)."""

    asked: dict[str, Any]
    branch: str
    torch_npu: _Commit
    submodules: dict[str, str]
    op_plugin: _Overlay | None
    patches: list[_Patch]
    series: list[_Patch]
    custom_operators: dict[str, Any] | None


class _Record(_Strict):
    format: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    target: str
    branch: str
    head: str
    commits: dict[str, str]
    #: Seconds since 1970, as file systems take them.
    commit_time: Annotated[int, Field(ge=0, lt=1 << 40)]
    overlay: dict[str, Any] | None
    patches: list[_Patch]
    custom_operators: list[str]
    manifest: str
    origin: _Origin


def check(record: Any) -> None:
    """Raise ValueError, in one line, for a record that a build could not rely on."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        raise ValueError(f"{place}: {first['msg']}") from error
    if "torch_npu" not in record["commits"]:
        raise ValueError("commits: torch_npu is missing")
