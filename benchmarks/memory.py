"""What an idle breaker takes: memory, and no task and no timer."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVarTuple, Unpack

import aresilience as ar
from benchmarks.harness import Done, Settings, ok
from benchmarks.results import Report, Verdict

__all__ = ["COUNTS"]

Ts = TypeVarTuple("Ts")

_MANY = 10_000

_CALLS, _SECONDS = ar.Window.calls(100), ar.Window.seconds(30)


def _keyed(**options: Any) -> Callable[[int], object]:
    return ar.CircuitBreakers(max_keys=_MANY, **options).__getitem__


_KINDS: tuple[tuple[str, Callable[[int], object]], ...] = (
    ("CircuitBreaker", lambda _: ar.CircuitBreaker()),
    ("CircuitBreaker, window of 100 calls", lambda _: ar.CircuitBreaker(window=_CALLS)),
    ("CircuitBreaker, window of 30 s", lambda _: ar.CircuitBreaker(window=_SECONDS)),
    ("CircuitBreaker and a function that it wraps", lambda _: ar.CircuitBreaker()(ok)),
    ("CircuitBreakers, a key", _keyed()),
    ("CircuitBreakers, a key, window of 100 calls", _keyed(window=_CALLS)),
    ("CircuitBreakers, a key, window of 30 s", _keyed(window=_SECONDS)),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes for each of many breakers, everything included that they keep for themselves."""

    name: str = "memory-breakers"
    title: str = f"Memory: bytes per breaker, of {_MANY:,}"

    def measure(self, settings: Settings, done: Done) -> Report:
        """One kind after the other, by tracemalloc."""
        report = Report(self.title, ("kind", "bytes each"))
        for place, (kind, make) in enumerate(_KINDS):
            report.rows.append((kind, f"{_bytes_each(make):,.0f}"))
            done((place + 1) / len(_KINDS))
        return report


def _bytes_each(make: Callable[[int], object]) -> float:
    numbers = list(range(_MANY))  # made before, so that they are not counted
    kept: list[object] = [make(0)] * _MANY
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in numbers:
            kept[number] = make(number)
        return (tracemalloc.get_traced_memory()[0] - before) / _MANY
    finally:
        tracemalloc.stop()


class _CountingLoop(asyncio.SelectorEventLoop):
    """Keeps a list of its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer


async def _after_a_call(make: Callable[[], Any]) -> tuple[int, int]:
    """How many tasks and timers there are more, when everything has made a call and is idle again."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _CountingLoop)
    kept = [make() for _ in range(_MANY)]
    tasks = len(asyncio.all_tasks())
    for each in kept:
        await each.call(ok)
    await asyncio.sleep(0)
    return len(asyncio.all_tasks()) - tasks, sum(not timer.cancelled() for timer in loop.timers)


_TIMERS = "A Timeout keeps the one timer that all its calls share until it fires, and then has none."


@dataclass(frozen=True, slots=True)
class Idle:
    """Tasks and timers of many policies that have been used and are not in use."""

    name: str = "idle-breakers"
    title: str = f"Idle: tasks and timers of {_MANY:,} policies after a call each"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Counted, so in a loop that keeps its timers in sight, with uvloop as well."""
        family = ar.CircuitBreakers(max_keys=_MANY)
        keys = iter(range(_MANY))
        kinds: tuple[tuple[str, Callable[[], Any], bool], ...] = (
            ("CircuitBreaker", ar.CircuitBreaker, True),
            ("CircuitBreakers, a key", lambda: family[next(keys)], True),
            ("Bulkhead", lambda: ar.Bulkhead(10, max_waiting=10, max_wait=5), True),
            ("Timeout", lambda: ar.Timeout(5), False),
        )
        report = Report(self.title, ("kind", "tasks", "timers"), notes=[_TIMERS])
        for kind, make, none_at_all in kinds:
            with asyncio.Runner(loop_factory=_CountingLoop) as runner:
                tasks, timers = runner.run(_after_a_call(make))
            report.rows.append((kind, str(tasks), str(timers)))
            if none_at_all:
                found = f"{tasks} tasks, {timers} timers"
                report.verdicts.append(Verdict(f"{kind}: no task, no timer", found, tasks == timers == 0))
        done(1)
        return report


COUNTS = (Memory(), Idle())
