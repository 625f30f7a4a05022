"""Commands; no logic. Each command gathers its options and calls one function."""

from __future__ import annotations

import re
from datetime import datetime, time, timezone
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.shell_completion import get_completion_class

from builder.cli_options import (
    AS_OF,
    DEMO_SELECTION,
    ENVIRONMENT,
    GENERAL,
    LIMITS,
    MATRIX,
    NEW_FILE,
    PLACES,
    RUN,
    SELECTION,
    SOURCES,
    WORKSPACE,
    Day,
    complete_target,
    complete_target_or_line,
    option,
    options,
)
from builder.console import Reporter
from builder.errors import MachineError
from builder.options import BuildOptions
from builder.workspace import Workspace

if TYPE_CHECKING:
    from builder.matrix.loader import Matrix
    from builder.matrix.selection import Query

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


def _options(values: dict[str, Any]) -> BuildOptions:
    return BuildOptions(**{name: values[name] for name in BuildOptions.__dataclass_fields__ if name in values})


def _workspace(values: dict[str, Any]) -> Workspace:
    return Workspace(root=values["workspace"], output=values["output"])


def _matrix(values: dict[str, Any]) -> Matrix:
    from dataclasses import replace

    from builder.matrix.loader import load_matrix

    matrix = load_matrix(values["matrix"], values["sources"], values.get("as_of"))
    for name, url in (("torch_npu", values["torch_npu_url"]), ("op-plugin", values["op_plugin_url"])):
        if url:
            matrix = replace(matrix, sources=matrix.sources.with_override(name, url))
    return matrix


def _reporter(values: dict[str, Any]) -> Reporter:
    return Reporter(quiet=values["quiet"], json_lines=values.get("json_lines", False))


def _engine(values: dict[str, Any]) -> Any:
    """What builds targets: this machine, or the workers of a cluster."""
    from functools import partial

    from builder.engines.local import run_targets

    if values["engine"] == "local":
        return run_targets
    try:
        from builder.engines.dask import run_on_cluster
    except ModuleNotFoundError as error:
        raise MachineError(
            f"--engine dask needs the package {error.name}", hint="pip install 'torch-npu-builder[cluster]'"
        ) from error
    return partial(run_on_cluster, scheduler=values["scheduler"], store_url=values["store"])


def _query(values: dict[str, Any]) -> Query:
    from builder.matrix.selection import Query

    return Query(**{name: values[name] for name in Query.__dataclass_fields__ if name in values})


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(None, "--version", package_name="torch-npu-builder", prog_name="torch-npu-builder")
def cli() -> None:
    """Build torch_npu wheels for every cell of a compatibility matrix.

    Without a command, options mean `build`: `python -m builder --pytorch=v2.5.1-7.1.0 --python=3.11`.
    """


