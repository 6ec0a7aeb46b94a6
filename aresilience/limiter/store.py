"""Where tokens are counted: four atomic verbs.

The contract:

- An `Ask` is a list of parts (meter, key, cost) that are granted together or not at all. All parts see
  one `now`, the store's own clock: nobody else's time ever counts.
- `acquire` grants at the earliest time at which every part allows it, if that is at most `max_wait`
  microseconds away, and changes nothing otherwise. A grant in the future is a reservation: it counts from
  now on, and later askers come after it.
- A store may have a shorter way for those who do not wait: `decide`, an `acquire` that answers with a decision.
- `give_back` returns what `acquire` granted, as far as that is still of use to others; it never makes a key
  hold more than its capacity. `charge` takes without asking, and may leave a key in debt.
- A key that nobody has used is full; a key that is full again may be forgotten, any other may not: a
  forgotten key would be a free refill.
- A verb that is cancelled either did nothing or gives back what it took.
- Failures are the three kinds of `BackendError`; nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol, TypeAlias

from aresilience.limiter.algorithm import Algorithm

__all__ = ["Ask", "Grant", "LimiterStore", "Meter", "Part"]


class Meter:
    """One rate of one limiter: its name, by which stores keep it, and its algorithm as of now."""

    __slots__ = ("algorithm", "name")

    def __init__(self, name: str, algorithm: Algorithm) -> None:
        self.name = name
        self.algorithm = algorithm


Part: TypeAlias = tuple[Meter, str, int]
"""A meter, a key and a cost."""
Ask: TypeAlias = tuple[Part, ...]


class Grant(NamedTuple):
    """The answer to an `Ask`. `at` is the (earliest possible) time of the grant, `now` the store's time, in
    microseconds; `views` what each part has left, (tokens, microseconds until full), after it."""

    allowed: bool
    now: int
    at: int
    views: tuple[tuple[int, int], ...]


class LimiterStore(Protocol):
    """Counts tokens."""

    def acquire(self, ask: Ask, max_wait: int) -> Awaitable[Grant]: ...

    async def give_back(self, ask: Ask, at: int) -> None: ...

    async def charge(self, ask: Ask) -> None: ...

    async def peek(self, ask: Ask) -> Grant: ...

    def return_later(self, ask: Ask, at: int) -> None:
        """`give_back` by somebody who cannot wait for it, being cancelled: the store sees to it."""

    def one_slot(self, ask: Ask) -> bool:
        """Whether all parts can be decided at once."""
