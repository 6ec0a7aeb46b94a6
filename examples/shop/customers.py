"""The customers: each wants one thing, and does not know whether the shop has heard."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import random
import time
from collections.abc import Iterable

import httpx

from examples.shop.figures import Order
from examples.shop.script import LENGTH
from examples.shop.traffic import PRODUCTS

__all__ = ["buy"]

_RATE = 4.0
_FROM, _UNTIL = 0.5, LENGTH - 3.0
_PATIENCE = 2.0
_GIVES_UP = 8.0


class _Habit(enum.Enum):
    """How a customer orders."""

    ONCE = "clicks, and waits"
    TWICE = "clicks twice"
    AWAY = "clicks, is gone before the answer comes, and clicks again"


async def buy(urls: Iterable[str], begins: float, seed: int) -> list[Order]:
    """Orders for the whole day, from the processes of the shop by turns. Whoever gets no answer, or one that
    is none, sends the same order with the same key again."""
    chance = random.Random(f"{seed} customers")
    orders: list[Order] = []
    async with contextlib.AsyncExitStack() as stack:
        doors = itertools.cycle([await stack.enter_async_context(_client(url)) for url in urls])
        buying = await stack.enter_async_context(asyncio.TaskGroup())
        t = _FROM
        while t < _UNTIL:
            order = Order(f"order-{len(orders)}", chance.choice(PRODUCTS))
            orders.append(order)
            habit = chance.choice(list(_Habit))
            await asyncio.sleep(max(0.0, begins + t - time.monotonic()))
            buying.create_task(_buy(doors, order, habit))
            t += chance.expovariate(_RATE)
    return orders


async def _buy(doors: itertools.cycle[httpx.AsyncClient], order: Order, habit: _Habit) -> None:
    ends = time.monotonic() + _GIVES_UP
    if habit is _Habit.TWICE:
        await asyncio.gather(_send(next(doors), order), _send(next(doors), order))
    elif habit is _Habit.AWAY:
        await _send(next(doors), order, patience=0.03)
    wait = 0.0
    while not order.answers and time.monotonic() < ends:
        await asyncio.sleep(wait)
        wait = await _send(next(doors), order)


async def _send(client: httpx.AsyncClient, order: Order, *, patience: float = _PATIENCE) -> float:
    """Send it, once. How long to wait before the next try."""
    order.sent += 1
    try:
        async with asyncio.timeout(patience):
            headers = {"Idempotency-Key": f'"{order.ref}"', "X-User": order.ref}
            response = await client.post(
                "/orders", json={"order": order.ref, "sku": order.sku}, headers=headers
            )
    except (httpx.HTTPError, TimeoutError):
        return 0.3
    if response.status_code in (httpx.codes.CREATED, httpx.codes.UNPROCESSABLE_ENTITY):
        order.answers.append(response.json().get("receipt", ""))
    said = response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else 0.3


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=None, trust_env=False, verify=False)
