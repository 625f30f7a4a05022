"""How this process ends: by itself, with its exit code, within a limit, whatever some library waits for.

At its end Python waits for threads, calls what libraries have registered, and takes objects apart while other threads
are frozen where they stood. A lock that such a thread held is never given back: a builder stayed for 18 minutes in
urllib3, whose pool waits for one when it is taken apart. So only the first two are done here, within a limit, and the
process ends without the rest, which nothing that lasts depends on.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

#: Seconds for what libraries do at the end, and for threads that are still at work.
LIMIT = 20.0


def leave(code: int) -> NoReturn:
    """End the process with the exit code ``code``, at the latest LIMIT seconds after its output has been taken."""
    # Whoever reads it may take as long as they like: a pager stands still for hours.
    _flush()
    threading.Thread(target=_end_late, args=(code, LIMIT), name="end", daemon=True).start()
    try:
        # Neither has a public name; the interpreter calls them in this order (Py_FinalizeEx). Idle threads of pools
        # end only by the first.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush()
    finally:
        # Whatever they raised, a second Ctrl-C too.
        os._exit(code)


def _end_late(code: int, seconds: float) -> None:
    time.sleep(seconds)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Closed by whoever started this process, or by its reader.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
