"""A container's terminal on the user's own: what ``shell`` shows."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from typing import Any

from builder.core.errors import MachineError
from builder.environments.docker_engine import DockerEngine, close_attached, hang_up, patiently, watched


def attach(engine: DockerEngine, container: Any) -> int:
    """Start ``container`` (made with a terminal and standard input) on this terminal until it ends.

    Returns its exit code. Raises MachineError when standard input is no terminal.
    """
    import termios
    import tty

    if not sys.stdin.isatty():
        raise MachineError("a shell needs a terminal", hint="run this command in one")
    api = engine.client.api
    attached = api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    stream = getattr(attached, "_sock", attached)
    container.start()

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        container.resize(height=size.lines, width=size.columns)

    resize()
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(keyboard)
    previous = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(keyboard)
        with watched(engine, lambda: hang_up(attached)):
            while True:
                readable, _, _ = select.select([keyboard, stream], [], [])
                if stream in readable:
                    data = stream.recv(65536)
                    if not data:
                        break
                    while data:
                        data = data[os.write(screen, data) :]
                if keyboard in readable:
                    typed = os.read(keyboard, 4096)
                    if typed:
                        stream.sendall(typed)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, previous)
        close_attached(attached)
    return int(patiently(engine, "the wait for its end", container.wait, None)["StatusCode"])
