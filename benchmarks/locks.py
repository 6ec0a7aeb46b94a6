"""Locks over Redis: a free one, one that is handed over, and beside redis-py's own."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

import aresilience as ar
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import SEED, Done, Settings, Spread, ratios, short
from benchmarks.redis_server import NO_SERVER, RedisServer, program, running
from benchmarks.results import Report, Verdict

__all__ = ["ALL", "client_of"]

_OURS, _REDIS_PY, _PING = "aresilience", "redis-py Lock", "redis-py PING"
_SECTIONS, _SECTION = 100, 0.002
_WARM_UP = 20

Once = Callable[[], Awaitable[object]]


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    """A client of redis-py, with a pool as large as ours needs none."""
    pool = BlockingConnectionPool.from_url(url, max_connections=100, timeout=10)
    client: Redis = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.disconnect()


@dataclass(frozen=True, slots=True)
class Free:
    """Acquire and release, of a lock that nobody else wants."""

    name: str = "redis-lock-free"
    title: str = "Over Redis: a free lock, acquire and release"
    trips: float = 2.3

    def measure(self, settings: Settings, done: Done) -> Report:
        """In round trips: what a PING of redis-py takes, in the same round."""
        report = Report(self.title, ("acquire and release by", "round trips", "µs, for orientation"))
        report.notes = ["A round trip is a PING by redis-py, over one connection, in the same round."]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict(f"≤ {self.trips:g} round trips", "NOT MEASURED", None)]
            return report
        taken: dict[str, list[float]] = {}
        for part in range(settings.wire_processes):
            for who, times in in_fresh_process(self.name, part, settings).items():
                taken.setdefault(who, []).extend(times)
            done((part + 1) / settings.wire_processes)
        for who, times in taken.items():
            found = "1" if who == _PING else str(Spread.of(ratios(times, taken[_PING])))
            report.rows.append((who, found, short(statistics.median(times) * 1e6)))
        ours = Spread.of(ratios(taken[_OURS], taken[_PING]))
        report.verdicts = [Verdict(f"≤ {self.trips:g} round trips", str(ours), ours.median <= self.trips)]
        report.packages = {"redis"}
        return report

    def sample(self, part: int, settings: Settings) -> dict[str, list[float]]:
        """One process's rounds: seconds for one, by who did it."""
        with running() as server:
            return settings.run(self._sample(part, settings, server))

    async def _sample(self, part: int, settings: Settings, server: RedisServer) -> dict[str, list[float]]:
        chance = random.Random(SEED + part)
        async with client_of(server.url) as client, ar.connect(server.url, deadline=2.0) as backend:
            lock = ar.Lock("bench", backend=backend)

            async def ours() -> None:
                await (await lock.acquire()).release()

            async def theirs() -> None:
                other = client.lock("bench", timeout=30)
                await other.acquire()
                await other.release()

            slices: dict[str, Once] = {_OURS: ours, _REDIS_PY: theirs, _PING: client.ping}
            taken: dict[str, list[float]] = {who: [] for who in slices}
            for once in slices.values():
                for _ in range(_WARM_UP):
                    await once()
            order = list(slices)
            for _ in range(settings.wire_rounds):
                chance.shuffle(order)
                for who in order:
                    taken[who].append(await _slice(slices[who], settings.wire_seconds))
        return taken


async def _slice(once: Once, seconds: float) -> float:
    gc.collect(1)
    gc.disable()
    began = now = perf_counter()
    many = 0
    while now - began < seconds:
        await once()
        many += 1
        now = perf_counter()
    gc.enable()
    return (now - began) / many


@dataclass(frozen=True, slots=True)
class _Handed:
    """Seconds for all sections, between one and the next, and for a round trip; commands for a section."""

    took: float
    between: list[float] = field(default_factory=list)
    trip: float = 0.0
    commands: float = 0.0


