"""One day of both shops, lived through."""

from __future__ import annotations

import asyncio
import math
import time
import uuid

import httpx
from rich.console import Console

import aresilience as ar
from examples.shop.customers import buy
from examples.shop.figures import Account, Answer, Side
from examples.shop.greedy import be_greedy
from examples.shop.partners import PARTNERS
from examples.shop.processes import Processes
from examples.shop.progress import watch
from examples.shop.script import LENGTH
from examples.shop.town import Town, all_of, build
from examples.shop.traffic import send, visits
from examples.shop.troubles import books, crash, kill_the_leader, replace_an_inventory

__all__ = ["a_day"]

_RATE = 50.0
"""Visitors a second, to each shop."""
_READY = 10.0


async def a_day(console: Console, url: str, replicas: int, seed: int) -> tuple[Side, Side]:
    """Live through the day with both shops at once, each of so many processes, state at `url`."""
    plain, protected = sides = Side("unprotected"), Side("protected")
    # A prefix of its own: nothing is left of earlier days, and other demos may run.
    state = ("--url", url, "--prefix", f"shop-demo:{uuid.uuid4().hex[:12]}")
    async with Processes() as processes, httpx.AsyncClient(timeout=10, trust_env=False) as client:
        towns = await all_of(
            build(processes, side, where, replicas, seed)
            for side, where in zip(sides, ((), state), strict=True)
        )
        shops = {town.side.name: town.shops for town in towns}
        await all_of(_up(client, front) for fronts in shops.values() for front in fronts)
        begins = time.monotonic() + 0.2
        beginners = {url for town in towns for url in (*town.inventories, *town.clerks.values())}
        await all_of(client.post(f"{url}/begin", json={"at": begins}) for url in beginners)

        def answered(name: str, answer: Answer) -> None:
            (plain if name == plain.name else protected).answers.append(answer)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch(console, sides, begins))
            group.create_task(replace_an_inventory(client, processes, towns[1], begins, seed))
            for town in towns:
                group.create_task(kill_the_leader(client, processes, town, begins))
            if replicas > 1:
                group.create_task(crash(processes, towns, begins))
            buying = [group.create_task(buy(town.checkouts, begins, seed)) for town in towns]
            greedy = [group.create_task(be_greedy(town.shops, begins)) for town in towns]
            await send(visits(_RATE, LENGTH, seed), shops, begins, answered)
        for town, knocks, orders in zip(towns, greedy, buying, strict=True):
            town.side.knocks = knocks.result()
            town.side.orders = orders.result()
            await _collect(client, town, begins)
    return plain, protected


async def _collect(client: httpx.AsyncClient, town: Town, begins: float) -> None:
    """Ask everybody what they have seen."""
    side = town.side
    side.books = await books(client, town, begins)
    accounts = await all_of(client.get(f"{town.inventories[0]}/{name}") for name in PARTNERS)
    side.accounts = {name: Account(**a.json()) for name, a in zip(PARTNERS, accounts, strict=True)}
    for inventory in town.inventories:
        calls = (await client.get(f"{inventory}/stats")).json()
        side.add_calls(calls)
        side.newcomer = sum(map(len, calls.values()))  # it is the last
    journals = [(await client.get(f"{front}/events")).json() for front in town.shops]
    # The processes share the breaker, so the first of them tells of all of it.
    side.states = [(at - begins, state) for at, state in journals[0]["states"]]
    for journal in journals:
        side.retries += journal["retries"]
        side.degraded_by.update(journal["degraded"])
        side.alone += journal["alone"]


async def _up(client: httpx.AsyncClient, front: str) -> None:
    """Wait until a shop has something to show."""
    patience = ar.Retry(
        on=httpx.HTTPStatusError, attempts=math.inf, deadline=_READY, backoff=ar.Backoff.constant(0.1)
    )
    async for attempt in patience:
        async with attempt:
            (await client.get(f"{front}/products/hat-s")).raise_for_status()
