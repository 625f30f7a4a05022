"""What decides an environment's content, and the files that its making reads.

Containers and this machine run the same ``docker/install.sh`` on the same staged files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.environments.base import EnvironmentRequest
from builder.environments.network import NetworkSettings
from builder.errors import RequestError

#: Part of every digest: raise it when the same inputs give another environment.
RECIPE = 1
#: Files of the shipped folder ``docker`` that make the Python part.
PYTHON_FILES = ("install.sh", "tools.txt", "torch_site.py", "cpu_only_torch.py")
LOG_TAIL = 15


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

    def line(self, text: str) -> None:
        """Write one line."""
        text = self._settings.redact(text)
        self._stream.write(text + "\n")
        self._stream.flush()
        if text.strip():
            self.tail.append(text)
            self._on_line(text.strip()[:60])
        # Those of docker/system.sh; pip's begin with the same word.
        if text.startswith(("WARNING: the base", "WARNING: this base")):
            self.warnings.append(text.removeprefix("WARNING: "))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


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
    """What the folders contribute to an environment's digest: PyTorch's wheels, by content.

    Only for the source ``find-links``: everything else is pinned, so where it came from does not matter.
    """
    if request.torch_source != "find-links":
        return []
    found = []
    for folder in folders:
        for path in sorted(folder.glob(f"torch-{request.torch}*.whl")):
            with open(path, "rb") as stream:
                content = hashlib.sha256()
                while block := stream.read(1 << 20):
                    content.update(block)
            found.append(f"{path.name} {content.hexdigest()}")
    return found


def inputs_digest(value: Any) -> str:
    """SHA-256 over a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def files_digest(resources: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each of the shipped files."""
    return {name: hashlib.sha256((resources / name).read_bytes()).hexdigest() for name in names}


def python_inputs(request: EnvironmentRequest, resources: Path, folders: tuple[Path, ...]) -> list[Any]:
    """All of ``request`` and of the shipped files that the Python part depends on, for a digest."""
    return [
        RECIPE,
        request.arch,
        request.python,
        request.torch_source,
        torch_requirement(request),
        list(request.requirements),
        request.cmake,
        wheels_digest(request, folders),
        files_digest(resources, PYTHON_FILES),
    ]


def stage_files(stage: Path, request: EnvironmentRequest, resources: Path) -> None:
    """Write what ``install.sh`` reads from its own folder."""
    for file in PYTHON_FILES:
        (stage / file).write_bytes((resources / file).read_bytes())
    (stage / "requirements.txt").write_text("".join(f"{line}\n" for line in request.requirements))
    # pip takes no hashes in constraints.
    (stage / "constraints.txt").write_text("".join(f"{line.split(' --hash')[0]}\n" for line in request.requirements))
    (stage / "torch.txt").write_text(torch_requirement(request))


def install_variables(request: EnvironmentRequest, settings: NetworkSettings, wheels: list[str]) -> dict[str, str]:
    """Variables that ``install.sh`` reads; ``wheels`` are the folders of wheels as it sees them."""
    return {
        "PYTHON": request.python,
        "CMAKE": re.sub(r"^[^0-9]*", "", request.cmake) or "3.18",
        "TORCH_SOURCE": request.torch_source,
        "TORCH_INDEX": settings.torch_index_url or "",
        "FIND_LINKS": " ".join(wheels),
        "LC_ALL": "C.UTF-8",
    }
