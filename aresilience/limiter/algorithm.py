"""What the four limiting machines have in common.

A machine decides for one rate and one key. It is told the time, in whole microseconds, and answers with
whole numbers, so that Python and Lua agree to the last bit:

    earliest(state, now, cost)   when so many tokens may be had: `now`, or later
    take(state, at, cost)        the state after they were granted at `at`
    give_back(state, now, cost, at)    the state after tokens granted at `at` were returned
    view(state, now)             tokens to be had at once, and microseconds until all are back

`state` is None for a key that nobody has used; a grant at a later time is a reservation, and whoever comes
after it is granted later still: first come, first served.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeAlias

from aresilience.limiter.rate import Rate

__all__ = ["Algorithm", "State"]

State: TypeAlias = Any
"""Each machine's own; small, immutable, and None at the beginning."""


class Algorithm(Hashable, Protocol):
    """One machine for one rate."""

    rate: Rate
    capacity: int
    """The most that can ever be granted at once."""

    def earliest(self, state: State, now: int, cost: int) -> int: ...

    def take(self, state: State, at: int, cost: int) -> State: ...

    def give_back(self, state: State, now: int, cost: int, at: int) -> State: ...

    def view(self, state: State, now: int) -> tuple[int, int]: ...
