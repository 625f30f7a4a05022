"""Commands and options; no logic. Each command gathers its options and calls one function."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from click.shell_completion import CompletionItem, get_completion_class

from builder import __version__
from builder.console import Reporter
from builder.options import BuildOptions
from builder.workspace import Workspace

Function = TypeVar("Function", bound=Callable[..., Any])

click.rich_click.MAX_WIDTH = 110
click.rich_click.SHOW_ARGUMENTS = True


class Commands(click.RichGroup):
    """A group in which a first argument that is an option means ``build``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--pytorch=...`` without a command is a build."""
        if args and args[0].startswith("-") and args[0] not in {"--help", "-h", "--version"}:
            args = ["build", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A misspelt command gets its nearest match; a release line in its place, the right option."""
        name = args[0]
        if name not in self.commands:
            near = get_close_matches(name, self.commands, n=1)
            if near:
                ctx.fail(f"No such command {name!r}. Did you mean {near[0]!r}?")
            if re.match(r"v?\d+\.\d+", name):
                ctx.fail(f"No such command {name!r}. To build that release line: --pytorch={name}")
        return super().resolve_command(ctx, args)


class Commas(click.ParamType):
    """Text whose commas separate values, so that an option may repeat or take commas."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The values; a list stays as it is."""
        return value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]


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


def _complete_pytorch(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from builder.matrix.loader import load_matrix

    names = {release.branch for release in load_matrix().releases}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _complete_target(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from builder.matrix.loader import load_matrix

    return [CompletionItem(target.id) for target in load_matrix().targets() if target.id.startswith(incomplete)]


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that also has its ``BUILDER_...`` environment variable."""
    attributes.setdefault("envvar", "BUILDER_" + names[0].lstrip("-").replace("-", "_").upper())
    attributes.setdefault("show_envvar", True)
    return click.option(*names, **attributes)


def options(*group: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(group):
            function = decorator(function)
        return function

    return decorate


#: Values of a repeated option arrive as one flat tuple.
def _flat(_ctx: click.Context, _param: click.Parameter, value: tuple[list[str], ...]) -> tuple[str, ...]:
    return tuple(part for values in value for part in values)


def several(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that repeats or takes commas."""
    return option(*names, type=Commas(), multiple=True, callback=_flat, **attributes)


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path, resolve_path=True)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)

GENERAL = options(
    option("--quiet", "-q", is_flag=True, help="Show only warnings and errors."),
    option("--debug", is_flag=True, help="Show Python's traceback when something fails."),
)
WORKSPACE = option("--workspace", type=NEW_FOLDER, default="build", help="Folder of mirrors, trees, cache and logs.")
PLACES = options(
    WORKSPACE,
    option("--output", type=NEW_FOLDER, default="dist", help="Folder that finished wheels go to."),
)
MATRIX = options(
    option("--matrix", type=FOLDER, help="Folder of matrix files instead of those that come with the builder."),
    option("--sources", type=FILE, help="YAML file with your own URLs or paths of repositories."),
    option("--torch-npu-url", help="URL or local path of torch_npu's repository."),
    option("--op-plugin-url", help="URL or local path of op-plugin's repository."),
)
SELECTION = options(
    several(
        "--pytorch", shell_complete=_complete_pytorch, help="Release line: v2.5.1-7.1.0, 2.5.1-7.1.0, 2.5.1 or 2.5."
    ),
    several("--python", help="Python, such as 3.9; every Python of the release line by default."),
    several("--arch", help="x86_64, aarch64, native or all; native by default, all for list."),
    several("--cann", help="Only release lines for this CANN version."),
)
ENVIRONMENT = options(
    option("--environment", type=click.Choice(["auto", "docker", "host"]), default="auto", help="Where to compile."),
    option("--base-image", help="Base image instead of the matrix's."),
    option(
        "--torch-source",
        type=click.Choice(["cpu-index", "pypi", "find-links"]),
        help="Where PyTorch comes from: its CPU index, PyPI, or the --find-links folders.",
    ),
    option("--find-links", type=FOLDER, multiple=True, help="Folder of wheels to install from."),
    option("--cann-home", type=FOLDER, help="CANN toolkit to compile against; upstream's stubs by default."),
    option("--allow-toolchain-mismatch", is_flag=True, help="Build although gcc or glibc differ from the matrix."),
)
SOURCES = options(
    option(
        "--op-plugin", default="branch", help="branch, pinned, the name of a branch or commit, or a checkout's path."
    ),
    option(
        "--components",
        type=click.Choice(["op-plugin", "full"]),
        default="op-plugin",
        help="full adds torchair and RPC.",
    ),
    option("--custom-ops", type=FOLDER, help="Folder with op_plugin_functions.yaml and *.cpp of your own operators."),
    option("--patches", type=FOLDER, multiple=True, help="Further folder of patch series."),
    option("--offline", is_flag=True, help="Never touch the network."),
    option("--refresh", is_flag=True, help="Fetch again and prepare the tree anew."),
    option("--rebuild", is_flag=True, help="Prepare the tree anew, discarding changes made by hand."),
    option("--keep-changes", is_flag=True, help="Build with changes made by hand; the wheel's record names them."),
)
LIMITS = options(
    option("--jobs", type=click.IntRange(min=1), help="Compilers at once; by default what cores and memory allow."),
    option("--memory", type=Bytes(), help="Memory limit of a compile, such as 16G."),
    option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds that one phase may take."),
)


