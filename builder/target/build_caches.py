"""The caches that one build reads and writes: its level of trust (``builder.core.trust``) decides which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.compilation import ccache, codegen_cache
from builder.compilation.remote_cache_proxy import Served
from builder.core.trust import Trust
from builder.core.untrusted import TooDeepError, remove_tree
from builder.environments.interface import Opened


@dataclass(frozen=True)
class BuildCaches:
    """The caches below ``root`` for a build of the release line ``line``; what is wrong with them goes to ``warn``.

    No cache makes a build fail: one that cannot be used costs speed.
    """

    root: Path
    trust: Trust
    line: str
    warn: Callable[[str], None]

    @classmethod
    def usable(cls, root: Path, instead: Path, trust: Trust, line: str, warn: Callable[[str], None]) -> BuildCaches:
        """Those below ``root``, or below ``instead`` where ``root`` cannot be written."""
        why = ccache.trouble(root)
        if why is not None:
            warn(f"the compile cache {root} cannot be written: {why}; this run compiles without it")
        return cls(root if why is None else instead, trust, line, warn)

    def generated(self) -> tuple[Path, ...]:
        """The folders of generated code that the build may read; none where they cannot be made."""
        try:
            return tuple(codegen_cache.folders(self.root, self.trust, self.line))
        except OSError as error:
            self.warn(f"generated code is not cached: {error.strerror or error} ({error.filename})")
            return ()

    def keep_generated(self, out: Path) -> None:
        """Take what a build that ended well has left of code generation in ``out``."""
        if warning := codegen_cache.keep(out, codegen_cache.store(self.root, self.trust, self.line)):
            self.warn(warning)

    def show(self, opened: Opened, store: str, remote: Served) -> None:
        """Let ``opened`` see the compile cache ``store``, and have ``remote`` read those that are trusted more."""
        folder = self.root / store
        try:
            opened.show_cache(folder)
        except TooDeepError as error:
            self._clear(store, f"is damaged ({error.strerror})")
            opened.show_cache(folder)
        remote.read_also([self.root / name for name in ccache.higher_stores(store)])

    def size(self, store: str) -> int:
        """Bytes on disk of the compile cache ``store``."""
        try:
            return ccache.stored_bytes(self.root / store)
        except TooDeepError as error:
            self._clear(store, f"was damaged by this build ({error.strerror})")
            return 0

    def _clear(self, store: str, why: str) -> None:
        remove_tree(self.root / store)
        # What follows in the environment still looks for it.
        (self.root / store).mkdir(parents=True)
        self.warn(f"the compile cache {store} {why}; it was cleared")
