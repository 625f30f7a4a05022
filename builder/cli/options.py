"""Options of the command line, in the groups that commands share, with what they complete to and how they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from builder.cli import help as sections
from builder.cli.help import Option, options

if TYPE_CHECKING:
    from builder.matrix.loader import Matrix

Function = TypeVar("Function", bound=Callable[..., Any])


class Commas(click.ParamType):
    """Text whose commas separate values, so that an option may repeat or take commas.

    Empty text is a value, for whoever reads it to refuse: ``--release=$RELEASE`` must not mean every release.
    """

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The values; a list stays as it is."""
        if isinstance(value, list):
            return value
        return [part.strip() for part in str(value).split(",") if part.strip()] or [""]


class Bytes(click.ParamType):
    """A number of bytes, with an optional binary unit: ``8G``, ``512M``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", str(value), flags=re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size; expected a number and a unit such as 8G or 512M", param, ctx)
        return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


class Day(click.ParamType):
    """A day as ``YYYY-MM-DD``."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """The day."""
        if isinstance(value, date):
            return value
        try:
            # Newer Pythons read more forms than this one.
            return date.fromisoformat(value if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, flags=re.ASCII) else "")
        except ValueError:
            self.fail(f"{value!r} is no day; expected YYYY-MM-DD such as 2026-01-31", param, ctx)


def _completing(what: str, values: Callable[[Matrix], Iterable[str | None]]) -> Callable[..., list[CompletionItem]]:
    """Complete ``what`` from the matrix: the last of the comma-separated values that are being typed."""

    def found() -> list[str]:
        from builder.core.errors import BuilderError
        from builder.matrix.loader import load_matrix

        with suppress(BuilderError):
            return [name for name in dict.fromkeys(values(load_matrix())) if name]
        return []

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from builder.cli.answers import key_of, names, standard_answers

        return _beginning(names(standard_answers(), key_of(None, (), ("completion", what)), found), incomplete)

    return complete


def _choosing(*names: str) -> Callable[..., list[CompletionItem]]:
    return lambda _ctx, _param, incomplete: _beginning(names, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    head, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{head}{comma}{name}") for name in names if name.startswith(last)]


complete_target = _completing("targets", lambda matrix: (target.id for target in matrix.targets()))
complete_target_or_line = _completing(
    "targets and lines",
    lambda matrix: (*(line.branch for line in matrix.releases), *(target.id for target in matrix.targets())),
)


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that also has its ``BUILDER_...`` environment variable."""
    attributes.setdefault("envvar", "BUILDER_" + names[0].lstrip("-").replace("-", "_").upper())
    return plain_option(*names, **attributes)


def plain_option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare an option of one command alone, which has no variable."""
    return click.option(*names, cls=Option, **attributes)


def _flat(_ctx: click.Context, _param: click.Parameter, value: tuple[list[str], ...]) -> tuple[str, ...]:
    """Values of a repeated option arrive as one flat tuple."""
    return tuple(part for values in value for part in values)


def several(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that repeats or takes commas."""
    return option(*names, type=Commas(), multiple=True, callback=_flat, **attributes)


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path, resolve_path=True)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)

NEW_FILE = click.Path(dir_okay=False, path_type=Path, resolve_path=True)

