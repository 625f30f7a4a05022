"""``nightly.yaml``: channels of nightly builds, each with the targets that a night of it is to hold."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, WithJsonSchema, field_validator, model_validator

from builder.core.errors import RequestError
from builder.matrix import patterns
from builder.matrix.base import Frozen, Name, Ref, wrong
from builder.matrix.documents import Document
from builder.matrix.loader import FILES, Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.matrix.selection import Query, select

#: How many nights stay where a channel does not say.
KEEP = 14
TARGETS = patterns.pattern(r"^[A-Za-z0-9*?\[\]!._-]+$", "a target's id, or a glob such as master-*-x86_64")


def _listed(value: object) -> object:
    """One value stands for a list of it, as on the command line."""
    return value if isinstance(value, list | tuple) else (value,)


def _one_or_more(regex: str, length: int) -> dict[str, Any]:
    """The JSON Schema of a text or a list of texts."""
    text = {"type": "string", "pattern": regex, "maxLength": length}
    return {"anyOf": [text, {"type": "array", "items": text}]}


Texts = Annotated[
    tuple[Annotated[str, Field(pattern=patterns.TEXT, max_length=200)], ...],
    BeforeValidator(_listed),
    WithJsonSchema(_one_or_more(patterns.TEXT, 200)),
]
Globs = Annotated[
    tuple[Annotated[str, Field(pattern=TARGETS, max_length=100)], ...],
    BeforeValidator(_listed),
    WithJsonSchema(_one_or_more(TARGETS, 100)),
]


class TargetChoice(Frozen):
    """A selection, in the words of the command line (``builder.matrix.selection.Query``)."""

    pytorch: Texts = Field(default=(), description="Release lines and PyTorch versions")
    release: Texts = Field(default=(), description="Plugin releases")
    cann: Texts = Field(default=(), description="CANN versions")
    python: Texts = Field(default=(), description='Pythons, in quotes, such as "3.10" or ">=3.10"')
    arch: Texts = Field(default=(), description="x86_64, aarch64, native or all; native where it is left out")
    status: Texts = Field(default=(), description="Phases of life on the day of the night")
    channel: Texts = Field(default=(), description="release, nightly (development branches) or all")
    target: Texts = Field(default=(), description="Targets' ids and globs over them")
    skip: Texts = Field(default=(), description="Targets and release lines to leave out: names or globs")

    @model_validator(mode="after")
    def _chooses(self) -> "TargetChoice":
        if not any(value for key, value in self if key not in ("arch", "skip", "python")):
            raise wrong("at least one of pytorch, release, cann, status, channel, target")
        return self

    def query(self) -> Query:
        """The same as the command line would read it."""
        return Query(**dict(self))


class Channel(Frozen):
    """What a channel's nights are made of, and where they go."""

    targets: TargetChoice
    op_plugin: Ref = Field(
        default="branch", description="branch (the release line's), pinned (by torch_npu), or a branch of op-plugin"
    )
    components: Literal["op-plugin", "full"] = "op-plugin"
    pch: Literal["auto", "off"] = Field(
        default="auto", description="auto: compile with precompiled headers where they pay; off: as upstream compiles"
    )
    required: Globs = Field(
        default=("*",), description="latest moves only to a night that has all targets of these globs"
    )
    rehearse: TargetChoice | None = Field(
        default=None, description="Targets that are rehearsed after the night, as far as they are not among its own"
    )
    store: Annotated[str, Field(pattern=patterns.TEXT, max_length=500)] | None = Field(
        default=None, description="Folder or URL; by default the folder nightly in the output folder"
    )
    keep: StrictInt = Field(default=KEEP, description="How many nights stay", json_schema_extra={"minimum": 1})
    version: Literal["night", "branch"] = Field(
        default="night",
        description="night: 2.7.1.post9.dev20261121+git1a2b3c4.op5d6e7f8; branch: the branch's own, 2.7.1.post9",
    )

    @field_validator("keep")
    @classmethod
    def _keeps_something(cls, value: int) -> int:
        if value < 1:
            raise wrong(f"1 night or more, not {value}: the newest one must stay")
        return value


class ChannelFile(Frozen):
    """``nightly.yaml``."""

    channels: Mapping[Name, Channel] = Field(min_length=1)


