"""How things are timed: in rounds, in which every contestant has its turn, in a new order each time.

Slices are short, a few milliseconds, so that what else goes on in the machine hits all contestants of a
round alike; a ratio is taken within a round, and the median over rounds is what counts. The clock is the
CPU time of this thread: nothing here waits, and what other jobs take is not in it. The garbage collector
runs between slices and never in one.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from time import thread_time_ns
from types import FunctionType
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from benchmarks.results import Report

__all__ = [
    "SEED",
    "Benchmark",
    "Call",
    "Done",
    "Settings",
    "Slice",
    "Spread",
    "calibrate",
    "interleave",
    "of_calls",
    "ok",
    "ratios",
    "short",
]

SEED = 20_240_229

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Call: TypeAlias = Callable[[], Awaitable[object]]
Slice: TypeAlias = Callable[[int], Awaitable[int]]
"""Does so many operations and tells how many nanoseconds they took."""
Done: TypeAlias = Callable[[float], None]
"""Told from time to time which share of a benchmark is done."""


async def ok() -> int:
    """The work that is protected: none, so that what is measured is the protection."""
    return 1


@dataclass(frozen=True, slots=True)
class Settings:
    """How thoroughly to measure."""

    processes: int = 5
    rounds: int = 24
    """In each process."""
    slice_ns: int = 4_000_000
    growth_rounds: int = 5
    sizes: tuple[int, ...] = (1, 10, 100, 1_000, 10_000, 100_000)
    """Of what grows, the smallest first."""
    wire_processes: int = 3
    wire_rounds: int = 8
    wire_seconds: float = 0.1
    """How long a slice of calls over Redis lasts."""
    uvloop: bool = False

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """The result of `main`, in an event loop of its own."""
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self.uvloop:
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)


class Benchmark(Protocol):
    """One thing to measure."""

    @property
    def name(self) -> str:
        """What `--only` selects by."""

    @property
    def title(self) -> str:
        """What it is called in the report."""

    def measure(self, settings: Settings, done: Done) -> Report:
        """Measure, and say what was found."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value per round."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"


def short(value: float) -> str:
    """Three digits or so."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, one divided by the other."""
    return [a / b for a, b in zip(above, below, strict=True)]


def of_calls(call: Call) -> Slice:
    """Slices that await `call()` again and again.

    They end with one turn of the loop, in which it clears away the timers that the calls cancelled.
    """

    async def run(times: int) -> int:
        began = thread_time_ns()
        for _ in range(times):
            await call()
        await asyncio.sleep(0)
        return thread_time_ns() - began

    # The interpreter specialises the call in each code object, for what it met there first. With code of
    # its own no contestant pays for another one's kind of callable.
    own = FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)
    return cast(Slice, own)


async def calibrate(run: Slice, target_ns: int) -> int:
    """How many operations take about `target_ns`. Warms up, too."""
    times, took = 1, await run(1)
    while took < target_ns / 2:
        times *= 2
        took = await run(times)
    return max(1, round(times * target_ns / took))


async def interleave(
    slices: Mapping[K, Slice], times: Mapping[K, int], rounds: int, seed: int = SEED
) -> dict[K, list[float]]:
    """Nanoseconds per operation, for each contestant and round. `seed` decides the order of turns."""
    taken: dict[K, list[float]] = {name: [] for name in slices}
    order, chance = list(slices), random.Random(seed)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            chance.shuffle(order)
            for name in order:
                taken[name].append(await slices[name](times[name]) / times[name])
                gc.collect(1)  # each clears up after itself, in its own time
    finally:
        gc.enable()
    return taken
