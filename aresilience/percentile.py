"""What most of the last calls took."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from datetime import timedelta
from fractions import Fraction

from aresilience import arguments

__all__ = ["Percentile"]


class Percentile:
    """A delay that follows what calls take: the time within which this share of them answers.

    `fraction` of the last `size` first calls that succeeded, or that a hedge overtook, which count with
    the time that they had taken until then: without them the slow ones would drop out of sight, and
    the delay would sink. Until `minimum_calls` are known the delay is `initial`, or there is no hedge
    if that is None.
    """

    __slots__ = ("_initial", "_last", "_minimum", "_ratio", "_sorted", "fraction")

    def __init__(
        self,
        fraction: float,
        *,
        initial: float | timedelta | None = None,
        minimum_calls: int = 20,
        size: int = 1000,
    ) -> None:
        self.fraction = arguments.fraction("Percentile: fraction", fraction)
        self._ratio = Fraction(str(self.fraction)).as_integer_ratio()
        self._initial = None if initial is None else arguments.duration("Percentile: initial", initial)
        self._minimum = arguments.count("Percentile: minimum_calls", minimum_calls)
        arguments.count("Percentile: size", size, least=self._minimum)
        self._last: deque[float] = deque(maxlen=size)
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """A call answered after so many seconds."""
        if len(self._last) == self._last.maxlen:
            del self._sorted[bisect_left(self._sorted, self._last[0])]
        self._last.append(seconds)
        insort(self._sorted, seconds)

    def delay(self) -> float | None:
        """Seconds to wait before a hedge, or None for no hedge. (Nearest rank.)"""
        known = len(self._sorted)
        if known < self._minimum:
            return self._initial
        share, whole = self._ratio  # as written: the float 0.55 · 100 is more than 55
        rank = -(-share * known // whole)  # rounded up
        return self._sorted[rank - 1]

    def __repr__(self) -> str:
        return f"Percentile({self.fraction:g}: {self.delay()} s from {len(self._sorted)} calls)"