@dataclass(frozen=True)
class ChosenChannel:
    """A channel with the targets that it selects today. ``required`` holds ids; ``left_out`` lines and why.

    ``rehearsed`` are targets that are only tried.
    """

    name: str
    channel: Channel
    targets: tuple[Target, ...]
    required: frozenset[str]
    left_out: tuple[tuple[ReleaseLine, str], ...] = ()
    rehearsed: tuple[Target, ...] = ()


def choose_channels(matrix: Matrix, names: Sequence[str]) -> list[ChosenChannel]:
    """The channels of these names, each once; all of the file for no names.

    Raises RequestError, with file and line for what is wrong in ``nightly.yaml``.
    """
    document = matrix.documents.get("nightly")
    if document is None:
        raise RequestError(
            f"the matrix in {matrix.directory} has no {FILES['nightly']}", hint="docs/nightly.md says what stands in it"
        )
    channels = document.check(ChannelFile).channels
    for name in names:
        if name not in channels:
            near = difflib.get_close_matches(name, channels, n=1)
            raise RequestError(
                f"{FILES['nightly']} has no channel {name!r}",
                hint=f"did you mean {near[0]}?" if near else f"it has: {', '.join(channels)}",
            )
    return [_chosen(matrix, document, name, channels[name]) for name in dict.fromkeys(names or channels)]


def _chosen(matrix: Matrix, document: Document, name: str, channel: Channel) -> ChosenChannel:
    found = _selected(matrix, document, name, "targets", channel.targets)
    refused = {line: line.refusal for line in dict.fromkeys(target.release for target in found) if line.refusal}
    targets = tuple(target for target in found if target.release not in refused)
    if not targets:
        line, reason = next(iter(refused.items()))
        place = document.place("channels", name, "targets")
        raise RequestError(
            f"{place}: channels.{name}.targets: none of them can be built; {line.branch}: {reason}",
            hint="'list' shows what can be built",
        )
    if channel.version == "branch":
        _names_differ(document, name, targets)
    required = frozenset(_required(document, name, channel, targets))
    beside = () if channel.rehearse is None else _selected(matrix, document, name, "rehearse", channel.rehearse)
    rehearsed = tuple(target for target in beside if target.release.refusal is None and target not in targets)
    return ChosenChannel(name, channel, targets, required, tuple(refused.items()), rehearsed)


def _selected(matrix: Matrix, document: Document, name: str, part: str, choice: TargetChoice) -> Sequence[Target]:
    """What a selection of a channel means today; errors name its place in the file."""
    try:
        return tuple(select(matrix, choice.query(), default_arch="native"))
    except RequestError as error:
        # Messages begin with the option that they are about, and keys are called as options are.
        key = error.message.removeprefix("--").split(":")[0].split(" ")[0]
        place = document.place("channels", name, part, key)
        raise RequestError(f"{place}: channels.{name}.{part}: {error.message}", hint=error.hint) from error


def _required(document: Document, name: str, channel: Channel, targets: Sequence[Target]) -> Iterator[str]:
    """Ids of required targets. A glob that means nothing would let ``latest`` move whatever happens."""
    for index, glob in enumerate(channel.required):
        met = [target.id for target in targets if fnmatchcase(target.id, glob)]
        if not met:
            near = difflib.get_close_matches(glob, [target.id for target in targets], n=1, cutoff=0.4)
            raise RequestError(
                f"{document.place('channels', name, 'required', index)}: channels.{name}.required[{index}]: {glob!r}: "
                f"expected a glob that some of the channel's {len(targets)} targets meet",
                hint=f"one of them is {(near or [targets[0].id])[0]}",
            )
        yield from met


def _names_differ(document: Document, name: str, targets: Sequence[Target]) -> None:
    """Two wheels of one name cannot stand in one night."""
    known: dict[tuple[str, str, str], Target] = {}
    for target in targets:
        first = known.setdefault((target.release.package_version, target.python, target.arch), target)
        if first is not target:
            raise RequestError(
                f"{document.place('channels', name, 'version')}: channels.{name}.version: 'branch': expected 'night', "
                f"because the wheels of {first.id} and {target.id} would have one name",
                hint="with 'night' their commits tell them apart",
            )
