"""`python -m examples.shop`: the demo. Exit status 0 if every promise was kept, else 1."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from rich.console import Console

from examples.shop.figures import Answer, Side
from examples.shop.processes import Processes
from examples.shop.progress import watch
from examples.shop.promises import promises
from examples.shop.report import by_phase, events, promised, punctuality, side_by_side
from examples.shop.script import LENGTH
from examples.shop.timeline import timeline
from examples.shop.traffic import send, visits

T = TypeVar("T")

RATE = 50.0
"""Visitors a second, to each shop."""


async def a_day(console: Console, seed: int) -> tuple[Side, Side]:
    """Live through the day with both shops at once."""
    sides = {name: Side(name) for name in ("unprotected", "protected")}
    async with Processes() as processes, httpx.AsyncClient(timeout=10, trust_env=False) as client:
        inventories = await _all(
            processes.start("examples.shop.upstream", "--seed", str(seed)) for _ in sides
        )
        options = ((), ("--protected",))
        shops = await _all(
            processes.start("examples.shop.service", "--inventory", url, *flags)
            for url, flags in zip(inventories, options, strict=True)
        )
        await _all(client.get(f"{url}/products/hat-s") for url in shops)  # all of them are up
        begins = time.monotonic() + 0.2
        await _all(client.post(f"{url}/begin", json={"at": begins}) for url in inventories)

        def answered(name: str, answer: Answer) -> None:
            sides[name].answers.append(answer)

        plan = visits(RATE, LENGTH, seed)
        watching = asyncio.create_task(watch(console, sides.values(), begins))
        await send(plan, dict(zip(sides, shops, strict=True)), begins, answered)
        await watching
        for side, inventory, shop in zip(sides.values(), inventories, shops, strict=True):
            side.calls = (await client.get(f"{inventory}/stats")).json()
            journal = (await client.get(f"{shop}/events")).json()
            side.states = [(at - begins, state) for at, state in journal["states"]]
            side.retries, side.degraded_by = journal["retries"], journal["degraded"]
    return sides["unprotected"], sides["protected"]


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(call) for call in calls]
    return [task.result() for task in running]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("--url", default="memory://", help="where state is kept; for now memory:// only")
    parser.add_argument("--picture", type=Path, default=Path("build/demo.png"), help="PNG or SVG file")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic and of the bad day")
    options = parser.parse_args()
    if options.url != "memory://":
        parser.error(f"--url: only memory:// is served for now, got {options.url!r}")
    if options.picture.suffix not in (".png", ".svg"):
        parser.error(f"--picture: must end in .png or .svg, got {str(options.picture)!r}")
    console = Console()
    try:
        plain, protected = asyncio.run(a_day(console, options.seed))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    side_by_side(console, [plain, protected])
    by_phase(console, [plain, protected])
    punctuality(console, [plain, protected])
    events(console, protected)
    timeline(console, protected)
    verdict = list(promises(plain, protected))
    promised(console, verdict)
    # Only now: what matplotlib brings along would make the garbage collector pause while we measure.
    from examples.shop.picture import draw

    draw(plain, protected, options.picture)
    console.print(f"the picture: {options.picture}")
    return 0 if all(promise.kept for promise in verdict) else 1


if __name__ == "__main__":
    sys.exit(main())
