"""What becomes of those who hold, wait and look on when their backend is closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import aresilience as ar
from aresilience.backend import connect

if TYPE_CHECKING:
    from servers import RedisServer


async def test_who_stands_in_line_is_not_granted_while_the_backend_closes() -> None:
    """Two of three wait: the holder is cut off, the others are told at once, and nobody runs on."""
    backend, inside = ar.MemoryBackend(), 0
    lock = ar.Lock("a", ttl=1.0, backend=backend)

    async def section() -> None:
        nonlocal inside
        async with lock:
            inside += 1
            await asyncio.sleep(1000)

    async with backend:
        tasks = [asyncio.create_task(section()) for _ in range(3)]
        await asyncio.sleep(0.1)
    said = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in said] == [ar.LockLost, ar.NotSent, ar.NotSent]
    assert asyncio.get_running_loop().time() < 1
    assert inside == 1
    assert await lock.holder() is None
    await (await lock.acquire()).release()  # opened again, or used unopened, it works as before


async def test_who_observes_is_told_of_the_end() -> None:
    """No observer waits for a leader of a backend that is closed."""
    backend = ar.MemoryBackend()
    async with backend:

        async def look() -> None:
            async for _ in ar.LeaderElection("a", backend=backend).observe():
                pass

        observer = asyncio.create_task(look())
        await asyncio.sleep(1)
    with pytest.raises(ar.NotSent):
        await observer
    assert asyncio.get_running_loop().time() < 2


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["lock", "semaphore", "writer"])
async def test_waiters_on_redis_leave_nothing_when_their_backend_closes(
    redis_server: RedisServer, kind: str
) -> None:
    """Those in line, and the one who waits for another process, end with the close; no place is left."""
    async with connect(redis_server.url, deadline=2.0) as theirs:
        mine = connect(redis_server.url, deadline=2.0)

        def take(backend: ar.Backend) -> asyncio.Future[ar.Lease]:
            if kind == "lock":
                return asyncio.ensure_future(ar.Lock("a", backend=backend).acquire())
            if kind == "writer":
                return asyncio.ensure_future(ar.ReadWriteLock("a", backend=backend).write().acquire())
            return asyncio.ensure_future(ar.Semaphore("a", permits=1, backend=backend).acquire())

        held = await take(theirs)
        async with mine:
            waiters = [take(mine) for _ in range(3)]
            await asyncio.sleep(0.1)
        done, _ = await asyncio.wait(waiters, timeout=1)
        assert len(done) == 3
        assert {type(task.exception()) for task in done} == {ar.NotSent}
        await held.release()
        await asyncio.wait_for((await asyncio.wait_for(take(theirs), 1)).release(), 1)
        assert [
            key for key in redis_server.command("KEYS", "*") if key.endswith((":queue", ":places"))
        ] == []


@pytest.mark.redis
@pytest.mark.real_time
async def test_the_next_in_line_on_redis_is_not_granted_while_the_backend_closes(
    redis_server: RedisServer,
) -> None:
    """The holder's backend closes: nothing is held in Redis when it is closed."""
    async with connect(redis_server.url, deadline=2.0) as mine:
        lock = ar.Lock("a", backend=mine)
        await lock.acquire()
        waiter = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0.05)
    with pytest.raises(ar.NotSent):
        await asyncio.wait_for(waiter, 1)
    assert [key for key in redis_server.command("KEYS", "*") if ":lock:" in key] == []
