"""What decides an environment's content, and the files that its making reads.

Containers and this machine run the same scripts of ``docker/`` on the same staged files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.environments.docker_engine import is_own_fault
from builder.environments.interface import EnvironmentRequest
from builder.environments.network import NetworkSettings

if TYPE_CHECKING:
    from packaging.version import Version

#: Part of every digest: raise it when the same inputs give another environment.
RECIPE = 2
#: Files of the shipped folder ``docker``: what the base lacks, the interpreter's packages, PyTorch.
SYSTEM_FILES = ("inventory.sh", "packages.sh", "archives.txt", "tools.sh", "tools.txt", "eu-strip")
PYTHON_FILES = ("requirements.sh",)
PYTORCH_FILES = ("pytorch.sh", "torch_site.py", "cpu_only_torch.py")
LOG_TAIL = 15
#: How archives are called that pip takes for source distributions (pip's ``ARCHIVE_EXTENSIONS``, pip/_internal/utils/
#: filetypes.py).
_ARCHIVES = (
    ".zip", ".tar.bz2", ".tbz", ".tar.gz", ".tgz", ".tar", ".tar.xz", ".txz", ".tlz", ".tar.lz", ".tar.lzma",
)  # fmt: skip
#: PyTorch itself is looked at by version, and nothing that PyTorch needs is what is built here.
_NOT_NEEDED = {"torch", "torch-npu"}
#: The kernel's words, whoever meets them.
_DISK_FULL = "No space left on device"
#: What pip says when a server stalls, breaks off or cannot be reached: it may well answer a little later.
_NETWORK = re.compile(
    r"ReadTimeoutError|IncompleteRead|ConnectionResetError|Connection broken|Max retries exceeded|NewConnectionError"
    r"|Temporary failure in name resolution|HTTP error (?:429|5\d\d)|\b5\d\d Server Error|Remote end closed connection"
    r"|Read timed out"
)


class Log:
    """The log file of an image build: redacted lines, the last of them kept for a message."""

    def __init__(self, path: Path, settings: NetworkSettings, on_line: Callable[[str], None]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close()
        self._settings = settings
        self._on_line = on_line
        self.tail: deque[str] = deque(maxlen=LOG_TAIL)
        self.warnings: list[str] = []
        #: What the last script said went wrong, in one sentence.
        self.error = ""

    def line(self, text: str) -> None:
        """Write one line."""
        text = self._settings.redact(text)
        self._stream.write(text + "\n")
        self._stream.flush()
        if text.strip():
            self.tail.append(text)
            self._on_line(text.strip()[:60])
        # What the scripts of docker/ say to the user; pip has words of its own for both.
        if text.startswith("builder-error: "):
            self.error = text.removeprefix("builder-error: ")
        elif text.startswith("builder-warning: "):
            self.warnings.append(text.removeprefix("builder-warning: "))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def script_failure(message: str, log: Log, *, hint: str | None = None, network: bool = False) -> TargetError:
    """The error for a script of ``docker/`` that ended badly; its kind by what the last lines of its log say."""
    tail = list(log.tail)
    kind = FailureKind.NETWORK if network else FailureKind.IMAGE
    if any(_DISK_FULL in line for line in tail):
        kind = FailureKind.DISK
        # The advice of others is to read the log, which says no more than this.
        hint, message = None, f"{message}: no space left on device"
    elif any(is_own_fault(line) for line in tail):
        kind = FailureKind.ENGINE
    elif any(_NETWORK.search(line) for line in tail):
        kind = FailureKind.NETWORK
    text = f"{message}: {log.error}" if log.error else message
    return TargetError(text, kind=kind, details="\n".join(tail), log=log.path, hint=hint)


def torch_requirement(request: EnvironmentRequest) -> str:
    """The line for torch.txt: PyTorch alone, with its hashes where the matrix knows them."""
    hashes = "".join(f" --hash={value if ':' in value else 'sha256:' + value}" for value in request.torch_hashes)
    return f"torch=={request.torch}{request.torch_local}{hashes}\n"


def folders_of_wheels(request: EnvironmentRequest, settings: NetworkSettings) -> tuple[Path, ...]:
    """All folders of wheels, the request's first. Raises RequestError for one that is not there."""
    for folder in request.find_links:
        if not folder.is_dir():
            raise RequestError(f"--find-links: {folder} is not a folder", hint="name folders that hold wheels")
    if request.torch_source == "find-links" and not (request.find_links or settings.find_links):
        raise RequestError("--torch-source find-links needs a folder of wheels", hint="name it with --find-links DIR")
    if request.torch_source == "cpu-index" and not settings.torch_index_url:
        raise RequestError("--torch-source cpu-index needs PyTorch's CPU index", hint="sources.yaml names its URL")
    return tuple(dict.fromkeys(path.resolve() for path in (*request.find_links, *settings.find_links)))


def wheels_digest(request: EnvironmentRequest, folders: tuple[Path, ...]) -> list[str]:
    """What the folders contribute to an environment's digest: all that pip could choose as PyTorch, by content.

    Where its hashes are known, it does not matter where it came from. For the source ``find-links`` everything that
    PyTorch may need counts as well: pip takes it from there.
    """
    found = [] if request.torch_hashes else offered_torch(request, folders)
    if request.torch_source == "find-links":
        found += [path for path in _distributions(folders) if _name_and_version(path.name)[0] not in _NOT_NEEDED]
    return [f"{path.name} {sha256_of(path)}" for path in found]


