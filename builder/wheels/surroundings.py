"""What a wheel is loaded with: the libraries of a PyTorch and of CANN, as far as symbols go.

Nothing is loaded or executed. A PyTorch is a folder that ``import torch`` would find, CANN one of three things: the
stubs and headers of a source tree, a toolkit's folder, or what is kept of a release line (``cann_symbols``).
"""

from __future__ import annotations

import ast
import io
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import UntrustedFolder, read_regular
from builder.wheels.elf import read_library

#: Libraries of a toolkit that are read; there are some 600 in 8.x.
_LIBRARY_COUNT = 5_000
_TEXT_LIMIT = 16 << 20
#: Bytes of libc10.so, of which there is 1 MB.
_SMALL_LIBRARY = 64 << 20
#: A function that a C header declares. CANN's have C linkage and one of these prefixes.
_DECLARED = re.compile(
    r"\b((?:acl|Acl|ge|hccl|Hccl|Hcom|hcom|rt|Mstx|mstx|dcmi|aclnn|ascend|halHost|tdt|Atb|atb)\w*)\s*\("
)
#: Of the C and C++ libraries.
_SYSTEM = (
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
)
#: Where a tree keeps the stubs that it links with, and the headers of what they stand for (of CANN, ATB, HCCL).
THIRD_PARTY, HEADERS = "third_party", re.compile(r"(^|/)inc/.*\.h$")


@dataclass(frozen=True)
class Libraries:
    """Shared libraries that stand together: ``exported`` gives the library of each symbol.

    ``declared`` are functions that headers promise though no library at hand has them, ``name`` is for messages,
    ``version`` and ``machine`` (``EM_X86_64``) are empty where they are not known. What is not ``complete`` may lack
    what the real thing has.
    """

    name: str
    names: frozenset[str]
    exported: Mapping[str, str] = field(repr=False)
    declared: frozenset[str] = field(default=frozenset(), repr=False)
    version: str = ""
    machine: str = ""
    complete: bool = True

    def has(self, symbol: str) -> bool:
        """True where one of them offers ``symbol``, or its headers promise it."""
        return symbol in self.exported or symbol in self.declared


@cache
def system_libraries() -> Libraries:
    """Read this machine's C and C++ libraries: who offers a symbol of the system for which no version was noted.

    A library that names ``dlopen`` and is not linked to libdl has no version for it; the C library has it since 2.34.
    Empty on a machine without glibc.
    """
    found: dict[str, Path] = {}
    # Where this process has its own from: https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html
    for line in _text(Path("/proc/self/maps")).splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name in ("libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"):
            found[path.name] = path
            for name in _SYSTEM:
                if (beside := path.parent / name).exists():
                    found.setdefault(name, beside)
    return Libraries("this machine", frozenset(found), _libraries(found.values()))


def torch_of(site: Path) -> Libraries:
    """Read the PyTorch whose package stands below ``site`` (a site-packages folder, or the package itself).

    Raises TargetError (VERIFY) for a folder without one.
    """
    package = site if (site / "version.py").is_file() and (site / "lib").is_dir() else site / "torch"
    if not (package / "lib").is_dir() or not (package / "version.py").is_file():
        raise TargetError(
            f"{site} holds no PyTorch: there is no torch/version.py with a torch/lib beside it",
            kind=FailureKind.VERIFY,
            hint="name the site-packages folder that torch is installed in",
        )
    paths = sorted((package / "lib").glob("*.so*"))
    version = _version_of(package / "version.py")
    return Libraries(
        f"torch {version or 'of unknown version'}",
        frozenset(path.name for path in paths),
        _libraries(paths),
        version=version,
        machine=_machine(package / "lib" / "libc10.so"),
    )


