"""Clocks that go back, wake-ups that are missed, busy neighbours, corrupt keys: on Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import aresilience as ar
from aresilience.backend.redis import RedisBackend
from aresilience.lock.desk import desk_of
from aresilience.lock.machine import Kind
from aresilience.testing import FaultProxy

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

Two = tuple[ar.Backend, ar.Backend]
HOUR = 3_600_000_000


def key_of(server: RedisServer, end: str) -> str:
    """The one key that ends so."""
    (found,) = [key for key in server.command("KEYS", "*") if key.endswith(end)]
    return str(found)


@pytest.mark.parametrize("kind", ["fair", "read"])
async def test_the_place_of_the_dead_outlives_no_clock(
    redis_backend: RedisBackend, redis_server: RedisServer, kind: str
) -> None:
    """The clock goes back by an hour under a place: it is given up within its three seconds."""
    store = desk_of(redis_backend, "Lock").store
    fair, rw = ar.Lock("p", fair=True, backend=redis_backend), ar.ReadWriteLock("p", backend=redis_backend)
    dead = fair._ask() if kind == "fair" else rw._ask_for(Kind.WRITE)
    held = await (fair if kind == "fair" else rw.read()).acquire()
    await store.acquire(dead, True)
    await held.release()
    redis_server.command("ZINCRBY", key_of(redis_server, ":places"), HOUR, dead.token)
    lease = await (fair if kind == "fair" else rw.read()).acquire(timeout=6)
    await lease.release()


async def test_a_short_permit_outlives_no_clock_beside_a_long_one(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Ten minutes back, with permits of different ttl: the dead one is free after its own."""
    store = desk_of(redis_backend, "Lock").store
    long = ar.Semaphore("s", permits=2, ttl=3600, backend=redis_backend)._ask()
    short = ar.Semaphore("s", permits=2, ttl=0.2, backend=redis_backend)
    dead = short._ask()
    await store.acquire(long, False)
    await store.acquire(dead, False)
    key = key_of(redis_server, ":many")
    redis_server.command("ZINCRBY", key, HOUR // 6, dead.token)
    redis_server.command("ZINCRBY", key, -HOUR // 6, long.token)
    await (await short.acquire(timeout=2)).release()


async def test_who_listens_second_looks_for_himself(redis_backend: RedisBackend) -> None:
    """A channel that is subscribed already says so to nobody: a new listener is told to look, the first not."""
    looks: list[int] = []
    first = redis_backend.listen("c", lambda _: None, lambda: looks.append(1))
    deadline = time.monotonic() + 5
    while not looks and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    second = redis_backend.listen("c", lambda _: None, lambda: looks.append(2))
    third = redis_backend.listen("c", lambda _: None, lambda: looks.append(3))
    third()
    await asyncio.sleep(0)
    assert looks == [1, 2]
    first()
    second()


@pytest.mark.parametrize("tasks", [1, 4])
async def test_a_busy_process_lets_one_that_is_far_away_in(
    redis_server: RedisServer, proxy: FaultProxy, tasks: int
) -> None:
    """Others are 20 ms away, and here it goes from hand to hand: their head start grows until they have it."""
    async with (
        ar.connect(redis_server.url, deadline=2.0) as near,
        ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=2.0) as far,
    ):
        lock, other = ar.Lock("b", backend=near), ar.Lock("b", backend=far)
        await (await other.acquire()).release()
        proxy.replies.delay(0.02, times=None)
        served = False

        async def busy() -> None:
            while not served:
                async with lock:
                    await asyncio.sleep(0.01)

        neighbours = [asyncio.create_task(busy()) for _ in range(tasks)]
        try:
            await (await other.acquire(timeout=20)).release()
        finally:
            served = True
            await asyncio.gather(*neighbours)


async def test_the_head_start_of_others_grows_until_they_are_there(redis_backend: RedisBackend) -> None:
    """Sixteen times told and too late: they come first, for twice as long each time, until they are there."""
    desk, line = desk_of(redis_backend, "Lock"), "a"
    for pause in (0.002, 0.004, 0.008):
        assert not desk.others_first(line)
        for _ in range(16):
            desk.told_others(line)
        assert desk.others_first(line)
        assert desk.lines.enter(line)
        began = desk.loop.time()
        desk.pass_on_later(line)
        assert await desk.lines.stand(line, None)
        assert desk.loop.time() - began >= pause * 0.9
        desk.pass_on(line)
    theirs = ar.Lock("a", backend=redis_backend)
    store = desk.store
    await store.acquire(theirs._ask(), False)
    assert await theirs.try_acquire() is None
    assert len(desk._told) == 1
    mine = theirs.line(theirs._ask())
    desk.told_others(mine)
    assert await theirs.try_acquire() is None
    assert mine not in desk._told


async def test_all_are_taken_over_or_none(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """One of two names is corrupt: the holder of the other keeps it."""
    alone = ar.Lock("a", owner="victim", group="g", backend=redis_backend)
    lease = await alone.acquire()
    redis_server.command("RPUSH", redis_backend.key("lock", "b", tag="g").decode(), "garbage")
    with pytest.raises(ar.BackendError):
        await ar.Lock.all("a", "b", group="g", backend=redis_backend).take_over()
    holder = await alone.holder()
    assert holder is not None
    assert holder.owner == "victim"
    await lease.release()


async def test_a_permit_that_cannot_be_described_is_not_granted(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """What is known of the sharers is corrupt: nothing is left behind."""
    semaphore = ar.Semaphore("f", permits=1, backend=redis_backend)
    store: Any = desk_of(redis_backend, "Lock").store
    facts = store.keys(semaphore._ask())[3].decode()
    redis_server.command("SET", facts, "garbage")
    with pytest.raises(ar.BackendError):
        await semaphore.try_acquire()
    assert [key for key in redis_server.command("KEYS", "*") if key.endswith(":many")] == []


async def test_leaving_under_a_cancelled_scope_costs_no_cpu(
    redis_server: RedisServer, proxy: FaultProxy
) -> None:
    """The release takes half a second in a cancelled anyio scope: it is waited for, not spun for."""
    async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=2.0) as backend:
        lock = ar.Lock("a", backend=backend)
        async with lock:
            pass
        with anyio.CancelScope() as scope:
            async with lock:
                proxy.replies.delay(0.5)
                scope.cancel()
                began = time.process_time()
        assert time.process_time() - began < 0.25
        assert await lock.holder() is None


async def test_a_ttl_that_one_lost_answer_can_end_is_spoken_of_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Shorter than three deadlines: a warning, the first time; longer: none."""
    with caplog.at_level(logging.WARNING, "aresilience"):
        async with ar.connect(redis_server.url, deadline=1.0) as backend:
            for ttl, warnings in ((3.0, 0), (2.9, 1), (2.0, 1)):
                async with ar.Lock("a", ttl=ttl, backend=backend):
                    pass
                assert caplog.text.count("is short for a backend") == warnings
