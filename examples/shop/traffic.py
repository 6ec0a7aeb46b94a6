"""The visitors: they come at their own times, whether or not those before them were served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import httpx

from examples.shop.figures import Answer, Kind

__all__ = ["PATIENCE", "PRODUCTS", "Visit", "send", "visits"]

PATIENCE = 6.0
"""Seconds that a visitor waits before giving up."""
PRODUCTS = [f"{kind}-{size}" for kind in ("hat", "sock", "glove", "scarf") for size in ("s", "m", "l")]
_USERS = 1000


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who wants to see a product, at a time fixed beforehand."""

    at: float
    sku: str
    user: str


def visits(rate: float, seconds: float, seed: int) -> list[Visit]:
    """Independent visitors, `rate` a second on average (Poisson)."""
    chance = random.Random(seed)
    plan, t = [], chance.expovariate(rate)
    while t < seconds:
        plan.append(Visit(t, chance.choice(PRODUCTS), f"visitor {chance.randrange(_USERS)}"))
        t += chance.expovariate(rate)
    return plan


async def send(
    plan: Iterable[Visit],
    shops: dict[str, list[str]],
    begins: float,
    answered: Callable[[str, Answer], None],
) -> None:
    """Send each visit to every shop at its time, to the processes of a shop by turns; `answered` is told the
    shop's name and what the visitor got."""

    async def one(connections: _Connections, name: str, visit: Visit) -> None:
        late = time.monotonic() - begins - visit.at
        async with connections.one() as client:
            kind = await _visit(client, visit, begins + visit.at + PATIENCE)
        # From the time at which the visitor wanted to be served: being late is waiting too.
        answered(name, Answer(visit.at, time.monotonic() - begins - visit.at, kind, late))

    async with contextlib.AsyncExitStack() as stack:
        fronts = {
            name: itertools.cycle([await stack.enter_async_context(_Connections(url)) for url in urls])
            for name, urls in shops.items()
        }
        visiting = await stack.enter_async_context(asyncio.TaskGroup())
        for visit in plan:
            await asyncio.sleep(max(0.0, begins + visit.at - time.monotonic()))
            for name, processes in fronts.items():
                visiting.create_task(one(next(processes), name, visit))


class _Connections:
    """A client with a connection of its own for each visitor who waits.

    One client for all would look through its hundreds of connections at each request, and the time
    for that would be measured too.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[httpx.AsyncClient] = []
        self._stack = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        client = self._idle.pop() if self._idle else await self._new()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def _new(self) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self._url, timeout=None, trust_env=False, verify=False)
        return await self._stack.enter_async_context(client)

    async def __aenter__(self) -> _Connections:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()


async def _visit(client: httpx.AsyncClient, visit: Visit, until: float) -> Kind:
    try:
        async with asyncio.timeout_at(until):
            response = await client.get(f"/products/{visit.sku}", headers={"X-User": visit.user})
    except (httpx.HTTPError, TimeoutError):
        return Kind.FAILED
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return Kind.REFUSED
    if response.status_code != httpx.codes.OK:
        return Kind.FAILED
    return Kind.DEGRADED if response.json()["degraded"] else Kind.FRESH
