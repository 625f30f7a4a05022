"""A tree configured by upstream's own script, and no more: for commands that then compile single sources themselves."""

from __future__ import annotations

import time

from builder.compilation import ccache
from builder.compilation.output_parser import OutputReader
from builder.environments.interface import Opened, Outcome
from builder.sources.build_scripts import SetupScript
from builder.sources.checkout import PreparedTree
from builder.target.build import TargetBuild
from builder.target.build_log import BuildLog
from builder.target.compile_spec import CompileSpec
from builder.target.diagnosis import check_generated, compile_failure


def configure(build: TargetBuild, opened: Opened, tree: PreparedTree, setup: SetupScript, spec: CompileSpec) -> Outcome:
    """Run upstream's script to its first compile: code generation, stub libraries, CMake.

    ``compile_commands.json`` then stands in the folder ``build`` of the tree. Raises TargetError as a build does where
    generation or CMake fails.
    """
    reader = OutputReader(opened.paths.written)
    started = time.time()
    with (
        BuildLog(build.result.log) as log,
        build.reporter.task(f"{build.target.id} configure") as task,
    ):

        def on_line(line: str) -> None:
            log.line(line)
            reader.feed(line)
            task.update(detail=reader.activity)

        outcome = opened.run(
            spec.command(opened.paths),
            env={**spec.environment(opened.paths), "BUILDER_STOP_AT_COMPILE": "1"},
            cwd=opened.paths.tree,
            on_line=on_line,
            limits=spec.limits,
        )
    reader.finish()
    if not ccache.stopped(build.out):
        raise compile_failure(reader, outcome, spec.limits.timeout, cmake=spec.cmake, mismatch=spec.mismatch)
    check_generated(build.scratch.path, reader, setup, tree.record.custom_operators, started)
    build.keep_generated()
    return outcome
