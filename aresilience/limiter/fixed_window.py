"""Fixed window: so many in each period of the clock.

The state is the last window that anything was granted in, and how much; a window yet to come holds
reservations. Around an edge up to 2 · limit may be granted within one period: that is its nature.
"""

from __future__ import annotations

from aresilience.limiter.algorithm import State
from aresilience.limiter.rate import Rate

__all__ = ["FixedWindow"]


class FixedWindow:
    """State: (number of the window, tokens granted in it)."""

    __slots__ = ("capacity", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.limit

    def earliest(self, state: State, now: int, cost: int) -> int:
        window, used = self._at(state, now)
        if used + cost > self.rate.limit:
            window += 1
        return max(now, window * self.rate.period)

    def take(self, state: State, at: int, cost: int) -> State:
        window, used = self._at(state, at)
        return window, used + cost

    def give_back(self, state: State, now: int, cost: int, at: int) -> State:
        """Only while the window that it was granted in is the last one: a late return is nobody's."""
        if state is None or state[0] != at // self.rate.period:
            return state
        return state[0], max(0, state[1] - cost)

    def view(self, state: State, now: int) -> tuple[int, int]:
        window, used = self._at(state, now)
        if used == 0:
            return self.capacity, 0
        ahead = window > now // self.rate.period
        left = 0 if ahead else max(0, self.rate.limit - used)
        return left, (window + 1) * self.rate.period - now

    def _at(self, state: State, now: int) -> tuple[int, int]:
        window = now // self.rate.period
        if state is None or state[0] < window:
            return window, 0
        return state[0], state[1]
