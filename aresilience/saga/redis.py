"""Journals on Redis: one script call for all that the sagas of this process write in a turn of the loop.

| when Redis                    | begin               | append, by an owner             | claim, load, change  |
|-------------------------------|---------------------|---------------------------------|----------------------|
| cannot be reached (`NotSent`) | raises              | again, until the lease is lost  | raises               |
| says no (`Refused`)           | raises              | again, until the lease is lost  | raises               |
| does not answer in time       | again, by its token | again: a fact is there once     | raises               |
| has lost the journal          | `CorruptState`      | the owner stops, `CorruptState` | `CorruptState`       |

A journal is a hash, without a TTL while the saga is open. What the server loses in a crash is what its
persistence allows: with `appendfsync always` nothing that was confirmed; with `everysec` up to a second or
two, in which an intent is lost whose act has happened; without persistence everything.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from zlib import crc32

from aresilience.backend.leases import Confirmation
from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument
from aresilience.errors import BackendError
from aresilience.saga.record import ENDED, OPEN, WAITING, Entry, SagaState
from aresilience.saga.rides import Ride, fields_of, flat, found_in, text
from aresilience.saga.store import Claim, Found, HasClaim, Head, Told, Wake, Write

__all__ = ["RedisSagaStore"]

_SCRIPT = Script.beside("aresilience.saga", "saga.lua")
_BEGIN, _APPEND, _CLAIM, _LOAD, _CHANGE, _ABORT, _RENEW, _HAND_OVER, _DUE = range(9)
_PARTS = 16
"""Slots of a cluster over which the sagas of a definition are spread, each with its own sets of ids."""
_PAGE = 200

_log = logging.getLogger("aresilience")


class RedisSagaStore:
    """Journals on a Redis backend, by the server's clock."""

    def __init__(self, backend: RedisBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self.keeper = backend.keeper
        self._watchers: dict[bytes, list[Wake]] = {}
        self._sets = [
            tuple(
                backend.key(f"saga-{kind}", name, tag=_tag(part)) for kind in ("open", "waiting", "ended")
            )
            for part in range(_PARTS)
        ]
        news = backend.key("saga", name).decode().removeprefix(f"{backend.prefix}:")
        self._head: tuple[Argument, ...] = (backend.channel(news),)
        self._warned = False
        backend.when_open(lambda: backend.listen(news, self._heard, self._resync))

    async def begin(self, head: Head, entries: Sequence[Entry], token: str, ttl: int) -> Claim | Found:
        self._warn()
        facts = (head.version, head.fingerprint, head.input, head.deadline, token, ttl)
        ride = self._ride(_BEGIN, head.id, *facts, *flat(entries))
        said = await ride.future
        if said[0] == 0:
            return found_in(said[1], said[2])
        found = Found(head, SagaState.RUNNING, tuple(entries), said[1], said[1], len(entries), ttl, 0)
        return Claim(said[2], token, ride.sent, found)

    async def append(self, write: Write) -> Told | None:
        facts = (write.fence, write.state.value, write.keep, int(write.progress), write.after)
        said = await self._ride(_APPEND, write.id, *facts, *flat(write.entries)).future
        return Told(said[2].decode() or None, said[1], said[0] == 2) if said[0] else None

    async def claim(self, id: str, version: int, token: str, ttl: int) -> Claim | None:
        ride = self._ride(_CLAIM, id, version, token, ttl, undo=token)
        said = await ride.future
        if said[0] == 0:
            return None
        fields = fields_of(said[2])
        return Claim(int(fields[b"f"]), token, ride.sent, found_in(said[1], said[2]))

    async def due(self, limit: int, skip: int = 0) -> Sequence[str]:
        self._warn()
        rides = [self._ride(_DUE, "", limit + skip, 0, self._longest, part=part) for part in range(_PARTS)]
        found: list[str] = []
        for ride in rides:
            found += [text(id_) for id_ in await ride.future]
        return found[skip : skip + limit]

    async def load(self, id: str) -> Found | None:
        said = await self._ride(_LOAD, id).future
        return found_in(said[1], said[2]) if said[0] else None

    async def change(
        self, id: str, length: int, entries: Sequence[Entry], state: SagaState, keep: int
    ) -> bool:
        return bool(await self._ride(_CHANGE, id, length, state.value, keep, *flat(entries)).future)

    async def abort(self, id: str, reason: str) -> bool:
        return bool(await self._ride(_ABORT, id, reason.encode("utf-8", "replace")).future)

    async def ids(self, states: Sequence[SagaState]) -> AsyncIterator[str]:
        wanted = [bool(set(states) & kind) for kind in (OPEN, WAITING, ENDED)]
        for sets in self._sets:
            for key in (key for key, want in zip(sets, wanted, strict=True) if want):
                cursor: Any = b"0"
                while True:
                    cursor, page = await self._backend.command(
                        "ZSCAN", key, cursor, "COUNT", _PAGE, key=key
                    )
                    for member in page[::2]:
                        yield text(member)
                    if int(cursor) == 0:
                        break

    async def renew(self, leases: Sequence[HasClaim]) -> Sequence[Confirmation | BackendError | None]:
        rides = [self._ride(_RENEW, each.id, each.fence, round(each.ttl * 1e6)) for each in leases]
        answers: list[Confirmation | BackendError | None] = []
        for ride in rides:
            try:
                answers.append(Confirmation(ride.sent) if await ride.future else None)
            except BackendError as error:
                answers.append(error)
        return answers

    def hand_over_later(self, id: str, token: str) -> None:
        if self._backend.is_open:
            future = self._ride(_HAND_OVER, id, token, must=True).future
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def watch(self, id: str, wake: Wake) -> Callable[[], None]:
        key = self._key(id) if id else b""
        self._watchers.setdefault(key, []).append(wake)

        def end() -> None:
            wakes = self._watchers.get(key, [])
            if wake in wakes:
                wakes.remove(wake)
            if not wakes:
                self._watchers.pop(key, None)

        return end

    _longest = 3_600_000_000
    """Microseconds: a lease that ends later than this was written before the server's clock went back."""

    def _warn(self) -> None:
        """Once, when the first journal is written: an evicting server loses open sagas."""
        policy = self._backend.health.maxmemory_policy
        if not self._warned and policy is not None:
            self._warned = True
            if policy.startswith(
                "allkeys"
            ):  # journals of open sagas have no TTL, so volatile-* spares them
                _log.warning(
                    "saga %r: Redis may evict the journals of open sagas (maxmemory-policy %s): use noeviction",
                    self._name,
                    policy,
                )

    def _key(self, id: str) -> bytes:
        return self._backend.key("saga", self._name, id, tag=_tag(_part_of(id)))

    def _ride(
        self,
        verb: int,
        id: str,
        *args: Argument,
        part: int = -1,
        must: bool = False,
        undo: str | None = None,
    ) -> Ride:
        sets = self._sets[_part_of(id) if part < 0 else part]
        keys = (sets[0] if part >= 0 else self._key(id), *sets)
        words = (len(args) + 2, verb, id.encode("utf-8", "surrogatepass"), *args)
        ride = Ride(self, keys, words, must, (id, undo) if undo else None)
        self._backend.join(_SCRIPT, ride, self._head)
        return ride

    def _heard(self, message: bytes) -> None:
        wakes = [*self._watchers.get(message[1:], ())]
        if message[:1] == b"+":
            wakes += self._watchers.get(b"", ())
        for wake in wakes:
            wake()

    def _resync(self) -> None:
        for wakes in list(self._watchers.values()):
            for wake in list(wakes):
                wake()


def _part_of(id: str) -> int:
    return crc32(id.encode("utf-8", "surrogatepass")) % _PARTS


def _tag(part: int) -> str:
    return f"saga{part}"
