"""The compile cache: how an environment is told of it, and what came of each compiled file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.workspace import open_inside

#: The launcher's own record, in the results folder of a build.
COMPILE_LOG = "compile.log"
#: Folder of the launcher that stands first on PATH in every environment.
LAUNCHER = Path(__file__).resolve().parent / "launcher"


@dataclass(frozen=True)
class CompileCounts:
    """What the launcher saw: files compiled, and how many of them the cache answered.

    ``unknown`` counts files of which ccache did not say what it did; they are neither hit nor miss.
    """

    files: int
    hits: int
    misses: int
    failed: int
    unknown: int
    cached: bool

    def summary(self) -> str:
        """One phrase for people."""
        if not self.cached:
            return f"{self.files} files compiled, no ccache"
        unknown = f", {self.unknown} by a ccache that does not say" if self.unknown else ""
        return f"{self.files} files, {self.hits} from the compile cache, {self.misses} compiled{unknown}"


def environment(*, cache: str, launcher: str, compile_log: str, slots: int, slot_folder: str) -> Mapping[str, str]:
    """Variables that make every compile go through the launcher; paths are those inside the environment.

    The real ccache is found inside, before the launcher goes first on PATH. ``slots`` is the number of
    compilers that may run at once, 0 for no limit. The compiler is known to ccache by its content, so that a
    rebuilt image with the same compiler finds the same objects.
    """
    launched = f"{launcher}/ccache"
    return {
        "BUILDER_COMPILE_LOG": compile_log,
        "BUILDER_SLOTS": str(slots),
        "BUILDER_SLOT_FOLDER": slot_folder,
        # Not the cache's own ccache.conf: any build could write it, and it would steer all later ones.
        "CCACHE_CONFIGPATH": f"{launcher}/ccache.conf",
        "CCACHE_DIR": cache,
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_NOHASHDIR": "1",
        # Lines that do not look for ccache take the launcher from here (CMake 3.17 and later).
        "CMAKE_C_COMPILER_LAUNCHER": launched,
        "CMAKE_CXX_COMPILER_LAUNCHER": launched,
    }


def read_counts(folder: Path, name: str = COMPILE_LOG) -> CompileCounts:
    """Count the launcher's lines in ``name`` below ``folder``. A missing file means that nothing was compiled."""
    results: Counter[str] = Counter()
    try:
        with open_inside(folder, name) as stream:
            for line in stream:
                results[line.decode(errors="replace").split(" ", 1)[0]] += 1
    except OSError:
        results.clear()
    hits = results["hit-direct"] + results["hit-preprocessed"]
    return CompileCounts(
        files=sum(results.values()),
        hits=hits,
        misses=results["miss"],
        failed=results["failed"],
        unknown=results["unknown"],
        cached=hits + results["miss"] + results["unknown"] > 0,
    )
