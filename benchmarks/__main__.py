"""`python -m benchmarks`: measure, show, and write RESULTS.md."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fnmatch import fnmatch
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.catalogue import ALL
from benchmarks.harness import Benchmark, Settings
from benchmarks.results import Report, show, show_goals, write

METHOD = """\
Every round runs each contestant for one slice of {slice_ms:g} ms, in a random order. There are {rounds}
rounds in each of {processes} fresh processes, as where things happen to lie in memory makes a difference
for as long as a process lives; for growth, whose slices are long enough to touch everything once, there
are {growth_rounds} rounds in one process for each subject. A ratio is taken within a round; shown is its
median over all rounds, with the quartiles in brackets. Time is the CPU time of the thread that runs the
loop; garbage is collected between slices.

F is what a plain `async def w(*a, **k): return await fn(*a, **k)` adds to the bare await, in the same
rounds. An **overhead** is the total less the bare await. A **total** is the whole call, bare await
included. A goal of "N× under" a peer compares totals, which is the stricter way; what the overheads say
stands beside it.

Over Redis, whose waits are part of the matter, time is the wall's: each contestant has a slice of
{wire_ms:g} ms in each of {wire_rounds} rounds (twice that with a thousand callers), in each of
{wire_processes} fresh processes with a redis-server of its own. So many callers ask one after the other's
answer; a slice lasts until the last answer is there. Ratios and medians are taken as above."""


def main() -> None:
    """Run what was asked for."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    ask.add_argument("--only", metavar="PATTERN", help="those with this in their name, * and ? allowed")
    ask.add_argument("--rounds", type=int, help="rounds in each process")
    ask.add_argument(
        "--quick", action="store_true", help="a first look: few, short rounds and small crowds"
    )
    ask.add_argument("--uvloop", action="store_true", help="on uvloop instead of asyncio's own loop")
    ask.add_argument("--list", action="store_true", help="name the benchmarks")
    asked = ask.parse_args()

    if asked.list:
        for each in ALL:
            print(f"{each.name:24} {each.title}")
        return
    chosen = [each for each in ALL if fnmatch(each.name, f"*{asked.only or ''}*")]
    if not chosen:
        ask.error(f"--only {asked.only} matches none of: {', '.join(each.name for each in ALL)}")
    if asked.uvloop and find_spec("uvloop") is None:
        ask.error("--uvloop: uvloop is not installed")
    settings = Settings(uvloop=asked.uvloop)
    if asked.quick:
        settings = replace(
            settings,
            processes=2,
            rounds=10,
            slice_ns=1_000_000,
            growth_rounds=2,
            sizes=(1, 100, 10_000),
            wire_processes=1,
            wire_rounds=4,
        )
    if asked.rounds:
        settings = replace(settings, rounds=asked.rounds)

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    reports = _run(console, chosen, settings)
    show_goals(console, reports)
    if asked.only or asked.quick:
        console.print("[dim]A part or a first look: RESULTS.md is left as it is.")
        return
    method = METHOD.format(
        slice_ms=settings.slice_ns / 1e6,
        rounds=settings.rounds,
        processes=settings.processes,
        growth_rounds=settings.growth_rounds,
        wire_ms=settings.wire_seconds * 1e3,
        wire_rounds=settings.wire_rounds,
        wire_processes=settings.wire_processes,
    )
    path = write(reports, method=method, loop="uvloop" if settings.uvloop else "asyncio")
    console.print(f"written: benchmarks/{path.name}")


def _run(console: Console, chosen: list[Benchmark], settings: Settings) -> list[Report]:
    reports = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        overall = progress.add_task("", total=len(chosen))
        for number, each in enumerate(chosen):
            progress.update(overall, description=each.title, completed=number, refresh=True)

            def done(share: float, number: int = number) -> None:
                progress.update(overall, completed=number + share, refresh=True)

            report = each.measure(settings, done)
            show(console, report)
            reports.append(report)
    return reports


if __name__ == "__main__":
    main()
