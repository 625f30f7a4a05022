"""Commands; no logic. Each command gathers its options and calls one function."""

from __future__ import annotations

from datetime import datetime, time, timezone
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import get_completion_class

from builder.cli.help import Group, options
from builder.cli.options import (
    ALL_LINES,
    AS_OF,
    DEMO_SELECTION,
    ENVIRONMENT,
    FOLDER,
    GENERAL,
    INPUTS,
    LIMITS,
    MATRIX,
    NEW_FILE,
    PLACES,
    RUN,
    RUN_HERE,
    SELECTION,
    SOURCES,
    WORK,
    WORKSPACE,
    Day,
    complete_target,
    complete_target_or_line,
    option,
    plain_option,
)
from builder.cli.values import (
    answer_of,
    command_line,
    engine_of,
    matrix_of,
    options_of,
    query_of,
    reporter_of,
    source_of,
    targets_of,
    workspace_of,
)

BUILD, NIGHTS, LOOK, KEEP = "Build wheels", "Nights, releases and checks", "Look", "Keep tidy"


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    default="build",
    common=("pytorch", "python", "arch", "op_plugin", "custom_ops", "environment", "jobs", "output", "dry_run"),
    examples=(
        "torch-npu-builder demo                                  try it on a miniature",
        "torch-npu-builder list                                  what can be built",
        "torch-npu-builder --pytorch=v2.5.1-7.1.0 --python=3.11  build one wheel",
        "torch-npu-builder --pytorch=2.7 --dry-run               what would be built",
    ),
)
@click.version_option(None, "--version", package_name="torch-npu-builder", prog_name="torch-npu-builder")
def cli() -> None:
    """Build torch_npu wheels for every cell of a compatibility matrix.

    Without a command, options mean `build`: `python -m builder --pytorch=v2.5.1-7.1.0 --python=3.11`.
    """


