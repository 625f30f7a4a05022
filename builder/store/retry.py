"""Asking a store again: what failed because of the network may well succeed a moment later."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from builder.core.errors import TargetError
from builder.core.retry import retrying

#: How often a store is asked, the first time included. The packages behind fsspec have patience of their own, too.
ATTEMPTS = 4
#: Seconds before the second attempt; each further wait is twice as long. Some randomness keeps builders apart.
FIRST_WAIT = 1.0
LONGEST_WAIT = 20.0


class Asked(Protocol):
    """Something that is asked, and can tell of it."""

    warn: Callable[[str], None]


_Asked = TypeVar("_Asked", bound=Asked)
_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def patient(
    method: Callable[Concatenate[_Asked, _Arguments], _Answer],
) -> Callable[Concatenate[_Asked, _Arguments], _Answer]:
    """Call ``method`` again while it fails for a reason that may pass; the last failure is what its caller sees.

    The method must be one that may be called again after any failure of it.
    """

    @wraps(method)
    def asking(self: _Asked, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
        def tell(said: BaseException | None, coming: int, _wait: float) -> None:
            self.warn(f"{said}; asking again (try {coming} of {ATTEMPTS})")

        asked = retrying(ATTEMPTS, may_pass=_may_pass, tell=tell, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT)
        return asked(method, self, *arguments, **named)

    return asking


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, TargetError) and error.kind.passing
