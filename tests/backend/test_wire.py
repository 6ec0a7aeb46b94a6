"""What one connection does for many callers: one write a turn, deadlines, cancellations, riders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from servers import RedisServer, eventually

from aresilience import NotSent, OutcomeUnknown, Refused
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument, Batch
from aresilience.errors import BackendError, CorruptState
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
MANY = Script(
    "many",
    """
    local out = {tonumber(ARGV[1])}
    for i = 1, #KEYS do
      out[i + 1] = ARGV[i + 1] == 'get' and redis.pcall('GET', KEYS[i]) or ARGV[i + 1]
    end
    return out
    """,
)
SLACK = 0.4


class Rider:
    """One entry of a batch."""

    def __init__(self, backend: RedisBackend, word: str, key: bytes = b"ar:{x}") -> None:
        self.keys: Sequence[Argument] = [key]
        self.word = word
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.late: list[Any] = []
        backend.join(MANY, self)

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        return [self.word]

    def answer(self, item: Any) -> None:
        if self.future.done():
            self.late.append(item)
        else:
            self.future.set_result(item)

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def counts(backend: RedisBackend) -> tuple[int, int]:
    """Commands and writes of the only link so far."""
    link = backend._routes.link()
    return link.commands, link.writes


async def turns(number: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


# One turn is one write


async def test_what_is_asked_in_one_turn_leaves_in_one_write(redis_backend: RedisBackend) -> None:
    """Fifty commands and fifty script calls of fifty tasks: one write."""
    await redis_backend.run(ECHO, [], ["loads the script"])
    commands, writes = counts(redis_backend)

    async def one(n: int) -> tuple[Any, Any]:
        return tuple(
            await asyncio.gather(redis_backend.command("ECHO", str(n)), redis_backend.run(ECHO, [], [n]))
        )

    results = await asyncio.gather(*(one(n) for n in range(50)))
    assert [(str(n).encode(), [str(n).encode()]) for n in range(50)] == results
    assert counts(redis_backend) == (commands + 100, writes + 1)


async def test_at_most_two_writes_are_in_flight(proxied: RedisBackend, proxy: FaultProxy) -> None:
    """Of five turns, while no reply comes, two leave; the other three leave in one write when there is room."""
    commands, writes = counts(proxied)
    proxy.replies.delay(0.05)
    calls = []
    for n in range(5):
        calls.append(proxied.command("ECHO", str(n)))
        await turns(3)
    assert counts(proxied) == (commands + 2, writes + 2)
    assert [str(n).encode() for n in range(5)] == await asyncio.gather(*calls)
    assert counts(proxied) == (commands + 5, writes + 3)


async def test_arguments_that_are_none_are_refused_without_harm_to_others(
    redis_backend: RedisBackend,
) -> None:
    """What cannot be put into bytes fails alone: those who asked in the same turn get their answers."""
    good = redis_backend.command("ECHO", "good")
    bad = redis_backend.command("ECHO", object())  # type: ignore[arg-type]
    surrogate = redis_backend.run(ECHO, [], ["\udc80"])
    other = redis_backend.run(ECHO, [], ["other"])
    assert (await good, await other) == (b"good", [b"other"])
    for future in (bad, surrogate):
        with pytest.raises(NotSent, match="bytes"):
            await future


# Riders


async def test_riders_of_a_turn_share_one_command(redis_backend: RedisBackend) -> None:
    """A hundred riders: one command in one write; each gets its item."""
    await Rider(redis_backend, "loads the script").future
    before = counts(redis_backend)
    riders = [Rider(redis_backend, str(n)) for n in range(100)]
    assert [str(n).encode() for n in range(100)] == await asyncio.gather(*(r.future for r in riders))
    assert counts(redis_backend) == (before[0] + 1, before[1] + 1)


async def test_riders_beyond_the_limit_ride_on_another_call(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More riders than a call may have: several calls, still one write."""
    monkeypatch.setattr(Batch, "LIMIT", 30)
    await Rider(redis_backend, "loads the script").future
    before = counts(redis_backend)
    riders = [Rider(redis_backend, str(n)) for n in range(100)]
    assert [str(n).encode() for n in range(100)] == await asyncio.gather(*(r.future for r in riders))
    assert counts(redis_backend) == (before[0] + 4, before[1] + 1)


