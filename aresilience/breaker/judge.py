"""The machine that judges: what one call amounts to, and how calls are counted."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from aresilience import arguments
from aresilience.breaker.window import CallCounts, Counts, Rates, StreakCounts, TimeCounts, Window
from aresilience.outcome import ErrorMatcher, ErrorSpec, Outcome, is_neutral

__all__ = ["NO_RESULT", "Judge"]

_KIND = "CircuitBreaker"


class NoResult(enum.Enum):
    """What stands for a result where there is none to judge: None is a result."""

    NO_RESULT = "no result"


NO_RESULT = NoResult.NO_RESULT


class Judge:
    """The part of a breaker's options that a whole family of breakers shares."""

    plain: bool
    """Failures in a row, by error alone: no clock and no result needs a look."""

    __slots__ = ("_fails", "_groups", "_ignores", "failure_if", "new_counts", "plain", "slow_after")

    def __init__(
        self,
        *,
        failure_threshold: int | None,
        failure_rate: float | None,
        window: Window | None,
        minimum_calls: int | None,
        slow_call_duration: float | timedelta | None,
        slow_call_rate: float | None,
        failure_on: ErrorSpec,
        ignore: ErrorSpec,
        failure_if: Callable[[Any], object] | None,
    ) -> None:
        self._fails = ErrorMatcher(f"{_KIND}: failure_on", failure_on)
        self._groups = tuple(t for t in self._fails.types if issubclass(t, ExceptionGroup))
        self._ignores = ErrorMatcher(f"{_KIND}: ignore", ignore, groups="all", neutral=True)
        self.failure_if = (
            None if failure_if is None else arguments.plain_function(f"{_KIND}: failure_if", failure_if)
        )
        if slow_call_rate is not None and slow_call_duration is None:
            raise ValueError(f"{_KIND}: slow_call_rate needs slow_call_duration, got None")
        self.slow_after = (
            math.inf
            if slow_call_duration is None
            else arguments.duration(f"{_KIND}: slow_call_duration", slow_call_duration)
        )
        of_rate = {
            "failure_rate": failure_rate,
            "window": window,
            "minimum_calls": minimum_calls,
            "slow_call_duration": slow_call_duration,
        }
        asked = [name for name, value in of_rate.items() if value is not None]
        if not asked:
            threshold = 5 if failure_threshold is None else failure_threshold
            arguments.count(f"{_KIND}: failure_threshold", threshold)
            self.plain = failure_if is None
            self.new_counts: Callable[[], Counts] = lambda: StreakCounts(threshold)
            return
        if failure_threshold is not None:
            raise ValueError(
                f"{_KIND}: failure_threshold counts failures in a row and {asked[0]} belongs to a "
                "rate: give one or the other"
            )
        if window is not None and not isinstance(window, Window):
            raise TypeError(f"{_KIND}: window must be Window.calls(n) or Window.seconds(s), got {window!r}")
        over = window or Window.calls(100)
        least = 20 if minimum_calls is None else minimum_calls
        arguments.count(f"{_KIND}: minimum_calls", least)
        rates = Rates(
            arguments.fraction(f"{_KIND}: failure_rate", 0.5 if failure_rate is None else failure_rate),
            arguments.fraction(
                f"{_KIND}: slow_call_rate", 1.0 if slow_call_rate is None else slow_call_rate
            ),
            least if over.of_time else min(least, int(over.size)),
        )
        self.plain = False
        self.new_counts = lambda: (
            TimeCounts(over.size, rates) if over.of_time else CallCounts(int(over.size), rates)
        )

    def of_error(self, error: BaseException) -> Outcome:
        """Cancellation first, before any predicate; then `ignore`, which beats `failure_on`.

        A group whose type is not named itself is what its leaves are: a failure if one of them is,
        ignored if all are.
        """
        if not isinstance(error, Exception) or self._ignores(error):
            return Outcome.IGNORED
        if isinstance(error, ExceptionGroup) and not isinstance(error, self._groups):
            leaves = {self.of_error(leaf) for leaf in error.exceptions}
            if Outcome.FAILURE in leaves:
                return Outcome.FAILURE
            return Outcome.SUCCESS if Outcome.SUCCESS in leaves else Outcome.IGNORED
        if self._fails(error):
            return Outcome.FAILURE
        return Outcome.IGNORED if is_neutral(error) else Outcome.SUCCESS

    def of_result(self, result: object) -> Outcome:
        if self.failure_if is not None and result is not NO_RESULT and self.failure_if(result):
            return Outcome.FAILURE
        return Outcome.SUCCESS
