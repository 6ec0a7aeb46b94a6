"""A process of the history tests: takes the lock, works on a guarded and on an unguarded counter, says so.

Run as `python worker.py URL TTL SECONDS`; a line of JSON for each event, the first when it is ready. Times are
the system's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import aresilience as ar

COUNTER = "ar-test-unguarded"


def say(what: str, **facts: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


async def section(lock: ar.Lock, guard: ar.FencedGuard, backend: ar.RedisBackend) -> None:
    """Read, think, write: on both counters."""
    asked = time.monotonic()
    async with lock as lease:
        say("enter", fence=lease.fence, asked=asked)
        try:
            value, _ = await guard.read("counter", lease)
            plain = int(await backend.command("GET", COUNTER) or 0)
            await asyncio.sleep(random.random() * 0.01)
            await guard.write("counter", str(int(value or 0) + 1), lease)
            say("wrote", fence=lease.fence)
            await backend.command("SET", COUNTER, plain + 1)
            say("wrote plainly", fence=lease.fence)
        finally:
            say("exit", fence=lease.fence)


async def main(url: str, ttl: float, seconds: float) -> None:
    """Sections, one after the other."""
    backend = ar.connect(url, deadline=0.2)
    assert isinstance(backend, ar.RedisBackend)
    async with backend:
        lock = ar.Lock("history", ttl=ttl, backend=backend)
        guard = ar.FencedGuard("history", backend=backend)
        say("ready")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                await section(lock, guard, backend)
            except (ar.LockLost, ar.StaleFence, ar.BackendError) as error:
                say(type(error).__name__, fence=getattr(error, "fence", 0))
            await asyncio.sleep(random.random() * 0.002)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