@cli.command()
@options(SELECTION, RUN, SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
@option("--dry-run", is_flag=True, help="Say what would be built, and stop.")
def build(**values: Any) -> int:
    """Build the wheels of the selected targets that have none of the same inputs yet."""
    from builder.engines.local import Policy, build_targets
    from builder.lock import read_lock
    from builder.matrix.selection import Query, select_for_build

    matrix, query = _matrix(values), _query(values)
    reporter = _reporter(values)
    locked = read_lock(values["locked"]) if values["locked"] else None
    if locked is not None and query == Query():
        targets = locked.select(matrix)
    else:
        selection = select_for_build(matrix, query)
        targets = list(selection.targets)
        for warning in selection.warnings():
            reporter.warning(warning)
    policy = Policy(values["parallel"], values["fail_fast"], locked)
    places = (matrix, _workspace(values), _options(values), reporter, policy)
    return build_targets(targets, *places, engine=_engine(values), dry_run=values["dry_run"])


@cli.command()
@options(SELECTION, SOURCES, ENVIRONMENT, MATRIX, PLACES, GENERAL)
@click.option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
@click.option("--github", type=click.IntRange(min=1), metavar="JOBS", help="The matrix of a GitHub workflow.")
@click.option("--gitlab", type=click.IntRange(min=1), metavar="JOBS", help="A child pipeline of GitLab.")
@click.option("--runner", multiple=True, metavar="ARCH=LABEL", help="Runner for an architecture, instead of the usual.")
def plan(**values: Any) -> None:
    """Say what a build of the selected targets would do, and why."""
    from builder.engines.local import plan_targets
    from builder.engines.summary import show_plan
    from builder.matrix.selection import select

    matrix = _matrix(values)
    targets = select(matrix, _query(values), default_arch="native")
    buildable = [target for target in targets if target.release.refusal is None]
    planned = plan_targets(buildable, matrix, _workspace(values), _options(values), _reporter(values))
    if values["github"] or values["gitlab"]:
        from builder.ledger import BuildLedger, ledger_path
        from builder.pipelines import github_matrix, gitlab_pipeline, parse_runners

        with BuildLedger(ledger_path(_workspace(values)), _reporter(values)) as known:
            write = github_matrix if values["github"] else gitlab_pipeline
            jobs = values["github"] or values["gitlab"]
            click.echo(write(planned, known.estimates(), jobs, parse_runners(values["runner"])), nl=False)
        return
    show_plan(planned, as_json=values["as_json"])


@cli.command()
@click.argument("channels", nargs=-1)
@options(RUN, ENVIRONMENT, LIMITS, MATRIX, AS_OF, PLACES, GENERAL)
@option("--offline", is_flag=True, help="Never touch the network.")
@option("--refresh", is_flag=True, help="Prepare every tree anew.")
@option("--rebuild", is_flag=True, help="Build everything, changed or not.")
@option("--night", type=Day(), metavar="YYYY-MM-DD", help="The day of the night; today by default.")
@option("--waive", multiple=True, metavar="TARGET=REASON", help="Let the night be complete without this target.")
@option("--retry", is_flag=True, help="Also what failed last time and has not changed since.")
@option("--dry-run", is_flag=True, help="Say what the night would build, and stop.")
def nightly(channels: tuple[str, ...], **values: Any) -> int:
    """Build and publish what changed in the channels of nightly.yaml; all of them by default."""
    from builder.engines.local import Policy
    from builder.nightly.command import run_nightly

    return run_nightly(
        _matrix(values),
        channels,
        _workspace(values),
        _options(values),
        _reporter(values),
        Policy(values["parallel"], values["fail_fast"]),
        night=values["night"],
        dry_run=values["dry_run"],
        waive=dict(waiver.partition("=")[::2] for waiver in values["waive"]),
        retry=values["retry"],
        engine=_engine(values),
    )


@cli.command()
@options(SELECTION, SOURCES, ENVIRONMENT, MATRIX, PLACES, GENERAL)
@click.option("--file", type=NEW_FILE, default="builder.lock.yaml", show_default=True, help="Where to write the lock.")
def lock(**values: Any) -> None:
    """Write every resolved input of the selected targets into a file, for review and for build --locked."""
    from builder.engines.local import plan_targets
    from builder.lock import write_lock
    from builder.matrix.selection import select_for_build

    matrix, options, reporter = _matrix(values), _options(values), _reporter(values)
    targets = select_for_build(matrix, _query(values)).targets
    write_lock(values["file"], plan_targets(targets, matrix, _workspace(values), options, reporter), options)
    reporter.message(f"{values['file']} locks {len(targets)} target{'' if len(targets) == 1 else 's'}")


@cli.command()
@options(SELECTION, MATRIX, PLACES, GENERAL)
@option("--released", is_flag=True, help="Compare with upstream's released wheels on PyPI too, besides its branches.")
@option("--update", is_flag=True, help="Write the corrections into the matrix files, for review.")
@option("--offline", is_flag=True, help="Never touch the network.")
@option("--refresh", is_flag=True, help="Fetch the branches again.")
@option("--verbose", is_flag=True, help="Also what is no drift, such as how far pinned commits lie behind.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def audit(**values: Any) -> int:
    """Compare the matrix with upstream's own branches and, on request, its released wheels.

    Without --channel, development branches are compared as well as numbered releases.
    """
    from dataclasses import replace

    from builder.audit.command import run_audit
    from builder.matrix.selection import Query, select

    matrix, query = _matrix(values), _query(values)
    # Here options narrow what is audited, so --skip or --python alone must not drop the development branches.
    everything = replace(query, channel=query.channel or ("all",))
    chosen = None if query == Query() else select(matrix, everything)
    return run_audit(
        matrix,
        None if chosen is None else list(dict.fromkeys(target.release for target in chosen)),
        _workspace(values),
        reporter=_reporter(values),
        **{name: values[name] for name in ("released", "update", "as_json", "offline", "refresh", "verbose")},
    )


@cli.command()
@options(PLACES, GENERAL)
@option("--target", help="Only targets of this id; * and ? stand for parts of it.")
@option("--status", type=click.Choice(["built", "skipped", "failed"]), help="Only targets that ended so.")
@option("--since", type=Day(), metavar="YYYY-MM-DD", help="Only since this day.")
@option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
def history(**values: Any) -> None:
    """Show what earlier runs did, and how long it took."""
    from builder.history import show_history

    since = values["since"] and datetime.combine(values["since"], time.min, tzinfo=timezone.utc)
    wanted = {name: values[name] for name in ("target", "status", "limit", "as_json")}
    show_history(_workspace(values), since=since, **wanted)


@cli.group()
def ledger() -> None:
    """The database of runs and durations."""


@ledger.command()
@options(PLACES, GENERAL)
def rebuild(**values: Any) -> int:
    """Make the ledger anew from the records beside the wheels; the old file is kept."""
    from builder.history import rebuild_ledger

    return rebuild_ledger(_workspace(values), _reporter(values))


@cli.command("list")
@options(SELECTION, MATRIX, GENERAL)
@click.option("--json", "form", flag_value="json", help="An array of objects, for programs.")
@click.option("--markdown", "form", flag_value="markdown", help="A page with the compatibility table.")
def list_targets(**values: Any) -> None:
    """Show what can be built, and what upstream still takes care of."""
    from builder.listing import show_targets

    show_targets(_matrix(values), _query(values), form=values["form"])


@cli.command()
@click.argument("target", shell_complete=complete_target_or_line)
@options(AS_OF, MATRIX, GENERAL)
@click.option("--json", "as_json", is_flag=True, help="An object, for programs.")
def explain(target: str, **values: Any) -> None:
    """Show every fact of TARGET (an id, or a release line) and where it is from."""
    from builder.explain import explain_target

    explain_target(_matrix(values), target, as_json=values["as_json"])


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
    return clean_workspace(_workspace(values), also, _reporter(values))


@cli.command()
@click.argument("target", shell_complete=complete_target)
@options(SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
def shell(target: str, **values: Any) -> int:
    """Open the environment of TARGET, with its tree, on this terminal."""
    from builder.engines.local import open_shell
    from builder.matrix.selection import parse_target_id

    matrix = _matrix(values)
    return open_shell(parse_target_id(matrix, target), matrix, _workspace(values), _options(values), _reporter(values))


@cli.command()
@options(DEMO_SELECTION, ENVIRONMENT, LIMITS, WORKSPACE, GENERAL)
@click.option("--custom-ops", is_flag=True, help="Lay the sample custom operator over op-plugin too, and call it.")
def demo(**values: Any) -> int:
    """Build a miniature torch_npu, install its wheel, and call an operator through it."""
    from builder.demo import run_demo

    custom_ops = values.pop("custom_ops")
    return run_demo(
        _query(values),
        Workspace(root=values["workspace"], output=values["workspace"]),
        _options(values),
        _reporter(values),
        custom_ops=custom_ops,
    )


@cli.command()
@click.argument("name", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def completion(name: str) -> None:
    """Print the completion script for SHELL (bash, zsh or fish)."""
    completer = get_completion_class(name)
    assert completer is not None  # noqa: S101  (click has all three)
    click.echo(completer(cli, {}, "torch-npu-builder", "_TORCH_NPU_BUILDER_COMPLETE").source())