def cann_of_tree(tree: Path) -> Libraries | None:
    """Read the stubs and headers of CANN in a tree that was compiled; None where it has none.

    A build could write there: no link is followed, and what cannot be read is no witness. Raises TargetError (VERIFY)
    for a damaged stub.
    """
    exported: dict[str, str] = {}
    names: set[str] = set()
    declared: set[str] = set()
    with ExitStack() as opened:
        try:
            top = opened.enter_context(UntrustedFolder(tree))
            folder = opened.enter_context(top.folder(THIRD_PARTY))
        except OSError:
            return None
        for path, state in folder.walk():
            name = path.rsplit("/", 1)[-1]
            if not stat.S_ISREG(state.st_mode):
                continue
            with suppress(OSError):
                if name.endswith(".so"):
                    with folder.open(path) as content:
                        _take(exported, name, content, f"{THIRD_PARTY}/{path}")
                    names.add(name)
                elif HEADERS.search(path):
                    declared |= declared_in([folder.read(path, _TEXT_LIMIT).decode("utf-8", "replace")])
    if not exported:
        return None
    return Libraries("CANN, as this branch has it", frozenset(names), exported, frozenset(declared), complete=False)


def cann_of_toolkit(folder: Path) -> Libraries:
    """Read the libraries of an installed CANN toolkit.

    Raises TargetError (VERIFY) for a folder that is none.
    """
    paths: dict[str, Path] = {}
    for pattern in ("lib64", "*/lib64", "*-linux/lib64", "*-linux/devlib", "driver/lib64", "atb/*/lib", "*/*/lib64"):
        for place in sorted(folder.glob(pattern)):
            for path in sorted(place.glob("*.so*")):
                paths.setdefault(path.name, path)
    if "libascendcl.so" not in paths:
        raise TargetError(
            f"{folder} is no CANN toolkit: there is no lib64/libascendcl.so below it",
            kind=FailureKind.VERIFY,
            hint="name the folder with set_env.sh, such as /usr/local/Ascend/ascend-toolkit/latest",
        )
    version = toolkit_version(folder)
    return Libraries(
        f"the CANN {version or 'of unknown version'} of {folder}",
        frozenset(paths),
        _libraries(list(paths.values())[:_LIBRARY_COUNT]),
        version=version,
    )


def toolkit_version(folder: Path) -> str:
    """Read the version that a toolkit states of itself; empty where it states none."""
    for name in ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info", "version.cfg", "*/version.info"):
        for path in sorted(folder.glob(name)):
            match = re.search(r"(?im)^\s*\w*version\w*\s*=\s*\[?[^\d\n]*(\d[\w.]*)", _text(path))
            if match:
                return match[1]
    return ""


def declared_in(texts: Iterable[str]) -> frozenset[str]:
    """The functions of CANN that headers declare."""
    return frozenset(name for text in texts for name in _DECLARED.findall(text))


def _libraries(paths: Iterable[Path]) -> dict[str, str]:
    """By symbol: the library that offers it. One that cannot be read is a TargetError (VERIFY)."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            # Links are how toolkits and PyTorch name their libraries; what is no regular file is not waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(f"{path} cannot be read: {error.strerror}", kind=FailureKind.VERIFY) from error
        with open(descriptor, "rb") as content:
            if stat.S_ISREG(os.fstat(content.fileno()).st_mode):
                _take(found, path.name, content, str(path))
    return found


def _machine(path: Path) -> str:
    """The ELF machine of a library; empty where it is none."""
    try:
        library = read_library(io.BytesIO(read_regular(path, _SMALL_LIBRARY)), str(path))
    except (OSError, ValueError):
        return ""
    return library.machine if library is not None else ""


def _take(found: dict[str, str], name: str, content: IO[bytes], label: str) -> None:
    try:
        library = read_library(content, label)
    except ValueError as error:
        raise TargetError(str(error), kind=FailureKind.VERIFY) from error
    if library is not None:
        for symbol in library.exported:
            found.setdefault(symbol, name)


def _version_of(file: Path) -> str:
    try:
        body = ast.parse(_text(file)).body
    except (SyntaxError, ValueError, RecursionError):
        return ""
    for node in body:
        names = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        named = any(isinstance(name, ast.Name) and name.id == "__version__" for name in names)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def _text(path: Path) -> str:
    try:
        return read_regular(path, _TEXT_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
