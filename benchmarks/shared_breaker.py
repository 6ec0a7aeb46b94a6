"""A circuit breaker that processes share: what it asks the server while it is closed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aresilience as ar
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Done, Settings, ok
from benchmarks.redis_server import NO_SERVER, program, running
from benchmarks.results import Report, Verdict

__all__ = ["SharedBreaker"]

_CALLS = 10_000
_SETTLED = 0.2
"""Seconds after which it has learnt what state there is."""


@dataclass(frozen=True, slots=True)
class SharedBreaker:
    """Commands for calls through a closed circuit: none."""

    name: str = "redis-breaker"
    title: str = "Over Redis: a shared circuit breaker, closed"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Counted by the server."""
        goal = f"{_CALLS:,} calls: 0 commands"
        if program() is None:
            return Report(
                self.title,
                ("calls", "commands"),
                missing=[NO_SERVER],
                verdicts=[Verdict(goal, "NOT MEASURED", None)],
            )
        commands: int = in_fresh_process(self.name, 0, settings)
        done(1)
        return Report(
            self.title,
            ("calls", "commands"),
            [(f"{_CALLS:,}", str(commands))],
            verdicts=[Verdict(goal, f"{commands} commands", commands == 0)],
        )

    def sample(self, part: int, settings: Settings) -> int:
        """The commands that the server counted."""
        with running() as server:

            async def count() -> int:
                async with ar.connect(server.url) as backend:
                    call = ar.CircuitBreaker("bench", backend=backend)(ok)
                    await call()
                    await asyncio.sleep(_SETTLED)
                    server.reset()
                    for _ in range(_CALLS):
                        await call()
                    return server.counts().commands

            return settings.run(count())
