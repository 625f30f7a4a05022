"""The compile cache: where it lies, how an environment is told of it, and what came of each compiled file.

Each release line has a cache for each toolchain and level of trust, ``<cache>/<trust>/<line>-<arch>-gcc<minor>``, which
all its Pythons share. A build sees its own and no other. How it is asked, and why, is in docs/cache.md.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.core.statistics import CacheUse
from builder.core.trust import Trust
from builder.core.untrusted import UntrustedFolder
from builder.payload import FOLDER

#: The launcher's own record, in the results folder of a build.
COMPILE_LOG = "compile.log"
#: Bytes of it that are read, and different words in it: a release line has some 1,000 lines of 100 bytes, and 8 words.
LARGEST_LOG = 64 << 20
_WORDS = 100
#: Folder of the launcher that stands first on PATH in every environment.
LAUNCHER = FOLDER / "launcher"
#: Bytes that one cache may grow to. All files of a release line take under 300 MB, and each change that reaches all
#: of them as much again; the limit holds some seventeen of those.
DEFAULT_LIMIT = 5 << 30
#: The launcher's word where it was told to compile nothing.
_STOPPED = "stopped"
_STORE = re.compile(r"(?:(?P<trust>[a-z]+)/)?(?P<line>[^/]+)-(?P<arch>[^-/]+)-gcc(?P<gcc>[\d.]+)")
#: Where code generation's entries of all lines were, in a builder of before.
GENERATED_BEFORE = "generated"
#: What ccache makes at the top of its folder.
_OWN_FOLDER = re.compile(r"[0-9a-f]|tmp|lock")
_OWN_FILE = re.compile(r"stats|ccache\.conf|inode-cache.*|CACHEDIR\.TAG")


@dataclass(frozen=True)
class CompileCounts:
    """What the launcher saw of the compiles that ended, by what the cache did.

    ``uncached`` counts files that ccache compiled without asking its cache, ``unknown`` those of which it did not say
    what it did; they are neither hit nor miss. ``plain`` files were compiled without ccache.
    """

    direct: int = 0
    preprocessed: int = 0
    misses: int = 0
    uncached: int = 0
    unknown: int = 0
    plain: int = 0
    failed: int = 0

    @property
    def files(self) -> int:
        """All of them."""
        return self.hits + self.misses + self.uncached + self.unknown + self.plain + self.failed

    @property
    def hits(self) -> int:
        """Files that came from the cache."""
        return self.direct + self.preprocessed

    @property
    def cached(self) -> bool:
        """True where a cache was asked at all."""
        return self.hits + self.misses + self.unknown + self.uncached > 0

    def summary(self) -> str:
        """One phrase for people."""
        if not self.cached:
            return f"{self.files} files compiled, no ccache"
        unknown = f", {self.unknown} by a ccache that does not say" if self.unknown else ""
        past = f", {self.uncached + self.plain} without the cache" if self.uncached + self.plain else ""
        return f"{self.files} files, {self.hits} from the compile cache, {self.misses} compiled{past}{unknown}"

    def use(self, *, size: int | None = None, limit: int | None = None) -> CacheUse:
        """Return what a result says of it: counts, and the bytes that the cache takes and may take where known."""
        return CacheUse(
            hits=self.hits,
            misses=self.misses,
            direct=self.direct,
            preprocessed=self.preprocessed,
            uncached=self.uncached + self.plain,
            unknown=self.unknown,
            failed=self.failed,
            size=size,
            limit=limit,
        )


def store_name(trust: Trust, line: str, arch: str, gcc: str) -> str:
    """The folder of the cache of a release line's branch, for an architecture and a compiler's full version."""
    minor = ".".join(re.findall(r"\d+", gcc)[:2])
    return f"{trust.value}/{re.sub(r'[^A-Za-z0-9._-]', '_', line)}-{arch}-gcc{minor}"


def parse_store(name: str) -> tuple[str, str, str] | None:
    """Release line, architecture and gcc of a folder's name, with or without its level of trust; None for no store."""
    match = _STORE.fullmatch(name)
    return (match["line"], match["arch"], match["gcc"]) if match else None


def higher_stores(name: str) -> list[str]:
    """Names of the stores of the same line and toolchain that are trusted more, the highest first."""
    level, _, rest = name.partition("/")
    return [f"{trust.value}/{rest}" for trust in Trust(level).higher]


