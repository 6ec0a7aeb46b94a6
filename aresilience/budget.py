"""A budget for extra load: how many retries and hedges the calls of a window pay for.

Within any window, extra calls are at most `ratio` · (first calls) + `floor` · `window`. So under a
total outage the load grows by the ratio, not by the number of attempts; the floor lets a quiet client
retry at all. (Finagle's RetryBudget: 20 %, 10 a second, over 10 seconds.)
"""

from __future__ import annotations

from datetime import timedelta

from aresilience import arguments

__all__ = ["RetryBudget"]

_BUCKETS = 10


class RetryBudget:
    """One budget, shared by all the retries and hedges that are given it.

    - `ratio`: extra calls that each first call pays for;
    - `floor`: extra calls per second that are free;
    - `window`: seconds that are looked back, in tenths of it.

    Each first call deposits once; each retry or hedge withdraws once, or is not made.
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
        self._width = seconds / _BUCKETS
        self._tick = 0
        self._calls = [0] * _BUCKETS
        self._extra = [0] * _BUCKETS

    def deposit(self, now: float) -> None:
        """A first call is made at time `now`."""
        self._calls[self._slot(now)] += 1

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
