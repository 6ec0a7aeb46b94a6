"""The machine of a service: who is registered, since when, until when; and what has changed since.

    nobody ──register──▶ LIVE ──renew──▶ LIVE          (by its own token)
                          │ ▲ ──register by another token, who takes over──▶ LIVE, of a new generation
                          │ └──register── (anybody: the place is free)
                          ├──withdraw, by its token──▶ GONE, withdrawn
                          └──its time is over──▶ GONE, expired        (when somebody sweeps)

A registration belongs to a token; who has another one can neither renew nor withdraw it. Every change has a
revision, which is higher than all before it, and close to the store's clock in microseconds: so a store that
has lost its data, or its last seconds, goes on with numbers that nobody has seen. `digest` is the sum of the
revisions of the living: who has followed all changes has the same sum.

What is gone is remembered for those who ask what has changed, the newest first; `floor` is the revision
below which that memory has gaps. All times are whole microseconds. A clock that goes back lengthens no life
beyond the longest that was asked for.

The twin of this is registry.lua: same numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ANYBODY", "EXPIRED", "WITHDRAWN", "Catalogue", "Change", "Changes", "Place"]

ANYBODY = ""
"""The token that fits every registration, for what is done by hand."""
WITHDRAWN, EXPIRED = "withdrawn", "expired"
_SUM = 2**48
_PART = 2**32
_REMEMBERED = 1000
_SWEPT = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """The answer to a registration: whether it is ours now, and the generation that is there."""

    ours: bool
    generation: int


@dataclass(frozen=True, slots=True)
class Change:
    """One instance as it is now: its bytes, or (None) why it is gone."""

    id: str
    generation: int
    revision: int
    value: bytes | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """The answer to a listing. `full`: it began from nothing, what is not in it is not there. `more`: ask
    again, from the last revision in it. `soonest`: microseconds until somebody's time is over, if not
    renewed; -1: nobody is there."""

    full: bool
    more: bool
    revision: int
    digest: int
    soonest: int
    changes: tuple[Change, ...]


@dataclass(slots=True)
class _Live:
    token: str
    generation: int
    revision: int
    ends: int
    value: bytes


class Catalogue:
    """One service. It is made by the first registration, at `now`."""

    __slots__ = ("_ends", "_gone", "_last", "_live", "_longest", "digest", "floor", "revision")

    def __init__(self, now: int) -> None:
        self.revision = self.floor = now
        self.digest = 0
        self._live: dict[str, _Live] = {}  # in the order of their revisions
        self._gone: dict[str, tuple[int, str]] = {}  # the same
        self._ends: list[tuple[int, str]] = []  # a heap; renewals leave old entries in it
        self._longest = 0
        self._last = now

    def __len__(self) -> int:
        return len(self._live)

    def has(self, who: str) -> bool:
        """Whether it is registered, or nobody has swept it away yet."""
        return who in self._live

    def register(self, who: str, token: str, value: bytes, ttl: int, takeover: bool, now: int) -> Place:
        """Be there for `ttl`; with the same token again: with this value. `takeover`: even where somebody
        else is."""
        self._follow(now)
        old = self._live.get(who)
        if old is not None and old.token != token and old.ends > now and not takeover:
            return Place(False, old.generation)
        self._longest = max(self._longest, ttl)
        if old is not None and old.token == token and old.value == value:
            self._lives_until(who, old, now + ttl)
            return Place(True, old.generation)
        revision = self._change(now)
        generation = old.generation if old is not None and old.token == token else revision
        self._gone.pop(who, None)
        self._drop(who)
        live = self._live[who] = _Live(token, generation, revision, 0, value)
        self.digest = (self.digest + revision % _PART) % _SUM
        self._lives_until(who, live, now + ttl)
        return Place(True, generation)

    def renew(self, who: str, token: str, ttl: int, now: int) -> bool:
        """Be there for another `ttl`; False if this token is not registered (any more)."""
        self._follow(now)
        live = self._live.get(who)
        if live is None or token not in (ANYBODY, live.token):
            return False
        self._longest = max(self._longest, ttl)
        self._lives_until(who, live, now + ttl)
        return True

    def withdraw(self, who: str, token: str, now: int) -> bool:
        """Be gone; False if this token is not registered (any more)."""
        self._follow(now)
        live = self._live.get(who)
        if live is None or token not in (ANYBODY, live.token):
            return False
        self._end(who, WITHDRAWN, now)
        self._forget()
        return True

    def list(self, since: int, base: int, most: int, now: int) -> Changes:
        """What has changed after `since`, at most so many changes, after a sweep.

        `base` is what the caller has: his `since`; or, while he reads a full listing in parts, the revision of
        its first part. Where that is too old, or never was, a full listing begins.
        """
        self._follow(now)
        more = self._sweep(now)
        full = not self.floor <= base <= self.revision
        found = sorted(self._since(-1 if full else since, full), key=lambda change: change.revision)
        soonest = -1 if not self._live else max(0, self._first_end() - now)
        if more:
            soonest = 0
        return Changes(full, len(found) > most, self.revision, self.digest, soonest, tuple(found[:most]))

    def _since(self, since: int, full: bool) -> Iterator[Change]:
        for id_, live in reversed(self._live.items()):
            if live.revision <= since:
                break
            yield Change(id_, live.generation, live.revision, live.value)
        if full:
            return
        for id_, (revision, why) in reversed(self._gone.items()):
            if revision <= since:
                break
            yield Change(id_, 0, revision, None, why)

    def _change(self, now: int) -> int:
        self.revision = max(self.revision + 1, now)
        return self.revision

    def _drop(self, who: str) -> None:
        old = self._live.pop(who, None)
        if old is not None:
            self.digest = (self.digest - old.revision % _PART) % _SUM

    def _end(self, who: str, why: str, now: int) -> None:
        self._drop(who)
        self._gone.pop(who, None)
        self._gone[who] = self._change(now), why

    def _forget(self) -> None:
        most = max(_REMEMBERED, len(self._live))
        while len(self._gone) > most:
            oldest = next(iter(self._gone))
            self.floor, _ = self._gone.pop(oldest)

    def _lives_until(self, who: str, live: _Live, ends: int) -> None:
        live.ends = ends
        heapq.heappush(self._ends, (ends, who))
        if len(self._ends) > 64 and len(self._ends) > 4 * len(self._live):
            self._ends = [(each.ends, id_) for id_, each in self._live.items()]
            heapq.heapify(self._ends)

    def _first_end(self) -> int:
        while True:
            ends, id_ = self._ends[0]
            live = self._live.get(id_)
            if live is not None and live.ends == ends:
                return ends
            heapq.heappop(self._ends)

    def _sweep(self, now: int) -> bool:
        """End those whose time is over, the first of them first; True if there are more."""
        for _ in range(_SWEPT):
            if not self._live or self._first_end() > now:
                self._forget()
                return False
            self._end(self._ends[0][1], EXPIRED, now)
        self._forget()
        return bool(self._live) and self._first_end() <= now

    def _follow(self, now: int) -> None:
        """The clock went back: nobody lives longer, from now, than the longest life that was asked for."""
        if now < self._last:
            for id_, live in self._live.items():
                if live.ends > now + self._longest:
                    self._lives_until(id_, live, now + self._longest)
        self._last = now
