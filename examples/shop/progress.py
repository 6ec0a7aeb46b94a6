"""What can be seen while the day goes on: a bar on a terminal, a line for each phase elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.shop.figures import Kind, Side, share
from examples.shop.script import DAY, LENGTH, phase_at, span

__all__ = ["watch"]

_LOOK_BACK = 2.0


async def watch(console: Console, sides: Iterable[Side], begins: float) -> None:
    """Show the day until it is over."""
    show = _bar if console.is_terminal else _lines
    await show(console, list(sides), begins)


async def _bar(console: Console, sides: list[Side], begins: float) -> None:
    columns = (
        TextColumn("[bold]{task.fields[phase]:<9}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, refresh_per_second=5) as progress:
        task = progress.add_task("", total=LENGTH, phase=DAY[0].name)
        while (t := time.monotonic() - begins) < LENGTH:
            live = "  ".join(f"{side.name} {_success(side, t - _LOOK_BACK, t)}" for side in sides)
            progress.update(task, completed=t, phase=phase_at(t)[0].name, description=live)
            await asyncio.sleep(0.2)
        progress.update(task, completed=LENGTH, description="waiting for those who still wait")


async def _lines(console: Console, sides: list[Side], begins: float) -> None:
    for phase in DAY:
        begin, end = span(phase.name)
        await asyncio.sleep(max(0.0, begins + end - time.monotonic()))
        so_far = ", ".join(f"{side.name} {_success(side, begin, end)}" for side in sides)
        console.print(f"{phase.name:<9} {phase.seconds:g} s  answered so far: {so_far}", highlight=False)


def _success(side: Side, begin: float, end: float) -> str:
    """Of the answers given in this time, how many are good; a dash if none was given."""
    given = [answer for answer in side.answers if begin <= answer.at + answer.took < end]
    return f"{share(given, Kind.FRESH, Kind.DEGRADED):4.0%}" if given else "   –"
