"""The registry: what an answer from memory costs, and a choice; how soon a change is seen; what many cost."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter

import aresilience as ar
from aresilience.registry.record import packed
from aresilience.registry.redis import RedisRegistryStore
from aresilience.registry.store import Beat
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Done, Settings, Spread, calibrate, interleave, of_calls, ok, short
from benchmarks.redis_server import NO_SERVER, RedisServer, program, running
from benchmarks.results import Report, Verdict

__all__ = ["ALL"]

_BALANCERS: dict[str, Callable[[], ar.Balancer]] = {
    "RoundRobin": ar.RoundRobin,
    "Random": ar.Random,
    "LeastRequest": ar.LeastRequest,
    "PeakEwma": ar.PeakEwma,
}
_DISCOVER = "discover()"


async def _known(many: int) -> ar.ServiceRegistry:
    registry = ar.ServiceRegistry(ttl=1e6, resync=1e6, backend=ar.MemoryBackend())
    for n in range(many):
        await registry.announce(ar.Instance("users", "10.0.0.1", 1 + n, id=f"i{n}"))
    await registry.discover("users")
    return registry


@dataclass(frozen=True, slots=True)
class Picks:
    """An answer from the snapshot, and a pick with its call, among few and among many."""

    name: str = "registry-picks"
    title: str = "Registry, in process: an answer from memory, and a call of what is picked"
    sizes: tuple[int, ...] = (10, 10_000)

    def measure(self, settings: Settings, done: Done) -> Report:
        """Nanoseconds, and what ten thousand instances make of them."""
        header = ("of", *(f"ns, of {size:,}" for size in self.sizes), "many ÷ few")
        report = Report(self.title, header)
        report.notes = [
            "A pick is `async with users.pick(): await …`, less the bare await: choosing, counting, recording; "
            "with breakers, a circuit breaker for each instance is asked and told."
        ]
        taken: dict[tuple[str, int], list[float]] = {}
        for part in range(settings.processes):
            for key, each in in_fresh_process(self.name, part, settings).items():
                taken.setdefault(key, []).extend(each)
            done((part + 1) / settings.processes)
        for who in dict.fromkeys(name for name, _ in taken):
            found = [Spread.of(taken[who, size]) for size in self.sizes]
            growth = found[1].median / found[0].median
            report.rows.append((who, *(f"{each.median:,.0f}" for each in found), short(growth)))
        worst = max(Spread.of(taken[_DISCOVER, size]).median for size in self.sizes)
        report.verdicts = [Verdict("discover(): ≤ 1 µs", f"{worst:,.0f} ns", worst <= 1000)]
        for who in ("LeastRequest", "PeakEwma"):
            few, many = (Spread.of(taken[who, size]).median for size in self.sizes)
            said = f"{many / few:.2f}×"
            report.verdicts.append(Verdict(f"{who}: 10,000 ≤ 2× of 10", said, many <= 2 * few))
        return report

    def sample(self, part: int, settings: Settings) -> dict[tuple[str, int], list[float]]:
        """One process's rounds."""
        return settings.run(self._sample(part, settings))

    async def _sample(self, part: int, settings: Settings) -> dict[tuple[str, int], list[float]]:
        slices = {("bare", 0): of_calls(ok)}
        for size in self.sizes:
            registry = await _known(size)

            async def discover(registry: ar.ServiceRegistry = registry) -> object:
                return await registry.discover("users")

            slices[_DISCOVER, size] = of_calls(discover)
            made: dict[str, tuple[ar.Balancer, ar.OutlierPolicy | None]] = {
                name: (make(), None) for name, make in _BALANCERS.items()
            }
            breakers = ar.CircuitBreakers("bench", max_keys=20_000)
            made["LeastRequest, outliers"] = ar.LeastRequest(), ar.OutlierPolicy()
            made["LeastRequest, breakers"] = ar.LeastRequest(), ar.OutlierPolicy(breakers=breakers)
            for name, (balancer, outliers) in made.items():
                users = registry.service("users", balancer=balancer, outliers=outliers, slow_start=0)

                async def call(users: ar.Service = users) -> object:
                    async with users.pick():
                        return await ok()

                await call()
                slices[name, size] = of_calls(call)
        times = {key: await calibrate(run, settings.slice_ns) for key, run in slices.items()}
        taken = await interleave(slices, times, settings.rounds)
        bare = taken.pop(("bare", 0))
        return {
            (who, size): [a - (0 if who == _DISCOVER else b) for a, b in zip(each, bare, strict=True)]
            for (who, size), each in taken.items()
        }


