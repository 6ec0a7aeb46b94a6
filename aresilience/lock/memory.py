"""Leases in this process: atomic because nothing awaits between reading and writing.

Fences rise for as long as the process lives. A resource that outlives it needs the fences of Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from aresilience.backend.leases import Confirmation, Keeper
from aresilience.clock import LoopClock
from aresilience.errors import Refused
from aresilience.lock.machine import Ask, Busy, Holder, Record, Room
from aresilience.lock.store import Grant, HasAsk, Wake

__all__ = ["MemoryLeaseStore"]

_Key = tuple[str, str | None, str]

_fences = count(1)
"""One source for all stores: a resource that outlives a loop, or a backend, sees them rise all the same."""


class MemoryLeaseStore:
    """The machine, a dict, and the loop's clock; at most `max_keys` names at once."""

    def __init__(self, keeper: Keeper, max_keys: int) -> None:
        self._keeper = keeper
        self._most = max_keys
        self._clock = LoopClock()
        self._rooms: dict[_Key, Room] = {}
        self._watchers: dict[_Key, list[Wake]] = {}

    async def acquire(self, ask: Ask, waits: bool) -> Grant | Busy:
        return self.acquire_now(ask, waits)

    async def release(self, ask: Ask) -> bool:
        return self.release_now(ask)

    async def take(self, ask: Ask) -> Grant:
        now = self._now()
        grant = self._grant(ask, self._opened(ask, now), now)
        self._wake(ask, every=True)  # what they wait for may end earlier than they know
        return grant

    async def renew(self, leases: Sequence[HasAsk]) -> Sequence[Confirmation | None]:
        now = self._now()
        sent = self._keeper.now()
        answers: list[Confirmation | None] = []
        for lease in leases:
            held = self._held(lease.ask, now)
            for record in held or ():
                record.ends = now + lease.ask.ttl
            answers.append(Confirmation(sent) if held else None)
        return answers

    async def tell(self, ask: Ask) -> bool:
        held = self._held(ask, self._now())
        for record in held or ():
            record.owner = ask.owner
        if held:
            self._wake(ask, every=True)
        return bool(held)

    async def holders(self, ask: Ask) -> Sequence[Holder]:
        now = self._now()
        room = self._found(ask, now)[0] or Room()
        records = [*([room.one] if room.one is not None else []), *room.many.values()]
        self._tidy(ask)
        return [
            Holder(r.owner, r.fence, (now - r.since) / 1e6, (r.ends - now) / 1e6)
            for r in records
            if r.ends > now
        ]

    async def replicated(self, ask: Ask, replicas: int) -> int:
        return replicas  # there is nothing that could be lost without us

    def acquire_now(self, ask: Ask, waits: bool) -> Grant | Busy:
        """`acquire`, without a coroutine."""
        now = self._now()
        rooms = self._opened(ask, now)
        mine = [room.of(ask, now) for room in rooms]
        if all(mine):
            for record in mine:
                assert record is not None
                record.ends = now + ask.ttl
            return Grant(max(record.fence for record in mine if record), self._keeper.now())
        for room, held in zip(rooms, mine, strict=True):
            busy = room.blocks(ask, now) if held is None else None
            if busy is not None:
                if waits:
                    room.wait(ask, now)
                self._tidy(ask)
                return busy
        return self._grant(ask, rooms, now)

    def release_now(self, ask: Ask) -> bool:
        """`release`, without a coroutine."""
        now = self._now()
        ours = [room is not None and room.release(ask, now) for room in self._found(ask, now)]
        self._wake(ask)
        self._tidy(ask)
        return all(ours)

    def release_later(self, ask: Ask) -> None:
        self.release_now(ask)

    def watch(self, ask: Ask, wake: Wake) -> Callable[[], None]:
        for key in _keys(ask):
            self._watchers.setdefault(key, []).append(wake)

        def end() -> None:
            for key in _keys(ask):
                watchers = self._watchers.get(key, [])
                if wake in watchers:
                    watchers.remove(wake)
                if not watchers:
                    self._watchers.pop(key, None)

        return end

    def _now(self) -> int:
        return int(self._clock.read() * 1e6)

    def _opened(self, ask: Ask, now: int) -> list[Room]:
        """All rooms of an ask, for what is to be put there; `Refused` if there is no place for all of them."""
        keys = _keys(ask)
        if len(self._rooms) + len(ask.names) > self._most and self._lacks(keys):
            for key, room in list(self._rooms.items()):
                room.look(now)
                if room.empty:
                    del self._rooms[key]
            if self._lacks(keys):
                raise Refused(
                    f"{self._most} names are held at once: that is max_keys of the memory backend"
                )
        rooms = [self._rooms.setdefault(key, Room()) for key in keys]
        for room in rooms:
            room.look(now)
        return rooms

    def _lacks(self, keys: list[_Key]) -> bool:
        """Whether there is no place for those of them that are not here."""
        return len(self._rooms) + sum(key not in self._rooms for key in keys) > self._most

    def _found(self, ask: Ask, now: int) -> list[Room | None]:
        """The rooms of an ask that are here: to look, or to leave, takes no place."""
        rooms = [self._rooms.get(key) for key in _keys(ask)]
        for room in rooms:
            if room is not None:
                room.look(now)
        return rooms

    def _tidy(self, ask: Ask) -> None:
        for key in _keys(ask):
            room = self._rooms.get(key)
            if room is not None and room.empty:
                del self._rooms[key]

    def _held(self, ask: Ask, now: int) -> list[Record] | None:
        """What the token holds, if it is all that was asked for."""
        held = []
        for room in self._found(ask, now):
            record = None if room is None else room.of(ask, now)
            if record is not None:
                held.append(record)
        self._tidy(ask)
        return held if len(held) == len(ask.names) else None

    def _grant(self, ask: Ask, rooms: list[Room], now: int) -> Grant:
        fence = next(_fences)
        for room in rooms:
            room.grant(ask, fence, now)
        if ask.loud or rooms[0].queue:
            self._wake(ask)  # of several permits another may be free
        return Grant(fence, self._keeper.now())

    def _wake(self, ask: Ask, *, every: bool = False) -> None:
        for key in _keys(ask):
            room = self._rooms.get(key)
            first = "" if every or ask.loud or room is None else next(iter(room.queue), "")
            for wake in list(self._watchers.get(key, ())):
                wake(first)


def _keys(ask: Ask) -> list[_Key]:
    return [(ask.room, ask.group, name) for name in ask.names]
