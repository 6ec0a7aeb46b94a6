"""Fault cases R1–R13: what the way to the server does, and what the caller hears of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from redis_fixtures import both_versions
from servers import RedisServer, eventually, free_port

from aresilience import NotSent, OutcomeUnknown
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
SLACK = 0.4
"""Seconds by which a busy machine may be late."""


def on(url: str, deadline: float = 0.2) -> RedisBackend:
    """A backend, not yet open."""
    backend = connect(url, deadline=deadline)
    assert isinstance(backend, RedisBackend)
    return backend


async def timed(call: Any) -> tuple[BaseException | None, float]:
    """The error of a call, and how long it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        await call
    except Exception as error:  # noqa: BLE001 - it is the result
        return error, loop.time() - started
    return None, loop.time() - started


@both_versions
async def test_r1_a_lost_reply_is_unknown_and_ran_once(
    hurried: RedisBackend, proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """R1 reply lost after execution: UNKNOWN, one execution."""
    assert await hurried.run(COUNT, [b"ar:n"], []) == [1]
    proxy.replies.swallow()
    error, seconds = await timed(hurried.run(COUNT, [b"ar:n"], []))
    assert type(error) is OutcomeUnknown
    assert 0.19 < seconds < 0.2 + SLACK
    assert redis_server.command("GET", "ar:n") == "2"


@both_versions
async def test_r2_a_lost_request_is_unknown_and_never_ran(
    hurried: RedisBackend, proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """R2 request lost: UNKNOWN, 0 executions, same handling as R1."""
    assert await hurried.run(COUNT, [b"ar:n"], []) == [1]
    proxy.requests.swallow()
    error, seconds = await timed(hurried.run(COUNT, [b"ar:n"], []))
    assert type(error) is OutcomeUnknown
    assert seconds < 0.2 + SLACK
    assert redis_server.command("GET", "ar:n") == "1"


async def test_r1_nothing_of_a_lost_reply_reaches_the_next_caller(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """After a lost reply the next one would be taken for it: the nonce tells, and the connection is dropped."""
    proxy.replies.swallow()
    first = asyncio.ensure_future(hurried.run(ECHO, [], ["first"]))
    second = asyncio.ensure_future(hurried.run(ECHO, [], ["second"]))
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, OutcomeUnknown]
    assert await hurried.run(ECHO, [], ["third"]) == [b"third"]
    assert proxy.accepted == 2


@pytest.mark.parametrize("after", [0, 1, 5, 12])
async def test_r3_a_reset_in_a_reply_is_unknown_and_drops_the_connection(
    proxied: RedisBackend, proxy: FaultProxy, after: int
) -> None:
    """R3 reset in the middle of a reply: UNKNOWN at once, connection dropped, a new one for the next call."""
    await proxied.run(ECHO, [], ["loads the script"])
    proxy.replies.reset(after=after)
    error, _ = await timed(proxied.run(ECHO, [], ["lost"]))
    assert type(error) is OutcomeUnknown
    assert "broke" in str(error)  # at once, not at the deadline
    assert await proxied.run(ECHO, [], ["back"]) == [b"back"]
    assert proxy.accepted == 2


async def test_r4_a_reply_in_single_bytes_is_a_reply(proxy: FaultProxy) -> None:
    """R4 reply split byte by byte: works."""
    async with on(f"redis://127.0.0.1:{proxy.port}", deadline=5.0) as backend:
        await backend.run(ECHO, [], ["loads the script"])
        proxy.replies.split()
        proxy.requests.split()
        calls = [backend.run(ECHO, [], [f"\r\n{n}$*"]) for n in range(5)]
        assert [[f"\r\n{n}$*".encode()] for n in range(5)] == await asyncio.gather(*calls)
        assert proxy.accepted == 1


async def test_r5_a_stray_reply_on_an_idle_connection_drops_it(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """R5 stray reply on an idle connection: connection dropped, no foreign data."""
    proxy.inject(b"+STRAY\r\n")
    await eventually(lambda: proxy.connections == 0)
    assert await proxied.command("ECHO", "mine") == b"mine"
    assert proxy.accepted == 2


@pytest.mark.parametrize("stray", [b"+STRAY\r\n", b"*2\r\n:1\r\n$5\r\nSTRAY\r\n", b"*0\r\n", b"$-1\r\n"])
async def test_r5_a_stray_reply_before_ours_is_known_by_its_nonce(
    proxied: RedisBackend, proxy: FaultProxy, stray: bytes
) -> None:
    """R5 stray reply in front of a script's: detected by nonce, connection dropped, no foreign data."""
    await proxied.run(ECHO, [], ["loads the script"])
    proxy.replies.insert(stray)
    error, _ = await timed(proxied.run(ECHO, [], ["mine"]))
    assert type(error) is OutcomeUnknown
    assert "another request" in str(error)  # at once, not at the deadline
    assert await proxied.run(ECHO, [], ["again"]) == [b"again"]
    assert proxy.accepted == 2


@both_versions
async def test_r6_an_idle_connection_that_the_server_closed_is_replaced_silently(
    redis_server: RedisServer,
) -> None:
    """R6 idle connection killed by the server: silent reconnect, no error."""
    async with on(redis_server.url, deadline=0.05) as backend:
        link = backend._routes.link()
        idle_until = asyncio.get_running_loop().time() + 0.06
        await eventually(lambda: asyncio.get_running_loop().time() > idle_until)
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        assert await backend.command("ECHO", "at once") == b"at once"  # the loop has not seen the end yet
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: " idle" in repr(link))
        assert await backend.command("ECHO", "later") == b"later"


async def test_r7_a_refused_connection_is_not_sent_at_once() -> None:
    """R7 connect refused: NOT_SENT within the deadline."""
    async with on(f"redis://127.0.0.1:{free_port()}") as backend:
        for _ in range(3):
            error, _ = await timed(backend.ping())
            assert type(error) is NotSent
            assert "no connection" in str(error)  # at once, not at the deadline


async def test_r8_a_connection_that_is_never_answered_is_not_sent(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """R8 accepted and never answered: NOT_SENT at the deadline; when it answers again, so do we."""
    proxy.black_hole()
    proxy.cut()
    await eventually(lambda: proxy.connections == 0)
    error, seconds = await timed(hurried.command("ECHO", "lost"))
    assert type(error) is NotSent
    assert 0.19 < seconds < 0.2 + SLACK
    await proxy.heal()
    assert await eventually(lambda: _answers(hurried), within=0.5)


async def test_r8_a_connection_that_is_not_even_accepted_is_not_sent() -> None:
    """R8 black-hole connect (no answer to SYN): NOT_SENT at the deadline."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            backend = on(f"redis://127.0.0.1:{full.getsockname()[1]}")
            _, opening = await timed(backend.__aenter__())
            error, seconds = await timed(backend.ping())
            await backend.__aexit__(None, None, None)
        finally:
            for filler in fillers:
                filler.close()
    assert type(error) is NotSent
    assert 0.19 < opening < 0.2 + SLACK
    assert seconds < 0.2 + SLACK


async def test_r9_a_name_that_nobody_knows_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9 DNS failure: NOT_SENT."""

    async def no_such_name(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    async with on("redis://redis.invalid:6379") as backend:
        error, _ = await timed(backend.ping())
    assert type(error) is NotSent
    assert "no connection" in str(error)  # at once, not at the deadline


async def test_r10_there_is_no_pool_to_exhaust(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """R10 many calls at once (redis-py's pool refuses the 101st): one connection, and all are answered."""
    calls = [redis_backend.command("ECHO", str(n)) for n in range(300)]
    assert [str(n).encode() for n in range(300)] == await asyncio.gather(*calls)
    assert len(redis_server.clients()) == 1


async def test_r10_waiting_for_the_connection_is_bounded(
    hurried: RedisBackend, redis_server: RedisServer
) -> None:
    """R10 what cannot leave for lack of room waits for its deadline, and is NOT_SENT then."""
    redis_server.pause()
    try:
        errors = []
        for turn in range(4):  # two writes are in flight at most: the others wait
            errors.append(asyncio.ensure_future(timed(hurried.command("ECHO", str(turn)))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        results = await asyncio.gather(*errors)
    finally:
        redis_server.resume()
    kinds = [type(error) for error, _ in results]
    assert kinds == [OutcomeUnknown, OutcomeUnknown, NotSent, NotSent]
    assert max(seconds for _, seconds in results) < 0.2 + SLACK


async def test_r11_one_cancel_is_enough_at_every_turn_of_the_loop(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """R11 one task.cancel(), whenever it comes: the task stops; no connection is lost for it."""
    for turns in range(40):
        task = asyncio.ensure_future(_three_times(proxied))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is cancelled
    assert await proxied.command("ECHO", "x") == b"x"
    assert proxy.accepted == 1


async def test_r11_a_cancel_ends_a_caller_whose_bytes_do_not_fit_into_the_socket(
    redis_server: RedisServer,
) -> None:
    """R11 cancel while the write is blocked: the caller stops at once, the command goes on, and is not lost."""
    async with on(redis_server.url, deadline=1.0) as backend:
        redis_server.pause()
        try:
            task = asyncio.ensure_future(_call(backend.command("SET", "ar:big", b"x" * 20_000_000)))
            link = backend._routes.link()
            await eventually(lambda: link.writes == 2)
            task.cancel()
            _, seconds = await timed(asyncio.wait([task]))
            assert task.cancelled()
            assert seconds < SLACK
        finally:
            redis_server.resume()
        assert await backend.command("STRLEN", "ar:big") == 20_000_000
        assert len(redis_server.clients()) == 1


async def test_r12_cancelled_twice_stops_and_leaks_nothing(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """R12 cancel twice: stops, nothing leaked."""
    proxy.replies.delay(0.02, times=None)
    tasks = [asyncio.ensure_future(_three_times(proxied)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    proxy.replies.heal()
    assert await proxied.command("ECHO", "x") == b"x"
    assert await eventually(lambda: "0 queued, 0 in flight" in repr(proxied._routes.link()))
    assert proxy.accepted == 1


async def test_r13_cancelled_while_connecting_costs_the_others_nothing(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """R13 cancel while the connection is awaited: no connection lost, the others get theirs."""
    proxy.cut()
    await eventually(lambda: proxy.connections == 0)
    proxy.replies.delay(0.05)
    gone = asyncio.ensure_future(_call(proxied.command("ECHO", "gone")))
    stays = asyncio.ensure_future(_call(proxied.command("ECHO", "stays")))
    await eventually(lambda: proxy.connections == 1)
    gone.cancel()
    assert await stays == b"stays"
    assert gone.cancelled()
    assert proxy.accepted == 2


async def _answers(backend: RedisBackend) -> bool:
    error, _ = await timed(backend.ping())
    return error is None


async def _call(future: asyncio.Future[Any]) -> Any:
    return await future


async def _three_times(backend: RedisBackend) -> None:
    for n in range(3):
        await backend.command("ECHO", str(n))
