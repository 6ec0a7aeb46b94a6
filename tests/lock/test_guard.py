"""The guard at the resource: an old fence is refused, in the process, in Redis, in SQL, and in the example."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.testing import FaultyBackend
from aresilience.testing.faulty import Fault

if TYPE_CHECKING:
    from servers import RedisServer

on_redis = [pytest.mark.redis, pytest.mark.real_time]


def test_in_the_process() -> None:
    """Lower than what it has seen: refused; equal or higher: passes."""
    guard = ar.FencedGuard("printer")
    for fence in (3, 3, 5):
        guard.admit(fence)
    with pytest.raises(ar.StaleFence, match="'printer' refuses fence 4: it is lower than 5") as caught:
        guard.admit(4)
    assert (caught.value.fence, caught.value.seen) == (4, 5)


async def written_and_read(backend: ar.Backend) -> None:
    """Some writes, one of them late."""
    guard = ar.FencedGuard("reports", backend=backend)
    assert await guard.read("a") == (None, 0)
    await guard.write("a", "first", 10)
    await guard.write("a", b"first again", 10)
    await guard.write("b", "other", 1)
    await guard.write("a", "second", 2**53 - 1)
    with pytest.raises(ar.StaleFence) as caught:
        await guard.write("a", "late", 11)
    assert caught.value.seen == 2**53 - 1
    assert await guard.read("a") == (b"second", 2**53 - 1)
    assert await ar.FencedGuard("others", backend=backend).read("a") == (None, 0)


async def claimed(backend: ar.Backend) -> None:
    """A reading that keeps those who were before from writing."""
    guard = ar.FencedGuard("counters", backend=backend)
    assert await guard.read("a", 5) == (None, 5)
    with pytest.raises(ar.StaleFence):
        await guard.write("a", "late", 4)
    with pytest.raises(ar.StaleFence):
        await guard.read("a", 4)
    await guard.write("a", "mine", 5)
    assert await guard.read("a", 6) == (b"mine", 6)
    assert await guard.read("a") == (b"mine", 6)


async def test_in_memory() -> None:
    """Each key has a fence of its own; the highest holds."""
    async with ar.connect("memory://") as backend:
        await written_and_read(backend)
        await claimed(backend)
    await ar.FencedGuard("own memory").write("a", "b", 1)


@pytest.mark.redis
@pytest.mark.real_time
async def test_in_redis(redis_backend: ar.Backend, redis_server: RedisServer) -> None:
    """The same; what is kept has an end, and garbage is told from it."""
    await written_and_read(redis_backend)
    found = redis_server.command("KEYS", "ar:guarded:*")
    assert len(found) == 2
    assert all(redis_server.command("PTTL", key) > 600_000_000 for key in found)
    for key in found:
        redis_server.command("HSET", key, "fence", "garbage")
    guard = ar.FencedGuard("reports", backend=redis_backend)
    with pytest.raises(ar.CorruptState):
        await guard.read("a")
    with pytest.raises(ar.CorruptState):
        await guard.write("a", "x", 1)
    await claimed(redis_backend)


async def test_a_write_of_unknown_outcome_can_be_repeated() -> None:
    """The same fence passes again."""
    async with FaultyBackend() as backend:
        guard = ar.FencedGuard("reports", backend=backend)
        backend.plan(Fault.LOST_REPLY, verb="write")
        with pytest.raises(ar.OutcomeUnknown):
            await guard.write("a", "x", 7)
        await guard.write("a", "x", 7)
        assert await guard.read("a") == (b"x", 7)


async def test_it_takes_a_lease() -> None:
    """A lease's fence, or a number that it was."""
    guard = ar.FencedGuard("reports")
    async with ar.Lock("a") as before:
        pass
    async with ar.Lock("a") as lease:
        await guard.write("k", "x", lease)
        guard.admit(lease)
        with pytest.raises(ar.StaleFence):
            await guard.write("k", "y", before)
        with pytest.raises(ar.StaleFence):
            guard.confirm(0, lease)
        guard.confirm(1, lease)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: ar.FencedGuard(""), ValueError),
        (lambda: ar.FencedGuard("a", keep=0), ValueError),
        (lambda: ar.FencedGuard("a", keep=1e16), ValueError),
        (lambda: ar.Lock("a", lock_delay=1e16), ValueError),
        (lambda: ar.Semaphore("a", permits=10**400), ValueError),
        (lambda: ar.Lock("a", wait_replicas=10**400), ValueError),
        (lambda: ar.FencedGuard("a").confirm(-1, 1), ValueError),
        (lambda: ar.FencedGuard("a", backend="redis://"), TypeError),  # type: ignore[arg-type]
        (lambda: ar.FencedGuard("a").admit(-1), ValueError),
        (lambda: ar.FencedGuard("a").admit(2**53), ValueError),
        (lambda: ar.FencedGuard("a").admit(1.5), TypeError),  # type: ignore[arg-type]
        (lambda: asyncio.run(ar.FencedGuard("a").write("k", 7, 1)), TypeError),  # type: ignore[arg-type]
    ],
)
def test_bad_values(call: Any, error: type[Exception]) -> None:
    """Refused before anything happens."""
    with pytest.raises(error):
        call()


@pytest.mark.parametrize("url", ["memory", pytest.param("redis", marks=on_redis)])
async def test_the_example(
    url: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The late worker is refused in both resources, and the other's report stays."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "fenced.py"))
    await example["main"]("memory://" if url == "memory" else request.getfixturevalue("redis_url"))
    said = capsys.readouterr().out
    assert said.count("refuses fence") == 2
    assert said.count("by the second worker'") == 2


async def many_guards(backend: ar.Backend) -> None:
    """A guard for each order: one store for all, and each name a world of its own."""
    for number in range(50):
        await ar.FencedGuard(f"order:{number}", backend=backend).write("k", str(number), number + 1)
    assert len(backend._shared) == 1
    assert await ar.FencedGuard("order:7", backend=backend).read("k") == (b"7", 8)


async def test_guards_of_many_names_leave_nothing_in_the_process() -> None:
    """In memory."""
    await many_guards(ar.MemoryBackend())


@pytest.mark.redis
@pytest.mark.real_time
async def test_guards_of_many_names_leave_nothing_in_the_process_on_redis(
    redis_backend: ar.Backend,
) -> None:
    """On Redis."""
    await many_guards(redis_backend)