GENERAL = options(
    option("--quiet", "-q", is_flag=True, help="Show only warnings, errors and the final summary."),
    option("--debug", is_flag=True, help="Show Python's traceback when something fails."),
    section=sections.OUTPUT,
)
WORKSPACE = option(
    "--workspace",
    section=sections.OUTPUT,
    type=NEW_FOLDER,
    default="build",
    help="Folder of mirrors, trees, cache and logs.",
)
PLACES = options(
    WORKSPACE,
    option("--output", type=NEW_FOLDER, default="dist", help="Folder that finished wheels go to."),
    section=sections.OUTPUT,
)
MATRIX = options(
    option("--matrix", type=FOLDER, help="Folder of matrix files instead of those that come with the builder."),
    option("--sources", type=FILE, help="YAML file with your own URLs or paths of repositories."),
    option("--torch-npu-url", metavar="URL", help="URL or local path of torch_npu's repository."),
    option("--op-plugin-url", metavar="URL", help="URL or local path of op-plugin's repository."),
    section=sections.SOURCES,
)
AS_OF = option(
    "--as-of",
    section=sections.TARGETS,
    type=Day(),
    metavar="YYYY-MM-DD",
    help="The day that statuses are for; today by default.",
)
_LINES = several(
    "--pytorch",
    metavar="LINE,...",
    shell_complete=_completing("lines", lambda matrix: (line.branch for line in reversed(matrix.releases))),
    help="Release line or version: v2.5.1-7.1.0, 2.5.1-7.1.0, 2.5.1, 2.5, master. A build of a version takes its "
    "newest release line, and so does a plan of one.",
)
_CELLS = options(
    several(
        "--python",
        metavar="VERSION,...",
        shell_complete=_completing(
            "pythons", lambda matrix: (python for line in matrix.releases for python in line.pythons)
        ),
        help="Python, such as 3.9 or '>=3.10'; every Python of the release line by default.",
    ),
    several(
        "--arch",
        metavar="ARCH,...",
        shell_complete=_choosing("x86_64", "aarch64", "native", "all"),
        help="x86_64, aarch64, native or all; native by default, all for list.",
    ),
    section=sections.TARGETS,
)
SELECTION = options(
    _LINES,
    several(
        "--release",
        metavar="RELEASE,...",
        shell_complete=_completing("releases", lambda matrix: (line.release for line in reversed(matrix.releases))),
        help="Plugin release, such as 7.1.0.",
    ),
    several(
        "--cann",
        metavar="VERSION,...",
        shell_complete=_completing("cann", lambda matrix: (line.cann for line in reversed(matrix.releases))),
        help="CANN version, such as 8.2.RC1.",
    ),
    _CELLS,
    several(
        "--status",
        metavar="PHASE,...",
        shell_complete=_choosing("supported", "planned", "development", "maintained", "unmaintained", "end-of-life"),
        help="Phase of life: planned, development, maintained, unmaintained, end-of-life (eol), or supported for "
        "development and maintained.",
    ),
    several(
        "--channel",
        metavar="CHANNEL,...",
        shell_complete=_choosing("release", "nightly", "all"),
        help="release, nightly (development branches) or all; release by default, and what is named.",
    ),
    several(
        "--target",
        metavar="TARGET,...",
        shell_complete=complete_target,
        help="Target ids, or globs such as 'v2.*-7.1.0-py3.1?-aarch64'.",
    ),
    several(
        "--skip",
        metavar="TARGET,...",
        shell_complete=complete_target,
        help="Leave out targets or release lines: names or globs.",
    ),
    AS_OF,
    section=sections.TARGETS,
)
ALL_LINES = option(
    "--all-lines", section=sections.TARGETS, is_flag=True, help="A version of PyTorch means all its release lines."
)
#: What is worked on: the same for a build, and for what prepares or foretells one.
WORK = options(
    SELECTION,
    ALL_LINES,
    option("--locked", type=FILE, help="Lock file: exactly what it names, or fail."),
    section=sections.TARGETS,
)
DEMO_SELECTION = options(_LINES, _CELLS, section=sections.TARGETS)
ENVIRONMENT = options(
    option("--environment", type=click.Choice(["auto", "docker", "host"]), default="auto", help="Where to compile."),
    option("--base-image", metavar="IMAGE", help="Base image instead of the matrix's."),
    several(
        "--image-mirror", metavar="REGISTRY=PLACE,...", help="A place that has a registry's images, asked before it."
    ),
    option(
        "--torch-source",
        type=click.Choice(["cpu-index", "pypi", "find-links"]),
        help="Where PyTorch comes from: its CPU index, PyPI, or the --find-links folders.",
    ),
    option("--find-links", type=FOLDER, multiple=True, help="Folder of wheels to install from."),
    option("--cann-home", type=FOLDER, help="CANN toolkit to compile against; upstream's stubs by default."),
    option("--allow-toolchain-mismatch", is_flag=True, help="Build although gcc or glibc differ from the matrix."),
    option(
        "--pch",
        type=click.Choice(["auto", "off"]),
        default="auto",
        help="Precompiled headers. auto: but for what a lock or its channel of nightly.yaml builds without.",
    ),
    section=sections.ENVIRONMENT,
)
#: Of every run on this machine.
RUN_HERE = options(
    option(
        "--parallel",
        metavar="N",
        type=click.IntRange(1, 64),
        default=1,
        help="Targets at once; they share --jobs compilers.",
    ),
    option("--fail-fast", is_flag=True, help="Start no further target after a failure."),
    option(
        "--json-lines",
        is_flag=True,
        section=sections.OUTPUT,
        help="Events as JSON lines on standard output, for programs.",
    ),
    section=sections.SPEED,
)
RUN = options(
    RUN_HERE,
    option(
        "--engine",
        "--executor",
        envvar=["BUILDER_ENGINE", "BUILDER_EXECUTOR"],
        type=click.Choice(["local", "dask"]),
        default="local",
        help="What runs the targets: this machine, or a Dask cluster.",
    ),
    option(
        "--scheduler",
        metavar="ADDRESS",
        help="Address of the Dask scheduler, tcp://host:port; a cluster on this machine without it.",
    ),
    option("--store", metavar="URL", help="Folder or URL by which wheels return from the workers of a cluster."),
    section=sections.SPEED,
)
#: What is built, and how new it is.
INPUTS = options(
    option(
        "--torch-npu",
        metavar="REF",
        help="Tag or commit of torch_npu instead of the head of the release line's branch.",
    ),
    option(
        "--op-plugin",
        metavar="NAME",
        default="branch",
        help="branch, pinned, the name of a branch or commit, or a checkout's path.",
    ),
    option(
        "--components",
        type=click.Choice(["op-plugin", "full"]),
        default="op-plugin",
        help="full adds torchair and RPC.",
    ),
    option("--custom-ops", type=FOLDER, help="Folder with op_plugin_functions.yaml and *.cpp of your own operators."),
    option("--patches", type=FOLDER, multiple=True, help="Further folder of patch series."),
    option("--refresh", is_flag=True, help="Fetch again and prepare the tree anew."),
    section=sections.SOURCES,
)
SOURCES = options(
    INPUTS,
    option("--offline", is_flag=True, help="Never touch the network."),
    option("--rebuild", is_flag=True, help="Prepare the tree anew, discarding changes made by hand."),
    option("--keep-changes", is_flag=True, help="Build with changes made by hand; the wheel's record names them."),
    option(
        "--trust",
        type=click.Choice(["release", "nightly", "unknown"]),
        default="release",
        help="The most that these sources are trusted; objects of a lower level never reach a build of a higher one.",
    ),
    section=sections.SOURCES,
)
LIMITS = options(
    option(
        "--jobs",
        metavar="N",
        type=click.IntRange(min=1),
        help="Compilers at once; by default what cores and memory allow.",
    ),
    option("--memory", metavar="BYTES", type=Bytes(), help="Memory limit of a compile, such as 16G."),
    option(
        "--disk",
        metavar="BYTES",
        type=Bytes(),
        help="What a build may write, such as 40G; 0: no limit. By default thrice what earlier ones wrote.",
    ),
    option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds that one phase may take; hours by default.",
    ),
    option("--no-cache", "uncached", is_flag=True, help="Compile everything anew, without the compile cache."),
    option(
        "--cache-size",
        metavar="BYTES",
        type=Bytes(),
        help="What each release line's compile cache may grow to; 0 is no limit.",
    ),
    section=sections.SPEED,
)
