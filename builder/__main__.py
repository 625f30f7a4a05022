"""Start of the program: errors become messages and exit codes here, and nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from builder.console import Reporter
from builder.errors import (
    EXIT_BAD_REQUEST,
    EXIT_INTERRUPTED,
    EXIT_MACHINE_LACKS,
    EXIT_OK,
    EXIT_TARGET_FAILED,
    BuilderError,
    FailureKind,
)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM, as CI systems send it, ends a run as tidily as Ctrl-C does."""
    raise KeyboardInterrupt


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from builder.cli import cli

    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments) or bool(os.environ.get("BUILDER_DEBUG"))
    reporter = Reporter()
    try:
        code = cli.main(args=arguments, prog_name="torch-npu-builder", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return EXIT_BAD_REQUEST
    except BuilderError as error:
        if debug:
            raise
        reporter.error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        reporter.warning("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`list | head`): nothing left to say.
        sys.stderr.close()
        return EXIT_OK
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        reporter.error(BuilderError(f"{place}{error.strerror or error}", hint="--debug shows where this happened"))
        return EXIT_MACHINE_LACKS if error.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_TARGET_FAILED
    except Exception as error:
        if debug:
            raise
        reporter.error(BuilderError(f"{type(error).__name__}: {error}", hint=f"{FailureKind.INTERNAL.advice}; --debug"))
        return EXIT_TARGET_FAILED


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    # A connection that drops must not leave a container compiling for hours.
    signal.signal(signal.SIGHUP, _terminate)
    sys.exit(run())


if __name__ == "__main__":
    main()
