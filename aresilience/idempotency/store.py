"""Where records live: five atomic verbs, and a way to be woken.

The contract:

- Each verb happens at once or not at all, as `record` says, by the store's own clock.
- `claim` answers, and takes, in one step.
- `settle` and `renew` change only what the token's owner has; `settle` says False if that is somebody else's
  by now. All can be repeated: who does not know whether a verb happened, because it was cancelled or no answer
  came, may ask again with the same token, or take a claim back.
- `watch` is made before the claim after which one waits. It is told of every end (completed, released,
  abandoned) that comes after a claim of somebody else's was answered RUNNING; what is told is a hint, can
  come for nothing, and can be late by seconds where a connection was lost.
- A record is kept for as long as it was told to, whether or not anybody is there: an abandoned one too.
- Failures are the three kinds of `BackendError`; nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from aresilience.backend.leases import Confirmation, Kept
from aresilience.errors import BackendError
from aresilience.idempotency.record import Ask, Ending, Standing, Work

__all__ = ["IdempotencyStore", "Lease", "Watch", "Watches"]


class Watch:
    """Who waits for news of one record, in this process."""

    __slots__ = ("_end", "_waiters", "pulses")

    def __init__(self) -> None:
        self.pulses = 0
        """News so far."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._end: Callable[[], None] | None = None

    def pulse(self) -> None:
        """There may be news."""
        self.pulses += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, seen: int, seconds: float) -> None:
        """Until there is news after `seen`, or the time is up."""
        if self.pulses != seen:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiters.discard(waiter)


class Watches:
    """The watches of a store: one for each record that somebody waits for, begun by `listen`."""

    __slots__ = ("_each", "_listen")

    def __init__(self, listen: Callable[[str, Watch], Callable[[], None]] | None = None) -> None:
        self._each: dict[str, tuple[Watch, Callable[[], None] | None, list[None]]] = {}
        self._listen = listen

    def begin(self, ident: str) -> Watch:
        """The watch of a record; `end` it as often."""
        found = self._each.get(ident)
        if found is None:
            watch = Watch()
            end = None if self._listen is None else self._listen(ident, watch)
            found = self._each[ident] = (watch, end, [])
        found[2].append(None)
        return found[0]

    def end(self, ident: str) -> None:
        """One waits no longer."""
        watch_end_users = self._each.get(ident)
        if watch_end_users is None:
            return
        _, end, users = watch_end_users
        users.pop()
        if not users:
            del self._each[ident]
            if end is not None:
                end()

    def seen(self, ident: str) -> int:
        """How much news there was of a record so far, as far as anybody here listens."""
        found = self._each.get(ident)
        return 0 if found is None else found[0].pulses

    def pulse(self, ident: str) -> None:
        """There is news of a record."""
        found = self._each.get(ident)
        if found is not None:
            found[0].pulse()

    def __len__(self) -> int:
        return len(self._each)


class Lease(Kept):
    """The lease of one claim, renewed by the backend's keeper."""

    __slots__ = ("id", "keep", "lost", "micros", "token")

    def __init__(self, store: IdempotencyStore, ident: str, token: str, ttl: float, keep: int) -> None:
        super().__init__(store, ttl)
        self.id = ident
        self.token = token
        self.micros = round(ttl * 1e6)
        self.keep = keep
        self.lost: str | None = None
        """Why it is not ours any more, or may not be."""

    def on_lost(self, why: str) -> None:
        self.lost = why


class IdempotencyStore(Protocol):
    """The records of one name. `ident` is the digest of a user's key."""

    watches: Watches

    async def claim(self, ident: str, ask: Ask) -> Standing:
        """Take the work, or learn how it stands."""

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Confirmation | BackendError | None]:
        """Go on having it, many at once."""

    async def settle(self, ident: str, work: Work, ending: Ending, value: bytes, ttl: int) -> bool:
        """End it, and wake who waits. `ttl`: how long the result is kept, in microseconds."""

    async def look(self, ident: str) -> Standing:
        """How it stands."""

    async def forget(self, ident: str) -> bool:
        """Remove a record, whatever it says; whether there was one."""

    async def open_ids(self) -> Sequence[str]:
        """The ids of what is running or abandoned; some may be done by now."""
