"""Sagas of three steps, each of which does nothing: what the journal costs. Beside DBOS, on the same disk."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeAlias

import aresilience as ar
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import SEED, Done, Settings, Spread, ratios, short
from benchmarks.redis_server import NO_SERVER, program, running
from benchmarks.results import Report, Verdict

__all__ = ["ALL"]

Run: TypeAlias = Callable[[int], Awaitable[object]]
"""Runs one saga to its end."""

DBOS = "DBOS, SQLite"
ALWAYS = "aresilience, appendfsync always"
EVERYSEC = "aresilience, appendfsync everysec"
_AOF = ("--appendonly", "yes", "--appendfsync")
_PATIENCE = 10.0
_LEAST = 0.5
"""Seconds of a slice, at least: DBOS does a few dozen in that."""


def _declared(backend: ar.Backend | None) -> Run:
    saga = ar.Saga("bench", backend=backend, retention=60.0)

    @saga.step
    async def one(ctx: ar.SagaContext[int]) -> int:
        return ctx.input

    @saga.step
    async def two(ctx: ar.SagaContext[int]) -> int:
        return ctx.result(one)

    @saga.step
    async def three(ctx: ar.SagaContext[int]) -> int:
        return ctx.result(two)

    return saga.run


@asynccontextmanager
async def _on_redis(*options: str) -> AsyncIterator[Run]:
    with running(*options) as server:
        async with ar.connect(server.url, deadline=_PATIENCE) as backend:
            yield _declared(backend)


@asynccontextmanager
async def _in_memory() -> AsyncIterator[Run]:
    async with ar.connect() as backend:
        yield _declared(backend)


@asynccontextmanager
async def _dbos() -> AsyncIterator[Run]:
    import dbos  # type: ignore[import-not-found]

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'dbos.sqlite'}"
        config: dict[str, Any] = {"name": "bench", "system_database_url": url, "run_admin_server": False}
        dbos.DBOS(config=config)

        @dbos.DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]
        async def step(value: int) -> int:
            return value

        @dbos.DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
        async def workflow(value: int) -> int:
            for _ in range(3):
                value = await step(value)
            return value

        dbos.DBOS.launch()
        try:
            yield workflow
        finally:
            dbos.DBOS.destroy()


CONTESTANTS: dict[str, Callable[[], AbstractAsyncContextManager[Run]]] = {
    ALWAYS: lambda: _on_redis(*_AOF, "always"),
    EVERYSEC: lambda: _on_redis(*_AOF, "everysec"),
    "aresilience, no persistence": lambda: _on_redis(),
    "aresilience, in memory": _in_memory,
    DBOS: _dbos,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one slice found."""

    per_second: float
    p50: float
    cpu: float


@dataclass(frozen=True, slots=True)
class _Sample:
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sagas:
    """So many callers who run one saga after the other."""

    callers: int
    goals: Mapping[str, float] = field(default_factory=dict)
    """How many times as many as DBOS."""

    @property
    def name(self) -> str:
        """What `--only` selects by."""
        return f"sagas-{self.callers}"

    @property
    def title(self) -> str:
        """What it is called in the report."""
        return f"Sagas of three steps, journalled, callers: {self.callers}"

    def measure(self, settings: Settings, done: Done) -> Report:
        """All that are installed."""
        header = ("sagas by", f"÷ {DBOS}", "per s, for orientation", "p50, ms", "client CPU, µs")
        report = Report(self.title, header, notes=list(_NOTES))
        turns: dict[str, list[Turn]] = {}
        if program() is None:
            report.missing = [NO_SERVER]
        else:
            for part in range(settings.wire_processes):
                sample: _Sample = in_fresh_process(self.name, part, settings)
                for name, each in sample.turns.items():
                    turns.setdefault(name, []).extend(each)
                done((part + 1) / settings.wire_processes)
            report.missing = [f"{name} is not installed ({why})" for name, why in sample.missing.items()]
            report.packages = {"redis", "hiredis"} | ({"dbos"} if DBOS in turns else set())
        report.rows = [_row(name, turns) for name in turns]
        for who, times in self.goals.items():
            goal = f"{who}: ≥ {times:g}× {DBOS}"
            if DBOS in turns and who in turns:
                found = _faster(turns, who)
                report.verdicts.append(Verdict(goal, f"{found}×", found.median >= times))
            else:
                report.verdicts.append(Verdict(goal, "NOT MEASURED", None))
        return report

    def sample(self, part: int, settings: Settings) -> _Sample:
        """One process's rounds."""
        return settings.run(self._sample(part, settings))

    async def _sample(self, part: int, settings: Settings) -> _Sample:
        found, chance = _Sample(), random.Random(SEED + part)
        async with AsyncExitStack() as stack:
            runs: dict[str, Run] = {}
            for name, contestant in CONTESTANTS.items():
                try:
                    runs[name] = await stack.enter_async_context(contestant())
                except ImportError as error:
                    found.missing[name] = str(error)
                    continue
                await self._turn(runs[name], _LEAST)
                found.turns[name] = []
            order = list(runs)
            for _ in range(max(1, settings.wire_rounds // 2)):
                chance.shuffle(order)
                for name in order:
                    found.turns[name].append(
                        await self._turn(runs[name], max(_LEAST, settings.wire_seconds))
                    )
        return found

    async def _turn(self, run: Run, seconds: float) -> Turn:
        taken: list[float] = []

        async def caller(number: int) -> None:
            now = perf_counter()
            while now < end:
                await run(number)
                then = perf_counter()
                taken.append(then - now)
                now = then

        cpu, began = process_time(), perf_counter()
        end = began + seconds
        await asyncio.gather(*(caller(number) for number in range(self.callers)))
        took = perf_counter() - began
        return Turn(len(taken) / took, median(taken), (process_time() - cpu) / len(taken))


_NOTES = (
    "A saga of ours on Redis is four writes: the beginning with the first intent, two outcomes each with the "
    "next intent, the end. The journals and the database of DBOS are on the same disk, in the system's folder "
    "for temporary files.",
)


def _faster(turns: Mapping[str, Sequence[Turn]], who: str) -> Spread:
    return Spread.of(ratios([t.per_second for t in turns[who]], [t.per_second for t in turns[DBOS]]))


def _row(name: str, turns: Mapping[str, Sequence[Turn]]) -> tuple[str, ...]:
    times = "–" if DBOS not in turns else "1" if name == DBOS else str(_faster(turns, name))
    each = turns[name]
    return (
        name,
        times,
        f"{median(t.per_second for t in each):,.0f}",
        short(median(t.p50 for t in each) * 1e3),
        short(median(t.cpu for t in each) * 1e6),
    )


ALL = (
    Sagas(1),
    Sagas(20, {ALWAYS: 10, EVERYSEC: 10}),
    Sagas(100, {ALWAYS: 10, EVERYSEC: 10}),
)
