"""``compile/<target>``: the copy of a prepared tree that a build may spoil, and the options that made it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from builder.core.build_options import BuildOptions
from builder.core.errors import OF_THE_MACHINE, FailureKind, RequestError, TargetError
from builder.core.untrusted import UntrustedFolder, read_regular, remove_tree
from builder.core.workspace import Workspace, atomic_json, free_bytes
from builder.matrix.model import Target
from builder.sources.build_scripts import BuildScript, SetupScript, read_build_script, read_setup_script
from builder.sources.checkout import PreparedTree
from builder.sources.manifest import tree_size
from builder.sources.version import add_suffix, suffix_of

#: Bytes that must be free before a compile starts, and how many times its sources a build takes.
MINIMUM_FREE = 256 << 20
ROOM_FOR_BUILD = 8
#: Bytes of the largest script that is read; upstream's have 20 and 60 KB.
LARGEST_SCRIPT = 4 << 20


@dataclass(frozen=True)
class Scratch:
    """The copy of one target. It is there from the start of a build to its success; a failed build leaves it."""

    workspace: Workspace
    target: Target

    @property
    def path(self) -> Path:
        """The copied tree."""
        return self.workspace.scratch / self.target.id

    @property
    def _options(self) -> Path:
        return self.workspace.scratch / f".{self.target.id}.options.json"

    def fill(self, tree: PreparedTree, options: BuildOptions) -> list[str]:
        """Make the copy anew; returns what a person changed in the tree.

        Raises TargetError (DISK) where there is no room for a build, (CHANGED_TREE) where the tree was
        changed and the options do not allow that.
        """
        # Compiling takes some times the room of the sources; a full disk in the middle costs hours.
        needed = max(MINIMUM_FREE, ROOM_FOR_BUILD * tree_size(tree.path))
        for place in (self.workspace.root, self.workspace.output):
            if free_bytes(place) < needed:
                raise TargetError(
                    f"{place} has {free_bytes(place) >> 20} MiB free, this build needs {needed >> 20} MiB",
                    kind=FailureKind.DISK,
                )
        remove_tree(self.path)
        changes = tree.copy_to(self.path, keep_changes=options.keep_changes)
        if suffix := suffix_of(options.version_suffix, tree.record.commits):
            add_suffix(self.path, suffix)
        atomic_json(self._options, options.to_json())
        return [f"{change.kind} {change.path}" for change in changes]

    def scripts(self) -> tuple[BuildScript, SetupScript]:
        """What the copy's own scripts say. Raises RequestError for a Python that they refuse, TargetError (SOURCE)."""
        branch = self.target.release.branch
        script = read_build_script(self._text("ci/build.sh"), branch=branch)
        if self.target.python not in script.pythons:
            raise RequestError(
                f"ci/build.sh of {branch} refuses Python {self.target.python}; it takes {', '.join(script.pythons)}",
                hint="correct the Pythons of that release line in the matrix",
            )
        return script, read_setup_script(self._text("setup.py"))

    def _text(self, name: str) -> str:
        """A script of the copy, which the build that left it could have replaced by anything."""
        try:
            with UntrustedFolder(self.path) as folder:
                return folder.read(name, LARGEST_SCRIPT).decode(errors="replace")
        except OSError as error:
            if error.errno in OF_THE_MACHINE:
                raise
            raise TargetError(
                f"{self.path / name} cannot be read: {error.strerror}",
                kind=FailureKind.SOURCE,
                hint="'build' makes a fresh copy of the tree",
            ) from error

    def options_of_last_build(self) -> BuildOptions | None:
        """The options of the build that left this copy; None where there is no copy.

        Raises TargetError (SOURCE) where they cannot be read.
        """
        if not self.path.exists() or not os.path.lexists(self._options):
            return None
        try:
            return BuildOptions.from_json(json.loads(read_regular(self._options, LARGEST_SCRIPT)))
        except (OSError, ValueError, RecursionError) as error:
            why = str(error.strerror if isinstance(error, OSError) else error).splitlines()[0]
            raise TargetError(
                f"{self._options}, the options of the last build, cannot be read: {why}",
                kind=FailureKind.SOURCE,
                hint=f"'build' makes a fresh copy; to look at this one without them, remove {self._options}",
            ) from error

    def remove(self) -> None:
        """Remove the copy and its options."""
        remove_tree(self.path)
        self._options.unlink(missing_ok=True)
