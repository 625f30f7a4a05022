"""What is where a build runs: prints one JSON object. Runs on the target's Python 3.7 or later."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig


def said(*argv: str) -> str | None:
    """The first line that a program prints, or None when there is no such program."""
    try:
        done = subprocess.run(list(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    text = done.stdout.decode("utf-8", "replace").strip()
    return text.split("\n")[0].strip() if text and done.returncode == 0 else None


def version(*argv: str) -> str | None:
    """The first number of several parts in that line."""
    line = said(*argv)
    match = re.search(r"\d+(\.\d+)+\S*", line) if line else None
    return match.group(0).rstrip("),;") if match else line


def compiler(name: str) -> str | None:
    """gcc's full version: -dumpfullversion is silent before gcc 7, -dumpversion is short after it."""
    return said(name, "-dumpfullversion", "-dumpversion")


def torch_facts() -> dict[str, object]:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except Exception as error:  # whatever a broken package raises is the fact to report
        return {"torch": None, "torch_error": f"{type(error).__name__}: {error}"}
    abi = getattr(getattr(torch, "_C", None), "_GLIBCXX_USE_CXX11_ABI", None)
    if abi is None and hasattr(torch, "compiled_with_cxx11_abi"):
        abi = torch.compiled_with_cxx11_abi()
    return {
        "torch": str(torch.__version__),
        "torch_path": os.path.dirname(torch.__file__),
        "cxx11_abi": None if abi is None else bool(abi),
    }


facts: dict[str, object] = {
    "gcc": compiler("gcc"),
    "g++": compiler("g++"),
    "glibc": platform.libc_ver()[1] or None,
    "python": platform.python_version(),
    "python_path": sys.executable,
    # As torch_npu's setup.py asks for it.
    "python_include": sysconfig.get_paths()["include"],
    "machine": platform.machine(),
}
for tool in ("cmake", "ccache", "patchelf", "eu-strip", "auditwheel", "make", "ninja", "mold", "git"):
    facts[tool] = version(tool, "--version")
try:
    with open("/etc/os-release", encoding="utf-8") as stream:
        named = dict(line.rstrip("\n").split("=", 1) for line in stream if "=" in line)
except OSError:
    named = {}
for fact, key in (("system", "PRETTY_NAME"), ("os_id", "ID"), ("os_version", "VERSION_ID")):
    facts[fact] = named.get(key, "").strip("\"'") or None
facts.update(torch_facts())
print("probe: " + json.dumps(facts, sort_keys=True))
