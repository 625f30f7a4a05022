"""Retry calls to a store: a network failure may pass within moments."""

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
    """An object whose calls are retried, with a ``warn`` to report each retry."""

    warn: Callable[[str], None]


_Asked = TypeVar("_Asked", bound=Asked)
_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def patient(
    method: Callable[Concatenate[_Asked, _Arguments], _Answer],
) -> Callable[Concatenate[_Asked, _Arguments], _Answer]:
    """Retry ``method`` while it fails for a reason that may pass; raise the last failure.

    ``method`` must be safe to call again after any failure.
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