def _options(values: dict[str, Any]) -> BuildOptions:
    return BuildOptions(**{name: values[name] for name in BuildOptions.__dataclass_fields__ if name in values})


def _workspace(values: dict[str, Any]) -> Workspace:
    return Workspace(root=values["workspace"], output=values["output"])


def _matrix(values: dict[str, Any]) -> Any:
    from dataclasses import replace

    from builder.matrix.loader import load_matrix

    matrix = load_matrix(values["matrix"], values["sources"])
    for name, url in (("torch_npu", values["torch_npu_url"]), ("op-plugin", values["op_plugin_url"])):
        if url:
            matrix = replace(matrix, sources=matrix.sources.with_override(name, url))
    return matrix


def _selection(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("pytorch", "python", "arch", "cann")}


def _built(selection: dict[str, Any]) -> dict[str, Any]:
    return {**selection, "arch": selection["arch"] or ("native",)}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, "--version", prog_name="torch-npu-builder")
def cli() -> None:
    """Build torch_npu wheels for every cell of a compatibility matrix.

    Without a command, options mean `build`: `python -m builder --pytorch=v2.5.1-7.1.0 --python=3.11`.
    """


@cli.command()
@options(SELECTION, SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
@option("--dry-run", is_flag=True, help="Say what would be built, and stop.")
def build(**values: Any) -> int:
    """Build the wheels of the selected targets."""
    from builder.engines.local import build_targets
    from builder.matrix.selection import select

    matrix = _matrix(values)
    return build_targets(
        select(matrix, **_built(_selection(values))),
        matrix,
        _workspace(values),
        _options(values),
        Reporter(quiet=values["quiet"]),
        dry_run=values["dry_run"],
    )


@cli.command("list")
@options(SELECTION, MATRIX, GENERAL)
@click.option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
def list_targets(**values: Any) -> None:
    """Show what can be built."""
    from builder.listing import show_targets

    show_targets(_matrix(values), as_json=values["as_json"], **_selection(values))


@cli.command()
@options(MATRIX, PLACES, GENERAL)
@option("--offline", is_flag=True, help="Do not try the hosts.")
def doctor(**values: Any) -> int:
    """Check this machine: engine, architectures, disk, memory, git, hosts."""
    from builder.doctor import examine

    return examine(_matrix(values), _workspace(values), offline=values["offline"])


@cli.command()
@options(PLACES, GENERAL)
@click.option("--trees", is_flag=True, help="Also the prepared trees that nobody changed by hand.")
@click.option("--cache", is_flag=True, help="Also the compile cache.")
@click.option("--mirrors", is_flag=True, help="Also the mirrors; trees need them, so those go too.")
@click.option(
    "--images",
    is_flag=True,
    help="Also environment images: all that the engine has, whoever made them.",
)
@click.option("--runs", is_flag=True, help="Also logs and results of runs.")
def clean(**values: Any) -> int:
    """Remove what dead runs left behind, and on request what can be made again."""
    from builder.cleaning import clean_workspace

    also = [name for name in ("trees", "cache", "mirrors", "images", "runs") if values[name]]
    return clean_workspace(_workspace(values), also, Reporter(quiet=values["quiet"]))


@cli.command()
@click.argument("target", shell_complete=_complete_target)
@options(SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
def shell(target: str, **values: Any) -> int:
    """Open the environment of TARGET, with its tree, on this terminal."""
    from builder.engines.local import open_shell
    from builder.matrix.selection import parse_target_id

    matrix = _matrix(values)
    return open_shell(
        parse_target_id(matrix, target), matrix, _workspace(values), _options(values), Reporter(quiet=values["quiet"])
    )


@cli.command()
@options(SELECTION, ENVIRONMENT, LIMITS, WORKSPACE, GENERAL)
@click.option("--custom-ops", is_flag=True, help="Lay the sample custom operator over op-plugin too, and call it.")
def demo(**values: Any) -> int:
    """Build a miniature torch_npu, install its wheel, and call an operator through it."""
    from builder.demo import run_demo

    custom_ops = values.pop("custom_ops")
    return run_demo(
        _built(_selection(values)),
        Workspace(root=values["workspace"], output=values["workspace"]),
        _options(values),
        Reporter(quiet=values["quiet"]),
        custom_ops=custom_ops,
    )


@cli.command()
@click.argument("name", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def completion(name: str) -> None:
    """Print the completion script for SHELL (bash, zsh or fish)."""
    completer = get_completion_class(name)
    assert completer is not None  # noqa: S101  (click has all three)
    click.echo(completer(cli, {}, "torch-npu-builder", "_TORCH_NPU_BUILDER_COMPLETE").source())
