"""Runs the builder's command line in forks of a process that has imported it: no second for each start.

A program of its own, so that no thread of a test runner is in the process that forks. A request is a line of JSON on
standard input: ``arguments``, ``cwd``, ``env``, the files ``out`` and ``err``, ``limit`` in seconds and ``memory`` in
bytes beyond what this process has. The answer is a line with ``code`` (None where it was killed), ``memory`` (bytes at
its peak) and ``seconds``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import builder.__main__ as program

#: What commands import when they run.
_LATER = (
    "builder.cli.main",
    "builder.audit.command",
    "builder.cli.cache_command",
    "builder.cli.clean_command",
    "builder.cli.doctor_command",
    "builder.executors.local",
    "builder.cli.explain_command",
    "builder.cli.history_command",
    "builder.cli.list_command",
    "builder.planning.lockfile",
    "builder.nightly.command",
    "builder.cli.verify_objects_command",
    "builder.pipelines",
    "builder.cli.pull_command",
    "builder.target.rehearse",
    "builder.wheels.verify",
    "docker",
    "rich.markup",
)


def serve() -> None:
    """Answer requests until standard input ends."""
    for name in _LATER:
        __import__(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        sys.stdout.buffer.write(json.dumps(_answer(request)).encode() + b"\n")
        sys.stdout.buffer.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(request)
    killed = False
    while True:
        process, status, usage = os.wait4(child, os.WNOHANG)
        if process:
            break
        if time.monotonic() - started > request["limit"] and not killed:
            killed = True
            # Of the Python that hangs: where.
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has left
    code = None if killed else os.waitstatus_to_exitcode(status)
    return {"code": code, "memory": usage.ru_maxrss << 10, "seconds": round(time.monotonic() - started, 2)}


def _run(request: dict[str, Any]) -> None:
    """Become the command, as one that was started from a shell."""
    import faulthandler

    os.setsid()
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["out"], _NEW), (2, request["err"], _NEW)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    # No engine: it is somebody else's.
    os.environ.update({"DOCKER_HOST": "unix:///nonexistent/engine.sock", **request["env"]})
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    sys.argv = ["torch-npu-builder", *request["arguments"]]
    program.main()


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