class _Seen:
    """What a watcher saw, and how long after it was sent."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.taken: list[float] = []
        self.all_there = asyncio.Event()
        self.all_gone = asyncio.Event()

    async def read(self, watch: ar.Watch) -> None:
        """Until cancelled."""
        async for instances in watch:
            now = perf_counter()
            for each in instances:
                if each.id in self.sent:
                    self.taken.append(now - self.sent.pop(each.id))
            if not self.sent:
                self.all_there.set()
            if len(instances) == 1:
                self.all_gone.set()


@dataclass(frozen=True, slots=True)
class Watched:
    """From a change in one process to the list in another, over Redis: one hop of pub/sub."""

    name: str = "redis-registry-watch"
    title: str = "Over Redis: a change in one process, seen by a watcher in another"
    changes: int = 400
    limit: float = 0.050

    def measure(self, settings: Settings, done: Done) -> Report:
        """Changes come one by one, then a hundred at once."""
        goals = [f"{kind}: p99 ≤ {self.limit * 1e3:g} ms" for kind in ("one by one", "100 at once")]
        report = Report(self.title, ("changes", "p50, ms", "p99, ms", "worst, ms", "listings asked for"))
        report.notes = [
            "Counted from before the registration is sent to when the watcher's iterator has it; two backends "
            "of one loop stand for the processes."
        ]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict(goal, "NOT MEASURED", None) for goal in goals]
            return report
        found: dict[str, tuple[list[float], int]] = in_fresh_process(self.name, 0, settings)
        done(1)
        for goal, (kind, (taken, looks)) in zip(goals, found.items(), strict=True):
            p99 = sorted(taken)[len(taken) * 99 // 100]
            row = (statistics.median(taken), p99, max(taken))
            report.rows.append((kind, *(short(each * 1e3) for each in row), str(looks)))
            report.verdicts.append(Verdict(goal, f"{p99 * 1e3:.1f} ms", p99 <= self.limit))
        return report

    def sample(self, part: int, settings: Settings) -> dict[str, tuple[list[float], int]]:
        """Seconds for each change, and how often the watcher had to ask."""
        with running() as server:
            return settings.run(self._sample(server))

    async def _sample(self, server: RedisServer) -> dict[str, tuple[list[float], int]]:
        found: dict[str, tuple[list[float], int]] = {}
        async with (
            ar.connect(server.url, deadline=2.0) as one,
            ar.connect(server.url, deadline=2.0) as other,
        ):
            here, there = (
                ar.ServiceRegistry(ttl=600, resync=600, name=name, backend=backend)
                for name, backend in (("here", one), ("there", other))
            )
            await here.announce(ar.Instance("users", "h", 1, id="first"))
            watch = there.watch("users")
            await anext(watch)
            await asyncio.sleep(0.5)
            feed = there.feed("users")
            for kind, at_once in (("one by one", 1), ("100 at once", 100)):
                seen = _Seen()
                reading = asyncio.create_task(seen.read(watch))
                asked = feed.listings

                async def change(number: int, seen: _Seen = seen) -> None:
                    seen.sent[f"i{number}"] = perf_counter()
                    await here.announce(ar.Instance("users", "h", 1 + number, id=f"i{number}"))

                for start in range(0, self.changes, at_once):
                    some = range(start, start + at_once)
                    seen.all_there.clear()
                    await asyncio.gather(*[change(n) for n in some])
                    await seen.all_there.wait()
                    seen.all_gone.clear()
                    await asyncio.gather(*[here.deregister("users", f"i{n}") for n in some])
                    await seen.all_gone.wait()
                reading.cancel()
                await asyncio.wait([reading])
                found[kind] = seen.taken, feed.listings - asked
        return found


@dataclass(frozen=True, slots=True)
class Many:
    """Ten thousand instances, kept alive: by one process, and what it would be by ten thousand."""

    name: str = "redis-registry-many"
    title: str = "Over Redis: 10,000 instances, their heartbeats and their list"
    many: int = 10_000
    ttl: float = 10.0
    seconds: float = 7.0

    def measure(self, settings: Settings, done: Done) -> Report:
        """Commands a second, and the share of a server's core that they take."""
        report = Report(self.title, ("", "measured"))
        report.notes = [
            f"A ttl of {self.ttl:g} s: each instance beats every {self.ttl / 3:.2g} s. In one process the "
            "keeper has them ride together, up to 500 to a call; ten thousand processes send a call each, "
            "whose cost is measured with calls of one beat."
        ]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict("one process: ≤ 20 calls a second", "NOT MEASURED", None)]
            return report
        found: dict[str, float] = in_fresh_process(self.name, 0, settings)
        done(1)
        alone = found["alone_cpu"] * self.many * 3 / self.ttl
        report.rows = [
            ("script calls a second, one process", f"{found['calls']:.1f}"),
            ("server's core, one process", f"{found['cpu'] * 100:.1f} %"),
            ("client's core, one process", f"{found['client'] * 100:.1f} %"),
            ("script calls a second, 10,000 processes", f"{self.many * 3 / self.ttl:,.0f}"),
            ("server's core, 10,000 processes", f"{alone * 100:.0f} %"),
            ("the whole list, first time, ms", f"{found['list'] * 1e3:.0f}"),
            ("the longest call of that, in the server, ms", f"{found['longest'] * 1e3:.1f}"),
            ("an idle watcher: calls a minute", f"{found['idle'] * 60:.0f}"),
            ("the sweep of 100 that expired, ms in the server", f"{found['sweep'] * 1e3:.2f}"),
            ("bytes in the server for an instance", f"{found['bytes']:.0f}"),
        ]
        report.verdicts = [
            Verdict("one process: ≤ 20 calls a second", f"{found['calls']:.1f}", found["calls"] <= 20)
        ]
        return report

    def sample(self, part: int, settings: Settings) -> dict[str, float]:
        """One process's figures."""
        with running() as server:
            return settings.run(self._sample(server))

    async def _sample(self, server: RedisServer) -> dict[str, float]:
        from time import process_time

        found: dict[str, float] = {}
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(ar.connect(server.url, deadline=5.0))
            other = await stack.enter_async_context(ar.connect(server.url, deadline=5.0))
            assert isinstance(backend, ar.RedisBackend)
            assert isinstance(other, ar.RedisBackend)
            before = int(dict(await _memory(backend))["used_memory"])
            registry = ar.ServiceRegistry(ttl=self.ttl, backend=backend)
            made = [
                registry.register(ar.Instance("users", "10.0.0.1", 1 + n, id=f"i{n}"), propagation=0)
                for n in range(self.many)
            ]
            for start in range(0, self.many, 200):
                await asyncio.gather(*[each.__aenter__() for each in made[start : start + 200]])
            found["bytes"] = (int(dict(await _memory(backend))["used_memory"]) - before) / self.many
            gc.collect()
            await asyncio.sleep(self.ttl / 3)
            server.reset()
            cpu, mine, began = server.cpu(), process_time(), perf_counter()
            await asyncio.sleep(self.seconds)
            took = perf_counter() - began
            found["calls"] = server.counts().scripts / took
            found["cpu"] = (server.cpu() - cpu) / took
            found["client"] = (process_time() - mine) / took
            assert all(each.registered for each in made)
            store = RedisRegistryStore(backend)
            beats = [Beat("users", f"i{n}", "", self.ttl) for n in range(500)]
            cpu = server.cpu()
            for beat in beats:
                await store.renew([beat])
            found["alone_cpu"] = (server.cpu() - cpu) / len(beats)
            watching = ar.ServiceRegistry(ttl=self.ttl, backend=other)
            began = perf_counter()
            assert len(await watching.discover("users")) == self.many
            found["list"] = perf_counter() - began
            theirs = RedisRegistryStore(other)
            longest = 0.0
            since = base = -1
            while True:
                server.reset()
                page = await theirs.changes("users", since, base, 500)
                longest = max(longest, server.counts().script_seconds)
                base = page.revision if page.full else base
                if not page.more:
                    break
                since = page.changes[-1].revision
            found["longest"] = longest
            for n in range(100):
                instance = ar.Instance("users", "10.0.0.1", 1 + n)
                await store.register(Beat("users", f"x{n}", "t", 0.3), packed(instance), takeover=True)
            revision = (await theirs.changes("users", page.revision, page.revision, 500)).revision
            await asyncio.sleep(0.35)
            server.reset()
            await theirs.changes("users", revision, revision, 500)
            found["sweep"] = server.counts().script_seconds
            feed = watching.feed("users")
            looks, began = feed.listings, perf_counter()
            await asyncio.sleep(self.seconds)
            found["idle"] = (feed.listings - looks) / (perf_counter() - began)
            for start in range(0, self.many, 200):
                await asyncio.gather(
                    *[each.__aexit__(None, None, None) for each in made[start : start + 200]]
                )
        return found


async def _memory(backend: ar.RedisBackend) -> list[tuple[str, str]]:
    said = await backend.command("INFO", "memory")
    lines = [line.partition(":") for line in said.decode().splitlines()]
    return [(name, value) for name, _, value in lines]


ALL = (Picks(), Watched(), Many())