def environment(
    *,
    cache: str,
    launcher: str,
    compile_log: str,
    slots: int,
    slot_folder: str,
    limit: int = DEFAULT_LIMIT,
    temporary: str | None = None,
    inputs: str | None = None,
    read_only: bool = False,
) -> Mapping[str, str]:
    """Variables that make every compile go through the launcher; paths are those inside the environment.

    The real ccache is found inside, before the launcher goes first on PATH. ``slots`` is the number of
    compilers that may run at once, 0 for no limit; ``limit`` is in bytes, 0 for none; ``temporary`` a folder of this
    build for ccache's temporary files; ``inputs`` a file whose content belongs to the inputs of every compile.
    """
    launched = f"{launcher}/ccache"
    optional = {
        "CCACHE_TEMPDIR": temporary,
        "CCACHE_EXTRAFILES": inputs,
        # A cache that cannot be written fails the compile unless ccache is told beforehand.
        "CCACHE_READONLY": "1" if read_only else None,
    }
    return {
        "BUILDER_COMPILE_LOG": compile_log,
        "BUILDER_SLOTS": str(slots),
        "BUILDER_SLOT_FOLDER": slot_folder,
        # Not the cache's own ccache.conf: any build could write it, and it would steer all later ones.
        "CCACHE_CONFIGPATH": f"{launcher}/ccache.conf",
        "CCACHE_DIR": cache,
        "CCACHE_MAXSIZE": f"{-(-limit // 1024)}Ki" if limit else "0",
        # The compiler is known by its content, so that a rebuilt image with the same one finds the same objects.
        "CCACHE_COMPILERCHECK": "content",
        # What a compile took in is read off the dependencies that it wrote (-MD), without a run of the preprocessor
        # (1.1 CPU seconds for each file). Where a command has no -MD, ccache runs it as ever.
        "CCACHE_DEPEND": "1",
        # A hit needs the digests of thousands of headers; remembered by inode and times, it costs a third less. They
        # are kept in the folder for temporary files, so for one build.
        "CCACHE_INODECACHE": "1",
        # Nothing that differs is taken for the same.
        "CCACHE_SLOPPINESS": "",
        **{name: value for name, value in optional.items() if value is not None},
        # Lines that do not look for ccache take the launcher from here (CMake 3.17 and later).
        "CMAKE_C_COMPILER_LAUNCHER": launched,
        "CMAKE_CXX_COMPILER_LAUNCHER": launched,
        "CMAKE_EXPORT_COMPILE_COMMANDS": "1",
    }


def read_counts(folder: Path, name: str = COMPILE_LOG) -> CompileCounts:
    """Count the launcher's lines in ``name`` below ``folder``. A missing file means that nothing was compiled."""
    results: Counter[str] = Counter()
    try:
        with UntrustedFolder(folder) as opened:
            for line in opened.lines(name, LARGEST_LOG):
                word = line.split(None, 1)[0] if line.strip() else ""
                # A build may have written anything; so many different words the launcher has not.
                results[word if word in results or len(results) < _WORDS else "unknown"] += 1
    except OSError:
        results.clear()
    for word in ("", _STOPPED):
        results.pop(word, None)
    names = {"hit-direct": "direct", "hit-preprocessed": "preprocessed", "miss": "misses"}
    counted = {names.get(word, word): number for word, number in results.items()}
    known = {field: counted.pop(field, 0) for field in CompileCounts.__dataclass_fields__}
    # A word that this builder does not know is still a compiled file.
    known["unknown"] += sum(counted.values())
    return CompileCounts(**known)


def stopped(folder: Path, name: str = COMPILE_LOG) -> bool:
    """True where the launcher ended the build of ``folder`` at its first compile, as it was told to."""
    try:
        with UntrustedFolder(folder) as opened:
            return any(line.split(None, 1)[:1] == [_STOPPED] for line in opened.lines(name, LARGEST_LOG))
    except OSError:
        return False


def stored_bytes(folder: Path) -> int:
    """Bytes on disk of all that is below ``folder``; what vanishes meanwhile does not count. Raises TooDeepError."""
    try:
        with UntrustedFolder(folder) as opened:
            return opened.stored_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return 0


def trouble(folder: Path) -> str | None:
    """Why builds cannot write into ``folder`` from this machine; None where they can. Makes it where it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe."):
            return None
    except OSError as error:
        return error.strerror or str(error)


def stores(cache: Path) -> list[Path]:
    """The folders of release lines in the cache folder, by level and name."""
    found = []
    for trust in Trust:
        with suppress(OSError), UntrustedFolder(cache) as folder, folder.folder(trust.value) as level:
            found += [cache / trust.value / name for name in level.folders() if parse_store(name)]
    return found


def earlier_layouts(cache: Path) -> list[Path]:
    """What builders of before, whose stores had no level of trust or which had one cache for everything, have left."""
    try:
        with UntrustedFolder(cache) as folder:
            folders, files = folder.folders(), folder.files()
    except OSError:
        return []
    found = [name for name in folders if parse_store(name) or name == GENERATED_BEFORE]
    own = [name for name in folders if _OWN_FOLDER.fullmatch(name)]
    if any(len(name) == 1 for name in own):
        found += [*own, *(name for name in files if _OWN_FILE.fullmatch(name))]
    return [cache / name for name in found]