@cli.command(
    section=BUILD,
    examples=(
        "torch-npu-builder build --pytorch=v2.5.1-7.1.0 --python=3.10,3.11",
        "torch-npu-builder build --release=7.1.0 --parallel=2 --output=wheels",
        "torch-npu-builder build --target='v2.7.*-py3.11-*' --op-plugin=pinned",
    ),
)
@options(WORK, RUN, SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
@option("--dry-run", is_flag=True, help="Say what would be built, and stop.")
def build(**values: Any) -> int:
    """Build the wheels of the selected targets that have none of the same inputs yet."""
    from builder.executors.local import Policy, build_targets

    matrix, reporter = matrix_of(values), reporter_of(values)
    targets, locked = targets_of(values, matrix, reporter)
    policy = Policy(values["parallel"], values["fail_fast"], locked, pull=command_line("pull"))
    places = (matrix, workspace_of(values), options_of(values), reporter, policy)
    return build_targets(targets, *places, engine=engine_of(values), dry_run=values["dry_run"])


@cli.command(section=BUILD, examples=("torch-npu-builder rehearse --pytorch=2.7 --files=5",))
@options(WORK, RUN_HERE, SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
@option("--files", type=click.IntRange(min=1), default=20, help="Sources of each target to compile.")
def rehearse(**values: Any) -> int:
    """Try whether the selected targets would still build: up to the compile, then a few sources; no wheel."""
    from builder.executors.local import Policy, build_targets, run_targets
    from builder.target.rehearse import rehearsal

    matrix, reporter = matrix_of(values), reporter_of(values)
    targets, locked = targets_of(values, matrix, reporter)
    purpose = rehearsal(values["files"])
    policy = Policy(values["parallel"], values["fail_fast"], locked, purpose=purpose, pull=command_line("pull"))
    places = (matrix, workspace_of(values), options_of(values), reporter, policy)
    return build_targets(targets, *places, engine=run_targets)


@cli.command(section=BUILD, examples=("torch-npu-builder pull --pytorch=v2.5.1-7.1.0 --python=3.11",))
@options(WORK, RUN_HERE, INPUTS, ENVIRONMENT, MATRIX, PLACES, GENERAL)
@option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds that one phase may take; hours by default."
)
def pull(**values: Any) -> int:
    """Fetch what builds of the selected targets need, so that build --offline needs no network."""
    from builder.cli.pull_command import pull_targets
    from builder.executors.local import Policy

    matrix, reporter = matrix_of(values), reporter_of(values)
    targets, locked = targets_of(values, matrix, reporter)
    policy = Policy(values["parallel"], values["fail_fast"], locked)
    return pull_targets(targets, matrix, workspace_of(values), options_of(values), reporter, policy)


@cli.command(
    section=BUILD,
    examples=(
        "torch-npu-builder plan --release=7.1.0",
        "torch-npu-builder plan --channel=nightly --github=8",
    ),
)
@options(WORK, SOURCES, ENVIRONMENT, MATRIX, PLACES, GENERAL)
@plain_option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
@plain_option("--github", type=click.IntRange(min=1), metavar="JOBS", help="The matrix of a GitHub workflow.")
@plain_option("--gitlab", type=click.IntRange(min=1), metavar="JOBS", help="A child pipeline of GitLab.")
@plain_option("--runner", multiple=True, metavar="ARCH=LABEL", help="Runner for an architecture, instead of the usual.")
def plan(**values: Any) -> int:
    """Say what a build of the selected targets would do, and why."""
    from builder.pipelines import plan_form, run_plan

    asked = {name: values[name] for name in ("as_json", "github", "gitlab")}
    form = plan_form(**asked, runners=values["runner"])
    matrix, reporter = matrix_of(values), reporter_of(values)
    targets, locked = targets_of(values, matrix, reporter)
    return run_plan(targets, matrix, workspace_of(values), options_of(values), reporter, form, locked)


@cli.command(section=NIGHTS, examples=("torch-npu-builder nightly --dry-run",))
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
    from builder.executors.local import Policy
    from builder.nightly.command import run_nightly

    return run_nightly(
        matrix_of(values),
        channels,
        workspace_of(values),
        options_of(values),
        reporter_of(values),
        Policy(values["parallel"], values["fail_fast"]),
        night=values["night"],
        dry_run=values["dry_run"],
        waive=dict(waiver.partition("=")[::2] for waiver in values["waive"]),
        retry=values["retry"],
        engine=engine_of(values),
    )


@cli.command(section=BUILD, examples=("torch-npu-builder lock --release=7.1.0 --file=release.lock.yaml",))
@options(SELECTION, ALL_LINES, SOURCES, ENVIRONMENT, MATRIX, PLACES, GENERAL)
@plain_option("--file", type=NEW_FILE, default="builder.lock.yaml", help="Where to write the lock.")
def lock(**values: Any) -> None:
    """Write every resolved input of the selected targets into a file, for review and for build --locked."""
    from builder.executors.local import plan_targets
    from builder.planning.lockfile import write_lock

    matrix, options, reporter = matrix_of(values), options_of({**values, "pch": "off"}), reporter_of(values)
    targets, _ = targets_of(values, matrix, reporter)
    write_lock(values["file"], plan_targets(targets, matrix, workspace_of(values), options, reporter), options)
    reporter.message(f"{values['file']} locks {len(targets)} target{'' if len(targets) == 1 else 's'}")


@cli.command(
    section=NIGHTS,
    examples=(
        "torch-npu-builder verify dist/",
        "torch-npu-builder verify torch-npu==2.7.1.post2 --python=3.11 --here",
        "torch-npu-builder verify dist/ --target=v2.7.1-7.3.0-py3.11-x86_64 --json",
    ),
)
@click.argument("wheels", nargs=-1, metavar="WHEEL...")
@options(MATRIX, PLACES, GENERAL)
@option("--target", metavar="ID", help="The target that the wheel must be of.", shell_complete=complete_target)
@option("--torch", type=FOLDER, help="Look symbols up in the PyTorch of this site-packages folder.")
@option("--cann", type=FOLDER, help="Look symbols up in this CANN toolkit.")
@option("--here", is_flag=True, help="Would it load on this machine: with python3's torch and the CANN installed here?")
@plain_option("--python", multiple=True, metavar="X.Y", help="Of a release on PyPI: wheels for this Python only.")
@plain_option("--arch", multiple=True, metavar="ARCH", help="Of a release on PyPI: this machine's by default.")
@plain_option("--all", "all_findings", is_flag=True, help="Show notes as well.")
@plain_option("--rules", is_flag=True, help="Instead: list what is checked.")
@plain_option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
def verify(wheels: tuple[str, ...], **values: Any) -> int:
    """Judge wheels of torch_npu: files, folders, URLs, or releases on PyPI (torch-npu==VERSION).

    Each is read without being installed or imported. Exit code 1 where one has errors.
    """
    from builder.cli.verify_command import Asked, Verification, show_rules
    from builder.matrix.selection import parse_target_id

    if values["rules"]:
        show_rules(as_json=values["as_json"])
        return 0
    if not wheels:
        raise click.UsageError("name a WHEEL: a file, a folder, a URL, or torch-npu==VERSION")
    matrix = matrix_of(values)
    target = parse_target_id(matrix, values["target"]) if values["target"] else None
    names = ("torch", "cann", "here", "python", "arch", "as_json", "all_findings")
    asked = Asked(wheels, target, **{name: values[name] for name in names})
    return Verification(asked, matrix, workspace_of(values), reporter_of(values)).run()


@cli.command(
    section=NIGHTS,
    examples=(
        "torch-npu-builder compare dist/a.whl dist/b.whl",
        "torch-npu-builder compare dist/a.whl --released",
    ),
)
@click.argument("first", type=click.Path(path_type=Path), metavar="WHEEL")
@click.argument("second", type=click.Path(path_type=Path), metavar="[WHEEL]", required=False)
@options(MATRIX, PLACES, GENERAL)
@plain_option("--released", is_flag=True, help="Compare with the wheel that upstream has released from this line.")
@plain_option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
def compare(first: Path, second: Path | None, **values: Any) -> int:
    """Show how two wheels differ, and what explains it; exit code 1 where something is not explained."""
    from builder.cli.compare_command import compare_wheels, released_like

    if values["released"] is (second is not None):
        raise click.UsageError("name two wheels, or one and --released")
    if second is None:
        second = released_like(first, matrix_of(values), workspace_of(values), reporter_of(values))
    return compare_wheels(first, second, as_json=values["as_json"])


@cli.command(section=NIGHTS, examples=("torch-npu-builder audit --pytorch=2.7 --released",))
@options(SELECTION, MATRIX, PLACES, GENERAL)
@option("--released", is_flag=True, help="Compare with upstream's released wheels on PyPI too, besides its branches.")
@option("--update", is_flag=True, help="Write the corrections into the matrix files, for review.")
@option("--offline", is_flag=True, help="Never touch the network.")
@option("--refresh", is_flag=True, help="Fetch the branches again.")
@option("--verbose", is_flag=True, help="Also what is no drift, such as how far pinned commits lie behind.")
@plain_option("--json", "as_json", is_flag=True, help="One object, for programs.")
def audit(**values: Any) -> int:
    """Compare the matrix with upstream's own branches and, on request, its released wheels.

    Without --channel, development branches are compared as well as numbered releases.
    """
    from dataclasses import replace

    from builder.audit.command import run_audit
    from builder.matrix.selection import Query, select

    matrix, query = matrix_of(values), query_of(values)
    # Here options narrow what is audited, so --skip or --python alone must not drop the development branches.
    everything = replace(query, channel=query.channel or ("all",))
    chosen = None if query == Query() else select(matrix, everything)
    return run_audit(
        matrix,
        None if chosen is None else list(dict.fromkeys(target.release for target in chosen)),
        workspace_of(values),
        reporter=reporter_of(values),
        **{name: values[name] for name in ("released", "update", "as_json", "offline", "refresh", "verbose")},
    )


@cli.command(section=LOOK, examples=("torch-npu-builder history --status=failed --since=2026-11-01",))
@options(PLACES, GENERAL)
@option("--target", help="Only targets of this id; * and ? stand for parts of it.")
@option(
    "--status",
    type=click.Choice(["built", "rehearsed", "pulled", "skipped", "failed"]),
    help="Only targets that ended so.",
)
@option("--since", type=Day(), metavar="YYYY-MM-DD", help="Only since this day.")
@option("--limit", type=click.IntRange(min=1), default=50, help="How many, the newest first.")
@plain_option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
def history(**values: Any) -> None:
    """Show what earlier runs did, and how long it took."""
    from builder.cli.history_command import show_history

    since = values["since"] and datetime.combine(values["since"], time.min, tzinfo=timezone.utc)
    wanted = {name: values[name] for name in ("target", "status", "limit", "as_json")}
    show_history(workspace_of(values), since=since, **wanted)


@cli.group(cls=Group, section=KEEP)
def ledger() -> None:
    """The database of runs and durations."""


@ledger.command()
@options(PLACES, GENERAL)
def rebuild(**values: Any) -> int:
    """Make the ledger anew from the records beside the wheels; the old file is kept."""
    from builder.cli.history_command import rebuild_ledger

    # A folder that was named has to be there: it may be misspelt.
    missing_ok = source_of("output") is ParameterSource.DEFAULT
    return rebuild_ledger(workspace_of(values), reporter_of(values), missing_ok=missing_ok)


@cli.command(
    "list",
    section=LOOK,
    examples=(
        "torch-npu-builder list --pytorch=2.7",
        "torch-npu-builder list --status=maintained --json",
    ),
)
@options(SELECTION, MATRIX, GENERAL)
@plain_option("--json", "form", flag_value="json", help="An array of objects, for programs.")
@plain_option("--markdown", "form", flag_value="markdown", help="A page with the compatibility table.")
def list_targets(**values: Any) -> None:
    """Show what can be built, and what upstream still takes care of."""
    from builder.cli.answers import remembered

    with remembered(*answer_of(values)) as known:
        if not known:
            from builder.cli.list_command import show_targets

            show_targets(matrix_of(values), query_of(values), form=values["form"])


@cli.command(
    section=LOOK,
    examples=(
        "torch-npu-builder explain v2.7.1-7.3.0",
        "torch-npu-builder explain v2.7.1-7.3.0-py3.11-x86_64 --json",
        "torch-npu-builder explain --options",
    ),
)
@click.argument("target", shell_complete=complete_target_or_line, required=False)
@options(AS_OF, MATRIX, GENERAL)
@plain_option("--json", "as_json", is_flag=True, help="An object, for programs.")
@plain_option(
    "--options",
    "of_command",
    is_flag=False,
    flag_value="build",
    metavar="[COMMAND]",
    help="Instead: each option of a command (of build by default), its value, and where that is from.",
)
def explain(target: str | None, of_command: str | None, **values: Any) -> None:
    """Show every fact of TARGET (an id, or a release line) and where it is from."""
    if of_command is not None:
        from builder.cli.explain_options import explain_options

        explain_options(of_command, target, as_json=values["as_json"])
        return
    if target is None:
        raise click.UsageError("name a TARGET (`list` shows them), or --options")
    from builder.cli.answers import remembered

    with remembered(*answer_of({"target": target, **values})) as known:
        if not known:
            from builder.cli.explain_command import explain_target

            explain_target(matrix_of(values), target, as_json=values["as_json"])


@cli.command(section=LOOK)
@options(MATRIX, PLACES, GENERAL)
@option("--offline", is_flag=True, help="Do not try the hosts.")
def doctor(**values: Any) -> int:
    """Check this machine: engine, architectures, disk, memory, git, hosts."""
    from builder.cli.doctor_command import examine

    return examine(matrix_of(values), workspace_of(values), offline=values["offline"])


@cli.command(section=KEEP, examples=("torch-npu-builder clean --trees --images",))
@options(PLACES, GENERAL)
@plain_option("--trees", is_flag=True, help="Also the prepared trees that nobody changed by hand.")
@plain_option("--cache", is_flag=True, help="Also the compile cache.")
@plain_option("--mirrors", is_flag=True, help="Also the mirrors; trees need them, so those go too.")
@plain_option(
    "--images",
    is_flag=True,
    help="Also environment images: all that the engine has, whoever made them.",
)
@plain_option("--packages", is_flag=True, help="Also PyTorch, downloaded and unpacked for all of your workspaces.")
@plain_option("--runs", is_flag=True, help="Also logs and results of runs.")
def clean(**values: Any) -> int:
    """Remove what dead runs left behind, and on request what can be made again."""
    from builder.cli.clean_command import clean_workspace

    also = [name for name in ("trees", "cache", "mirrors", "images", "packages", "runs") if values[name]]
    return clean_workspace(workspace_of(values), also, reporter_of(values))


@cli.group("cache", cls=Group, section=KEEP)
def cache_group() -> None:
    """The compile caches: how large they are, why files were no hits, and clearing them."""


@cache_group.command("stats")
@options(PLACES, GENERAL)
@plain_option("--json", "as_json", is_flag=True, help="One object, for programs.")
def cache_stats(**values: Any) -> None:
    """Show each compile cache with its size, its limit and its last build, and how much generated code is kept."""
    from builder.cli.cache_command import show_stats

    show_stats(workspace_of(values), as_json=values["as_json"])


@cache_group.command(
    "explain",
    examples=(
        "torch-npu-builder cache explain v2.5.1-7.1.0-py3.11-x86_64",
        "torch-npu-builder cache explain v2.5.1-7.1.0-py3.11-x86_64 AddKernelNpu.cpp",
    ),
)
@click.argument("target", shell_complete=complete_target)
@click.argument("file", required=False)
@options(PLACES, GENERAL)
@plain_option("--json", "as_json", is_flag=True, help="One object, for programs.")
def cache_explain(target: str, file: str | None, **values: Any) -> None:
    """Say why files of TARGET's last build were no cache hits; of one FILE in detail."""
    from builder.cli.cache_command import explain_misses

    explain_misses(workspace_of(values), target, file, as_json=values["as_json"])


@cache_group.command("clear", examples=("torch-npu-builder cache clear 'v2.1.*'",))
@click.argument("lines", nargs=-1)
@options(PLACES, GENERAL)
def cache_clear(lines: tuple[str, ...], **values: Any) -> int:
    """Remove the compile caches and generated code of release LINES (names or globs); all of them for none."""
    from builder.cli.cache_command import clear_caches

    return clear_caches(workspace_of(values), lines, reporter_of(values))


@cli.command(
    "verify-objects",
    section=NIGHTS,
    examples=("torch-npu-builder verify-objects v2.5.1-7.1.0-py3.11-x86_64 --sample=5",),
)
@click.argument("target", shell_complete=complete_target)
@options(SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
@option("--sample", type=click.IntRange(min=1), default=20, help="Sources of each group that shares a header.")
@option("--all", "everything", is_flag=True, help="Every source, instead of a sample.")
@option("--cached", is_flag=True, help="Compare what the compile cache has of the last build, not headers made anew.")
@plain_option("--json", "as_json", is_flag=True, help="One object, for programs.")
def verify_objects(target: str, **values: Any) -> int:
    """Compile sources of TARGET plainly too, and compare objects byte by byte with those of precompiled headers."""
    from builder.cli import verify_objects_command
    from builder.matrix.selection import parse_target_id

    matrix = matrix_of(values)
    scope = verify_objects_command.Scope(None if values["everything"] else values["sample"], values["cached"])
    places = (matrix, workspace_of(values), options_of(values), reporter_of(values))
    return verify_objects_command.verify_objects(
        parse_target_id(matrix, target), *places, scope, as_json=values["as_json"]
    )


@cli.command(section=BUILD, examples=("torch-npu-builder shell v2.5.1-7.1.0-py3.11-x86_64",))
@click.argument("target", shell_complete=complete_target)
@options(SOURCES, ENVIRONMENT, LIMITS, MATRIX, PLACES, GENERAL)
def shell(target: str, **values: Any) -> int:
    """Open the environment of TARGET, with its tree, on this terminal."""
    from builder.executors.local import open_shell
    from builder.matrix.selection import parse_target_id

    matrix = matrix_of(values)
    return open_shell(
        parse_target_id(matrix, target), matrix, workspace_of(values), options_of(values), reporter_of(values)
    )


@cli.command(section=BUILD, examples=("torch-npu-builder demo --custom-ops",))
@options(DEMO_SELECTION, ENVIRONMENT, LIMITS, WORKSPACE, GENERAL)
@plain_option("--custom-ops", is_flag=True, help="Lay the sample custom operator over op-plugin too, and call it.")
def demo(**values: Any) -> int:
    """Build a miniature torch_npu, install its wheel, and call an operator through it."""
    from builder.cli.demo_command import run_demo
    from builder.core.workspace import Workspace

    custom_ops = values.pop("custom_ops")
    return run_demo(
        query_of(values),
        Workspace(root=values["workspace"], output=values["workspace"]),
        options_of(values),
        reporter_of(values),
        custom_ops=custom_ops,
    )


@cli.command(section=KEEP)
@click.argument("name", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def completion(name: str) -> None:
    """Print the completion script for SHELL (bash, zsh or fish)."""
    completer = get_completion_class(name)
    assert completer is not None  # noqa: S101  (click has all three)
    click.echo(completer(cli, {}, "torch-npu-builder", "_TORCH_NPU_BUILDER_COMPLETE").source())
