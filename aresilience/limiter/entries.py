"""What the script is asked and what it answers: an ask as numbers, and the numbers as a grant."""

from __future__ import annotations

from struct import Struct

from aresilience.limiter.algorithm import Algorithm
from aresilience.limiter.fixed_window import FixedWindow
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.sliding_log import SlidingLog
from aresilience.limiter.sliding_window import SlidingWindow
from aresilience.limiter.store import Ask, Grant

__all__ = ["ACQUIRE", "CHARGE", "ENTRY", "GIVE_BACK", "ROW", "RUN", "grant_of", "numbers"]

ACQUIRE, GIVE_BACK, CHARGE, RUN = range(4)
ENTRY = Struct("<4d")
"""Mode, count, time, number of parts."""
ROW = Struct("<3q")
"""Of each key of a run: how many were granted, and its state, whole and rest."""
_PART = Struct("<7d")


def numbers(algorithm: Algorithm, cost: int) -> bytes:
    """What the script needs to know of an algorithm."""
    rate = algorithm.rate
    if isinstance(algorithm, Gcra):
        step = divmod(cost * algorithm.step, algorithm.scale)
        depth = divmod(algorithm.depth, algorithm.scale)
        return _PART.pack(1, cost, algorithm.scale, *step, *depth)
    if isinstance(algorithm, FixedWindow):
        return _PART.pack(2, cost, rate.limit, rate.period, 0, 0, 0)
    if isinstance(algorithm, SlidingWindow):
        return _PART.pack(3, cost, rate.limit, rate.period, algorithm.step, algorithm.steps, 0)
    if isinstance(algorithm, SlidingLog):
        return _PART.pack(4, cost, rate.limit, rate.period, 0, 0, 0)
    raise TypeError(f"no script for {type(algorithm).__name__}")


def grant_of(ask: Ask, item: list[int], allowed: bool) -> Grant:
    """The grant that an item of the reply is, for those who were granted theirs, or for those who were not."""
    now, at = item[1], item[2]
    if allowed and at > now and item[0] > 1:
        at = now
    if len(ask) == 1:
        views: tuple[tuple[int, int], ...] = (_view(ask[0][0].algorithm, item[3], item[4], item[5], now),)
    else:
        views = tuple(
            _view(part[0].algorithm, item[place], item[place + 1], item[place + 2], now)
            for place, part in zip(range(3, len(item), 3), ask, strict=True)
        )
    return Grant(allowed, now, at, views)


def _view(algorithm: Algorithm, a: int, b: int, c: int, now: int) -> tuple[int, int]:
    """What is left, from the three numbers of state."""
    if isinstance(algorithm, Gcra):
        return algorithm.view(a * algorithm.scale + b, now)
    if isinstance(algorithm, FixedWindow):
        return algorithm.view((a, b), now)
    if isinstance(algorithm, SlidingWindow):
        return algorithm.view((a, b, c), now)
    if a == 0:
        return algorithm.capacity, 0
    left = 0 if b > now else max(0, algorithm.rate.limit - a)
    return left, b + algorithm.rate.period - now
