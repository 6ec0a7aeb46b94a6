"""Idempotent calls: over Redis the first one, its replay and a duplicate that waits; at the door, in memory."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aresilience as ar
from aresilience.asgi import IdempotencyMiddleware
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import SEED, Done, Settings, Spread, ok, ratios, short
from benchmarks.locks import client_of
from benchmarks.redis_server import NO_SERVER, RedisServer, program, running
from benchmarks.results import Report, Verdict

__all__ = ["ALL"]

_OURS, _KIT, _FAPI, _PING = "aresilience", "idempotency-kit", "fastapi-idempotency", "redis-py PING"
_FIRST, _REPLAY = "first", "replay"
_WARM_UP = 20
_WAITERS, _STORMS, _WORK = 10, 10, 0.02

Once = Callable[[str], Awaitable[object]]
"""One idempotent call with a key."""


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[tuple[Once, Once]]:
    """Two processes' worth of ours: a call in each."""
    async with ar.connect(url, deadline=2.0) as one, ar.connect(url, deadline=2.0) as other:
        calls = []
        for backend in (one, other):
            idem = ar.Idempotency(name="bench", backend=backend)
            calls.append(_work_by(idem))
        yield calls[0], calls[1]


def _work_by(idem: ar.Idempotency) -> Once:
    return idem(key=lambda key: key)(_work)


async def _work(key: str) -> int:
    if key.startswith("slow"):
        await asyncio.sleep(_WORK)
    return 1


@asynccontextmanager
async def _kit(url: str) -> AsyncIterator[tuple[Once, Once]]:
    """The same by idempotency-kit."""
    kit = importlib.import_module("idempotency_kit")
    storage = importlib.import_module("idempotency_kit.infra.storage.redis.aio.repository")
    async with client_of(url) as one, client_of(url) as other:
        calls = []
        for client in (one, other):
            repository = storage.RedisAsyncIdempotencyRepository(client)
            coordinator = kit.AsyncIdempotencyCoordinator(repository, kit.IdempotencyDomainService())
            calls.append(_work_by_kit(coordinator, kit.JsonResultAdapter()))
        yield calls[0], calls[1]


def _work_by_kit(coordinator: Any, adapter: Any) -> Once:
    async def once(key: str) -> object:
        return await coordinator.coordinate("bench", key, 86_400, adapter, _work, key)

    return once


_CLIENTS = {_OURS: _ours, _KIT: _kit}


