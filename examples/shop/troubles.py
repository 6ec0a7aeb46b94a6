"""Who is killed in the course of the day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

import httpx

from examples.shop.figures import Entry
from examples.shop.processes import Processes
from examples.shop.script import CRASH, KILL, NEWCOMER, REPLACED
from examples.shop.town import Town, new_inventory

__all__ = ["books", "crash", "kill_the_leader", "replace_an_inventory"]


async def replace_an_inventory(
    client: httpx.AsyncClient, processes: Processes, town: Town, begins: float, seed: int
) -> None:
    """Add an inventory, then kill one of the others."""
    await _until(begins + NEWCOMER)
    new = await new_inventory(processes, seed, town.joining)
    await client.post(f"{new}/begin", json={"at": begins})
    await _until(begins + REPLACED)
    old = town.inventories.pop()
    town.side.add_calls((await client.get(f"{old}/stats")).json())
    processes.kill(old)
    town.inventories.append(new)


async def kill_the_leader(
    client: httpx.AsyncClient, processes: Processes, town: Town, begins: float
) -> None:
    """Kill the worker that booked last: its process if it has one of its own, else its task."""
    await _until(begins + KILL)
    name = (await books(client, town, begins))[-1].by
    if len(set(town.clerks.values())) == len(town.clerks):
        processes.kill(town.clerks[name])
    else:
        await client.post(f"{town.clerks[name]}/kill/{name}")
    town.side.killed = time.monotonic() - begins, name


async def crash(processes: Processes, towns: Iterable[Town], begins: float) -> None:
    """Kill one of the processes of each checkout, in the middle of what it does."""
    await _until(begins + CRASH)
    for town in towns:
        processes.kill(town.checkouts[0])


async def books(client: httpx.AsyncClient, town: Town, begins: float) -> list[Entry]:
    """What was booked so far."""
    entries = (await client.get(f"{town.inventories[0]}/books")).json()
    return [replace(entry, at=entry.at - begins) for entry in (Entry(**each) for each in entries)]


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
