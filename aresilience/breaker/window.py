"""The machine that counts: what the calls of a closed circuit amount to.

Three ways of counting, one contract: `add` takes a result and answers whether the circuit should open. A
result is credited to the time at which its call began. A rate is compared by ≥, on every result, successes
included, once `minimum_calls` are known; a call is slow if it took strictly longer than the limit (as in
resilience4j).

Nearly every call is good, so that has to be cheap: while nothing bad is known, or nothing can come of it, a
good call only raises `passed`, and is entered when somebody looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from aresilience import arguments

__all__ = ["CallCounts", "Counts", "Rates", "StreakCounts", "TimeCounts", "Window"]

_FAILED, _SLOW = 1, 2
_BUCKETS = 10


@dataclass(frozen=True, slots=True)
class Window:
    """Over what a rate is taken. Make one with `Window.calls(100)` or `Window.seconds(30)`."""

    size: float
    of_time: bool

    @classmethod
    def calls(cls, size: int) -> Window:
        """The last `size` calls."""
        return cls(arguments.count("Window.calls: size", size), of_time=False)

    @classmethod
    def seconds(cls, size: float | timedelta) -> Window:
        """The calls that began in the last `size` seconds, counted in tenths of it."""
        return cls(arguments.duration("Window.seconds: size", size), of_time=True)


class Counts(Protocol):
    """What is known of the calls since the circuit closed."""

    since: float
    until: float
    passed: int
    """A good call (neither failed nor slow) that began at `since` or later and ended before `until` cannot open
    the circuit: it is enough to add one to `passed`."""

    def add(self, began: float, now: float, *, failed: bool, slow: bool) -> bool:
        """Count a call that began at `began` and ended `now`; True if the circuit should open."""

    def good(self, began: float, now: float) -> bool:
        """`add`, for any other good call."""

    def clear(self) -> None: ...

    def seen(self, now: float | None) -> tuple[int, int, int]:
        """Calls, failures, slow calls, as of now, or (None) of the last result."""


class StreakCounts:
    """Opens on `threshold` failures in a row."""

    __slots__ = ("_threshold", "failures", "passed", "since", "until")

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self.failures = 0
        self.clear()

    def add(self, began: float, now: float, *, failed: bool, slow: bool) -> bool:
        self.failures = self.failures + 1 if failed else 0
        self.since = math.inf if self.failures else -math.inf
        return self.failures >= self._threshold

    def good(self, began: float, now: float) -> bool:
        self.clear()
        return False

    def clear(self) -> None:
        self.failures = self.passed = 0
        self.since, self.until = -math.inf, math.inf

    def seen(self, now: float | None) -> tuple[int, int, int]:
        return 0, self.failures, 0  # a streak does not know how many calls there were


@dataclass(frozen=True, slots=True)
class Rates:
    """When the shares of failed and slow calls are too high."""

    failure_rate: float
    slow_rate: float
    minimum_calls: int

    def exceeded(self, calls: int, failures: int, slow: int) -> bool:
        # Divided, not multiplied: 7/100 is the float 0.07, but 0.07 * 100 is more than 7.
        return calls >= self.minimum_calls and (
            (failures > 0 and failures / calls >= self.failure_rate)
            or (slow > 0 and slow / calls >= self.slow_rate)
        )


class CallCounts:
    """The last `size` calls: a ring of bytes, which tell the bad ones, and running counts."""

    __slots__ = ("_calls", "_failures", "_next", "_rates", "_ring", "_slow", "passed", "since", "until")

    def __init__(self, size: int, rates: Rates) -> None:
        self._rates = rates
        self._ring = bytearray(size)
        self.until = math.inf
        self.clear()

    def clear(self) -> None:
        self._ring[:] = bytes(len(self._ring))
        self._next = self._calls = self._failures = self._slow = self.passed = 0
        self.since = -math.inf

    def add(self, began: float, now: float, *, failed: bool, slow: bool) -> bool:
        if self.passed:
            self._enter_passed()
        ring, place = self._ring, self._next
        old, new = ring[place], (_FAILED if failed else 0) | (_SLOW if slow else 0)
        self._next = place + 1 if place + 1 < len(ring) else 0
        if self._calls < len(ring):
            self._calls += 1
        if old != new:
            ring[place] = new
            self._failures += (new & _FAILED) - (old & _FAILED)
            self._slow += ((new & _SLOW) - (old & _SLOW)) // _SLOW
        clean = not (self._failures or self._slow)
        opens = not clean and self._rates.exceeded(self._calls, self._failures, self._slow)
        # With bad calls about, a good one can be the one with which there are enough to judge.
        harmless = clean or (self._calls >= self._rates.minimum_calls and not opens)
        self.since = -math.inf if harmless else math.inf
        return opens

    def good(self, began: float, now: float) -> bool:
        return self.add(began, now, failed=False, slow=False)

    def seen(self, now: float | None) -> tuple[int, int, int]:
        self._enter_passed()
        return self._calls, self._failures, self._slow

    def _enter_passed(self) -> None:
        """Put so many good calls in, and the oldest ones out."""
        size, first = len(self._ring), self._next
        new = min(self.passed, size)
        self._calls = min(size, self._calls + new)
        self.passed = 0
        if not (self._failures or self._slow):
            return  # where in a ring without a bad call a good one lies is all the same
        for start, end in ((first, min(first + new, size)), (0, first + new - size)):
            if end > start:
                gone = self._ring[start:end]
                both = gone.count(_FAILED | _SLOW)
                self._failures -= gone.count(_FAILED) + both
                self._slow -= gone.count(_SLOW) + both
                self._ring[start:end] = bytes(end - start)
        self._next = (first + new) % size


class TimeCounts:
    """The calls that began in the last `seconds`: ten buckets, each a tenth of it."""

    __slots__ = (
        "_buckets",
        "_calls",
        "_failures",
        "_rates",
        "_slow",
        "_tick",
        "_width",
        "passed",
        "since",
        "until",
    )

    def __init__(self, seconds: float, rates: Rates) -> None:
        self._rates = rates
        self._width = seconds / _BUCKETS
        self.clear()

    def clear(self) -> None:
        self._tick = -1
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]
        self._calls = self._failures = self._slow = self.passed = 0
        self.since = self.until = -math.inf

    def good(self, began: float, now: float) -> bool:
        return self.add(began, now, failed=False, slow=False)

    def add(self, began: float, now: float, *, failed: bool, slow: bool) -> bool:
        self._enter_passed()
        born, tick = math.floor(began / self._width), math.floor(now / self._width)
        if tick != self._tick:
            self._roll(tick)
        if born > tick:
            born = tick  # it began before the clock went back: it stays in the newest bucket
        if born > tick - _BUCKETS:
            bucket = self._buckets[born % _BUCKETS]
            bucket[0] += 1
            self._calls += 1
            if failed:
                bucket[1] += 1
                self._failures += 1
            if slow:
                bucket[2] += 1
                self._slow += 1
        clean = not (self._failures or self._slow)
        # With bad calls about, a good one can be the one with which there are enough to judge.
        harmless = clean or self._calls >= self._rates.minimum_calls
        self.since = tick * self._width if harmless else math.inf
        self.until = (tick + 1) * self._width
        return not clean and self._rates.exceeded(self._calls, self._failures, self._slow)

    def seen(self, now: float | None) -> tuple[int, int, int]:
        self._enter_passed()
        passed = 0 if now is None else max(0, math.floor(now / self._width) - self._tick)
        kept = [self._buckets[(self._tick - age) % _BUCKETS] for age in range(_BUCKETS - passed)]
        return sum(b[0] for b in kept), sum(b[1] for b in kept), sum(b[2] for b in kept)

    def _enter_passed(self) -> None:
        if self.passed:
            self._buckets[self._tick % _BUCKETS][0] += self.passed
            self._calls += self.passed
            self.passed = 0

    def _roll(self, tick: int) -> None:
        """Make `tick` the newest bucket: drop those that are too old for it."""
        passed = tick - self._tick
        if passed < 0:
            # The clock went back, be it by far (another loop): what is known keeps its age.
            self._buckets = [self._buckets[(k - passed) % _BUCKETS] for k in range(_BUCKETS)]
        for k in range(1, min(passed, _BUCKETS) + 1):
            bucket = self._buckets[(self._tick + k) % _BUCKETS]
            self._calls -= bucket[0]
            self._failures -= bucket[1]
            self._slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._tick = tick
