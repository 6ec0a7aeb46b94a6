"""A process of the tests: registers, says what becomes of it, and leaves when it is told to.

Run as `python worker.py URL ID TTL [VERSION]`; a line of JSON for each change, the first when it is registered;
it leaves when its input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aresilience as ar


def say(what: str, **facts: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


async def main(url: str, who: str, ttl: float, version: str) -> None:
    """Be there until the input ends."""
    loop = asyncio.get_running_loop()
    async with ar.connect(url, deadline=0.25) as backend:
        registry = ar.ServiceRegistry(ttl=ttl, backend=backend)
        registry.listen(lambda event: say(type(event).__name__, status=str(getattr(event, "status", ""))))
        me = ar.Instance("users", "127.0.0.1", 8080, id=who, version=version)
        async with registry.register(me, propagation=0) as registration:
            say("ready", generation=registration.generation)
            await loop.run_in_executor(None, sys.stdin.read)
        say("left", status=str(registration.status))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), (sys.argv[4:] or [""])[0]))
