"""Records on Redis: the same machine in Lua, by the server's clock.

| when Redis                     | claim                               | complete, release                     |
|--------------------------------|-------------------------------------|---------------------------------------|
| cannot be reached, or says no  | raises; the shell's policy          | raises; the shell goes on trying      |
| does not answer in time        | raises; the shell takes it back     | raises; the shell tells it again      |
| has lost the record (failover) | the work is nobody's: it runs again | the result is kept all the same       |

Redis replicates later than it answers: a failover can lose a claim that was granted, and then the work runs
twice. What must not happen even then needs `claim.fence` or `claim.downstream_key` at its resource.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aresilience.backend.leases import Confirmation
from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument, Batch
from aresilience.errors import BackendError
from aresilience.idempotency.record import Answer, Ask, Ending, Standing, Work
from aresilience.idempotency.store import Lease, Watch, Watches

__all__ = ["RedisIdempotencyStore"]

_PACKAGE = "aresilience.idempotency"
_CLAIM = Script.beside(_PACKAGE, "claim.lua")
_SETTLE = Script.beside(_PACKAGE, "settle.lua")
_RENEW = Script.beside(_PACKAGE, "renew.lua")
_OPEN = Script.beside(_PACKAGE, "open.lua")
_REMEMBERED = 4096
"""Names of keys that are remembered: each is needed to claim, to renew and to complete."""
_SHARDS = 64
"""Slots of a cluster over which the records of one name are spread, each with a list of what is open."""


class RedisIdempotencyStore:
    """The records of one name on a Redis backend."""

    __slots__ = ("_backend", "_known", "_lists", "_name", "_time", "watches")

    def __init__(self, backend: RedisBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._time = 0
        self._known: dict[str, tuple[bytes, bytes]] = {}
        self._lists = [backend.key("idem-open", name, tag=f"{name}.{shard}") for shard in range(_SHARDS)]
        self.watches = Watches(self._listen)

    def set_time(self, micros: int) -> None:
        """For tests: the server's time, instead of its clock (0)."""
        self._time = micros

    async def claim(self, ident: str, ask: Ask) -> Standing:
        args = (ask.token, ask.fingerprint, ask.lease, ask.keep, int(ask.takeover), ident)
        return _standing(await self._backend.run(_CLAIM, self._keys(ident), (self._time, *args)))

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Confirmation | BackendError | None]:
        sent = self._backend.keeper.now()
        riders = [_Renewal(self._keys(lease.id), lease, sent) for lease in leases]
        for rider in riders:
            self._backend.join(_RENEW, rider, (self._time,))
        await asyncio.wait([rider.future for rider in riders])
        return [rider.future.result() for rider in riders]

    async def settle(self, ident: str, work: Work, ending: Ending, value: bytes, ttl: int) -> bool:
        if not work.token:
            raise ValueError("a settlement needs its owner's token")
        reply = await self._settle(ident, work, ending.value, value, ttl)
        return bool(reply[0])

    async def look(self, ident: str) -> Standing:
        return _standing(
            await self._backend.run(_CLAIM, self._keys(ident), (self._time, "", "", 0, 0, 0, ident))
        )

    async def forget(self, ident: str) -> bool:
        reply = await self._settle(ident, Work("", "", 0, 0), Ending.RELEASED.value, b"", 0)
        return bool(reply[0])

    async def open_ids(self) -> Sequence[str]:
        found = await asyncio.gather(*(self._backend.run(_OPEN, [place], ()) for place in self._lists))
        return [ident.decode() for ids in found for ident in ids]

    def _settle(
        self, ident: str, work: Work, ending: str, value: bytes, ttl: int
    ) -> asyncio.Future[list[int]]:
        args: tuple[Argument, ...] = (
            *(self._time, work.token, ending, value, ttl),
            *(work.fingerprint, work.fence, work.attempt, ident, self._backend.channel(_channel(ident))),
        )
        return self._backend.run(_SETTLE, self._keys(ident), args)

    def _listen(self, ident: str, watch: Watch) -> Callable[[], None]:
        return self._backend.listen(_channel(ident), lambda _: watch.pulse(), watch.pulse)

    def _keys(self, ident: str) -> tuple[bytes, bytes]:
        """The record, and the list of what is open that it is on."""
        found = self._known.get(ident)
        if found is None:
            shard = int(ident[:2], 16) % _SHARDS
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            record = self._backend.key("idem", ident, tag=f"{self._name}.{shard}")
            found = self._known[ident] = (record, self._lists[shard])
        return found


class _Renewal:
    """One lease in the next renewal."""

    __slots__ = ("_lease", "_sent", "batch", "future", "keys")

    batch: Batch

    def __init__(self, keys: Sequence[Argument], lease: Lease, sent: float) -> None:
        self.keys = keys
        self._lease = lease
        self._sent = sent
        self.future: asyncio.Future[Confirmation | BackendError | None] = (
            asyncio.get_running_loop().create_future()
        )

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        return (self._lease.token, self._lease.micros, self._lease.keep, self._lease.id)

    def answer(self, item: int) -> None:
        if not self.future.done():
            self.future.set_result(Confirmation(self._sent) if item else None)

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_result(error)


def _channel(ident: str) -> str:
    return f"idem:{ident}"


def _standing(reply: list[Any]) -> Standing:
    answer, fence, attempt, age, left, value = reply
    return Standing(Answer(answer), fence, attempt, age, left, value)
