"""Sliding window counter: the last window counts with the share of it that still lies in the period.

With e the part of the current window that has passed, q tokens are granted if

    previous · (1 − e) + current + q ≤ limit          (Cloudflare, "How we built rate limiting", 2017)

Computed in whole numbers: e in steps of a millionth of the period, or of a microsecond.
"""

from __future__ import annotations

from aresilience.limiter.algorithm import State
from aresilience.limiter.rate import MICROS, Rate

__all__ = ["SlidingWindow"]


class SlidingWindow:
    """State: (number of the last window, tokens of the one before it, tokens in it)."""

    __slots__ = ("capacity", "rate", "step", "steps")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.limit
        self.step = max(1, rate.period // MICROS)
        self.steps = rate.period // self.step

    def earliest(self, state: State, now: int, cost: int) -> int:
        window, previous, current = self._at(state, now)
        start = max(now, window * self.rate.period)
        if current + cost > self.rate.limit:  # not in this window: in the next, this is the previous
            window, previous, current = window + 1, current, 0
            start = window * self.rate.period
        free = self.rate.limit - current - cost
        if previous <= free:
            return start
        # previous · (steps − e) ≤ free · steps
        passed = self.steps - free * self.steps // previous
        return max(start, window * self.rate.period + passed * self.step)

    def take(self, state: State, at: int, cost: int) -> State:
        window, previous, current = self._at(state, at)
        return window, previous, current + cost

    def give_back(self, state: State, now: int, cost: int, at: int) -> State:
        """Out of the window that it was granted in, if that still counts."""
        if state is None:
            return None
        window, previous, current = state
        granted = at // self.rate.period
        if granted == window:
            return window, previous, max(0, current - cost)
        if granted == window - 1:
            return window, max(0, previous - cost), current
        return state

    def view(self, state: State, now: int) -> tuple[int, int]:
        window, previous, current = self._at(state, now)
        if previous == 0 and current == 0:
            return self.capacity, 0
        period = self.rate.period
        ends = (window + (2 if current else 1)) * period
        if window > now // period:
            return 0, ends - now
        passed = (now - window * period) // self.step
        weighed = -(-previous * (self.steps - passed) // self.steps)
        return max(0, self.rate.limit - current - weighed), ends - now

    def _at(self, state: State, now: int) -> tuple[int, int, int]:
        window = now // self.rate.period
        if state is None or state[0] < window - 1:
            return window, 0, 0
        if state[0] == window - 1:
            return window, state[2], 0
        return state[0], state[1], state[2]
