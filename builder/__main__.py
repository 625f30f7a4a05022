"""Start of the program: errors become messages and exit codes here, and nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from builder.core.errors import (
    EXIT_BAD_REQUEST,
    EXIT_INTERRUPTED,
    EXIT_MACHINE_LACKS,
    EXIT_OK,
    EXIT_TARGET_FAILED,
    OF_THE_MACHINE,
    BuilderError,
    FailureKind,
)
from builder.core.process_exit import leave
from builder.core.process_start import begin, clean_environment, is_on, take_signals

if TYPE_CHECKING:
    from builder.cli.project_file import ProjectFile
    from builder.progress.reporter import Reporter

#: Characters of a path that are shown; one that is too long has thousands.
LONGEST_SHOWN = 300


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Other requests to end a run end it as tidily as Ctrl-C does."""
    raise KeyboardInterrupt


def _project_file(cli: click.Group) -> ProjectFile | None:
    """Read the defaults of the project in the current folder, if it has such a file."""
    if not any(map(os.path.lexists, ("torch-npu-builder.toml", "pyproject.toml"))):
        return None
    from builder.cli.project_file import read_project_file

    return read_project_file(Path(), cli)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _reporter() -> Reporter:
    """Make what tells people of errors; only then, because it costs more than a short command."""
    from builder.progress.reporter import Reporter

    return Reporter()


def _reader_went_away() -> int:
    """The reader of our output had enough (``list | head``), which is no failure. Nothing is left to say."""
    with suppress(OSError, ValueError):  # a stream that is no file, or closed
        # What is still in the buffer is written at the end of the process, and must not fail there.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    sys.stderr.close()
    return EXIT_OK


def _shortened(path: str) -> str:
    return path if len(path) <= LONGEST_SHOWN else f"{path[:LONGEST_SHOWN]}..."


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from builder.cli.main import cli

    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments) or is_on(os.environ.get("BUILDER_DEBUG"))
    try:
        clean_environment(os.environ)
        project = _project_file(cli)
        defaults: dict[str, Any] = {} if project is None else {"default_map": project.defaults, "obj": project}
        code = cli.main(args=arguments, prog_name="torch-npu-builder", standalone_mode=False, **defaults)
        if sys.stdout is not None:  # it is where the caller has closed it
            sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return EXIT_BAD_REQUEST
    except BuilderError as error:
        if debug:
            _print_traceback()
        _reporter().error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _reporter().warning("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _reader_went_away()
    except SystemExit as end:
        # Click and rich make a failure of a broken pipe.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _reader_went_away()
    except OSError as error:
        if debug:
            _print_traceback()
        place = f"{_shortened(str(error.filename))}: " if error.filename else ""
        long = error.errno == errno.ENAMETOOLONG
        hint = "give a path that the file system takes" if long else "--debug shows where this happened"
        _reporter().error(BuilderError(f"{place}{error.strerror or error}", hint=hint))
        return EXIT_BAD_REQUEST if long else EXIT_MACHINE_LACKS if error.errno in OF_THE_MACHINE else EXIT_TARGET_FAILED
    except Exception as error:
        if debug:
            _print_traceback()
        _reporter().error(
            BuilderError(f"{type(error).__name__}: {error}", hint=f"{FailureKind.INTERNAL.advice}; --debug")
        )
        return EXIT_TARGET_FAILED


def main() -> None:
    """The console script."""
    begin()
    # A connection that drops must not leave a container compiling for hours; SIGTERM is what CI systems send.
    take_signals((signal.SIGTERM, signal.SIGHUP), _terminate)
    try:
        code = run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_OK if end.code is None else EXIT_TARGET_FAILED
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # what ``run`` has no word for
        _print_traceback()
        code = EXIT_TARGET_FAILED
    leave(code)


if __name__ == "__main__":
    main()
