"""Tokens taken ahead: a process takes a block at once, and decides by itself until the block is used up.

For limits so busy that even a shared round trip is too much. What it costs is exactness: a block is counted
when it is taken, and used up to `seconds` later. So in any window w, with P processes,

    granted ≤ burst + rate · w + P · block

Asks that wait, and costs of more than a block, go to the store as ever. What is left of a block when its time
is over is lost, so a quiet process uses less than its share, never more.
"""

from __future__ import annotations

import asyncio

from aresilience.clock import LoopClock
from aresilience.limiter.store import Ask, Grant, LimiterStore

__all__ = ["LeasedStore"]

_Place = tuple[tuple[str, str], ...]
_MOST = 10_000


class _Block:
    """What is left of the tokens that were taken ahead for a key, and until when."""

    __slots__ = ("grant", "left", "until")

    def __init__(self, grant: Grant, left: int, until: float) -> None:
        self.grant = grant
        self.left = left
        self.until = until


class LeasedStore:
    """Blocks of `block` tokens from another store, each good for `seconds`."""

    __slots__ = ("_block", "_blocks", "_clock", "_seconds", "_store", "_taking")

    def __init__(self, store: LimiterStore, block: int, seconds: float) -> None:
        self._store = store
        self._block = block
        self._seconds = seconds
        self._clock = LoopClock()
        self._blocks: dict[_Place, _Block] = {}
        self._taking: dict[_Place, asyncio.Event] = {}

    async def acquire(self, ask: Ask, max_wait: int) -> Grant:
        cost = ask[0][2]
        if max_wait != 0 or not 0 < cost <= self._block:
            return await self._store.acquire(ask, max_wait)
        place = tuple((meter.name, key) for meter, key, _ in ask)
        while True:
            grant = self._from_block(place, cost)
            if grant is not None:
                return grant
            others = self._taking.get(place)
            if others is None:
                return await self._take(place, ask, cost)
            await others.wait()
            if place not in self._blocks:  # they got none, or used it up
                return await self._store.acquire(ask, 0)

    async def _take(self, place: _Place, ask: Ask, cost: int) -> Grant:
        """A new block for us and whoever asks meanwhile; without one, only what was asked for."""
        done = self._taking[place] = asyncio.Event()
        try:
            whole = tuple((meter, key, self._block) for meter, key, _ in ask)
            grant = await self._store.acquire(whole, 0)
            if grant.allowed:
                if len(self._blocks) >= _MOST:
                    self._blocks.clear()
                until = self._clock.read() + self._seconds
                self._blocks[place] = _Block(grant, self._block - cost, until)
        finally:
            del self._taking[place]
            done.set()
        return self._shown(self._blocks[place]) if grant.allowed else await self._store.acquire(ask, 0)

    def _from_block(self, place: _Place, cost: int) -> Grant | None:
        block = self._blocks.get(place)
        if block is None:
            return None
        if block.left < cost or block.until <= self._clock.read():
            del self._blocks[place]
            return None
        block.left -= cost
        return self._shown(block)

    @staticmethod
    def _shown(block: _Block) -> Grant:
        grant = block.grant
        views = tuple((left + block.left, reset) for left, reset in grant.views)
        return Grant(True, grant.now, grant.now, views)

    async def give_back(self, ask: Ask, at: int) -> None:
        await self._store.give_back(ask, at)

    async def charge(self, ask: Ask) -> None:
        await self._store.charge(ask)

    async def peek(self, ask: Ask) -> Grant:
        return await self._store.peek(ask)

    def return_later(self, ask: Ask, at: int) -> None:
        self._store.return_later(ask, at)

    def one_slot(self, ask: Ask) -> bool:
        return self._store.one_slot(ask)
