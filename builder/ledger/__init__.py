"""The ledger: the history of runs, of the results of their targets, and of durations.

It is an SQLite database in the workspace. Losing it loses history only: wheels and their records stand on their
own, and ``rebuild`` restores what the records know. Threads and processes may write concurrently. Of the machine it
stores the architecture only.
"""

from builder.ledger.builds import BuildLedger
from builder.ledger.entries import Entry, Failure, PhaseEntry, RunEntry
from builder.ledger.estimates import Estimate, Estimates, Expected
from builder.ledger.ledger import Ledger, ledger_path
from builder.ledger.records import rebuild

__all__ = [
    "BuildLedger",
    "Entry",
    "Estimate",
    "Estimates",
    "Expected",
    "Failure",
    "Ledger",
    "PhaseEntry",
    "RunEntry",
    "ledger_path",
    "rebuild",
]
