"""Shared libraries for tests, made by the machine's compiler: what offers symbols, and what needs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

#: A PyTorch with both kinds of names that matter: a function, and one whose mangled name tells the C++ ABI.
TORCH = """
#include <string>
namespace c10 { void fail(const std::string&) {} }
namespace at { void empty(int) {} }
"""
CANN = 'extern "C" int aclrtSetDevice(int) { return 0; } extern "C" int HcclAllReduce(void*) { return 0; }'


def make_library(path: Path, source: str, *options: str) -> Path:
    """Compile ``source`` (C++) into a shared library. ``options`` come last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = path.with_suffix(".cpp")
    unit.write_text(source, encoding="utf-8")
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-o", str(path), str(unit), *options]
    subprocess.run(command, check=True, capture_output=True)
    unit.unlink()
    return path


def make_torch(site: Path, version: str = "2.5.1", *, abi: int = 0, source: str = TORCH) -> Path:
    """Make a site-packages folder with the libraries of a PyTorch."""
    make_library(
        site / "torch" / "lib" / "libc10.so", source, f"-D_GLIBCXX_USE_CXX11_ABI={abi}", "-Wl,-soname,libc10.so"
    )
    (site / "torch" / "version.py").write_text(f"from typing import Optional\n__version__: str = '{version}'\n")
    return site


def make_toolkit(folder: Path, version: str = "8.2.RC1", source: str = CANN) -> Path:
    """Make a folder that looks like an installed CANN toolkit."""
    make_library(folder / "lib64" / "libascendcl.so", source)
    (folder / "version.cfg").write_text(f"# version\n[8.x]\nruntime_running_version=[{version}:{version}]\n")
    return folder
