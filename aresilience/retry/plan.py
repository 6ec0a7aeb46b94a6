"""The machine: after a failed attempt, wait how long, or stop why?

    attempt n ──ok──▶ done
        │ failed
        ▼
    decide ──StopReason──▶ give up
        │ delay
        ▼
    wait ──▶ attempt n + 1

The time, chance and the hint of the other side are arguments. Where the waits end (`until`), how far a
hint is believed (`max_hint`) and who pays (`pay`) are given; nothing here sleeps or looks at a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aresilience.backoff import Backoff
from aresilience.retry.history import StopReason

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all calls of one `Retry` have in common."""

    attempts: float
    backoff: Backoff
    max_hint: float

    def decide(
        self,
        number: int,
        now: float,
        u: float,
        *,
        previous: float | None,
        hint: float | None,
        refused: bool,
        until: float | None,
        pay: Callable[[float], bool] | None,
    ) -> float | StopReason:
        """The delay after attempt `number` failed at `now`, or the reason to stop.

        A hint is a lower bound of the delay, itself at most `max_hint`. After a refusal the hint is
        exact: asking earlier is pointless, so without a usable one, up to `max_hint`, it stops.
        """
        if number >= self.attempts:
            return StopReason.ATTEMPTS
        if refused:
            if hint is None or not 0 <= hint <= self.max_hint:  # not a number is no wait either
                return StopReason.REFUSED
            delay = hint
        else:
            delay = self.backoff.delay(number, u, previous)
            if hint is not None:
                delay = max(delay, min(hint, self.max_hint))
        if until is not None and now + delay >= until:
            return StopReason.DEADLINE
        if pay is not None and not pay(now):
            return StopReason.BUDGET
        return delay
