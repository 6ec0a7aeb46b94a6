"""What can be held under a name, and by whom: decided here in memory, and in the same way by `lease.lua`.

            ┌────────────── release, or the end of ttl ──────────────┐
            ▼                                                        │
          free ──(asked, and nobody comes before)──▶ held (token, fence) ──(renew: a new ttl)──┐
            ▲  ▲                                       │  ▲                                    │
            │  └── lock-delay over ── delayed ◀──(ttl)─┘  └────────────────────────────────────┘
            │                                          │
            └───────(release by the same token)────────┘        take: held by another token, at once

A LOCK is held by one. A PERMIT is held by as many as there are permits. A WRITE is held by one, while no READ
is; READs by any number, while no WRITE is held or waited for.

Who waits with a place (`Ask.place`) stands in a queue, first come, first served; a place that is not asked for
again within that time is given up: its owner died. Asking again with the token that holds is answered as the
first time, with the same fence. Times are microseconds; the fence is the caller's, and must rise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = ["Ask", "Busy", "Holder", "Kind", "Record", "Room"]


class Kind(enum.IntEnum):
    """What is asked for."""

    LOCK = 1
    PERMIT = 2
    READ = 3
    WRITE = 4


@dataclass(slots=True)
class Ask:
    """Who asks for what. `token`: whose it will be; nobody else knows it.

    `delay`: for how long nobody gets it after an end without a release. `loud`: tell of every change.
    """

    kind: Kind
    names: tuple[str, ...]
    token: str
    ttl: int
    room: str = "lock"
    group: str | None = None
    delay: int = 0
    place: int = 0
    permits: int = 1
    loud: bool = False
    owner: str = ""
    keys: object = None
    """What a store has found out about the names, once."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Not now. `left`: microseconds until asking again makes sense at the latest; `owner` of what is held."""

    left: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a name: what it said of itself, since how many seconds, and how many are left if it does not
    renew."""

    owner: str
    fence: int
    held_for: float
    expires_in: float


@dataclass(slots=True)
class Record:
    """Whose a name is."""

    token: str
    fence: int
    since: int
    ends: int
    delay: int
    owner: str


@dataclass(slots=True)
class Room:
    """One name."""

    one: Record | None = None
    many: dict[str, Record] = field(default_factory=dict)
    queue: dict[str, int] = field(default_factory=dict)
    """Token to when its place is given up, in order of arrival."""

    def look(self, now: int) -> None:
        """Forget what is over."""
        if self.one is not None and self.one.ends + self.one.delay <= now:
            self.one = None
        for token in [t for t, record in self.many.items() if record.ends <= now]:
            del self.many[token]
        for token in [t for t, ends in self.queue.items() if ends <= now]:
            del self.queue[token]

    @property
    def empty(self) -> bool:
        """Whether it can be forgotten."""
        return self.one is None and not self.many and not self.queue

    def of(self, ask: Ask, now: int) -> Record | None:
        """What the token of `ask` holds."""
        if ask.kind in (Kind.PERMIT, Kind.READ):
            return self.many.get(ask.token)
        mine = self.one is not None and self.one.token == ask.token and self.one.ends > now
        return self.one if mine else None

    def blocks(self, ask: Ask, now: int) -> Busy | None:
        """Why it cannot be had now. To be asked after `look`, and if it is not held already."""
        if ask.kind is not Kind.PERMIT and self.one is not None:
            return Busy(self.one.ends + self.one.delay - now, self.one.owner)
        if ask.kind is Kind.READ:
            return None if not self.queue else Busy(min(self.queue.values()) - now)
        if ask.kind is Kind.WRITE and self.many:
            return self._until_one_leaves(now)
        if ask.kind is not Kind.PERMIT and not ask.place:
            return None
        free = ask.permits - len(self.many) if ask.kind is Kind.PERMIT else 1
        before = list(self.queue).index(ask.token) if ask.token in self.queue else len(self.queue)
        if before < free:
            return None
        return self._until_one_leaves(now) if free <= 0 else Busy(min(self.queue.values()) - now)

    def _until_one_leaves(self, now: int) -> Busy:
        first = min(self.many.values(), key=lambda record: record.ends, default=None)
        return Busy(1 if first is None else first.ends - now, "" if first is None else first.owner)

    def wait(self, ask: Ask, now: int) -> None:
        """Take, or keep, a place in the queue."""
        if ask.place:
            self.queue[ask.token] = now + ask.place

    def grant(self, ask: Ask, fence: int, now: int) -> None:
        """It is theirs from now on."""
        self.queue.pop(ask.token, None)
        record = Record(ask.token, fence, now, now + ask.ttl, ask.delay, ask.owner)
        if ask.kind in (Kind.PERMIT, Kind.READ):
            self.many[ask.token] = record
        else:
            self.one = record

    def release(self, ask: Ask, now: int) -> bool:
        """Whether it was theirs until now; it is not any more, and their place is given up too."""
        self.queue.pop(ask.token, None)
        if ask.kind in (Kind.PERMIT, Kind.READ):
            record = self.many.pop(ask.token, None)
        else:
            record = self.one if self.one is not None and self.one.token == ask.token else None
            self.one = None if record is not None else self.one
        return record is not None and record.ends > now
