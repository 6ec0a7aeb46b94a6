"""One of several processes that ask a limiter as fast as they can: `python saturate.py URL SECONDS`.

Says "ready", waits for a line, then prints the server's times of its grants, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aresilience.backend import connect
from aresilience.limiter import RateLimiter


async def main(url: str, seconds: float) -> None:
    """See above."""
    async with connect(url, deadline=2.0) as backend:
        limiter = RateLimiter("200/s", burst=50, name="bound", backend=backend)
        ask = limiter.ask("", 1)
        grants: list[int] = []
        await limiter.peek()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + seconds

        async def worker() -> None:
            while time.monotonic() < end:
                grant = await limiter.store.acquire(ask, 0)
                if grant.allowed:
                    grants.append(grant.now)

        await asyncio.gather(*(worker() for _ in range(4)))
    print(json.dumps(grants))


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