@dataclass(frozen=True, slots=True)
class HandOver:
    """A lock that ten tasks want all the time: in one process, and in two."""

    name: str = "redis-lock-handover"
    title: str = f"Over Redis: a lock handed over, {_SECTIONS} sections of {_SECTION * 1e3:g} ms"
    seconds: float = 0.30
    trips: float = 3.0

    def measure(self, settings: Settings, done: Done) -> Report:
        """From the first to the last, and from the end of one body to the beginning of the next."""
        header = (
            "by",
            "s for all",
            "between two, p50, round trips",
            "between two, p99, ms",
            "commands each",
        )
        report = Report(self.title, header)
        report.notes = [
            "Ten tasks; where there are two processes, two clients of the server, in one loop, stand for them. "
            "A sleep of 2 ms takes the loop somewhat longer: the sleeps alone are the row at the end. redis-py "
            "polls every 0.1 s, as is its default; a round trip is its PING."
        ]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict(f"≤ {self.seconds:g} s", "NOT MEASURED", None)]
            return report
        runs: dict[str, list[_Handed]] = {}
        for part in range(settings.wire_processes):
            for who, found in in_fresh_process(self.name, part, settings).items():
                runs.setdefault(who, []).extend(found)
            done((part + 1) / settings.wire_processes)
        for who, each in runs.items():
            report.rows.append(_row(who, each))
        for who in list(runs)[:2]:
            took = statistics.median(run.took for run in runs[who])
            report.verdicts.append(
                Verdict(f"{who}: ≤ {self.seconds:g} s", f"{took:.2f} s", took <= self.seconds)
            )
            trips = _trips(runs[who])
            report.verdicts.append(
                Verdict(f"{who}: p50 ≤ {self.trips:g} round trips", short(trips), trips <= self.trips)
            )
        report.packages = {"redis"}
        return report

    def sample(self, part: int, settings: Settings) -> dict[str, list[_Handed]]:
        """One process's runs."""
        with running() as server:
            return settings.run(self._sample(settings, server))

    async def _sample(self, settings: Settings, server: RedisServer) -> dict[str, list[_Handed]]:
        async with AsyncExitStack() as stack:
            one, two = [
                await stack.enter_async_context(ar.connect(server.url, deadline=2.0)) for _ in range(2)
            ]
            clients = [await stack.enter_async_context(client_of(server.url)) for _ in range(2)]
            locks = [ar.Lock("bench", backend=backend) for backend in (one, two)]
            kinds: dict[str, list[Callable[[], Any]]] = {
                f"{_OURS}, one process": [lambda: locks[0]],
                f"{_OURS}, two processes": [lambda: locks[0], lambda: locks[1]],
                f"{_OURS}, two processes, fair": [
                    lambda: ar.Lock("fair", fair=True, backend=one),
                    lambda: ar.Lock("fair", fair=True, backend=two),
                ],
                f"{_REDIS_PY}, two processes": [
                    lambda: clients[0].lock("theirs", timeout=30),
                    lambda: clients[1].lock("theirs", timeout=30),
                ],
            }
            found: dict[str, list[_Handed]] = {}
            for _ in range(max(1, settings.wire_rounds // 2)):
                trip = await _slice(clients[0].ping, settings.wire_seconds / 2)
                for who, makes in kinds.items():
                    server.reset()
                    took, between = await _sections(makes)
                    commands = server.counts().commands / _SECTIONS
                    found.setdefault(who, []).append(_Handed(took, between, trip, commands))
                began = perf_counter()
                for _ in range(_SECTIONS):
                    await asyncio.sleep(_SECTION)
                found.setdefault("the sleeps alone", []).append(_Handed(perf_counter() - began))
            return found


async def _sections(makes: list[Callable[[], Any]]) -> tuple[float, list[float]]:
    left, ended, between = _SECTIONS, 0.0, []

    async def worker(make: Callable[[], Any]) -> None:
        nonlocal left, ended
        while left > 0:
            left -= 1
            async with make():
                if ended:
                    between.append(perf_counter() - ended)
                await asyncio.sleep(_SECTION)
                ended = perf_counter()

    gc.collect(1)
    gc.disable()
    began = perf_counter()
    await asyncio.gather(*(worker(makes[number % len(makes)]) for number in range(10)))
    took = perf_counter() - began
    gc.enable()
    return took, between


def _trips(runs: list[_Handed]) -> float:
    return statistics.median(statistics.median(run.between) / run.trip for run in runs if run.between)


def _row(who: str, runs: list[_Handed]) -> tuple[str, ...]:
    took = Spread.of([run.took for run in runs])
    if not runs[0].between:
        return (who, str(took), "", "", "")
    late = statistics.median(sorted(run.between)[len(run.between) * 99 // 100] for run in runs)
    commands = statistics.median(run.commands for run in runs)
    return (who, str(took), short(_trips(runs)), short(late * 1e3), short(commands))


ALL = (Free(), HandOver())
