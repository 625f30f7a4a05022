"""A lock: every resolved input of chosen targets in one file, and builds that accept nothing else.

A release is cut by reviewing and keeping such a file; a year later the same file gives the same inputs, or an error
that names what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from builder import __version__
from builder.environments.select import base_image_digest
from builder.errors import FailureKind, RequestError, TargetError
from builder.fingerprint import fingerprint
from builder.gather import commits_of
from builder.inputs import differences, environment_request
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.options import BuildOptions
from builder.plan import Planned
from builder.workspace import atomic_write

#: Version of the file's format.
SCHEMA = 1
_HEADER = "# Every input of these wheels, for review. 'build --locked' with this file builds exactly this, or fails.\n"


@dataclass(frozen=True)
class Lock:
    """What a lock file holds: the inputs of each target, the base image's digest and the wheels of PyTorch."""

    path: Path
    targets: Mapping[str, Mapping[str, Any]]

    def select(self, matrix: Matrix) -> list[Target]:
        """The file's targets. Raises RequestError for one that the matrix does not have."""
        return [parse_target_id(matrix, name) for name in self.targets]

    def pins(self) -> dict[str, dict[str, str]]:
        """Commits by branch, as ``Gatherer`` takes them. Raises RequestError where a branch has two."""
        found: dict[str, dict[str, str]] = {}
        for name, entry in self.targets.items():
            commits = commits_of(entry["inputs"]["sources"])
            branch = str(entry["branch"])
            if found.setdefault(branch, commits) != commits:
                raise RequestError(
                    f"{self.path}: {name} has other commits than another target of {branch}",
                    hint="lock the targets of one release line together",
                )
        return found

    def base_image_digest(self, target: Target) -> str | None:
        """The digest that the base image had; None where it had none (an image made on that machine)."""
        entry = self.targets.get(target.id)
        return None if entry is None else entry["base_image"]["digest"]

    def check(self, target: Target, inputs: Mapping[str, Any]) -> None:
        """Raise TargetError (LOCK) where ``inputs`` are not those of the file, naming each difference."""
        entry = self.targets.get(target.id)
        if entry is None:
            raise TargetError(f"{target.id} is not in {self.path}", kind=FailureKind.LOCK)
        found = [f"{name}: locked {old!r}, now {new!r}" for name, old, new in differences(entry["inputs"], inputs)]
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
    targets = {}
    for plan in planned:
        if plan.inputs is None or plan.fingerprint is None:
            raise RequestError(
                f"{plan.target.id} cannot be locked: {plan.reason}",
                hint="build it once, or pull its base image; then every input is known",
            )
        overlay = plan.inputs["sources"]["op_plugin"]
        if plan.inputs["changes_by_hand"] or (overlay is not None and overlay["source"] != "commit"):
            raise RequestError(
                f"{plan.target.id} cannot be locked: it is built from files that are in no commit",
                hint="commit them where the builder can fetch them",
            )
        request = environment_request(plan.target, options)
        targets[plan.target.id] = {
            "branch": plan.target.release.branch,
            "fingerprint": plan.fingerprint,
            "base_image": {
                "name": request.base_image,
                "digest": request.base_image_digest or base_image_digest(options.environment, request),
            },
            "torch": {"version": request.torch, "source": request.torch_source, "hashes": list(request.torch_hashes)},
            "requirements": list(request.requirements),
            "inputs": dict(plan.inputs),
        }
    content = {"schema": SCHEMA, "builder": __version__, "targets": targets}
    atomic_write(path, _HEADER + yaml.safe_dump(content, sort_keys=False, width=120))


def read_lock(path: Path) -> Lock:
    """Read a lock file. Raises RequestError for a file that is none, is damaged, or of a newer builder."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        schema, targets = content["schema"], content["targets"]
        if schema != SCHEMA:
            raise RequestError(
                f"{path}: schema {schema!r}: this builder knows {SCHEMA}", hint="use the builder that wrote it"
            )
        for name, entry in targets.items():
            if fingerprint(entry["inputs"]) != entry["fingerprint"]:
                raise RequestError(
                    f"{path}: targets.{name}: its inputs do not have the fingerprint that stands beside them",
                    hint="the file was edited; lock again instead",
                )
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = getattr(error, "problem_mark", None)
        place = f"{path}:{where.line + 1}" if where is not None else str(path)
        raise RequestError(
            f"{place}: this is not a lock file of the builder", hint="make one with 'python -m builder lock'"
        ) from error
    return Lock(path, targets)
