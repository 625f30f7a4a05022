"""What all models of the matrix share: kinds of text, architectures, Pythons, errors of rules.

Modules with models do without ``from __future__ import annotations``: pydantic would compile every annotation once
more at each start, which costs as much as reading all the YAML.
"""

import re
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from builder.matrix import patterns

Arch = Literal["x86_64", "aarch64"]
ARCHITECTURES: tuple[Arch, ...] = ("x86_64", "aarch64")

Ref = Annotated[str, Field(pattern=patterns.REF, max_length=100)]
Name = Annotated[str, Field(pattern=patterns.NAME, max_length=60)]
PyTorch = Annotated[str, Field(pattern=patterns.PYTORCH)]
Python = Annotated[str, Field(pattern=patterns.PYTHON)]
Package = Annotated[str, Field(pattern=patterns.PACKAGE)]
Sha256 = Annotated[str, Field(pattern=patterns.DIGEST)]
Image = Annotated[str, Field(pattern=patterns.IMAGE, max_length=255)]
Pinned = Annotated[str, Field(pattern=patterns.PINNED, max_length=100)]
Sentence = Annotated[str, Field(pattern=patterns.TEXT, max_length=500)]


class Frozen(BaseModel):
    """A model that cannot be changed and refuses keys that it does not know."""

    # Most models are validated as part of a file's model only; then none of their own is built.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def python_key(python: str) -> tuple[int, ...]:
    """Sorts ``3.9`` before ``3.10``."""
    return tuple(int(part) for part in python.split("."))


@cache
def project_of(requirement: str) -> str:
    """The normalised project name of a requirement line ``NAME==VERSION``."""
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower()


def wrong(message: str) -> PydanticCustomError:
    """An error of a rule that spans fields. The loader adds file, line and column."""
    return PydanticCustomError("rule", "{reason}", {"reason": message})
