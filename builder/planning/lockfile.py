"""A lock: every resolved input of chosen targets in one file, and builds that accept nothing else.

A release is cut by reviewing and keeping such a file; a year later the same file gives the same inputs, or an error
that names what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from builder import __version__
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.untrusted import read_regular
from builder.core.workspace import atomic_write
from builder.environments.select import base_image_digest
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning.planner import Planned
from builder.target.fingerprint import fingerprint
from builder.target.inputs import Inputs, differences, environment_request

#: Version of the file's format.
SCHEMA = 1
#: Bytes of the largest lock file: one of a thousand targets has 2 MB.
_LARGEST = 32 << 20
_HEADER = "# Every input of these wheels, for review. 'build --locked' with this file builds exactly this, or fails.\n"


_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]


class _Overlay(BaseModel):
    """Where op-plugin is from; only a commit can be locked."""

    model_config = ConfigDict(frozen=True, strict=True)

    source: Literal["commit"]
    commit: _Commit


class _Sources(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    torch_npu: _Commit
    op_plugin: _Overlay | None

    @property
    def commits(self) -> dict[str, str]:
        """The commits by repository, as ``Gatherer`` takes them."""
        return {"torch_npu": self.torch_npu, **({} if self.op_plugin is None else {"op_plugin": self.op_plugin.commit})}


class _Inputs(BaseModel):
    """What is read of the inputs here; the rest is compared as it is."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    sources: _Sources


class _BaseImage(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    digest: str | None


class Locked(BaseModel):
    """A target in a lock file, as far as it is read."""

    model_config = ConfigDict(frozen=True, strict=True)

    branch: str
    fingerprint: str
    base_image: _BaseImage
    inputs: dict[str, JsonValue]


class ReviewedImage(BaseModel):
    """A base image: its name, and the digest that it has (None: it was made on that machine)."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    digest: str | None


class ReviewedTorch(BaseModel):
    """PyTorch: its version, where it is from, and the hashes of its wheels."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: str
    source: str
    hashes: tuple[str, ...]


class LockEntry(BaseModel):
    """A target in a lock file, as it is written: what is not read again is there for people to review."""

    model_config = ConfigDict(frozen=True, strict=True)

    branch: str
    fingerprint: str
    base_image: ReviewedImage
    torch: ReviewedTorch
    requirements: tuple[str, ...]
    inputs: dict[str, JsonValue]

    def to_json(self) -> dict[str, JsonValue]:
        """The entry as it is written."""
        return self.model_dump(mode="json")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    targets: dict[str, Locked] = Field(min_length=1)


@dataclass(frozen=True)
class Lock:
    """What a lock file holds: the inputs of each target, the base image's digest and the wheels of PyTorch."""

    path: Path
    targets: Mapping[str, Locked]

    def select(self, matrix: Matrix) -> list[Target]:
        """The file's targets. Raises RequestError for one that the matrix does not have."""
        return [parse_target_id(matrix, name) for name in self.targets]

    def pins(self) -> dict[str, dict[str, str]]:
        """Commits by branch, as ``Gatherer`` takes them. Raises RequestError where a branch has two."""
        found: dict[str, dict[str, str]] = {}
        for name, entry in self.targets.items():
            commits = _Inputs.model_validate(entry.inputs).sources.commits
            branch = entry.branch
            if found.setdefault(branch, commits) != commits:
                raise RequestError(
                    f"{self.path}: {name} has other commits than another target of {branch}",
                    hint="lock the targets of one release line together",
                )
        return found

    def base_image_digest(self, target: Target) -> str | None:
        """The digest that the base image had; None where it had none (an image made on that machine)."""
        entry = self.targets.get(target.id)
        return None if entry is None else entry.base_image.digest

    def check(self, target: Target, inputs: Inputs) -> None:
        """Raise TargetError (LOCK) where ``inputs`` are not those of the file, naming each difference."""
        entry = self.targets.get(target.id)
        if entry is None:
            raise TargetError(f"{target.id} is not in {self.path}", kind=FailureKind.LOCK)
        found = [
            f"{name}: locked {old!r}, now {new!r}" for name, old, new in differences(entry.inputs, inputs.to_json())
        ]
        if found:
            raise TargetError(
                f"{target.id} is not what {self.path} locked: {found[0]}",
                kind=FailureKind.LOCK,
                details="\n".join(found),
            )


def write_lock(path: Path, planned: Sequence[Planned], options: BuildOptions) -> None:
    """Write the resolved inputs of ``planned`` to ``path``.

    Raises RequestError where an input of a target is not known; a local op-plugin folder and changes made by hand
    cannot be locked either, because nobody else has them.
    """
    targets: dict[str, JsonValue] = {}
    for plan in planned:
        if plan.inputs is None or plan.fingerprint is None:
            raise RequestError(
                f"{plan.target.id} cannot be locked: {plan.reason}",
                hint="build it once, or pull its base image; then every input is known",
            )
        overlay = plan.inputs.sources.op_plugin
        if plan.inputs.changes_by_hand or (overlay is not None and overlay.source != "commit"):
            raise RequestError(
                f"{plan.target.id} cannot be locked: it is built from files that are in no commit",
                hint="commit them where the builder can fetch them",
            )
        request = environment_request(plan.target, options)
        digest = request.base_image_digest or base_image_digest(options.environment, request)
        entry = LockEntry(
            branch=plan.target.release.branch,
            fingerprint=plan.fingerprint,
            base_image=ReviewedImage(name=request.base_image, digest=digest),
            torch=ReviewedTorch(version=request.torch, source=request.torch_source, hashes=request.torch_hashes),
            requirements=request.requirements,
            inputs=plan.inputs.to_json(),
        )
        targets[plan.target.id] = entry.to_json()
    content = {"schema": SCHEMA, "builder": __version__, "targets": targets}
    atomic_write(path, _HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120))


def read_lock(path: Path) -> Lock:
    """Read a lock file. Raises RequestError for a file that is none, is damaged, or of a newer builder."""
    try:
        content = yaml.load(read_regular(path, _LARGEST).decode(), _Loader)  # noqa: S506  (a SafeLoader)
        if not isinstance(content, dict) or "schema" not in content:
            raise ValueError("it names no schema")
        if content["schema"] != SCHEMA:
            raise RequestError(
                f"{path}: schema {str(content['schema'])[:40]!r}: this builder knows {SCHEMA}",
                hint="use the builder that wrote it",
            )
        targets = _File.model_validate(content).targets
        for name, entry in targets.items():
            if fingerprint(entry.inputs) != entry.fingerprint:
                raise RequestError(
                    f"{path}: targets.{name}: its inputs do not have the fingerprint that stands beside them",
                    hint="the file was edited; lock again instead",
                )
            _Inputs.model_validate(entry.inputs)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{_place(path, error)}: this is not a lock file of the builder: {_problem(error)}",
            hint="make one with 'python -m builder lock'",
        ) from error
    return Lock(path, targets)


class _Loader(yaml.SafeLoader):
    """Reads plain YAML. Aliases, of which a lock has none, can make a small file endless."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias where a node is to come."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed here", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, also where two targets have the same object."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whatever stands twice is written twice."""
        return True


def _place(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{path}:{mark.line + 1}"
    if isinstance(error, ValidationError):
        return f"{path}: {'.'.join(map(str, error.errors()[0]['loc']))}"
    return str(path)


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(getattr(error, "problem", None) or error).splitlines()[0][:200]