async def test_a_rider_who_left_before_it_was_sent_is_not_in_it(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """Cancelled while waiting to leave: never sent, so nothing to give back."""
    await Rider(proxied, "loads the script").future
    proxy.replies.delay(0.05)
    busy = [proxied.command("PING")]
    await turns(3)
    busy.append(proxied.command("PING"))
    await turns(3)
    gone, stays = Rider(proxied, "gone"), Rider(proxied, "stays")
    gone.future.cancel()
    assert await stays.future == b"stays"
    assert gone.late == []
    await asyncio.gather(*busy)


async def test_a_rider_who_left_after_it_was_sent_hears_what_it_took(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """Cancelled in flight: the item comes all the same, for the rider to give it back."""
    await Rider(proxied, "loads the script").future
    proxy.replies.delay(0.05)
    gone, stays = Rider(proxied, "gone"), Rider(proxied, "stays")
    await turns(3)
    gone.future.cancel()
    assert await stays.future == b"stays"
    assert gone.late == [b"gone"]


async def test_an_error_for_one_rider_is_not_the_others(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """A corrupt key of one rider: CorruptState for it, items for the others."""
    redis_server.command("RPUSH", "ar:{x}:list", "x")
    bad, good = Rider(redis_backend, "get", b"ar:{x}:list"), Rider(redis_backend, "fine")
    assert await good.future == b"fine"
    with pytest.raises(CorruptState):
        await bad.future


async def test_nobody_rides_on_a_call_that_has_failed(redis_server: RedisServer) -> None:
    """A call that could not leave in time is over: who comes then begins another, and is answered."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1)
        assert isinstance(backend, RedisBackend)
        async with backend:
            proxy.refuse()
            proxy.cut()
            await eventually(lambda: proxy.connections == 0)
            with pytest.raises(NotSent):
                await Rider(backend, "lost").future
            lost = Rider(backend, "cancelled before it left")
            lost.future.cancel()
            await turns(5)
            await proxy.heal()
            assert await Rider(backend, "next").future == b"next"


async def test_callers_who_fail_together_get_an_error_each(redis_backend: RedisBackend) -> None:
    """One refusal of a shared call, one broken connection: no two callers get the same exception object."""
    await redis_backend.command("CONFIG", "SET", "min-replicas-to-write", "1")
    writing = Script("writing", "redis.call('SET', KEYS[1], 1) return {tonumber(ARGV[1])}")
    riders = [Rider(redis_backend, "x") for _ in range(3)]
    try:
        calls = [redis_backend.run(writing, [b"ar:n"], []) for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await redis_backend.command("CONFIG", "SET", "min-replicas-to-write", "0")
    await asyncio.gather(*(rider.future for rider in riders))
    assert [type(error) for error in errors] == [Refused] * 3
    assert len({id(error) for error in errors}) == 3
    waiting = [redis_backend.command("CLIENT", "PAUSE", "1"), Rider(redis_backend, "y").future]
    waiting += [Rider(redis_backend, "z").future, redis_backend.command("ECHO", "x")]
    await turns(2)
    redis_backend._routes.link().drop()
    errors = [e for e in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(e, Exception)]
    assert len(errors) >= 3
    assert len({id(error) for error in errors}) == len(errors)


# Deadlines


async def test_a_reply_that_comes_too_late_costs_its_caller_only(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """A reply after its deadline: unknown for that caller; the connection stays, later replies are right."""
    proxy.replies.delay(0.25)
    with pytest.raises(OutcomeUnknown):
        await hurried.command("ECHO", "late")
    assert await hurried.command("ECHO", "next") == b"next"
    assert proxy.accepted == 1


async def test_a_connection_from_which_nothing_comes_is_given_up(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """No reply for two deadlines, though asked: a new connection, over which it works again."""
    proxy.replies.delay(30.0)
    loop = asyncio.get_running_loop()
    silent_since = loop.time()
    while True:
        try:
            assert await hurried.command("ECHO", "x") == b"x"
            break
        except OutcomeUnknown:
            assert loop.time() - silent_since < 4 * 0.2
    assert proxy.accepted == 2


async def test_a_silent_connection_is_given_up_also_when_nothing_more_can_leave(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """Both writes that may be in flight are unanswered: those who wait to leave see to a new connection."""
    proxy.replies.delay(30.0)
    calls = [hurried.command("ECHO", "first")]
    await turns(3)
    calls.append(hurried.command("ECHO", "second"))
    kinds = [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)]
    assert kinds == [OutcomeUnknown, OutcomeUnknown]
    with pytest.raises(NotSent):
        await hurried.command("ECHO", "third")
    assert await eventually(lambda: _answers(hurried), within=1.0)
    assert proxy.accepted == 2


async def test_a_connection_into_which_nothing_goes_is_given_up_too(start_deaf: Deaf) -> None:
    """The peer reads no more, and our bytes do not fit into the socket: given up after two deadlines, too."""
    backend = connect(f"redis://127.0.0.1:{start_deaf.port}", deadline=0.1)
    assert isinstance(backend, RedisBackend)
    async with backend:
        start_deaf.reads = False
        with pytest.raises(OutcomeUnknown):
            await backend.command("SET", "ar:big", b"x" * 20_000_000)
        for _ in range(2):
            with pytest.raises(NotSent):
                await backend.ping()
        start_deaf.reads = True
        assert await eventually(lambda: _answers(backend), within=1.0)
        assert start_deaf.accepted == 2


class Deaf:
    """A server that says OK to everything, while it reads at all."""

    def __init__(self) -> None:
        self.reads = True
        self.accepted = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while await reader.read(100):
                if not self.reads:
                    await asyncio.get_running_loop().create_future()
                writer.write(b"+redis_version:7.0.0\r\n")
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def start_deaf() -> AsyncIterator[Deaf]:
    """A running one."""
    deaf = Deaf()
    server = await asyncio.start_server(deaf.serve, "127.0.0.1", 0, limit=1000)
    deaf.port = server.sockets[0].getsockname()[1]
    yield deaf
    server.close()
    deaf.reads = True
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def _answers(backend: RedisBackend) -> bool:
    try:
        return await backend.ping() > 0
    except BackendError:
        return False
