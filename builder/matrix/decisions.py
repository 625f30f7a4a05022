"""What was decided about the matrix as a whole: drift that is accepted, branches left out, contradictions."""

import fnmatch
from typing import Annotated

from pydantic import Field

from builder.matrix import patterns
from builder.matrix.base import Frozen, Name, Sentence

Glob = Annotated[str, Field(pattern=patterns.GLOB, max_length=100)]


class Accepted(Frozen):
    """Drift that is known: the matrix stays as it is, for this reason."""

    line: Glob = Field(description="The release line's name, or a glob over names")
    fact: Name = Field(description="What differs, as audit calls it")
    found: Sentence | None = Field(default=None, description="What was found; any other finding is drift again")
    reason: Sentence

    def covers(self, line: str, fact: str, found: str) -> bool:
        """True where this decision is about the drift of ``fact`` of ``line`` to ``found``."""
        return self.fact == fact and fnmatch.fnmatchcase(line, self.line) and self.found in (None, found)


class LeftOut(Frozen):
    """Branches of upstream that are no release lines."""

    branch: Glob
    reason: Sentence


class Claim(Frozen):
    """What one document says."""

    document: Sentence = Field(description="The document's own name")
    subject: Sentence = Field(description="A branch, a PyTorch version or a plugin release")
    fact: Name
    says: Sentence


class Contradiction(Frozen):
    """Where documents disagree, and which one is right."""

    claims: tuple[Claim, ...] = Field(min_length=1, description="What is not followed")
    decision: Sentence
    reason: Sentence


class DecisionFile(Frozen):
    """``decisions.yaml``."""

    accepted: tuple[Accepted, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()

    def contradictions_about(self, *subjects: str) -> tuple[Contradiction, ...]:
        """Decided contradictions with a claim about one of ``subjects``."""
        return tuple(c for c in self.contradictions if any(claim.subject in subjects for claim in c.claims))

    def left_out_because(self, branch: str) -> str | None:
        """Why this branch of upstream is not in the matrix; None where nothing was decided about it."""
        return next((entry.reason for entry in self.left_out if fnmatch.fnmatchcase(branch, entry.branch)), None)
