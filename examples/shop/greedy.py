"""The greedy user: wants every product at once, again and again, but comes back when told to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterable

import httpx

from examples.shop.figures import Knock
from examples.shop.script import span
from examples.shop.traffic import PATIENCE, PRODUCTS

__all__ = ["be_greedy"]

_FROM, _UNTIL = 0.5, span("slow")[1]
_EVERY = 1.0


async def be_greedy(urls: Iterable[str], begins: float) -> list[Knock]:
    """All products at once every second, from the processes of the shop by turns, until refused. Then
    nothing, for exactly as long as told; then one request, alone; then everything again."""
    knocks: list[Knock] = []
    async with contextlib.AsyncExitStack() as stack:
        doors = itertools.cycle([await stack.enter_async_context(_client(url)) for url in urls])

        async def knock(sku: str, *, obedient: bool = False) -> Knock:
            sent = time.monotonic() - begins
            status, told = await _ask(next(doors), sku)
            knocks.append(Knock(sent, time.monotonic() - begins, status, told, obedient))
            return knocks[-1]

        t = _FROM
        while t < _UNTIL:
            await asyncio.sleep(begins + t - time.monotonic())
            crowd = await asyncio.gather(*map(knock, PRODUCTS))
            t += _EVERY
            if any(one.refused for one in crowd):
                again = max(one.answered + one.told for one in crowd if one.refused)
                await asyncio.sleep(begins + again - time.monotonic())
                t = (await knock(PRODUCTS[0], obedient=True)).answered
    return knocks


def _client(url: str) -> httpx.AsyncClient:
    headers = {"X-User": "greedy"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False, verify=False)


async def _ask(client: httpx.AsyncClient, sku: str) -> tuple[int, int]:
    """The status, and the seconds of Retry-After."""
    try:
        response = await client.get(f"/products/{sku}")
    except httpx.HTTPError:
        return 0, 0
    said = response.headers.get("retry-after", "")
    return response.status_code, int(said) if said.isdecimal() else 0
