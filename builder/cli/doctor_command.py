"""The ``doctor`` command: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from builder.core.errors import EXIT_MACHINE_LACKS, EXIT_OK
from builder.core.redaction import without_credentials
from builder.core.workspace import Workspace
from builder.environments.checks import Check, check_machine
from builder.matrix.loader import Matrix
from builder.progress.reporter import print_table, standard_output
from builder.sources import gitcli
from builder.sources.fetch import HostError, HostFailure, Unreached, branches, is_unresolved

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
#: Repositories whose hosts are tried: without these two nothing can be built.
_REPOSITORIES = ("torch_npu", "op-plugin")
#: Seconds that a host may take to answer.
HOST_TIMEOUT = 20.0


def examine(matrix: Matrix, workspace: Workspace, *, offline: bool) -> int:
    """Print every check with its advice; 3 when something that a build needs is missing."""
    checks = check_machine(workspace.root)
    unreached = Unreached()
    checks += [] if offline else [check for name in _REPOSITORIES for check in _hosts(matrix, name, unreached)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        style = _STYLES[check.status]
        table.add_row(
            escape(check.name), f"[{style}]{check.status}[/{style}]", escape(check.text), escape(check.advice or "")
        )
    print_table(table, standard_output())
    return EXIT_MACHINE_LACKS if any(check.status == "fail" for check in checks) else EXIT_OK


def _hosts(matrix: Matrix, name: str, unreached: Unreached) -> list[Check]:
    """One check for each host of a repository. Hosts are alternatives: only when none answers is that a failure.

    A host whose name has no address gets one row for all repositories; ``unreached`` holds such hosts.
    """
    answers: list[tuple[str, str | None]] = []
    for url in matrix.sources.urls(name):
        if unreached.get(url) is not None:
            continue
        try:
            branches(gitcli.check_url(url), HOST_TIMEOUT)
            answers.append((url, None))
        except HostError as error:
            answers.append((url, str(error)))
            if is_unresolved(str(error)):
                unreached.note(url, HostFailure(str(error), network=True, final=False))
    reachable = any(reason is None for _, reason in answers)
    return [
        Check(
            name=f"{name} host",
            status="ok" if reason is None else "warn" if reachable else "fail",
            text=without_credentials(url) if reason is None else f"{without_credentials(url)}: {reason}",
            advice=None
            if reason is None
            else "another host serves it"
            if reachable
            else "check network and proxy, or give a URL or path by --torch-npu-url, --op-plugin-url or --sources",
        )
        for url, reason in answers
    ]
