"""Over Redis: how many decisions a second a process gets out of one server, and what they cost both."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass, field, fields
from time import perf_counter, process_time

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import SEED, Done, Settings, Spread, ratios, short
from benchmarks.redis_clients import CLIENTS, GLIDE, LIMITS, OURS, REDIS_PY, SAME_KEY, Decide
from benchmarks.redis_server import NO_SERVER, RedisServer, program, running
from benchmarks.results import Report, Verdict
from benchmarks.shared_breaker import SharedBreaker

__all__ = ["ALL"]

_KEYS = 10_000
_CROWD = 1_000
_WARM_UP = 0.3
"""Seconds that each has before it counts, to connect and to learn the script."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one slice found. All but the first are per decision, times in seconds."""

    per_second: float
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    in_scripts: float
    scripts: float
    bytes_in: float
    bytes_out: float


@dataclass(frozen=True, slots=True)
class Goal:
    """`who` decides at least `times` times as often as `peer`."""

    peer: str
    times: float
    who: str = OURS

    def judge(self, turns: Mapping[str, Sequence[Turn]]) -> Verdict:
        """Round by round."""
        title = f"{self.who}: ≥ {self.times:g}× {self.peer}"
        if self.peer not in turns or self.who not in turns:
            return Verdict(title, "NOT MEASURED", None)
        found = _faster(turns, self.who, self.peer)
        return Verdict(title, f"{found}×", found.median >= self.times)


def _faster(turns: Mapping[str, Sequence[Turn]], who: str, peer: str) -> Spread:
    return Spread.of(ratios([t.per_second for t in turns[who]], [t.per_second for t in turns[peer]]))


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one process found, and who could not be imported, and why."""

    server: str
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


_HEADER = (
    "decisions by",
    f"÷ {REDIS_PY}",
    "per s, for orientation",
    "p50, ms",
    "p99, ms",
    "client CPU, µs",
    "server CPU, µs",
    "in scripts, µs",
    "script calls",
    "bytes in",
    "bytes out",
)
_NOTES = (
    f"The keys are {_KEYS:,}, at random. CPU, script calls and bytes are per decision, bytes as the server "
    "sees them; the client's CPU is that of all its threads.",
)


@dataclass(frozen=True, slots=True)
class Decisions:
    """So many callers who ask again and again."""

    callers: int
    goals: tuple[Goal, ...] = ()

    @property
    def name(self) -> str:
        """What `--only` selects by."""
        return f"redis-limiter-{self.callers}"

    @property
    def title(self) -> str:
        """What it is called in the report."""
        return f"Over Redis: decisions of a limiter, callers: {self.callers:,}"

    def measure(self, settings: Settings, done: Done) -> Report:
        """All clients that are installed, each process with a server of its own."""
        report = Report(self.title, _HEADER, notes=list(_NOTES))
        turns: dict[str, list[Turn]] = {}
        if program() is None:
            report.missing = [NO_SERVER]
        else:
            for part in range(settings.wire_processes):
                sample: _Sample = in_fresh_process(self.name, part, settings)
                for name, each in sample.turns.items():
                    turns.setdefault(name, []).extend(each)
                done((part + 1) / settings.wire_processes)
            report.notes.append(f"Redis {sample.server}.")
            report.missing = [f"{name} is not installed ({why})" for name, why in sample.missing.items()]
            report.packages = {client.package for client in CLIENTS if client.name in turns} | {"hiredis"}
        report.rows = [_row(name, turns) for name in turns]
        report.verdicts = [goal.judge(turns) for goal in self.goals]
        return report

    def sample(self, part: int, settings: Settings) -> _Sample:
        """One process's rounds."""
        with running() as server:
            return settings.run(self._sample(part, settings, server))

    async def _sample(self, part: int, settings: Settings, server: RedisServer) -> _Sample:
        found = _Sample(server.version)
        chance = random.Random(SEED + part)
        picks = chance.choices([f"tenant-{number}" for number in range(_KEYS)], k=10 * _KEYS)
        seconds = settings.wire_seconds * (2 if self.callers >= _CROWD else 1)
        async with AsyncExitStack() as stack:
            slices: dict[str, tuple[Decide, Iterator[str]]] = {}
            for client in CLIENTS:
                try:
                    module = importlib.import_module(client.module)
                except ImportError as error:
                    found.missing[client.name] = str(error)
                    continue
                decide = await stack.enter_async_context(client.open(module, server.url, self.callers))
                slices[client.name] = decide, itertools.cycle(picks[:1] if client.one_key else picks)
                await self._turn(*slices[client.name], server, _WARM_UP)
                found.turns[client.name] = []
            order = list(slices)
            for _ in range(settings.wire_rounds):
                chance.shuffle(order)
                for name in order:
                    found.turns[name].append(await self._turn(*slices[name], server, seconds))
        return found

    async def _turn(self, decide: Decide, keys: Iterator[str], server: RedisServer, seconds: float) -> Turn:
        taken: list[float] = []

        async def caller() -> None:
            now = perf_counter()
            while now < end:
                if not await decide(next(keys)):
                    raise AssertionError("a decision of a limit that admits everything was no")
                then = perf_counter()
                taken.append(then - now)
                now = then

        gc.collect(1)
        gc.disable()
        server.reset()
        server_cpu = server.cpu()
        client_cpu, began = process_time(), perf_counter()
        end = began + seconds
        await asyncio.gather(*[caller() for _ in range(self.callers)])
        took, client_cpu = perf_counter() - began, process_time() - client_cpu
        server_cpu, did = server.cpu() - server_cpu, server.counts()
        gc.enable()
        many = len(taken)
        p50, p99 = statistics.median(taken), sorted(taken)[many * 99 // 100]
        each = (client_cpu, server_cpu, did.script_seconds, did.scripts, did.bytes_in, did.bytes_out)
        return Turn(many / took, p50, p99, *(value / many for value in each))


def _row(name: str, turns: Mapping[str, Sequence[Turn]]) -> tuple[str, ...]:
    columns = zip(*map(astuple, turns[name]), strict=True)
    found = {
        each.name: statistics.median(column) for each, column in zip(fields(Turn), columns, strict=True)
    }
    times = (
        "–" if REDIS_PY not in turns else "1" if name == REDIS_PY else str(_faster(turns, name, REDIS_PY))
    )
    return (
        name,
        times,
        f"{found['per_second']:,.0f}",
        *(short(found[key] * 1e3) for key in ("p50", "p99")),
        *(short(found[key] * 1e6) for key in ("client_cpu", "server_cpu", "in_scripts")),
        *(short(found[key]) for key in ("scripts", "bytes_in", "bytes_out")),
    )


ALL = (
    Decisions(1, (Goal(REDIS_PY, 0.8),)),
    Decisions(10),
    Decisions(100, (Goal(REDIS_PY, 8), Goal(LIMITS, 8), Goal(GLIDE, 2))),
    Decisions(_CROWD, (Goal(REDIS_PY, 15), Goal(OURS, 2, SAME_KEY))),
    SharedBreaker(),
)
