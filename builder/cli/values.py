"""What commands make of their options: build options, a workspace, a matrix, a selection, an engine."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.globals import get_current_context

if TYPE_CHECKING:
    from builder.cli.answers import Answers
    from builder.core.build_options import BuildOptions
    from builder.core.workspace import Workspace
    from builder.matrix.loader import Matrix
    from builder.matrix.model import Target
    from builder.matrix.selection import Query
    from builder.planning.lockfile import Lock
    from builder.progress.reporter import Reporter


def answer_of(values: Mapping[str, Any]) -> tuple[Answers, str | None]:
    """Find where answers are kept, and what this command's is called: it depends on the matrix and ``values`` alone."""
    from datetime import datetime, timezone

    from builder.cli.answers import key_of, standard_answers

    shown = sys.stdout.isatty() and shutil.get_terminal_size()
    variables = [os.environ.get(name) for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS")]
    asked = [
        get_current_context().command_path,
        sorted((name, str(value)) for name, value in values.items()),
        datetime.now(timezone.utc).date(),
        (shown, variables, sys.stdout.encoding, os.getcwd(), os.uname().machine),
    ]
    return standard_answers(), key_of(values["matrix"], [values["sources"]], asked)


def options_of(values: dict[str, Any]) -> BuildOptions:
    """The build options that a command was given."""
    from builder.core.build_options import BuildOptions

    given = {name: values[name] for name in BuildOptions.__dataclass_fields__ if name in values}
    # What is locked is what will be released: it is built as upstream builds it.
    given["pch"] = values.get("pch") == "auto" and not values.get("locked")
    given["cached"] = not values.get("uncached", False)
    return BuildOptions(**given)


def workspace_of(values: dict[str, Any]) -> Workspace:
    """Where the command works."""
    from builder.core.workspace import Workspace

    return Workspace(root=values["workspace"], output=values["output"])


def matrix_of(values: dict[str, Any]) -> Matrix:
    """The matrix that the command is about."""
    from dataclasses import replace

    from builder.matrix.loader import load_matrix

    matrix = load_matrix(values["matrix"], values["sources"], values.get("as_of"))
    if values.get("image_mirror"):
        matrix = replace(matrix, sources=matrix.sources.with_image_mirrors(values["image_mirror"]))
    for name, url in (("torch_npu", values["torch_npu_url"]), ("op-plugin", values["op_plugin_url"])):
        if url:
            matrix = replace(matrix, sources=matrix.sources.with_override(name, url))
    return matrix


def reporter_of(values: dict[str, Any]) -> Reporter:
    """How the command speaks."""
    from builder.progress.reporter import Reporter

    return Reporter(quiet=values["quiet"], json_lines=values.get("json_lines", False))


def source_of(name: str) -> ParameterSource | None:
    """Where the value of the command's parameter is from."""
    return get_current_context().get_parameter_source(name)


def engine_of(values: dict[str, Any]) -> Any:
    """What builds targets: this machine, or the workers of a cluster."""
    from functools import partial

    from builder.executors.local import run_targets

    if values["engine"] == "local":
        for name in ("scheduler", "store"):
            # In the environment they may stand for all that a machine does.
            if source_of(name) is ParameterSource.COMMANDLINE:
                from builder.core.errors import RequestError

                raise RequestError(
                    f"--{name} is for --engine dask, but this machine builds",
                    hint="add --engine dask; to which store a night is published stands in nightly.yaml",
                )
        return run_targets
    try:
        from builder.cluster.executor import run_on_cluster
    except ModuleNotFoundError as error:
        from builder.core.errors import MachineError

        raise MachineError(
            f"--engine dask needs the package {error.name}",
            hint="pip install 'distributed>=2025.4.1' 'cryptography>=42'",
        ) from error
    return partial(run_on_cluster, scheduler=values["scheduler"], store_url=values["store"])


def query_of(values: dict[str, Any]) -> Query:
    """The selection that the command was given."""
    from builder.matrix.selection import Query

    return Query(**{name: values[name] for name in Query.__dataclass_fields__ if name in values})


def targets_of(values: dict[str, Any], matrix: Matrix, reporter: Reporter) -> tuple[list[Target], Lock | None]:
    """What a run is over: the selection, or all that a lock names where nothing was selected; and that lock."""
    from builder.matrix.selection import Query, select_for_build
    from builder.planning.lockfile import read_lock

    query = query_of(values)
    locked = read_lock(values["locked"]) if values.get("locked") else None
    if locked is not None and query == Query():
        return locked.select(matrix), locked
    selection = select_for_build(matrix, query)
    for warning in selection.warnings():
        reporter.warning(warning)
    return list(selection.targets), locked


def command_line(command: str) -> str:
    """The command line that runs another ``command`` with what this one was given on its own, as far as it takes it.

    What variables say holds for both.
    """
    context = get_current_context()
    group = context.find_root().command
    other = group.get_command(context, command) if isinstance(group, click.Group) else None
    taken = {parameter.name for parameter in other.params} if other is not None else set()
    words = ["python", "-m", "builder", command]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in taken or source_of(name) is not ParameterSource.COMMANDLINE:
            continue
        option, value = parameter.opts[0], context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words += [option] if value else []
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"{option}={each}" for each in values]
    return shlex.join(words)
