"""Callers who want tokens of one bucket's keys, now or not at all: nearly all do, so they go together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from struct import pack
from typing import TYPE_CHECKING, TypeAlias

from aresilience.backend.redis.commands import Argument, Batch
from aresilience.backend.redis.errors import another
from aresilience.errors import BackendError, CorruptState
from aresilience.limiter.decision import Decision, decision
from aresilience.limiter.entries import ENTRY, ROW, RUN, numbers
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.rate import MICROS
from aresilience.limiter.store import Meter

if TYPE_CHECKING:
    from aresilience.limiter.redis import RedisLimiterStore

__all__ = ["Run"]

_Waiters: TypeAlias = list[asyncio.Future[Decision]]
_Answer: TypeAlias = tuple[tuple[str, _Waiters], tuple[int, ...]]

_MANY = 16
"""Keys from which on it pays to tell them in two halves."""


class Run:
    """One entry of the script for all of them. Those who ask for the same key are granted in the order in
    which they asked."""

    __slots__ = ("_loop", "_sealed", "_store", "_waiters", "algorithm", "batch", "cost", "keys", "meter")

    batch: Batch

    def __init__(self, store: RedisLimiterStore, meter: Meter, algorithm: Gcra, cost: int) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self.meter = meter
        self._waiters: dict[str, _Waiters] = {}
        self._sealed = False
        self.algorithm = algorithm
        self.cost = cost
        self.keys: Sequence[Argument] = ()

    def begin(self, key: str) -> asyncio.Future[Decision]:
        """The first of them."""
        self.keys = self._store.names_of(self.meter.name, (key,))
        self._store.join(self)
        return self.add(key)

    def add(self, key: str) -> asyncio.Future[Decision]:
        """One more."""
        future: asyncio.Future[Decision] = self._loop.create_future()
        others = self._waiters.get(key)
        if others is None:
            self._waiters[key] = [future]
            self.batch.size += 1
            if self.batch.size >= self.batch.LIMIT:
                self._store.ends(self)
        else:
            others.append(future)
        return future

    def wanted(self) -> bool:
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    return True
        self._store.ends(self)
        return False

    def args(self) -> Sequence[Argument]:
        """Now it leaves, without those who left before, and nobody can join any more."""
        if not self._sealed:
            self._sealed = True
            self._store.ends(self)
            left = [w for waiters in self._waiters.values() for w in waiters if w.done()]
            if left:
                self._leave_out_who_left()
            self.keys = self._store.names_of(self.meter.name, self._waiters)
        counts = [len(waiters) for waiters in self._waiters.values()]
        many = len(counts)
        each = b"" if sum(counts) == many else pack(f"<{many}d", *counts)
        return ENTRY.pack(RUN, many, 0, 0), numbers(self.algorithm, self.cost), each

    def _leave_out_who_left(self) -> None:
        waiting = {key: [w for w in waiters if not w.done()] for key, waiters in self._waiters.items()}
        self._waiters = {key: waiters for key, waiters in waiting.items() if waiters}

    def answer(self, item: tuple[int, bytes]) -> None:
        """Half of many are told a turn of the loop later: what the others ask next is with the server by then,
        and it works while we do."""
        now, rows = item
        answers = zip(self._waiters.items(), ROW.iter_unpack(rows), strict=True)
        many = len(self._waiters)
        if many >= _MANY:
            self._tell(now, islice(answers, many // 2))
            self._loop.call_soon(self._tell, now, answers)
        else:
            self._tell(now, answers)

    def _tell(self, now: int, answers: Iterator[_Answer]) -> None:
        algorithm = self.algorithm
        scale, view, limit = algorithm.scale, algorithm.view, algorithm.capacity
        for (key, waiters), (granted, whole, rest) in answers:
            if granted < 0:
                _fail(waiters, CorruptState("a key of ours holds something else than a rate limit"))
                continue
            state = whole * scale + rest
            left, full = view(state, now)
            answer = decision(True, limit, left, 0.0, full / MICROS)
            for waiter in waiters:
                if granted == 0:
                    wait = max(1, algorithm.earliest(state, now, self.cost) - now)
                    answer = decision(False, limit, left, wait / MICROS, full / MICROS)
                granted -= 1
                if not waiter.done():
                    waiter.set_result(answer)
                elif answer.allowed:  # it was cancelled meanwhile
                    self._store.return_later(((self.meter, key, self.cost),), now)

    def fail(self, error: BackendError) -> None:
        self._store.ends(self)
        for waiters in self._waiters.values():
            _fail(waiters, error)


def _fail(waiters: _Waiters, error: BackendError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(another(error))
