"""docs/audit.md names every audited fact, in the words of the checks."""

from __future__ import annotations

import re
from pathlib import Path

from builder.audit.command import audited_facts

DOCUMENT = Path(__file__).parents[2] / "docs" / "audit.md"


def test_the_table_of_facts_is_current() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT.read_text(), flags=re.M)
    assert rows == list(audited_facts().items())
