"""A prepared tree's record, and what a tree is made of: typed, since a person's tree may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticCustomError

SCHEMA = 1


def _with_torch_npu(commits: dict[str, str]) -> dict[str, str]:
    if "torch_npu" not in commits:
        raise PydanticCustomError("commit_missing", "torch_npu is missing")
    return commits


#: Of git, in either of its hashes.
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
_Commits = Annotated[dict[str, str], AfterValidator(_with_torch_npu)]


class _Part(BaseModel):
    """What builders of other versions note besides is left as it is."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", populate_by_name=True)

    def to_json(self) -> dict[str, JsonValue]:
        """The part as it is written: what was given, in the order of the fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OverlayIdentity(_Part):
    """What identifies op-plugin. ``source`` is ``commit`` (of a mirror) or ``folder`` (of the user's).

    A folder's ``commit`` is its HEAD (empty outside git), ``dirty`` says whether it holds anything else, ``digest`` is
    the SHA-256 over what would be laid. Paths of this machine stay out.
    """

    source: str
    commit: str = ""
    dirty: bool | None = None
    digest: str | None = None


class LaidOverlay(OverlayIdentity):
    """The op-plugin of a tree, and the entries of it that were laid."""

    entries: tuple[str, ...] = ()

    @classmethod
    def of(cls, overlay: OverlayIdentity, entries: tuple[str, ...]) -> LaidOverlay:
        """Note that ``entries`` of ``overlay`` were laid."""
        return cls.model_validate({**_given(overlay), "entries": entries})


class PatchIdentity(_Part):
    """What identifies a patch; ``condition`` is that under which it is taken, in a series that is offered."""

    repository: str
    name: str
    sha256: str
    condition: str | None = None


class PassedOverPatch(_Part):
    """A patch that a tree did not take, and why."""

    repository: str
    name: str
    reason: str


class OperatorsIdentity(_Part):
    """What identifies custom operators: their names, and the SHA-256 over their declarations and sources."""

    operators: tuple[str, ...]
    digest: str


class Sources(_Part):
    """The parts of a tree's origin that its content follows from: how they were asked for does not matter."""

    torch_npu: _Commit
    submodules: dict[str, str]
    op_plugin: OverlayIdentity | None
    patches: tuple[PatchIdentity, ...]
    custom_operators: OperatorsIdentity | None


class Origin(_Part):
    """What a tree is made of.

    ``asked`` is what the user asked for, in words; ``submodules`` are commits by path; ``patches`` are those that the
    commits take, ``series`` those that are offered to them.
    """

    asked: dict[str, str]
    branch: str
    torch_npu: _Commit
    submodules: dict[str, str]
    op_plugin: OverlayIdentity | None
    patches: tuple[PatchIdentity, ...]
    series: tuple[PatchIdentity, ...]
    custom_operators: OperatorsIdentity | None

    @property
    def sources(self) -> Sources:
        """What the tree's content follows from."""
        return Sources(
            torch_npu=self.torch_npu,
            submodules=self.submodules,
            op_plugin=self.op_plugin,
            patches=self.patches,
            custom_operators=self.custom_operators,
        )

    @property
    def commits(self) -> dict[str, str]:
        """The commits by repository; op-plugin only where it is laid from a mirror."""
        laid = self.op_plugin
        of_op_plugin = {"op_plugin": laid.commit} if laid is not None and laid.source == "commit" else {}
        return {"torch_npu": self.torch_npu, **of_op_plugin}

    def differs(self, other: Origin) -> list[str]:
        """Name the parts that are not those of ``other``, sorted; also parts that only one of them has."""
        ours, theirs = self.to_json(), other.to_json()
        return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


class PreparedFacts(_Part):
    """What is known of a tree once it is made, before its files are hashed.

    ``head`` is the ref that HEAD names, ``commit_time`` that of torch_npu's commit in seconds since 1970, as file
    systems take them, ``prepared`` an RFC 3339 time.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=SCHEMA, le=SCHEMA)]
    target: str
    branch: str
    head: str
    commits: _Commits
    commit_time: Annotated[int, Field(ge=0, lt=1 << 40)]
    overlay: LaidOverlay | None
    patches: tuple[PatchIdentity, ...]
    patches_passed_over: tuple[PassedOverPatch, ...] = ()
    custom_operators: tuple[str, ...]
    origin: Origin
    prepared: str | None = None


class TreeRecord(PreparedFacts):
    """The record of a prepared tree: with the SHA-256 of its ``manifest``, and how many ``files`` that lists."""

    manifest: str
    files: int | None = None

    @classmethod
    def of(cls, facts: PreparedFacts, *, manifest: str, files: int) -> TreeRecord:
        """The record of a tree of which ``facts`` are known."""
        return cls.model_validate({**_given(facts), "manifest": manifest, "files": files})

    @classmethod
    def from_json(cls, data: bytes) -> TreeRecord:
        """Read a record. Raises ValueError, in one line, for one that a build could not rely on."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "record"
            raise ValueError(f"{place}: {first['msg']}") from error


def _given(part: BaseModel) -> Mapping[str, object]:
    """The fields of ``part`` that were given, as they are."""
    return {name: value for name, value in part if name in part.model_fields_set}
