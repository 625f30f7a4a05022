"""Trying again: what failed because of a network may well succeed a moment later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

#: Seconds before a wait is cut, and what each wait is multiplied by for the next.
LONGEST_WAIT = 20.0
GROWTH = 2.0


def retrying(
    tries: int,
    *,
    may_pass: Callable[[BaseException], bool],
    tell: Callable[[BaseException | None, int, float], None],
    first_wait: float,
    longest_wait: float = LONGEST_WAIT,
    growth: float = GROWTH,
    apart: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Retrying:
    """Make a caller of functions: up to ``tries`` times while their exceptions ``may_pass``; the last one is raised.

    Waits are in seconds: ``first_wait`` before the second try, then ``growth`` times the one before, up to
    ``longest_wait``; with ``apart`` a random part keeps builders from asking together. Before each wait ``tell`` gets
    the exception, the number of the try that comes, and the seconds.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_none, wait_random

    def told(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        wait = state.next_action.sleep if state.next_action is not None else 0.0
        tell(error, state.attempt_number + 1, wait)

    return Retrying(
        stop=stop_after_attempt(max(tries, 1)),
        wait=wait_exponential(multiplier=first_wait, max=longest_wait, exp_base=growth)
        + (wait_random(0, first_wait) if apart else wait_none()),
        retry=retry_if_exception(may_pass),
        sleep=sleep,
        before_sleep=told,
        reraise=True,
    )
