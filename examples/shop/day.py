"""One day of both shops, lived through."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import httpx
from rich.console import Console

from examples.shop.figures import Answer, Side
from examples.shop.greedy import be_greedy
from examples.shop.processes import Processes
from examples.shop.progress import watch
from examples.shop.script import LENGTH
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
        fronts = [front for urls in shops.values() for front in urls]
        await _all(client.get(f"{front}/products/hat-s") for front in fronts)  # all of them are up
        begins = time.monotonic() + 0.2
        await _all(client.post(f"{inventory}/begin", json={"at": begins}) for inventory in inventories)

        def answered(name: str, answer: Answer) -> None:
            (plain if name == plain.name else protected).answers.append(answer)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch(console, sides, begins))
            greedy = [group.create_task(be_greedy(urls, begins)) for urls in shops.values()]
            await send(visits(_RATE, LENGTH, seed), shops, begins, answered)
        for side, inventory, knocks in zip(sides, inventories, greedy, strict=True):
            side.knocks = knocks.result()
            side.calls = (await client.get(f"{inventory}/stats")).json()
            journals = [(await client.get(f"{front}/events")).json() for front in shops[side.name]]
            # The processes share the breaker, so the first of them tells of all of it.
            side.states = [(at - begins, state) for at, state in journals[0]["states"]]
            for journal in journals:
                side.retries += journal["retries"]
                side.degraded_by.update(journal["degraded"])
                side.alone += journal["alone"]
    return plain, protected


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(call) for call in calls]
    return [task.result() for task in running]
