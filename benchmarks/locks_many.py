"""Many locks in one process: what it takes to hold ten thousand, and to wait for them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter, process_time

import aresilience as ar
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Done, Settings, short
from benchmarks.limiters_memory import resident
from benchmarks.locks import client_of
from benchmarks.redis_server import NO_SERVER, RedisServer, program, running
from benchmarks.results import Report, Verdict

__all__ = ["ALL"]

_MANY = 10_000
_FEW = 1_000
"""For redis-py: with ten times as many its polls, and its renewals one by one, do not end in time."""
_TTL = 15.0
_PERIOD = _TTL / 3
_WAITED = 5.0

Setup = Callable[[RedisServer], Awaitable["Found"]]


@dataclass(frozen=True, slots=True)
class Found:
    """Of one way: bytes for each, commands and CPU seconds of client and server in `seconds`."""

    each: float
    seconds: float
    scripts: float
    commands: float
    cpu: float
    server_cpu: float


async def _watched(server: RedisServer, before: int, many: int, seconds: float) -> Found:
    """What goes on in so many seconds in which nothing is asked for."""
    gc.collect()
    each = (resident() - before) / many
    server.reset()
    server_cpu, cpu, began = server.cpu(), process_time(), perf_counter()
    await asyncio.sleep(seconds)
    took, counts = perf_counter() - began, server.counts()
    return Found(
        each, took, counts.scripts, counts.commands, process_time() - cpu, server.cpu() - server_cpu
    )


async def _held(server: RedisServer) -> Found:
    async with ar.connect(server.url, deadline=5.0) as backend:
        await (await ar.Lock("first", backend=backend).acquire()).release()
        gc.collect()
        before = resident()
        locks = [ar.Lock(f"n{number}", ttl=_TTL, backend=backend) for number in range(_MANY)]
        leases: list[ar.Lease] = []
        for start in range(0, _MANY, 100):  # not all at once, as in life
            leases += await asyncio.gather(*(lock.acquire() for lock in locks[start : start + 100]))
            await asyncio.sleep(_PERIOD / 200)
        await asyncio.sleep(_PERIOD)
        found = await _watched(server, before, _MANY, 2 * _PERIOD)
        for lease in leases:
            lease.check()
        return found


async def _held_by_redis_py(server: RedisServer) -> Found:
    """It does not renew by itself: one `reacquire` for each in a period."""
    async with client_of(server.url) as client:
        first = client.lock("first", timeout=30)
        await first.acquire()
        await first.release()
        gc.collect()
        before = resident()
        locks = [client.lock(f"n{number}", timeout=_TTL, thread_local=False) for number in range(_FEW)]
        for lock in locks:
            await lock.acquire()
        gc.collect()
        each = (resident() - before) / _FEW
        server.reset()
        server_cpu, cpu, began = server.cpu(), process_time(), perf_counter()
        for lock in locks:
            await lock.reacquire()
        counts, took = server.counts(), max(_PERIOD, perf_counter() - began)
        return Found(
            each, took, counts.scripts, counts.commands, process_time() - cpu, server.cpu() - server_cpu
        )


def _waiting(names: int) -> Setup:
    async def setup(server: RedisServer) -> Found:
        async with (
            ar.connect(server.url, deadline=5.0) as other,
            ar.connect(server.url, deadline=5.0) as ours,
        ):
            for start in range(0, names, 500):
                some = (
                    ar.Lock(f"n{number}", ttl=600, backend=other) for number in range(start, start + 500)
                )
                await asyncio.gather(*(lock.acquire() for lock in list(some)[: names - start]))
            gc.collect()
            before = resident()
            locks = [ar.Lock(f"n{number}", ttl=_TTL, backend=ours) for number in range(names)]
            tasks = []
            for number in range(_MANY):
                tasks.append(asyncio.ensure_future(locks[number % names].acquire()))
                if number % 500 == 0:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(3.0)
            found = await _watched(server, before, _MANY, _WAITED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return found

    return setup


async def _waiting_of_redis_py(server: RedisServer) -> Found:
    async with client_of(server.url) as client:
        await client.set("n", "held", px=600_000)
        gc.collect()
        before = resident()
        tasks = [
            asyncio.ensure_future(client.lock("n", timeout=30, thread_local=False).acquire())
            for _ in range(_FEW)
        ]
        await asyncio.sleep(1.0)
        found = await _watched(server, before, _FEW, _WAITED)
        pending = set(tasks)
        while pending:  # a cancel can get lost in its pool
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        return found


_WAYS: tuple[tuple[str, Setup], ...] = (
    (f"aresilience, {_MANY:,} held", _held),
    (f"redis-py Lock, {_FEW:,} held, reacquired once a period", _held_by_redis_py),
    (f"aresilience, {_MANY:,} waiting for one lock", _waiting(1)),
    (f"aresilience, {_MANY:,} waiting for as many locks", _waiting(_MANY)),
    (f"redis-py Lock, {_FEW:,} waiting for one lock", _waiting_of_redis_py),
)


@dataclass(frozen=True, slots=True)
class Many:
    """Held, and waited for."""

    name: str = "redis-lock-many"
    title: str = f"Over Redis: {_MANY:,} locks of one process, held and waited for"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Each way in a process of its own."""
        report = Report(
            self.title,
            ("what", "bytes each", "scripts per period", "commands per s", "CPU, % of a core", "server, %"),
        )
        report.notes = [
            f"A period is {_PERIOD:g} s, a third of the ttl. Memory is resident, the locks included; for those "
            "who wait their tasks too. Commands are as the server counts them, with those that scripts make."
        ]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict("≤ 100 commands per period", "NOT MEASURED", None)]
            return report
        for part, (what, _) in enumerate(_WAYS):
            found: Found = in_fresh_process(self.name, part, settings)
            per_period = found.scripts / found.seconds * _PERIOD
            share = 100 * found.cpu / found.seconds
            report.rows.append(
                (
                    what,
                    f"{found.each:,.0f}",
                    short(per_period),
                    short(found.commands / found.seconds),
                    short(share),
                    short(100 * found.server_cpu / found.seconds),
                )
            )
            if part == 0:
                report.verdicts = [
                    Verdict("held: ≤ 100 commands per period", short(per_period), per_period <= 100),
                    Verdict("held: < 5 % of one core", f"{short(share)} %", share < 5),
                ]
            done((part + 1) / len(_WAYS))
        report.packages = {"redis"}
        return report

    def sample(self, part: int, settings: Settings) -> Found:
        """One way."""
        with running() as server:

            async def measured() -> Found:
                return await _WAYS[part][1](server)

            return settings.run(measured())


ALL = (Many(),)
