"""The ``demo`` command: the whole path on a miniature upstream, to an operator called through the wheel.

Nothing in it is special: it points the builder's sources at repositories made from ``examples/`` and
PyTorch at a stand-in that is small enough to compile, then builds as for any other target.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace

from builder.cli.demo_upstream import DEFAULT_LINE, LINES, materialise
from builder.compilation import ccache, codegen_cache
from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_OK, BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import TargetResult
from builder.core.workspace import Workspace, resource
from builder.environments.docker_engine import NoEngine, find_engine
from builder.environments.images import has_image
from builder.environments.interface import Folders, Limits
from builder.environments.interpreters import find_interpreter
from builder.executors.local import Policy, exit_code, run_targets
from builder.matrix.loader import load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import Query, resolve_release, select_for_build
from builder.payload import FOLDER
from builder.progress.reporter import Reporter
from builder.target.build import BUILD, BuildContext, TargetBuild
from builder.target.resolve_sources import Gatherer


def run_demo(query: Query, workspace: Workspace, options: BuildOptions, reporter: Reporter, *, custom_ops: bool) -> int:
    """Build the selected targets of the miniature upstream and call an operator through each wheel.

    It has a workspace of its own, because its wheels bear the names of real ones.
    """
    workspace = Workspace(root=workspace.root / "demo", output=workspace.root / "demo" / "dist")
    workspace.create()
    upstream = materialise(workspace.root / "miniature")
    matrix = load_matrix(sources_file=upstream.sources_file)
    # 2.6 means the newest line of 2.6 that the miniature has.
    made = {line.branch for line in LINES}
    matrix = replace(matrix, releases=tuple(line for line in matrix.releases if line.branch in made))
    query = replace(query, pytorch=query.pytorch or (DEFAULT_LINE,))
    options = _place(query.arch or ("native",), options, reporter)
    if not query.python:
        release = resolve_release(matrix, query.pytorch[0])
        query = replace(query, python=(_python(release.pythons, options),))
    targets = select_for_build(matrix, query).targets
    options = replace(
        options,
        torch_source="find-links",
        find_links=(upstream.wheelhouse,),
        custom_ops=upstream.custom_ops if custom_ops else None,
        # Nobody's edits are expected in a demonstration.
        rebuild=True,
        # The base at hand is whatever this machine can have; the demo's point is the path, and it says so.
        allow_toolchain_mismatch=True,
    )
    policy = Policy(purpose=replace(BUILD, demonstrates=True))
    run = run_targets(targets, matrix, workspace, options, reporter, policy)
    context = BuildContext(matrix, workspace, options, reporter, run, Gatherer(matrix, workspace, options, reporter))
    for target, result in zip(targets, run.targets, strict=True):
        if result.wheel is not None:
            try:
                _try_wheel(target, result, context, "npu_add_custom" if custom_ops else "npu_add")
            except BuilderError as error:
                result.fail(error)
                reporter.error(error)
    run.write()
    code = exit_code(run.targets)
    if code == EXIT_OK:
        reporter.message("the demo works: a stand-in torch_npu was built, verified, installed and called")
    return code


def _place(arch: tuple[str, ...], options: BuildOptions, reporter: Reporter) -> BuildOptions:
    """The environment of the demo, with a base image that this machine can have."""
    if options.environment == "host" or options.base_image is not None:
        return options
    found = find_engine()
    if isinstance(found, NoEngine):
        if options.environment == "docker" or not found.absent:
            raise found.error
        reporter.message(f"building on this host: {found.reason}")
        return replace(options, environment="host")
    if len(arch) != 1 or arch[0] == "all":
        raise RequestError("demo builds for one architecture", hint="give one with --arch, or none for this machine's")
    machine = os.uname().machine if arch[0] == "native" else arch[0]
    reporter.message(f"building in a container: engine {found.version} answers")
    base = f"torch-npu-builder/base:bookworm-{machine}"
    if not has_image(found, base):
        script = resource("docker") / "bases" / "debian.sh"
        if os.geteuid() != 0 or shutil.which("debootstrap") is None or shutil.which("docker") is None:
            why = f"there is no image {base}, and making one takes root, debootstrap and docker ({script})"
            if options.environment == "auto" and machine == os.uname().machine:
                reporter.message(f"building on this host: {why}")
                return replace(options, environment="host")
            reporter.message(f"{why}; using the base image of the matrix")
            return options
        reporter.message(f"making the base image {base} from Debian's packages")
        made = subprocess.run(["sh", str(script), "--suite", "bookworm", "--arch", machine], check=False)
        if made.returncode:
            raise MachineError(f"{script} ended with exit code {made.returncode}", hint="read its output above")
    return replace(options, environment="docker", base_image=base)


def _python(pythons: tuple[str, ...], options: BuildOptions) -> str:
    """The newest Python of the release line that the environment is sure to have."""
    newest_first = sorted(pythons, key=lambda python: int(python.split(".")[1]), reverse=True)
    if options.environment != "host":
        return newest_first[0]
    for python in newest_first:
        if find_interpreter(python) is not None:
            return python
    raise MachineError(
        f"this machine has no container engine and none of the Pythons {', '.join(pythons)}",
        hint="install one of them, or a container engine ('doctor' says what is missing)",
    )


def _try_wheel(target: Target, result: TargetResult, context: BuildContext, operator: str) -> None:
    """Install the wheel in a fresh environment and call ``operator``. Raises TargetError when that fails."""
    assert result.wheel is not None  # noqa: S101
    folder = context.run.folder / f"{target.id}-try"
    tree = folder / "tree"
    out = folder / "out"
    tree.mkdir(parents=True)
    out.mkdir()
    shutil.copy(result.wheel, out)
    lines: list[str] = []
    folders = Folders(
        tree=tree,
        mirrors=context.workspace.mirrors,
        out=out,
        launcher=ccache.LAUNCHER,
        codegen=codegen_cache.INSIDE,
    )
    with result.phase("try"), TargetBuild(target, context, result).environment(quiet=True).open(folders) as opened:
        outcome = opened.run(
            [
                "sh",
                "-c",
                (FOLDER / "try_wheel.sh").read_text(encoding="utf-8"),
                "try",
                opened.paths.out,
                f"python{target.python}",
                operator,
            ],
            env={},
            cwd=opened.paths.out,
            on_line=lines.append,
            limits=Limits(timeout=300),
        )
        if outcome.exit_code != 0:
            raise TargetError(
                f"the wheel {result.wheel.name} does not work", kind=FailureKind.VERIFY, details="\n".join(lines[-15:])
            )
    for line in lines:
        context.reporter.message(line)
