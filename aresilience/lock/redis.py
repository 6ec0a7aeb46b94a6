"""Leases in Redis: one script call for all that is asked for in a turn of the loop, renewals included.

| when Redis                    | acquire, take           | renew                   | release            |
|-------------------------------|-------------------------|-------------------------|--------------------|
| cannot be reached (`NotSent`) | raises                  | again, until it is lost | raises; by its ttl |
| says no (`Refused`)           | raises                  | again, until it is lost | raises; by its ttl |
| does not answer in time       | is released, and raises | again, until it is lost | raises; by its ttl |
| has lost the key              |                         | lost                    | `LockLost`         |

Who is cancelled while the answer is on its way gets what was granted released when it comes. The fence is the
higher of the last one and the server's time in microseconds: it rises after a flush, an eviction or a
failover too, unless the clock of the server that goes on is behind by more than that took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any
from zlib import crc32

from aresilience.backend.leases import Answer, Confirmation, Keeper
from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument, Batch
from aresilience.errors import BackendError, ConfigurationError
from aresilience.lock.machine import Ask, Busy, Holder, Kind
from aresilience.lock.store import Grant, HasAsk, Uncut, Wake

__all__ = ["RedisLeaseStore"]

_SCRIPT = Script.beside("aresilience.lock", "lease.lua")
_NUMBERS = Struct("<9d")
_ACQUIRE, _RENEW, _RELEASE, _TAKE, _TELL, _LOOK = range(6)
_PATIENCE = 0.1
"""The longest wait for replicas, in seconds: all else on the connection waits behind it."""
_TAGS = 128
"""Names share so many slots of a cluster: as many fences, and no more calls to renew whatever is held."""


class RedisLeaseStore:
    """Grants on a Redis backend, by the server's clock."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self.keeper = backend.keeper

    def acquire(self, ask: Ask, waits: bool) -> asyncio.Future[Grant | Busy]:
        return self._ride(_Asking(self, ask, _ACQUIRE, waits))

    async def take(self, ask: Ask) -> Grant:
        granted: Grant = await self._ride(_Asking(self, ask, _TAKE, False))
        return granted

    async def renew(self, leases: Sequence[HasAsk]) -> Sequence[Answer | asyncio.Future[Answer]]:
        return [self._ride(_Renewing(self, lease.ask, _RENEW)) for lease in leases]

    def release(self, ask: Ask) -> asyncio.Future[int]:
        return self._ride(_Asked(self, ask, _RELEASE, must=True))

    async def tell(self, ask: Ask) -> bool:
        return bool(await self._ride(_Asked(self, ask, _TELL)))

    async def holders(self, ask: Ask) -> Sequence[Holder]:
        found = await self._ride(_Asked(self, ask, _LOOK))
        return [
            Holder(owner.decode("utf-8", "replace"), fence, since / 1e6, left / 1e6)
            for owner, fence, since, left in found
        ]

    async def replicated(self, ask: Ask, replicas: int) -> int:
        patience = max(1, round(min(_PATIENCE, self._backend.deadline / 2) * 1000))
        said = await self._backend.command("WAIT", replicas, patience, key=self.keys(ask)[0])
        return int(said)

    def release_later(self, ask: Ask) -> None:
        if self._backend.is_open:
            self.release(ask).add_done_callback(lambda done: done.cancelled() or done.exception())

    def watch(self, ask: Ask, wake: Wake) -> Callable[[], None]:
        ends = []
        for channel in self._ones(ask):
            name = channel.decode().removeprefix(f"{self._backend.prefix}:")
            ends.append(self._backend.listen(name, lambda said: wake(said.decode()), lambda: wake("")))

        def end() -> None:
            for each in ends:
                each()

        return end

    def keys(self, ask: Ask) -> list[bytes]:
        """All keys of an ask: two for each name of a plain lock, six for what is shared or queued for."""
        found: Any = ask.keys
        if found is None:
            found = ask.keys = self._named(ask)
        return found  # type: ignore[no-any-return]

    def per_name(self, ask: Ask) -> int:
        """How many of the keys belong to one name."""
        return 2 if ask.kind is Kind.LOCK and not ask.place else 6

    def _ones(self, ask: Ask) -> list[bytes]:
        return self.keys(ask)[:: self.per_name(ask)]

    def _named(self, ask: Ask) -> list[bytes]:
        many = self.per_name(ask) == 6
        keys: list[bytes] = []
        for name in ask.names:
            tag = ask.group
            if tag is None:
                tag = f"l{crc32(name.encode('utf-8', 'surrogatepass')) % _TAGS}"
            one = self._backend.key(ask.room, name, tag=tag)
            keys += (one, self._backend.key("fence", tag=tag))
            if many:
                keys += (one + b":many", one + b":facts", one + b":queue", one + b":places")
        if len(ask.names) > 1 and len({self._backend.slot(key) for key in keys}) > 1:
            raise ConfigurationError(
                "in a Cluster, names that are locked together need the same group, so that they share a slot: "
                "Lock.all(…, group='…'), and Lock(name, group='…') for each of them alone"
            )
        return keys

    def _ride(self, rider: _Asked) -> asyncio.Future[Any]:
        self._backend.join(_SCRIPT, rider)
        return rider.future


class _Asked:
    """One verb for one ask. `must`: it is sent even if whoever waits for its answer is cancelled."""

    __slots__ = ("_numbers", "_words", "batch", "clock", "future", "keys", "sent", "store")

    batch: Batch

    def __init__(
        self, store: RedisLeaseStore, ask: Ask, verb: int, *, waits: bool = False, must: bool = False
    ) -> None:
        self.store = store
        self.clock: Keeper = store.keeper
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = Uncut(loop=loop) if must else loop.create_future()
        self.sent = 0.0
        keys, per = store.keys(ask), store.per_name(ask)
        if per == 2 and verb in (_RENEW, _RELEASE, _TELL, _LOOK):
            keys, per = keys[::2], 1
        self.keys: Sequence[Argument] = keys
        flags = waits + 2 * ask.loud
        self._numbers = _NUMBERS.pack(
            verb, len(ask.names), per, ask.kind, ask.ttl, ask.delay, ask.place, ask.permits, flags
        )
        text = ask.owner.encode("utf-8", "surrogatepass") if verb in (_ACQUIRE, _TAKE, _TELL) else b""
        self._words: tuple[Argument, ...] = (self._numbers, ask.token, text)

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        """Now it leaves."""
        self.sent = self.clock.now()
        return self._words

    def answer(self, item: Any) -> None:
        if not self.future.done():
            self.future.set_result(item)

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Renewing(_Asked):
    """One that goes on having something."""

    __slots__ = ()

    def answer(self, item: Any) -> None:
        super().answer(Confirmation(self.sent) if item else None)


class _Asking(_Asked):
    """One that takes something."""

    __slots__ = ("_ask",)

    def __init__(self, store: RedisLeaseStore, ask: Ask, verb: int, waits: bool) -> None:
        super().__init__(store, ask, verb, waits=waits)
        self._ask = ask

    def answer(self, item: Any) -> None:
        if not self.future.done():
            granted = item[0] == 1
            busy = None if granted else Busy(item[1], item[2].decode("utf-8", "replace"))
            self.future.set_result(busy or Grant(item[1], self.sent))
        elif self.future.cancelled() and (
            item[0] == 1 or self._ask.place
        ):  # nobody wants any more what it got
            self.store.release_later(self._ask)

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif self.future.cancelled() and self.sent:  # it may have been granted, and whoever asked is gone
            self.store.release_later(self._ask)