def offered_torch(request: EnvironmentRequest, folders: Iterable[Path]) -> list[Path]:
    """The files in ``folders`` that pip could choose as the request's PyTorch: archives for ``find-links`` only."""
    from packaging.specifiers import SpecifierSet

    wanted = SpecifierSet(f"=={request.torch}{request.torch_local}")
    found = []
    for path in _distributions(folders):
        name, version = _name_and_version(path.name)
        is_wheel = path.suffix == ".whl"
        fits = version is not None and wanted.contains(version, prereleases=True)
        if name == "torch" and fits and (is_wheel or request.torch_source == "find-links"):
            found.append(path)
    return found


def _distributions(folders: Iterable[Path]) -> list[Path]:
    """The wheels and source distributions in ``folders``, in the order in which pip meets them."""
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.name.endswith((".whl", *_ARCHIVES)) and path.is_file()
    ]


def _name_and_version(file: str) -> tuple[str, Version | None]:
    """The project that a distribution's file is of, and its version: None where the name has none.

    The names of archives that older tools have made are not all as packaging wants them.
    """
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    ending = next((ending for ending in (".whl", *_ARCHIVES) if file.endswith(ending)), "")
    words = file.removesuffix(ending).split("-")
    # A wheel's name has no other hyphens; an archive's version is behind the last one.
    at = 1 if ending == ".whl" else len(words) - 1
    try:
        return canonicalize_name("-".join(words[:at])), Version(words[at])
    except (InvalidVersion, IndexError):
        return canonicalize_name(words[0]), None


def not_offered(requirements: Iterable[str], folders: Iterable[Path]) -> list[str]:
    """Those of the pinned requirement lines that no file of ``folders`` is for: pip cannot have them without an index.

    A file may still turn out not to fit the interpreter; that is for pip to say.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    offered = [canonicalize_name(path.name) for folder in folders for path in folder.iterdir() if path.is_file()]
    missing = []
    for line in requirements:
        wanted = Requirement(line.partition(" --hash")[0].rstrip(" \\"))
        pinned = [each.version for each in wanted.specifier if each.operator == "=="]
        # A wheel's name and an archive's begin alike: with the package and its version.
        beginnings = tuple(
            f"{canonicalize_name(wanted.name)}-{canonicalize_name(version)}" for version in pinned or [""]
        )
        if not any(name.startswith(beginnings) for name in offered):
            missing.append(f"{wanted.name}{wanted.specifier}")
    return missing


def inputs_digest(value: Any) -> str:
    """SHA-256 over a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def files_digest(resources: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each of the shipped files."""
    return {name: hashlib.sha256((resources / name).read_bytes()).hexdigest() for name in names}


def system_inputs(request: EnvironmentRequest, resources: Path) -> list[Any]:
    """What decides all that is added to a base, for a digest."""
    toolsets = sorted((each.os_id, each.os_version, each.package) for each in request.toolsets)
    return [RECIPE, ".".join(request.gcc.split(".")[:2]), toolsets, files_digest(resources, SYSTEM_FILES)]


def python_inputs(request: EnvironmentRequest, resources: Path) -> list[Any]:
    """What decides the packages of the interpreter, for a digest."""
    return [RECIPE, request.arch, request.python, list(request.requirements), files_digest(resources, PYTHON_FILES)]


def pytorch_digest(request: EnvironmentRequest, resources: Path, folders: tuple[Path, ...]) -> str:
    """Digest of all that decides which PyTorch a build sees, but for the tags of the place that it is chosen for."""
    return inputs_digest(
        [
            RECIPE,
            request.arch,
            request.python,
            request.torch_source,
            torch_requirement(request),
            list(request.requirements),
            wheels_digest(request, folders),
            files_digest(resources, PYTORCH_FILES),
        ]
    )


def stage_files(stage: Path, request: EnvironmentRequest, resources: Path) -> None:
    """Write what the scripts read from their own folder."""
    for file in (*SYSTEM_FILES, *PYTHON_FILES, *PYTORCH_FILES):
        (stage / file).write_bytes((resources / file).read_bytes())
    (stage / "requirements.txt").write_text("".join(f"{line}\n" for line in request.requirements))
    # pip takes no hashes in constraints.
    (stage / "constraints.txt").write_text("".join(f"{line.split(' --hash')[0]}\n" for line in request.requirements))
    (stage / "torch.txt").write_text(torch_requirement(request))


def script_variables(request: EnvironmentRequest, settings: NetworkSettings, wheels: list[str]) -> dict[str, str]:
    """Variables that the scripts read; ``wheels`` are the folders of wheels as they see them."""
    return {
        "PYTHON": request.python,
        "TORCH_SOURCE": request.torch_source,
        "TORCH_INDEX": settings.torch_index_url or "",
        "FIND_LINKS": " ".join(wheels),
        "OFFLINE": "1" if settings.offline else "",
        "BUILDER_PACKAGE_MIRROR": settings.package_mirror or "",
        # Old bases have no C.UTF-8 (glibc before 2.35 as upstream ships it); Python reads UTF-8 all the same.
        "LC_ALL": "C",
        "PYTHONUTF8": "1",
    }
