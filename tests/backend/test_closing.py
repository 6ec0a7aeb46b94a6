"""Beginning and end: in a task group and outside, cancelled, with the server stopped, by a signal (V10)."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis_fixtures import both_versions
from servers import RedisServer, eventually

import aresilience
from aresilience import NotSent
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.errors import BackendError
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
SLACK = 0.4


def on(url: str, deadline: float = 0.2) -> RedisBackend:
    """A backend, not yet open."""
    backend = connect(url, deadline=deadline)
    assert isinstance(backend, RedisBackend)
    return backend


def no_tasks_left() -> bool:
    """Whether only the caller's task is alive."""
    return asyncio.all_tasks() == {asyncio.current_task()}


@both_versions
async def test_in_a_task_group_and_outside(redis_server: RedisServer) -> None:
    """Opened outside a task group and used inside, and the other way round: nothing is left behind."""
    async with on(redis_server.url) as backend, asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(_use(backend))
    async with asyncio.TaskGroup() as group, on(redis_server.url) as backend:
        await asyncio.gather(*(group.create_task(_use(backend)) for _ in range(10)))
    async with anyio.create_task_group() as nursery, on(redis_server.url) as backend:
        for _ in range(10):
            nursery.start_soon(_use, backend)
        await backend.ping()
    assert no_tasks_left()
    await eventually(lambda: redis_server.clients() == [])


async def _use(backend: RedisBackend) -> None:
    await backend.ping()


async def test_what_was_asked_before_the_end_is_still_done(redis_server: RedisServer) -> None:
    """Leaving sends what waits, and waits for the answers."""
    async with on(redis_server.url) as backend:
        calls = [backend.run(COUNT, [b"ar:n"], []) for _ in range(20)]
    assert sorted(n for (n,) in await asyncio.gather(*calls)) == list(range(1, 21))


async def test_leaving_costs_nothing_when_nothing_is_asked(redis_server: RedisServer) -> None:
    """Leaving an idle backend, or one whose only caller has left, does not wait."""
    loop = asyncio.get_running_loop()
    async with on(redis_server.url, deadline=5.0) as backend:
        await backend.ping()
        backend.command("PING").cancel()
        started = loop.time()
    assert loop.time() - started < 1.0


async def test_leaving_is_bounded_when_the_server_is_stopped(redis_server: RedisServer) -> None:
    """The server is stopped: leaving takes a deadline, and those who wait hear of it."""
    loop = asyncio.get_running_loop()
    redis_server.command("PING")
    try:
        async with on(redis_server.url) as backend:
            unlisten = backend.listen("news", lambda message: None, lambda: None)
            redis_server.pause()
            calls = [backend.command("PING") for _ in range(5)]
            await asyncio.sleep(0)
            started = loop.time()
        assert loop.time() - started < 0.2 + SLACK
        unlisten()
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, BackendError)
        assert no_tasks_left()
    finally:
        redis_server.resume()


async def test_leaving_is_bounded_when_nobody_is_there(proxy: FaultProxy) -> None:
    """Nobody accepts connections, or nobody answers: entering and leaving take a deadline each."""
    loop = asyncio.get_running_loop()
    for away in (proxy.black_hole, proxy.refuse):
        away()
        started = loop.time()
        async with on(f"redis://127.0.0.1:{proxy.port}") as backend:
            backend.listen("news", lambda message: None, lambda: None)
            with pytest.raises(NotSent):
                await backend.ping()
        assert loop.time() - started < 3 * 0.2 + SLACK
        await eventually(lambda: proxy.connections == 0)
        assert no_tasks_left()


@pytest.mark.parametrize("how", ["task", "scope", "twice"])
async def test_leaving_while_cancelled_still_hangs_up(redis_server: RedisServer, how: str) -> None:
    """Cancelled by a task, by an anyio scope, or again while it leaves: it hangs up; the cancel is not lost."""
    left = asyncio.Event()

    async def body() -> None:
        async with on(redis_server.url) as backend:
            backend.listen("news", lambda message: None, lambda: None)
            await backend.ping()
            redis_server.pause()
            backend.command("PING")
            left.set()
            await asyncio.get_running_loop().create_future()

    busy = time.process_time()
    try:
        task: asyncio.Task[Any]
        if how == "scope":

            async def scoped() -> None:
                with anyio.move_on_after(0.1) as scope:
                    await body()
                assert scope.cancelled_caught
                raise asyncio.CancelledError

            task = asyncio.ensure_future(scoped())
        else:
            task = asyncio.ensure_future(body())
            await left.wait()
            task.cancel()
            if how == "twice":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
        assert no_tasks_left()
        assert time.process_time() - busy < 0.15  # a scope cancels again and again who does not shield
    finally:
        redis_server.resume()
    await eventually(lambda: redis_server.clients() == [])


async def test_an_opening_that_is_cancelled_leaves_nothing(proxy: FaultProxy) -> None:
    """Cancelled while it opens: hung up, and it can be entered again."""
    proxy.black_hole()
    backend = on(f"redis://127.0.0.1:{proxy.port}", deadline=5.0)
    task = asyncio.ensure_future(backend.__aenter__())
    await eventually(lambda: proxy.connections == 1)
    task.cancel()
    started = asyncio.get_running_loop().time()
    await asyncio.wait([task])
    assert task.cancelled()
    assert asyncio.get_running_loop().time() - started < 1.0
    await eventually(lambda: proxy.connections == 0)
    await proxy.heal()
    async with backend:
        assert await backend.ping() > 0


async def test_nothing_of_the_opener_is_kept(redis_server: RedisServer) -> None:
    """The context of whoever opens it, or asks first (his deadline, his trace), does not live on with us."""
    variable: ContextVar[object] = ContextVar("variable")
    backend = on(redis_server.url)

    async def opener() -> weakref.ref[Any]:
        thing = asyncio.Event()
        variable.set(thing)
        await backend.__aenter__()
        await backend.ping()
        backend.listen("news", lambda message: None, lambda: None)
        await backend._wakeups.connected.wait()
        return weakref.ref(thing)

    kept = await asyncio.ensure_future(opener())
    await eventually(
        lambda: gc.collect() >= 0 and kept() is None, within=1.0
    )  # a timer holds it, for a deadline
    await backend.__aexit__(None, None, None)


SERVICE = """
    import asyncio, signal
    from aresilience.backend.redis import RedisBackend
    from aresilience.backend import connect
    from aresilience.errors import BackendError

    async def calls(backend):
        while True:
            try:
                await backend.ping()
            except BackendError:
                await asyncio.sleep(0.001)

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
        async with connect({url!r}, deadline=0.2) as backend, asyncio.TaskGroup() as group:
            backend.listen("news", print, lambda: None)
            for _ in range(20):
                group.create_task(calls(backend))
            await backend.ping()
            print("up", flush=True)

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        print("down")
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_v10_a_signal_during_everything_ends_it_in_time(redis_server: RedisServer, stopped: bool) -> None:
    """V10 SIGTERM with twenty callers at work, the server well or stopped: a quick and silent end."""
    path = str(Path(aresilience.__file__).parents[1])
    service = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(SERVICE.format(url=redis_server.url))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == "up\n"
        if stopped:
            redis_server.pause()
        started = time.monotonic()
        service.send_signal(signal.SIGTERM)
        out, err = service.communicate(timeout=5)
        assert (out, err) == ("down\n", "")
        assert time.monotonic() - started < 2 * 0.2 + 0.5  # and the end of the interpreter
    finally:
        redis_server.resume()
        service.kill()
        service.communicate()
