"""Compile some files of a configured tree, one ``make`` for each, and say what each took.

    python inside.py BUILD_FOLDER JOBS FILE

FILE lists sources, one a line. The rules are those that CMake wrote: commands are what a whole build would run. Prints
``sample: `` and a JSON object for each source: ``{source, cpu, seconds, code}``, times in seconds, CPU time of make and
all that it ran; the output of what failed comes before it. Exit code 1 where a file failed.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

_OBJECT = re.compile(r" -o (\S+\.o)\b")
_FOLDER = re.compile(r"(?:.*/)?CMakeFiles/[^/]+\.dir(?=/)")


def objects(folder: str) -> dict[str, str]:
    """By source: its object, relative to ``folder``."""
    found = {}
    with open(os.path.join(folder, "compile_commands.json"), encoding="utf-8") as file:
        for entry in json.load(file):
            match = _OBJECT.search(entry["command"])
            if match:
                found[entry["file"]] = os.path.relpath(os.path.join(entry["directory"], match.group(1)), folder)
    return found


def rules(target: str) -> str:
    """The folder with the rules for an object."""
    match = _FOLDER.match(target)
    if match is None:
        raise SystemExit(f"{target} is in no folder of CMake's")
    return match.group(0)


def make(folder: str, target: str) -> tuple[int, float, float, str]:
    """Make one target: exit code, CPU seconds, wall time, output."""
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        command = ["make", "-f", os.path.join(rules(target), "build.make"), target]
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        seconds = time.monotonic() - begin
        output.seek(0)
        text = output.read().decode(errors="replace")
    return process.returncode, used.ru_utime + used.ru_stime, seconds, text


def main(folder: str, jobs: int, sources: list[str]) -> int:
    """Compile the sources, ``jobs`` at once; returns the exit code."""
    known = objects(folder)
    for place in sorted({rules(known[source]) for source in sources}):
        code, _, _, text = make(folder, os.path.join(place, "depend"))
        if code:
            sys.stdout.write(text)
            return 1
    todo = list(reversed(sources))
    lock = threading.Lock()
    failed = []

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                source = todo.pop()
            code, cpu, seconds, text = make(folder, known[source])
            with lock:
                if code:
                    sys.stdout.write(text)
                    failed.append(source)
                told = {"source": source, "cpu": round(cpu, 3), "seconds": round(seconds, 3), "code": code}
                print("sample: " + json.dumps(told), flush=True)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if failed else 0


if __name__ == "__main__":
    with open(sys.argv[3], encoding="utf-8") as listed:
        sys.exit(main(sys.argv[1], int(sys.argv[2]), listed.read().splitlines()))
