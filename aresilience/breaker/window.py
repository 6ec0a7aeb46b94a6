"""The machine that counts: what the calls of a closed circuit amount to.

Three ways of counting, one contract: `begin(now)` gives a token when a call starts, `add(token, …)` takes
its result and answers whether the circuit should open. A result is credited to the time at which its
call began. A rate is compared by ≥, on every result, successes included, once `minimum_calls` are known;
a call is slow if it took strictly longer than the limit (as in resilience4j).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from aresilience import arguments

__all__ = ["CallCounts", "Counts", "StreakCounts", "TimeCounts", "Window"]

_FAILED, _SLOW, _SEEN = 1, 2, 4
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

    spotless: bool
    """A success that was not slow would change nothing: it need not be added."""

    def begin(self, now: float) -> int: ...

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool: ...

    def clear(self) -> None: ...

    @property
    def calls(self) -> int: ...

    @property
    def failures(self) -> int: ...

    @property
    def slow(self) -> int: ...


class StreakCounts:
    """Opens on `threshold` failures in a row."""

    __slots__ = ("failures", "spotless", "threshold")

    calls = 0
    slow = 0

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.failures = 0
        self.spotless = True

    def begin(self, now: float) -> int:
        return 0

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool:
        self.failures = self.failures + 1 if failed else 0
        self.spotless = self.failures == 0
        return self.failures >= self.threshold

    def clear(self) -> None:
        self.failures = 0
        self.spotless = True


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
    """The last `size` calls: a ring of bytes, and running counts."""

    __slots__ = ("_next", "_rates", "_ring", "calls", "failures", "slow", "spotless")

    def __init__(self, size: int, rates: Rates) -> None:
        self._rates = rates
        self._ring = bytearray(size)
        self.clear()

    def clear(self) -> None:
        self._ring[:] = bytes(len(self._ring))
        self._next = self.calls = self.failures = self.slow = 0
        self.spotless = False

    def begin(self, now: float) -> int:
        return 0

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool:
        ring, place = self._ring, self._next
        old = ring[place]
        new = _SEEN | (_FAILED if failed else 0) | (_SLOW if slow else 0)
        ring[place] = new
        self._next = place + 1 if place + 1 < len(ring) else 0
        if old == 0:
            self.calls += 1
        self.failures += (new & _FAILED) - (old & _FAILED)
        self.slow += ((new & _SLOW) - (old & _SLOW)) // _SLOW
        self.spotless = self.calls == len(ring) and not self.failures and not self.slow
        return self._rates.exceeded(self.calls, self.failures, self.slow)


class TimeCounts:
    """The calls that began in the last `seconds`: ten buckets, each a tenth of it."""

    __slots__ = ("_buckets", "_rates", "_tick", "_width", "calls", "failures", "slow", "spotless")

    def __init__(self, seconds: float, rates: Rates) -> None:
        self._rates = rates
        self._width = seconds / _BUCKETS
        self.spotless = False  # every success counts in a rate over time
        self.clear()

    def clear(self) -> None:
        self._tick = -1
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]
        self.calls = self.failures = self.slow = 0

    def begin(self, now: float) -> int:
        return int(now / self._width)

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool:
        tick = int(now / self._width)
        if tick > self._tick:
            self._roll(tick)
        if token > self._tick:
            token = self._tick  # a clock that went back stays in the newest bucket
        if token > self._tick - _BUCKETS:
            bucket = self._buckets[token % _BUCKETS]
            bucket[0] += 1
            self.calls += 1
            if failed:
                bucket[1] += 1
                self.failures += 1
            if slow:
                bucket[2] += 1
                self.slow += 1
        if not (self.failures or self.slow):
            return False
        return self._rates.exceeded(self.calls, self.failures, self.slow)

    def _roll(self, tick: int) -> None:
        """Drop the buckets that are too old at `tick`."""
        passed = tick - self._tick
        for k in range(1, min(passed, _BUCKETS) + 1):
            bucket = self._buckets[(self._tick + k) % _BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._tick = tick
