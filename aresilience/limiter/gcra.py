"""GCRA, the token bucket as one number (ITU-T I.371; also redis-cell).

The state is the theoretical arrival time, TAT: when the bucket would be full again. With T = period/limit
the time for one token and τ = burst · T the depth of the bucket, q tokens are granted at the earliest t
for which

    max(TAT, t) + q·T ≤ t + τ          then TAT becomes max(TAT, t) + q·T

T need not be whole, so TAT is kept in units of 1/scale microseconds, where T is `step` units: limit and
period without their common divisor. For most rates the scale is 1.
In any window w at most burst + limit·w/period tokens are granted.
"""

from __future__ import annotations

from math import gcd

from aresilience.limiter.algorithm import State
from aresilience.limiter.rate import Rate

__all__ = ["Gcra"]


class Gcra:
    """State: TAT · scale."""

    __slots__ = ("capacity", "depth", "rate", "scale", "step")

    def __init__(self, rate: Rate, burst: int) -> None:
        common = gcd(rate.limit, rate.period)
        self.rate = rate
        self.capacity = burst
        self.scale = rate.limit // common
        self.step = rate.period // common
        self.depth = burst * self.step

    def earliest(self, state: State, now: int, cost: int) -> int:
        full = self._full(state, now)
        # Rounded up to the microsecond at which the tokens are surely there.
        return max(now, -((self.depth - full - cost * self.step) // self.scale))

    def take(self, state: State, at: int, cost: int) -> State:
        return self._full(state, at) + cost * self.step

    def give_back(self, state: State, now: int, cost: int, at: int) -> State:
        """Those who reserved after us keep their times, so what lies between stays taken (x/time/rate)."""
        if state is None:
            return None
        last = state - self.depth  # when the last reservation is due, if that is still to come
        others = max(0, last - max(at, now) * self.scale)
        return max(now * self.scale, state - max(0, cost * self.step - others))

    def _full(self, state: State, at: int) -> int:
        """When the bucket is full, as seen at `at`. Less than a microsecond ago is now: times are rounded up to
        whole ones, and what the rounding lost would be lost with every token."""
        units = at * self.scale
        return state if state is not None and state > units - self.scale else units

    def view(self, state: State, now: int) -> tuple[int, int]:
        backlog = 0 if state is None else state - now * self.scale
        if backlog <= 0:
            return self.capacity, 0
        left = (self.depth - backlog) // self.step
        return left if left > 0 else 0, -(-backlog // self.scale)
