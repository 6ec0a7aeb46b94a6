"""Faults that were found in other packages, by running them: here they do not happen.

| package                       | fault                                                      | here |
|-------------------------------|------------------------------------------------------------|------|
| asgi-idempotency-header 0.2.0 | another user's, path's, body's answer replayed             | asgi |
|                               | headers lost; 503 replayed; 4 KB keys; bad keys are a 500  | asgi |
|                               | chunks parsed alone, so that the client's body was cut     | asgi |
|                               | after the ttl, or a cancel, 409 for ever; keys without TTL | here |
| Powertools 3.37.0             | a duplicate of what is done fails validation               | here |
|                               | a stale owner overwrites; async functions not supported    | here |
|                               | shared stores keep the first one's ttl, the inner's name   | here |
| idempotency-kit 0.5.0         | a blocked owner overwrites its successor's result          | here |
| fastapi-idempotency 0.1.1     | 429 stored and replayed                                    | asgi |
| django-idempotency-key 1.3.0  | two concurrent requests both run                           | here |
| node-idempotency              | one TTL for lease and result: 409 for a day after a crash  | here |

"asgi": in tests/asgi/test_idempotency.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar

if TYPE_CHECKING:
    from servers import RedisServer

WORKER = Path(__file__).with_name("worker.py")
Two = tuple[ar.Backend, ar.Backend]


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Any:
    """Where records are."""
    if request.param == "memory":
        return ar.MemoryBackend()
    return request.getfixturevalue("redis_backend")


both = pytest.mark.parametrize(
    "backend", ["memory", pytest.param("redis", marks=pytest.mark.redis)], indirect=True
)


class Work:
    """Counts its runs."""

    def __init__(self, takes: float = 0.0) -> None:
        self.takes = takes
        self.runs = 0

    async def __call__(self) -> int:
        """Run."""
        self.runs += 1
        await asyncio.sleep(self.takes)
        return self.runs


@both
@pytest.mark.real_time
async def test_after_the_ttl_a_key_is_free(backend: ar.Backend) -> None:
    """Not refused for ever, because a mark was left that nobody removes."""
    idem = ar.Idempotency(name="ttl", ttl=0.1, backend=backend)
    work = Work()
    assert await idem.run("k", work) == 1
    await asyncio.sleep(0.15)
    assert await idem.run("k", work) == 2


@both
@pytest.mark.real_time
async def test_after_a_cancel_a_key_is_not_refused_for_ever(backend: ar.Backend) -> None:
    """Whatever the policy: finished, or free, or taken over."""
    for on_cancel in ("finish", "release", "unknown"):
        idem = ar.Idempotency(name=on_cancel, on_cancel=on_cancel, wait=5.0, backend=backend)  # type: ignore[arg-type]
        work = Work(0.1)
        task = asyncio.create_task(idem.run("k", work))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await idem.run("k", work)
        assert work.runs == (1 if on_cancel == "finish" else 2)


@both
@pytest.mark.real_time
async def test_a_duplicate_of_what_is_done_passes_its_check(backend: ar.Backend) -> None:
    """The fingerprint is kept when the work is done: an equal one is a replay, another one is refused."""
    idem = ar.Idempotency(name="hash", backend=backend)
    work = Work()
    for _ in range(3):
        assert await idem.run("k", work, fingerprint={"amount": 1}) == 1
    with pytest.raises(ar.KeyReused):
        await idem.run("k", work, fingerprint={"amount": 2})


@both
@pytest.mark.real_time
async def test_two_on_one_backend_keep_their_own_ttl(backend: ar.Backend) -> None:
    """What one was configured with does not hold for the other, also with the same name."""
    brief = ar.Idempotency(name="shared", ttl=0.1, backend=backend)
    long = ar.Idempotency(name="shared", ttl=100.0, backend=backend)
    await brief.run("brief", Work())
    await long.run("long", Work())
    one, other = await brief.get("brief"), await brief.get("long")
    assert one is not None
    assert other is not None
    assert one.expires_in <= 0.1
    assert 99 < other.expires_in <= 100


@both
@pytest.mark.real_time
async def test_an_inner_call_leaves_the_outer_record_alone(backend: ar.Backend) -> None:
    """Each has its own record: the outer one is done, with the outer result."""
    idem = ar.Idempotency(name="nested", backend=backend)

    async def inner() -> str:
        return "inner"

    async def outer() -> str:
        return "outer of " + await idem.run("inner", inner)

    for _ in range(2):
        assert await idem.run("outer", outer) == "outer of inner"
        assert await idem.run("inner", inner) == "inner"
    assert await idem.in_flight() == []


@both
@pytest.mark.real_time
async def test_of_two_concurrent_calls_one_runs(backend: ar.Backend) -> None:
    """The claim comes before the work, not after it."""
    idem = ar.Idempotency(name="two", backend=backend)
    work = Work(0.05)
    assert await asyncio.gather(idem.run("k", work), idem.run("k", work)) == [1, 1]


@pytest.mark.redis
@pytest.mark.real_time
async def test_a_process_that_stood_still_does_not_overwrite(redis_server: RedisServer, two: Two) -> None:
    """SIGSTOP for longer than its lease: the successor's result stays; the owner hears `ClaimLost`."""
    command = [sys.executable, str(WORKER), "slow", redis_server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "working"
        os.kill(process.pid, signal.SIGSTOP)
        idem = ar.Idempotency(name="slow", lease=0.5, wait=10.0, backend=two[0])
        began = time.monotonic()

        async def successor() -> str:
            claim = ar.current_claim()
            return f"attempt {claim.attempt}"

        successor.__qualname__ = "Slow.work"
        assert await idem.run("k", successor) == "attempt 2"
        assert time.monotonic() - began < 5.0  # a lease, not the ttl of a day
        os.kill(process.pid, signal.SIGCONT)
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ClaimLost"
        assert await asyncio.to_thread(process.wait, 10) == 0
    assert await idem.run("k", successor) == "attempt 2"