@dataclass(frozen=True, slots=True)
class _Found:
    """Seconds for one, by who and what; script calls of ours; seconds until the waiters had the answer."""

    taken: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)
    late: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calls:
    """So many callers: first calls, replays, and duplicates that wait in another process."""

    callers: int
    goals: tuple[tuple[str, float], ...] = ()
    """How many times less than the peer's each should take."""

    @property
    def name(self) -> str:
        """What `--only` selects by."""
        return f"redis-idempotency-{self.callers}"

    @property
    def title(self) -> str:
        """What it is called in the report."""
        return f"Over Redis: an idempotent call, callers: {self.callers}"

    def measure(self, settings: Settings, done: Done) -> Report:
        """In round trips: what a PING of redis-py takes, in the same round."""
        header = (
            "by",
            "first, round trips",
            "replay, round trips",
            "first, µs",
            "replay, µs",
            "waiters, ms late",
        )
        report = Report(self.title, header)
        report.notes = [
            "A round trip is a PING by redis-py, by as many callers, in the same round; µs for orientation. "
            "The waiters are "
            f"{_WAITERS} duplicates in another process: how long after the end of the work all had its result "
            f"(p50 of all runs)."
        ]
        if program() is None:
            report.missing = [NO_SERVER]
            report.verdicts = [Verdict("2 round trips, 1 for a replay", "NOT MEASURED", None)]
            return report
        found = _Found()
        for part in range(settings.wire_processes):
            sample: _Found = in_fresh_process(self.name, part, settings)
            found.missing.update(sample.missing)
            found.scripts.update(sample.scripts)
            for key, times in sample.taken.items():
                found.taken.setdefault(key, []).extend(times)
            for who, late in sample.late.items():
                found.late.setdefault(who, []).extend(late)
            done((part + 1) / settings.wire_processes)
        ping = found.taken[_PING, ""]
        trips = {key: Spread.of(ratios(times, ping)) for key, times in found.taken.items()}
        for who in found.late:
            one, two = (who, _FIRST), (who, _REPLAY)
            us = [short(statistics.median(found.taken[key]) * 1e6) for key in (one, two)]
            waited = short(statistics.median(found.late[who]) * 1e3)
            report.rows.append((who, str(trips[one]), str(trips[two]), *us, waited))
        report.missing = [f"{who} is not installed ({why})" for who, why in found.missing.items()]
        report.packages = {"redis", *(() if _KIT in found.missing else (_KIT,))}
        calls = found.scripts
        report.verdicts = [
            Verdict(
                "2 script calls, 1 for a replay",
                f"{calls[_FIRST]:g} and {calls[_REPLAY]:g}",
                (calls[_FIRST], calls[_REPLAY]) == (2.0, 1.0),
            ),
            *(_goal(what, times, found.taken) for what, times in self.goals),
        ]
        return report

    def sample(self, part: int, settings: Settings) -> _Found:
        """One process's rounds."""
        with running() as server:
            return settings.run(self._sample(part, settings, server))

    async def _sample(self, part: int, settings: Settings, server: RedisServer) -> _Found:
        found, chance, numbers = _Found(), random.Random(SEED + part), itertools.count()
        async with AsyncExitStack() as stack:
            pinging = await stack.enter_async_context(client_of(server.url))
            calls: dict[str, tuple[Once, Once]] = {}
            for who, opened in _CLIENTS.items():
                try:
                    calls[who] = await stack.enter_async_context(opened(server.url))
                except ImportError as error:
                    found.missing[who] = str(error)

            def first(who: str) -> Callable[[], Awaitable[object]]:
                return lambda: calls[who][0](f"{next(numbers)}")

            def replay(who: str) -> Callable[[], Awaitable[object]]:
                return lambda: calls[who][0]("again")

            slices: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {(_PING, ""): pinging.ping}
            for who in calls:
                slices[who, _FIRST], slices[who, _REPLAY] = first(who), replay(who)
            for once in slices.values():
                for _ in range(_WARM_UP):
                    await once()
            for what in (_FIRST, _REPLAY):
                server.reset()
                for _ in range(100):
                    await slices[_OURS, what]()
                found.scripts[what] = server.counts().scripts / 100
            order = list(slices)
            for _ in range(settings.wire_rounds):
                chance.shuffle(order)
                for key in order:
                    found.taken.setdefault(key, []).append(
                        await _slice(slices[key], settings.wire_seconds, self.callers)
                    )
            for number in range(_STORMS):
                for who, (one, other) in calls.items():
                    late = await _storm(one, other, f"slow {number}")
                    found.late.setdefault(who, []).append(late)
        return found


def _goal(what: str, times: float, taken: dict[tuple[str, str], list[float]]) -> Verdict:
    title = f"{what}: ≥ {times:g}× under {_KIT}"
    if (_KIT, what) not in taken:
        return Verdict(title, "NOT MEASURED", None)
    found = Spread.of(ratios(taken[_KIT, what], taken[_OURS, what]))
    return Verdict(title, f"{found}×", found.median >= times)


async def _storm(one: Once, other: Once, key: str) -> float:
    """Seconds between the end of the owner's call and that of the last duplicate."""
    owner = asyncio.ensure_future(one(key))
    await asyncio.sleep(_WORK / 4)
    waiters = [asyncio.ensure_future(other(key)) for _ in range(_WAITERS)]
    await owner
    ended = perf_counter()
    await asyncio.gather(*waiters)
    return perf_counter() - ended


