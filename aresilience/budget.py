"""A budget for extra load: how many retries and hedges the calls of a window pay for.

Within any window, extra calls are at most `ratio` · (first calls) + `floor` · `window`. So under a
total outage the load grows by the ratio, not by the number of attempts; the floor lets a quiet client
retry at all. (Finagle's RetryBudget: 20 %, 10 a second, over 10 seconds.)
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta

from aresilience import arguments

__all__ = ["ATTEMPT_OF", "Caller", "RetryBudget"]

_TENTHS = 10
_BUCKETS = _TENTHS + 1
"""The one that is being filled, and a whole window before it."""


class Caller:
    """A call in progress, as its own attempts see it."""

    __slots__ = ("outer", "running")

    outer: Caller | None
    """The call that it is itself an attempt of."""
    running: bool
    """Whether an attempt is being made now."""

    def __init__(self) -> None:
        self.outer = outer = _running(ATTEMPT_OF.get())
        self.running = False
        if outer is not None:  # or calls that start each other would be a chain without end
            outer.outer = _running(outer.outer)

    def has_paid(self, budget: RetryBudget) -> bool:
        """Whether it, or a call that it is an attempt of, has deposited there."""
        return self.outer is not None and self.outer.has_paid(budget)

    def retries_alone(self) -> bool:
        """Whether it, or a call that it is an attempt of, wants no retry further in."""
        return self.outer is not None and self.outer.retries_alone()


def _running(caller: Caller | None) -> Caller | None:
    """It, or the first further out that has not ended: a task may outlive what started it."""
    while caller is not None and not caller.running:
        caller = caller.outer
    return caller


ATTEMPT_OF: ContextVar[Caller | None] = ContextVar("aresilience_retry", default=None)
"""The call that the running code is an attempt of: set where somebody further in may have to know."""


class RetryBudget:
    """One budget, shared by all the retries and hedges that are given it.

    - `ratio`: extra calls that each first call pays for;
    - `floor`: extra calls per second that are free;
    - `window`: seconds that are looked back, and at most a tenth more.

    Each first call deposits once, however many policies on its way share the budget; each retry or
    hedge withdraws once, or is not made.
    """

    __slots__ = ("_calls", "_extra", "_floor", "_tick", "_width", "ratio")

    def __init__(
        self, *, ratio: float = 0.2, floor: float = 10.0, window: float | timedelta = 10.0
    ) -> None:
        allowed = "at least 0"
        self.ratio = arguments.number("RetryBudget: ratio", ratio, allowed)
        per_second = arguments.number("RetryBudget: floor", floor, allowed)
        for name, value in (("ratio", self.ratio), ("floor", per_second)):
            if value < 0:
                raise ValueError(f"RetryBudget: {name} must be {allowed}, got {value!r}")
        seconds = arguments.duration("RetryBudget: window", window)
        if self.ratio == 0 and per_second == 0:
            raise ValueError("RetryBudget: ratio or floor must be greater than 0, got 0 for both")
        self._floor = per_second * seconds
        self._width = seconds / _TENTHS
        self._tick = 0
        self._calls = [0] * _BUCKETS
        self._extra = [0] * _BUCKETS

    def deposit(self, now: float) -> None:
        """A call is made at time `now`: a first one, unless it is an attempt of one that has paid."""
        caller = ATTEMPT_OF.get()
        if caller is None or not caller.has_paid(self):
            slot = self._slot(now)  # first, since it may put new lists in place
            self._calls[slot] += 1

    def withdraw(self, now: float) -> bool:
        """May an extra call be made at time `now`? If so, it is paid for."""
        slot = self._slot(now)
        if sum(self._extra) + 1 > self.ratio * sum(self._calls) + self._floor:
            return False
        self._extra[slot] += 1
        return True

    def _slot(self, now: float) -> int:
        tick = int(now / self._width)
        passed = tick - self._tick
        if abs(passed) >= _BUCKETS:  # everything is too old, or another loop's clock
            self._calls, self._extra = [0] * _BUCKETS, [0] * _BUCKETS
            self._tick = tick
        elif passed > 0:  # a clock that went back a little stays in the newest bucket
            for k in range(1, passed + 1):
                gone = (self._tick + k) % _BUCKETS
                self._calls[gone] = self._extra[gone] = 0
            self._tick = tick
        return self._tick % _BUCKETS

    def __repr__(self) -> str:
        calls, extra = sum(self._calls), sum(self._extra)
        return f"<RetryBudget {extra} of {self.ratio * calls + self._floor:g} used by {calls} calls>"
