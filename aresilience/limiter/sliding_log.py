"""Sliding log: the exact one. In no period, wherever it begins, are more than `limit` tokens granted.

It pays for that with an entry for each token. The state is the times of the last grants, oldest first.
"""

from __future__ import annotations

from aresilience.limiter.algorithm import State
from aresilience.limiter.rate import Rate

__all__ = ["SlidingLog"]


class SlidingLog:
    """State: a tuple of times, at most `limit` of them."""

    __slots__ = ("capacity", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.limit

    def earliest(self, state: State, now: int, cost: int) -> int:
        times = self._live(state, now)
        if not times:
            return now
        at = max(now, times[-1])  # not before a reservation that came first
        over = len(times) + cost - self.rate.limit
        return at if over <= 0 else max(at, times[over - 1] + self.rate.period)

    def take(self, state: State, at: int, cost: int) -> State:
        return (*self._live(state, at), *[at] * cost)[-self.rate.limit :]

    def give_back(self, state: State, now: int, cost: int, at: int) -> State:
        times = list(state or ())
        for _ in range(min(cost, times.count(at))):
            times.remove(at)
        return tuple(times) or None

    def view(self, state: State, now: int) -> tuple[int, int]:
        times = self._live(state, now)
        if not times:
            return self.capacity, 0
        ahead = times[-1] > now
        left = 0 if ahead else self.rate.limit - len(times)
        return max(0, left), times[-1] + self.rate.period - now

    def _live(self, state: State, now: int) -> tuple[int, ...]:
        gone = now - self.rate.period
        times: tuple[int, ...] = state or ()
        for place, time in enumerate(times):
            if time > gone:
                return times[place:] if place else times
        return ()
