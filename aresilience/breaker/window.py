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

__all__ = ["CallCounts", "Counts", "Rates", "StreakCounts", "TimeCounts", "Window"]

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

    def seen(self, now: float | None) -> tuple[int, int, int]:
        """Calls, failures, slow calls, as of now, or (None) of the last result. Changes nothing."""


class StreakCounts:
    """Opens on `threshold` failures in a row."""

    __slots__ = ("_failures", "_threshold", "spotless")

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0
        self.spotless = True

    def begin(self, now: float) -> int:
        return 0

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool:
        self._failures = self._failures + 1 if failed else 0
        self.spotless = self._failures == 0
        return self._failures >= self._threshold

    def clear(self) -> None:
        self._failures = 0
        self.spotless = True

    def seen(self, now: float | None) -> tuple[int, int, int]:
        return 0, self._failures, 0  # a streak does not know how many calls there were


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

    __slots__ = ("_calls", "_failures", "_next", "_rates", "_ring", "_slow", "spotless")

    def __init__(self, size: int, rates: Rates) -> None:
        self._rates = rates
        self._ring = bytearray(size)
        self.clear()

    def clear(self) -> None:
        self._ring[:] = bytes(len(self._ring))
        self._next = self._calls = self._failures = self._slow = 0
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
            self._calls += 1
        self._failures += (new & _FAILED) - (old & _FAILED)
        self._slow += ((new & _SLOW) - (old & _SLOW)) // _SLOW
        self.spotless = self._calls == len(ring) and not self._failures and not self._slow
        return self._rates.exceeded(self._calls, self._failures, self._slow)

    def seen(self, now: float | None) -> tuple[int, int, int]:
        return self._calls, self._failures, self._slow


class TimeCounts:
    """The calls that began in the last `seconds`: ten buckets, each a tenth of it."""

    __slots__ = ("_buckets", "_calls", "_failures", "_rates", "_slow", "_tick", "_width", "spotless")

    def __init__(self, seconds: float, rates: Rates) -> None:
        self._rates = rates
        self._width = seconds / _BUCKETS
        self.spotless = False  # every success counts in a rate over time
        self.clear()

    def clear(self) -> None:
        self._tick = -1
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]
        self._calls = self._failures = self._slow = 0

    def begin(self, now: float) -> int:
        return int(now / self._width)

    def add(self, token: int, now: float, *, failed: bool, slow: bool) -> bool:
        tick = int(now / self._width)
        if tick != self._tick:
            self._roll(tick)
        if token > tick:
            token = tick  # it began before the clock went back: it stays in the newest bucket
        if token > tick - _BUCKETS:
            bucket = self._buckets[token % _BUCKETS]
            bucket[0] += 1
            self._calls += 1
            if failed:
                bucket[1] += 1
                self._failures += 1
            if slow:
                bucket[2] += 1
                self._slow += 1
        if not (self._failures or self._slow):
            return False
        return self._rates.exceeded(self._calls, self._failures, self._slow)

    def seen(self, now: float | None) -> tuple[int, int, int]:
        passed = 0 if now is None else max(0, int(now / self._width) - self._tick)
        kept = [self._buckets[(self._tick - age) % _BUCKETS] for age in range(_BUCKETS - passed)]
        return sum(b[0] for b in kept), sum(b[1] for b in kept), sum(b[2] for b in kept)

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
