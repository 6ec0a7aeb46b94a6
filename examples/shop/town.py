"""A shop and all that it stands on: which processes there are, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from examples.shop.books import WORKERS
from examples.shop.figures import Side
from examples.shop.processes import Processes

__all__ = ["Town", "all_of", "build", "new_inventory"]

T = TypeVar("T")


@dataclass(slots=True)
class Town:
    """The addresses of its processes. The first of the inventories has the ledger and the partners too."""

    side: Side
    inventories: list[str]
    shops: list[str]
    clerks: dict[str, str]
    checkouts: list[str]
    joining: tuple[str, ...]
    """How one more inventory is told where to make itself known."""


async def build(processes: Processes, side: Side, state: tuple[str, ...], replicas: int, seed: int) -> Town:
    """Start the processes of a shop: of a protected one if there is a `state`, which says where that is."""
    protected = bool(state)
    options = ("--protected", *state) if protected else ()
    first = await new_inventory(processes, seed, ())
    shop = ("examples.shop.service", *(options if protected else ("--inventory", first)))
    checkout = ("examples.shop.checkout", "--partners", first, *options)
    names = [f"worker {n}" for n in range(1, WORKERS + 1)]
    # On Redis three processes, else three tasks of one.
    groups = [[name] for name in names] if protected and replicas > 1 else [names]
    books = ("examples.shop.books", "--ledger", first, *options)
    shops, checkouts, urls = await all_of(
        (
            all_of(processes.start(*shop) for _ in range(replicas)),
            all_of(processes.start(*checkout) for _ in range(replicas)),
            all_of(processes.start(*books, *group) for group in groups),
        )
    )
    inventories = [first]
    joining: tuple[str, ...] = ()
    if protected:
        joining = state if replicas > 1 else ("--registry", f"{shops[0]}/registry")
        inventories += await all_of(new_inventory(processes, seed, joining) for _ in range(2))
    clerks = {name: url for group, url in zip(groups, urls, strict=True) for name in group}
    return Town(side, inventories, shops, clerks, checkouts, joining)


async def new_inventory(processes: Processes, seed: int, joining: tuple[str, ...]) -> str:
    """One more."""
    return await processes.start("examples.shop.upstream", "--seed", str(seed), *joining)


async def all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(call) for call in calls]
    return [task.result() for task in running]
