"""A watch: the states of a service, one after the other, for whoever reads them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aresilience.registry.record import Instance

__all__ = ["Watch"]


class Watched(Protocol):
    """What can be watched."""

    instances: tuple[Instance, ...]
    is_known: bool
    closed: bool


class Watch:
    """An async iterator over what is known of a service: first what is known now, then each change.

    It has room for one: who is slow sees the newest state, and none of those between. It ends when the
    registry is closed.
    """

    def __init__(self, feed: Watched) -> None:
        self._feed = feed
        self._seen: object = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> tuple[Instance, ...]:
        feed = self._feed
        while not feed.is_known or feed.instances is self._seen:
            if feed.closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("a watch has one reader: call watch() again for another")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._seen = feed.instances
        return feed.instances

    def wake(self) -> None:
        """There may be news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