async def _slice(once: Callable[[], Awaitable[object]], seconds: float, callers: int = 1) -> float:
    """Seconds for one, of so many callers together."""
    many = 0

    async def caller() -> None:
        nonlocal many
        while perf_counter() < end:
            await once()
            many += 1

    gc.collect(1)
    gc.disable()
    began = perf_counter()
    end = began + seconds
    await (caller() if callers == 1 else asyncio.gather(*(caller() for _ in range(callers))))
    took = perf_counter() - began
    gc.enable()
    return took / many


# At the door


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers."""
    await receive()
    await ok()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def _middleware(who: str) -> Any:
    if who == _OURS:
        return IdempotencyMiddleware(_app, idempotency=ar.Idempotency(), principal=None)
    if who == _FAPI:
        return importlib.import_module("fastapi_idempotency").IdempotencyMiddleware(_app)
    return _app


async def _request(app: Any, key: str) -> None:
    """A POST, as a server passes it on."""
    body = [{"type": "http.request", "body": b'{"sku":1}', "more_body": False}]
    status = 0

    async def receive() -> Any:
        if body:
            return body.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": "/orders", "root_path": "",
        "scheme": "http", "query_string": b"", "server": ("x", 80), "client": ("203.0.113.7", 5000),
        "headers": [(b"idempotency-key", key.encode()), (b"content-type", b"application/json")],
    }  # fmt: skip
    await app(scope, receive, send)
    if status != 201:
        raise AssertionError(f"the answer was {status}")


@dataclass(frozen=True, slots=True)
class AtTheDoor:
    """The middleware in memory: a first request, and its replay."""

    name: str = "asgi-idempotency"
    title: str = "At the door: an idempotent request, in memory"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Beside the application alone, and a peer."""
        header = ("by", f"first ÷ {_OURS}", f"replay ÷ {_OURS}", "first, µs", "replay, µs")
        report = Report(self.title, header)
        report.notes = [
            "Wall time of one request after the other, straight into ASGI, no server; µs for orientation."
        ]
        taken: dict[tuple[str, str], list[float]] = {}
        for part in range(settings.wire_processes):
            sample: _Found = in_fresh_process(self.name, part, settings)
            report.missing = [f"{who} is not installed ({why})" for who, why in sample.missing.items()]
            for key, times in sample.taken.items():
                taken.setdefault(key, []).extend(times)
            done((part + 1) / settings.wire_processes)
        for who in dict.fromkeys(who for who, _ in taken):
            against = [Spread.of(ratios(taken[who, w], taken[_OURS, w])) for w in (_FIRST, _REPLAY)]
            us = [short(statistics.median(taken[who, what]) * 1e6) for what in (_FIRST, _REPLAY)]
            report.rows.append((who, *("1" if who == _OURS else str(each) for each in against), *us))
        if (_FAPI, _FIRST) in taken:
            report.packages = {_FAPI}
        return report

    def sample(self, part: int, settings: Settings) -> _Found:
        """One process's rounds."""
        return settings.run(self._sample(part, settings))

    async def _sample(self, part: int, settings: Settings) -> _Found:
        found, chance, numbers = _Found(), random.Random(SEED + part), itertools.count()
        apps: dict[str, Any] = {}
        for who in (_OURS, _FAPI, "the application alone"):
            try:
                apps[who] = _middleware(who)
            except ImportError as error:
                found.missing[who] = str(error)
        order = [(who, what) for who in apps for what in (_FIRST, _REPLAY)]
        for _ in range(settings.wire_rounds):
            chance.shuffle(order)
            for who, what in order:
                app = apps[who]

                async def once(app: Any = app, what: str = what) -> None:
                    await _request(app, f"{next(numbers)}" if what == _FIRST else "again")

                taken = await _slice(once, settings.wire_seconds / 4)
                found.taken.setdefault((who, what), []).append(taken)
        return found


ALL = (Calls(1), Calls(100, ((_FIRST, 2), (_REPLAY, 2))), AtTheDoor())
