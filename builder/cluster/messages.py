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
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from builder import __version__
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import TargetResult
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
    options: Mapping[str, Any]
    store: str
    as_of: str
    pins: Mapping[str, str]
    standing: str | None = None
    lock: str | None = None
    locked: Mapping[str, Any] | None = None
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
        options = dict(self.options)
        options["patches"] = [str(folder / name) for name in options["patches"]]
        if options["custom_ops"] is not None:
            options["custom_ops"] = str(folder / options["custom_ops"])
        return BuildOptions.from_json(options)


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
        shipped["patches"] = []
        for number, folder in enumerate(options.patches):
            name = f"patches/{number}"
            shipped["patches"].append(name)
            self._texts.update(_read_folder(folder, name, "--patches"))
        if options.custom_ops is not None:
            shipped["custom_ops"] = _CUSTOM_OPS
            self._texts.update(_read_folder(options.custom_ops, _CUSTOM_OPS, "--custom-ops"))
        if options.op_plugin_folder is not None:
            shipped["op_plugin"] = str(options.op_plugin_folder.resolve())
        # The client has asked the hosts; what it found is pinned.
        shipped["refresh"] = False
        self.options: Mapping[str, Any] = shipped

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
    return Order(**{field.name: values[field.name] for field in fields(Order)})


def unpack(packed: bytes, folder: Path) -> Path:
    """Write what came along into ``folder``; returns the folder of the matrix files."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)
    return folder / _MATRIX


def outcome_of(result: TargetResult, files: Mapping[str, Mapping[str, str]], jobs: int | None) -> dict[str, Any]:
    """What a worker says of a target: its result, and the files in the store (name and SHA-256 by what they are)."""
    return {
        "result": result.to_json(),
        "error": None if result.error is None else error_to_json(result.error),
        "files": files,
        "jobs": jobs,
    }


def failed_outcome(target: str, error: BuilderError) -> dict[str, Any]:
    """The outcome of a target that did not come as far as having a result."""
    result = TargetResult(id=target, log=Path())
    result.fail(error)
    return outcome_of(result, {}, None)


def take_outcome(outcome: Mapping[str, Any], result: TargetResult) -> None:
    """Fill ``result`` with what a worker said; wheel, checksum and log are the business of whoever fetches them."""
    told = TargetResult.from_json(outcome["result"], result.log)
    result.status, result.reason, result.fingerprint = told.status, told.reason, told.fingerprint
    result.files_compiled, result.cache, result.headers = told.files_compiled, told.cache, told.headers
    result.generation, result.compiler_warnings = told.generation, told.compiler_warnings
    result.warnings, result.phases = told.warnings, told.phases
    if outcome["error"] is not None:
        result.fail(error_from_json(outcome["error"]))


def error_to_json(error: BuilderError) -> dict[str, Any]:
    """An error as JSON; places of logs stay behind."""
    kind = getattr(error, "kind", None)
    return {
        "type": "request" if isinstance(error, RequestError) else "target" if kind is not None else "machine",
        "message": error.message,
        "hint": error.hint,
        "details": error.details,
        "kind": None if kind is None else kind.value,
        "phase": getattr(error, "phase", None),
        "conclusive": getattr(error, "conclusive", True),
    }


def error_from_json(values: Mapping[str, Any]) -> BuilderError:
    """The error that ``error_to_json`` wrote."""
    message, hint, details = values["message"], values["hint"], values["details"]
    if values["type"] == "request":
        return RequestError(message, hint=hint, details=details)
    if values["type"] == "machine":
        return MachineError(message, hint=hint, details=details)
    error = TargetError(message, kind=FailureKind(values["kind"]), hint=hint, details=details, phase=values["phase"])
    error.conclusive = values.get("conclusive", True)
    return error


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
