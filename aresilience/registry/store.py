"""Where registrations live: four atomic verbs, a push, and a list of names.

The contract:

- `register` puts an instance in place for `ttl` seconds; with the same token again it changes the value, and
  nothing else. A place that somebody else holds is taken only with `takeover`.
- `renew` answers for each beat: whether it is (still) registered; or the `BackendError` that it met.
  `withdraw` and `renew` touch nothing that belongs to another token.
- `changes` lists what has changed since a revision, in order, in parts; it ends first whose time is over, at
  a cost that grows with how many those are.
- `listen` tells of changes as they happen, if it can: a `Told` that follows on the revision that the
  listener has may be applied at once; None, a gap in the revisions, or no word at all mean: ask `changes`.
- Every verb is safe to repeat. Failures are the three kinds of `BackendError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aresilience.errors import BackendError
from aresilience.registry.machine import Change, Changes, Place

__all__ = ["Beat", "OnChange", "RegistryStore", "Told"]


@dataclass(frozen=True, slots=True)
class Beat:
    """Who is to live for another `ttl` seconds."""

    service: str
    id: str
    token: str
    ttl: float


@dataclass(frozen=True, slots=True)
class Told:
    """A change, and the revision that it follows."""

    before: int
    change: Change


OnChange = Callable[[Told | None], None]


class RegistryStore(Protocol):
    """Instances of services."""

    async def register(self, beat: Beat, value: bytes, *, takeover: bool) -> Place: ...

    async def renew(self, beats: Sequence[Beat]) -> Sequence[bool | BackendError]: ...

    async def withdraw(self, service: str, who: str, token: str) -> bool: ...

    async def changes(self, service: str, since: int, base: int, most: int) -> Changes: ...

    async def announce(self, services: Sequence[str]) -> None:
        """Have the names of services remembered for a day: for people who look around."""

    async def names(self) -> tuple[str, ...]:
        """The names that were announced in the last day."""

    def listen(self, service: str, on_change: OnChange) -> Callable[[], None]:
        """Start listening; the function returned ends it."""

    @property
    def ready(self) -> bool:
        """Whether there is any sense in asking: False for a backend that is not open."""
