"""One day of both shops, lived through."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import httpx
from rich.console import Console

from examples.shop.books import WORKERS
from examples.shop.customers import buy
from examples.shop.figures import Account, Answer, Entry, Side
from examples.shop.greedy import be_greedy
from examples.shop.partners import PARTNERS
from examples.shop.processes import Processes
from examples.shop.progress import watch
from examples.shop.script import CRASH, KILL, LENGTH
from examples.shop.traffic import send, visits

__all__ = ["a_day"]

T = TypeVar("T")

_RATE = 50.0
"""Visitors a second, to each shop."""


async def a_day(console: Console, url: str, replicas: int, seed: int) -> tuple[Side, Side]:
    """Live through the day with both shops at once, each of so many processes, state at `url`."""
    plain, protected = sides = Side("unprotected"), Side("protected")
    # A prefix of its own: nothing is left of earlier days, and other demos may run.
    state = ("--url", url, "--prefix", f"shop-demo:{uuid.uuid4().hex[:12]}")
    async with Processes() as processes, httpx.AsyncClient(timeout=10, trust_env=False) as client:
        inventories = await _all(
            processes.start("examples.shop.upstream", "--seed", str(seed)) for _ in sides
        )
        shops = {}
        for side, inventory, options in zip(sides, inventories, ((), ("--protected", *state)), strict=True):
            shop = ("examples.shop.service", "--inventory", inventory, *options)
            shops[side.name] = await _all(processes.start(*shop) for _ in range(replicas))
        clerks = {}
        for side, ledger, options in zip(sides, inventories, ((), ("--protected", *state)), strict=True):
            names = [f"worker {n}" for n in range(1, WORKERS + 1)]
            # On Redis three processes, else three tasks of one.
            groups = [[name] for name in names] if options and replicas > 1 else [names]
            start = partial(processes.start, "examples.shop.books", "--ledger", ledger, *options)
            urls = await _all(start(*group) for group in groups)
            clerks[side.name] = {
                name: url for group, url in zip(groups, urls, strict=True) for name in group
            }
        checkouts = {}
        for side, partners, options in zip(sides, inventories, ((), ("--protected", *state)), strict=True):
            checkout = ("examples.shop.checkout", "--partners", partners, *options)
            checkouts[side.name] = await _all(processes.start(*checkout) for _ in range(replicas))
        fronts = [front for urls in shops.values() for front in urls]
        await _all(client.get(f"{front}/products/hat-s") for front in fronts)  # all of them are up
        begins = time.monotonic() + 0.2
        beginners = {*inventories, *(url for urls in clerks.values() for url in urls.values())}
        await _all(client.post(f"{url}/begin", json={"at": begins}) for url in beginners)

        def answered(name: str, answer: Answer) -> None:
            (plain if name == plain.name else protected).answers.append(answer)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch(console, sides, begins))
            for side, ledger in zip(sides, inventories, strict=True):
                group.create_task(
                    _kill_the_leader(client, processes, side, ledger, clerks[side.name], begins)
                )
            buying = [group.create_task(buy(urls, begins, seed)) for urls in checkouts.values()]
            if replicas > 1:
                victims = [urls[0] for urls in checkouts.values()]
                group.create_task(_crash(processes, victims, begins))
            greedy = [group.create_task(be_greedy(urls, begins)) for urls in shops.values()]
            await send(visits(_RATE, LENGTH, seed), shops, begins, answered)
        for side, inventory, knocks, orders in zip(sides, inventories, greedy, buying, strict=True):
            side.knocks = knocks.result()
            side.orders = orders.result()
            accounts = await _all(client.get(f"{inventory}/{name}") for name in PARTNERS)
            side.accounts = {name: Account(**a.json()) for name, a in zip(PARTNERS, accounts, strict=True)}
            side.calls = (await client.get(f"{inventory}/stats")).json()
            side.books = await _books(client, inventory, begins)
            journals = [(await client.get(f"{front}/events")).json() for front in shops[side.name]]
            # The processes share the breaker, so the first of them tells of all of it.
            side.states = [(at - begins, state) for at, state in journals[0]["states"]]
            for journal in journals:
                side.retries += journal["retries"]
                side.degraded_by.update(journal["degraded"])
                side.alone += journal["alone"]
    return plain, protected


async def _kill_the_leader(
    client: httpx.AsyncClient,
    processes: Processes,
    side: Side,
    ledger: str,
    clerks: dict[str, str],
    begins: float,
) -> None:
    """Kill the worker that booked last: its process if it has one of its own, else its task."""
    await asyncio.sleep(begins + KILL - time.monotonic())
    name = (await _books(client, ledger, begins))[-1].by
    if len(set(clerks.values())) == len(clerks):
        processes.kill(clerks[name])
    else:
        await client.post(f"{clerks[name]}/kill/{name}")
    side.killed = time.monotonic() - begins, name


async def _crash(processes: Processes, victims: Iterable[str], begins: float) -> None:
    """Kill a process of each checkout in the middle of what it does."""
    await asyncio.sleep(begins + CRASH - time.monotonic())
    for url in victims:
        processes.kill(url)


async def _books(client: httpx.AsyncClient, ledger: str, begins: float) -> list[Entry]:
    entries = [Entry(**entry) for entry in (await client.get(f"{ledger}/books")).json()]
    return [replace(entry, at=entry.at - begins) for entry in entries]


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(call) for call in calls]
    return [task.result() for task in running]
