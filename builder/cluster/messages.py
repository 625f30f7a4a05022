"""What goes to a worker machine and what comes back: a small archive there, JSON here. Wheels and logs travel by store.

The archive holds everything that only this machine has: the matrix files, patches, custom operators, and which commits
to build, so that all machines build the same. Big folders do not fit into it; they must stand on each worker machine.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal

import yaml
from pydantic import JsonValue

from builder import __version__
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import TargetResult
from builder.core.statistics import read_json
from builder.matrix.loader import FILES, Matrix
from builder.matrix.model import Target
from builder.target.fingerprint import RECIPE_VERSION

#: Bytes that the folders of one option may hold to go along.
LARGEST = 8 << 20
#: Matrix files that every target needs; its own release lines' file comes to them.
_TABLES = ("toolchains", "torch", "lifecycle")
_ORDER = "order.json"
_MATRIX = "matrix"
_CUSTOM_OPS = "custom_ops"


@dataclass(frozen=True)
class Order:
    """One target to be built elsewhere.

    ``pins`` are the commits as ``Gatherer`` takes them, ``standing`` the fingerprint of the whole wheel that the client
    has, ``locked`` the target's entry in a lock file (named ``lock``), ``halvings`` how often memory was too short,
    ``store`` the place by which wheels and logs return.
    """

    run: str
    target: str
    options: Mapping[str, JsonValue]
    store: str
    as_of: str
    pins: Mapping[str, str]
    standing: str | None = None
    lock: str | None = None
    locked: Mapping[str, JsonValue] | None = None
    halvings: int = 0
    builder: str = __version__
    recipe: int = RECIPE_VERSION

    @property
    def folder(self) -> str:
        """The folder of this target in the store."""
        return f"{run_folder(self.run)}/{self.target}"

    def day(self) -> date:
        """The day that statuses are for."""
        return date.fromisoformat(self.as_of)

    def options_in(self, folder: Path) -> BuildOptions:
        """The options, with what came along standing in ``folder``."""
        options = BuildOptions.from_json(self.options)
        return replace(
            options,
            patches=tuple(folder / path for path in options.patches),
            custom_ops=None if options.custom_ops is None else folder / options.custom_ops,
        )


def run_folder(run: str) -> str:
    """The folder of a run in the store."""
    return f"runs/{run}"


class Luggage:
    """What goes along with each target of a run, read once: a file that changes meanwhile changes nothing.

    Raises RequestError for what cannot go along.
    """

    def __init__(self, matrix: Matrix, options: BuildOptions) -> None:
        if options.keep_changes:
            raise RequestError(
                "--keep-changes builds changes made by hand in the trees of one machine; worker machines have others",
                hint="put the changes into a patch series and name its folder with --patches",
            )
        self._matrix = matrix
        self._texts = {f"{_MATRIX}/{FILES[name]}": (matrix.directory / FILES[name]).read_bytes() for name in _TABLES}
        # Resolved: paths in sources.yaml are relative to a folder of this machine.
        sources = yaml.safe_dump(matrix.sources.model_dump(mode="json"), sort_keys=False)
        self._texts[f"{_MATRIX}/{FILES['sources']}"] = sources.encode()
        self._lines = {path: path.read_bytes() for path in {document.path for document, _ in matrix.rows.values()}}
        shipped = options.to_json()
        shipped["patches"] = [f"patches/{number}" for number in range(len(options.patches))]
        for number, folder in enumerate(options.patches):
            name = f"patches/{number}"
            self._texts.update(_read_folder(folder, name, "--patches"))
        if options.custom_ops is not None:
            shipped["custom_ops"] = _CUSTOM_OPS
            self._texts.update(_read_folder(options.custom_ops, _CUSTOM_OPS, "--custom-ops"))
        if options.op_plugin_folder is not None:
            shipped["op_plugin"] = str(options.op_plugin_folder.resolve())
        # The client has asked the hosts; what it found is pinned.
        shipped["refresh"] = False
        self.options: Mapping[str, JsonValue] = shipped

    def pack(self, order: Order, target: Target) -> bytes:
        """The archive for one target."""
        document, _ = self._matrix.rows[target.release.branch]
        files = {**self._texts, f"{_MATRIX}/{document.path.name}": self._lines[document.path]}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_ORDER, json.dumps(asdict(order)))
            for name, data in files.items():
                archive.writestr(name, data)
        return packed.getvalue()


def read_order(packed: bytes) -> Order:
    """The order in an archive. Raises MachineError when it is of another version of the builder."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        values = json.loads(archive.read(_ORDER))
    theirs, ours = (values.get("builder"), values.get("recipe")), (__version__, RECIPE_VERSION)
    if theirs != ours:
        raise MachineError(
            f"this worker has torch-npu-builder {ours[0]} (recipe {ours[1]}), "
            f"the client has {theirs[0]} (recipe {theirs[1]})",
            hint="install the same version on all machines; the same inputs give the same wheels only then",
        )
    return read_json(Order, values)


