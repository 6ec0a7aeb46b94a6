"""A process of the tests: `python worker.py storm URL N`, `die URL before|after VERB`, `slow URL`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import aresilience as ar
from aresilience.idempotency.redis import RedisIdempotencyStore


class Effects:
    """Work whose effect is a counter on the server."""

    def __init__(self, backend: Any, takes: float) -> None:
        self.backend = backend
        self.takes = takes

    async def work(self) -> dict[str, int]:
        """Do it."""
        await asyncio.sleep(self.takes)
        await self.backend.command("INCR", "effects")
        return {"fence": ar.current_claim().fence}


async def storm(url: str, number: int) -> None:
    """So many duplicates at once."""
    async with ar.connect(url, deadline=10.0) as backend:
        idem = ar.Idempotency(name="storm", lease=10.0, wait=60.0, backend=backend)
        effects = Effects(backend, 0.3)
        await backend.ping()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        answers = await asyncio.gather(*(idem.run("k", effects.work) for _ in range(number)))
        print(json.dumps({"answers": answers}), flush=True)


async def die(url: str, when: str, verb: str) -> None:
    """Be killed at a call of the store."""
    plain = getattr(RedisIdempotencyStore, verb)

    async def deadly(*args: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await plain(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(RedisIdempotencyStore, verb, deadly)
    async with ar.connect(url, deadline=2.0) as backend:
        idem = ar.Idempotency(name="kill", lease=0.5, wait=10.0, backend=backend)
        effects = Effects(backend, 5.0 if verb == "renew" else 0.0)
        await idem.run("k", effects.work, fingerprint="f")


class Slow:
    """Work during which the process is stopped."""

    async def work(self) -> str:
        """Say so, and take a while."""
        print("working", flush=True)
        await asyncio.sleep(0.3)
        return "stale"


async def slow(url: str) -> None:
    """Work, and say how it ended."""
    async with ar.connect(url, deadline=2.0) as backend:
        idem = ar.Idempotency(name="slow", lease=0.5, backend=backend)
        try:
            print(await idem.run("k", Slow().work), flush=True)
        except ar.ClaimLost as error:
            print(type(error).__name__, flush=True)


if sys.argv[1] == "storm":
    asyncio.run(storm(sys.argv[2], int(sys.argv[3])))
elif sys.argv[1] == "slow":
    asyncio.run(slow(sys.argv[2]))
else:
    asyncio.run(die(*sys.argv[2:]))
