"""What a user may ask of a build, beyond which targets: plain values, with their meaning and unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

from builder.core.workspace import expanded

#: Seconds that each phase may take where --timeout names none: many times what any has taken that was measured (a first
#: fetch over a slow line, gcc made from source and a whole compile under emulation), and still an end.
LIMITS: Mapping[str, float] = {
    "plan": 3600,
    "prepare": 6 * 3600,
    "image": 24 * 3600,
    "compile": 7 * 24 * 3600,
    "verify": 3600,
    "publish": 2 * 3600,
}


@dataclass(frozen=True)
class BuildOptions:
    """Options of the ``build`` command (DESIGN section 4).

    ``torch_npu`` is a tag or commit to build instead of the head of the release line's branch. ``op_plugin`` is
    ``branch`` (the release line's), ``pinned`` (the commit that torch_npu pins), a branch or commit, or the path of
    a checkout. ``components`` is ``op-plugin`` or ``full``. ``memory`` is in bytes, ``timeout`` in seconds for each
    phase, ``disk`` the bytes that a build may write; None lets the machine, or earlier builds, decide.
    ``version_suffix`` follows the branch's package version; ``{commits}`` in it stands for the commits. ``pch`` allows
    precompiled headers, ``cached`` the compile cache, each of whose stores may grow to ``cache_size`` bytes (0: without
    limit; None: the builder's default). ``trust`` is the most that the builds are trusted (``builder.core.trust``).
    """

    torch_npu: str | None = None
    op_plugin: str = "branch"
    components: str = "op-plugin"
    version_suffix: str | None = None
    custom_ops: Path | None = None
    patches: tuple[Path, ...] = ()
    environment: str = "auto"
    base_image: str | None = None
    torch_source: str | None = None
    find_links: tuple[Path, ...] = ()
    cann_home: Path | None = None
    jobs: int | None = None
    memory: int | None = None
    timeout: float | None = None
    offline: bool = False
    refresh: bool = False
    rebuild: bool = False
    keep_changes: bool = False
    allow_toolchain_mismatch: bool = False
    pch: bool = False
    cached: bool = True
    cache_size: int | None = None
    disk: int | None = None
    trust: str = "release"

    @property
    def op_plugin_folder(self) -> Path | None:
        """The local checkout that ``op_plugin`` names, if it names one.

        A value with a slash at its start, or ``.``/``~`` there, is a path; so is the name of a folder
        that exists and looks like op-plugin. Everything else is a branch or a commit.
        """
        if self.op_plugin.startswith(("/", "./", "../", "~")) or self.op_plugin in {".", ".."}:
            return expanded(self.op_plugin)
        folder = Path(self.op_plugin)
        return folder if (folder / "ci" / "build.sh").is_file() and (folder / "op_plugin").is_dir() else None

    def limit_of(self, phase: str) -> float:
        """Seconds that a phase (one of ``LIMITS``) may take: ``timeout`` where one was given."""
        return LIMITS[phase] if self.timeout is None else self.timeout

    def to_json(self) -> dict[str, JsonValue]:
        """The options as JSON takes them."""
        return {
            name: [str(item) for item in value]
            if isinstance(value, tuple)
            else str(value)
            if isinstance(value, Path)
            else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, JsonValue]) -> BuildOptions:
        """The options that ``to_json`` wrote; unknown names are passed over. Raises ValueError for other types."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(values)