def unpack(packed: bytes, folder: Path) -> Path:
    """Write what came along into ``folder``; returns the folder of the matrix files."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)
    return folder / _MATRIX


@dataclass(frozen=True)
class StoredFile:
    """A file in the store: its name there and its SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a target: its result, and the files in the store by what they are (``log``, ``wheel``).

    ``jobs`` is how many compilers it had at once, ``worker`` and ``name`` are the worker's, where one has said it.
    """

    result: TargetResult
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    jobs: int | None = None
    worker: str = ""
    name: str = ""

    @classmethod
    def failed(cls, target: str, error: BuilderError) -> Outcome:
        """Tell of a target that did not come as far as having a result."""
        result = TargetResult(id=target, log=Path())
        result.fail(error)
        return cls(result)

    def fill(self, result: TargetResult) -> None:
        """Note in ``result`` what the worker said; wheel, checksum and log are the business of whoever fetches them."""
        told = self.result
        result.status, result.reason, result.fingerprint = told.status, told.reason, told.fingerprint
        result.files_compiled, result.cache, result.headers = told.files_compiled, told.cache, told.headers
        result.generation, result.compiler_warnings = told.generation, told.compiler_warnings
        result.warnings, result.phases = told.warnings, told.phases
        if told.error is not None:
            result.fail(told.error)

    def to_json(self) -> dict[str, JsonValue]:
        """As it is sent."""
        error = None if self.result.error is None else SentError.of(self.result.error).to_json()
        files: dict[str, JsonValue] = {what: dict(asdict(file)) for what, file in self.files.items()}
        by = {"worker": self.worker, "name": self.name} if self.worker else {}
        return {"result": self.result.to_json(), "error": error, "files": files, "jobs": self.jobs, **by}

    @classmethod
    def from_json(cls, values: object) -> Outcome:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        told = read_json(_Outcome, values)
        result = TargetResult.from_json(told.result, Path())
        if told.error is not None:
            result.fail(told.error.error())
        return cls(result, told.files, told.jobs, told.worker, told.name)


@dataclass(frozen=True)
class SentError:
    """An error as it is sent; places of logs stay behind."""

    type: Literal["request", "target", "machine"]
    message: str
    hint: str | None
    details: str | None
    kind: FailureKind | None
    phase: str | None
    conclusive: bool = True

    @classmethod
    def of(cls, error: BuilderError) -> SentError:
        """Take what is sent from ``error``."""
        kind = getattr(error, "kind", None)
        return cls(
            type="request" if isinstance(error, RequestError) else "target" if kind is not None else "machine",
            message=error.message,
            hint=error.hint,
            details=error.details,
            kind=kind,
            phase=getattr(error, "phase", None),
            conclusive=getattr(error, "conclusive", True),
        )

    def error(self) -> BuilderError:
        """Make the error that it was."""
        if self.type == "request":
            return RequestError(self.message, hint=self.hint, details=self.details)
        if self.kind is None:
            return MachineError(self.message, hint=self.hint, details=self.details)
        error = TargetError(self.message, kind=self.kind, hint=self.hint, details=self.details, phase=self.phase)
        error.conclusive = self.conclusive
        return error

    def to_json(self) -> dict[str, JsonValue]:
        """As it is sent."""
        return {**asdict(self), "kind": None if self.kind is None else self.kind.value}

    @classmethod
    def from_json(cls, values: object) -> SentError:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        return read_json(cls, values)


@dataclass(frozen=True)
class _Outcome:
    result: dict[str, JsonValue]
    error: SentError | None
    files: dict[str, StoredFile]
    jobs: int | None
    worker: str = ""
    name: str = ""


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker tells while it builds: ``event`` with its ``fields``, of one ``attempt`` at a target of a run."""

    run: str
    target: str
    attempt: str
    worker: str
    name: str
    event: str
    fields: Mapping[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """As it is sent."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object) -> WorkerEvent:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        return read_json(cls, values)


def _read_folder(folder: Path, name: str, option: str) -> Iterator[tuple[str, bytes]]:
    """The files below ``folder``, named below ``name``; the folder itself, so that an empty one is there too."""
    yield f"{name}/", b""
    left = LARGEST
    for path in _files(folder):
        left -= path.stat().st_size
        if left < 0:
            raise RequestError(
                f"{option}: {folder} holds more than {LARGEST >> 20} MiB, too much to be sent to each worker",
                hint="name a folder that holds nothing else",
            )
        yield f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _files(folder: Path) -> Sequence[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each != ".git")
        found += [path for name in sorted(names) if (path := Path(parent, name)).is_file()]
    return found
