"""Does the price of a call stay the same when there are 100,000 of something?

Each subject is measured by itself, at all sizes in each round, and compared with itself at the smallest.
A slice is long enough to touch everything there is. What the caches of the machine do to 100,000 of
anything is part of every figure: the controls show what they do to plain objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

from aresilience.testing.virtual import VirtualLoop
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Done, Settings, Slice, Spread, calibrate, interleave, ratios, short
from benchmarks.results import Report, Verdict

__all__ = ["Growth", "Subject"]

_SLICE = 5  # times that of a row of calls

Setup: TypeAlias = Callable[[int, AsyncExitStack], Coroutine[Any, Any, Slice]]


@dataclass(frozen=True, slots=True)
class Subject:
    """`setup` makes so many and returns the slice that uses them; the stack takes what is to be undone."""

    name: str
    setup: Setup
    goal: float | None = None
    """At most so many times the price at the smallest size."""
    control: str = ""
    """The subject whose growth is to be told beside this one's."""
    virtual: bool = False
    """Whether it waits for time to go by: then each size has a virtual loop of its own, which stands still
    between slices."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Subjects that grow."""

    name: str
    title: str
    subjects: tuple[Subject, ...]
    notes: tuple[str, ...] = ()

    def measure(self, settings: Settings, done: Done) -> Report:
        """Each subject in a process of its own."""
        sizes = tuple(f"{size:,}" for size in settings.sizes)
        header = ("÷ the smallest", *sizes, "total, ns, for orientation")
        report = Report(self.title, header, notes=list(self.notes))
        growth: dict[str, list[Spread]] = {}
        for part, subject in enumerate(self.subjects):
            taken: dict[int, list[float]] = in_fresh_process(self.name, part, settings)
            done((part + 1) / len(self.subjects))
            smallest, *larger = (taken[size] for size in settings.sizes)
            growth[subject.name] = [Spread.of(ratios(each, smallest)) for each in larger]
            nanoseconds = f"{Spread.of(smallest).median:,.0f} → {Spread.of(larger[-1]).median:,.0f}"
            report.rows.append((subject.name, "1", *map(str, growth[subject.name]), nanoseconds))
        report.verdicts = [
            _verdict(subject, subject.goal, growth, settings.sizes[-1])
            for subject in self.subjects
            if subject.goal is not None
        ]
        return report

    def sample(self, part: int, settings: Settings) -> dict[int, list[float]]:
        """One subject, at each size."""
        subject = self.subjects[part]
        if subject.virtual:
            return _measured_apart(subject.setup, settings)
        return settings.run(_measured(subject.setup, settings))


def _verdict(
    subject: Subject, goal: float, growth: Mapping[str, Sequence[Spread]], largest: int
) -> Verdict:
    worst = max(growth[subject.name], key=lambda spread: spread.median)
    found = f"{worst}×"
    if subject.control:
        found += f"; {subject.control}: {short(max(spread.median for spread in growth[subject.control]))}×"
    return Verdict(f"{subject.name}: ≤ {goal:g}× up to {largest:,}", found, worst.median <= goal)


async def _measured(setup: Setup, settings: Settings) -> dict[int, list[float]]:
    async with AsyncExitStack() as stack:
        return await _in_rounds({size: await setup(size, stack) for size in settings.sizes}, settings)


async def _in_rounds(slices: Mapping[int, Slice], settings: Settings) -> dict[int, list[float]]:
    enough = await calibrate(slices[settings.sizes[0]], settings.slice_ns * _SLICE)
    times = {size: max(size, enough) for size in settings.sizes}
    return await interleave(slices, times, settings.growth_rounds)


def _measured_apart(setup: Setup, settings: Settings) -> dict[int, list[float]]:
    """The same, in a loop for each size. None of them runs but in its own slices."""
    with ExitStack() as runners:

        def in_its_own(size: int) -> Slice:
            runner = runners.enter_context(asyncio.Runner(loop_factory=VirtualLoop))
            stack = AsyncExitStack()
            inside = runner.run(setup(size, stack))
            runners.callback(lambda: runner.run(stack.aclose()))

            async def run(times: int) -> int:
                return runner.run(_awaited(inside, times))

            return run

        rounds = _in_rounds({size: in_its_own(size) for size in settings.sizes}, settings)
        try:
            rounds.send(None)  # nothing in there ever waits
        except StopIteration as end:
            taken: dict[int, list[float]] = end.value
            return taken
        raise AssertionError("a slice waited for another loop")


async def _awaited(inside: Slice, times: int) -> int:
    return await inside(times)
