"""Wake-ups: messages, gaps (S30), listeners that come, go and fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis_fixtures import both_versions
from servers import Cluster, RedisServer, eventually

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]


class Listener:
    """Counts what it hears."""

    def __init__(self, backend: RedisBackend, channel: str) -> None:
        self.heard: list[bytes] = []
        self.resyncs = 0
        self.end: Callable[[], None] = backend.listen(channel, self.heard.append, self.resync)

    def resync(self) -> None:
        self.resyncs += 1


def publish(server: RedisServer, channel: str, message: str) -> int:
    """How many connections got it."""
    got = server.command("PUBLISH", f"ar:{channel}", message)
    assert isinstance(got, int)
    return got


@both_versions
async def test_messages_reach_the_listeners_of_their_channel(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Each listener hears its own channel, in order; several share one connection and one subscription."""
    first, second, other = (Listener(redis_backend, channel) for channel in ("news", "news", "other"))
    await eventually(lambda: first.resyncs and other.resyncs)
    for n in range(10):
        assert publish(redis_server, "news", str(n)) == 1
    publish(redis_server, "other", "else")
    await eventually(lambda: other.heard)
    assert first.heard == second.heard == [str(n).encode() for n in range(10)]
    assert other.heard == [b"else"]
    assert len(redis_server.clients()) == 2


async def test_who_listens_is_told_when_the_subscription_is_in_force(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Also where the connection is up already: messages of before are lost, so everybody is told to look."""
    Listener(redis_backend, "first")
    await redis_backend._wakeups.connected.wait()
    later = Listener(redis_backend, "later")
    await eventually(lambda: later.resyncs == 1, within=1.0)
    assert publish(redis_server, "later", "x") == 1
    await eventually(lambda: later.heard == [b"x"])


async def test_subscriptions_of_a_turn_are_one_write(
    proxied: RedisBackend, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred waiters of one turn, each on a channel of its own: one write to subscribe, one to forget."""
    Listener(proxied, "first")
    await proxied._wakeups.connected.wait()
    connection, writes = proxied._wakeups._connection, []
    send = connection.send_packed_command

    async def counted(packed: list[bytes], **options: bool) -> None:
        writes.append(len(packed))
        await send(packed, **options)

    monkeypatch.setattr(connection, "send_packed_command", counted)
    waiters = [Listener(proxied, f"lock-{n}") for n in range(100)]
    await eventually(lambda: all(waiter.resyncs for waiter in waiters))
    for waiter in waiters:
        waiter.end()
        waiter.end()
    replies = proxy.replies.seen
    await eventually(lambda: proxy.replies.seen >= replies + 100)
    assert list(proxied._wakeups._listeners) == [b"ar:first"]
    assert writes == [100, 100]


async def test_who_has_left_hears_nothing_and_may_come_again(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Ended, and begun again in the same turn: the subscription is what the last word said."""
    gone, stays = Listener(redis_backend, "news"), Listener(redis_backend, "news")
    await eventually(lambda: stays.resyncs)
    gone.end()
    publish(redis_server, "news", "one")
    await eventually(lambda: stays.heard)
    assert gone.heard == []
    stays.end()
    again = Listener(redis_backend, "news")
    await eventually(lambda: again.resyncs)
    assert publish(redis_server, "news", "two") == 1
    again.end()
    await eventually(lambda: publish(redis_server, "news", "three") == 0)
    assert stays.heard == [b"one"]


@both_versions
async def test_s30_after_a_lost_connection_everybody_looks_for_himself(
    start_redis: Callable[..., RedisServer],
) -> None:
    """S30 a message lost on reconnect: every listener is told to look, and later messages come again."""
    server = start_redis()
    backend = connect(server.url, deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        listeners = [Listener(backend, f"c{n}") for n in range(5)]
        await eventually(lambda: all(listener.resyncs for listener in listeners))
        for expected in (2, 3):
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            publish(server, "c0", "lost")
            await eventually(lambda n=expected: all(listener.resyncs >= n for listener in listeners))
            assert publish(server, "c0", f"heard {expected}") == 1
        await eventually(lambda: listeners[0].heard == [b"heard 2", b"heard 3"])
        server.kill()
        await eventually(lambda: not backend._wakeups.connected.is_set())
        server.start()
        await eventually(lambda: all(listener.resyncs >= 4 for listener in listeners))


async def test_without_messages_everybody_looks_now_and_then(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """The timer runs whether or not there is a connection: a hint may be lost, a look may not."""
    proxied._wakeups._every = 0.02
    proxy.refuse()
    listener = Listener(proxied, "news")
    await eventually(lambda: listener.resyncs >= 3, within=2.0)
    assert not proxied._wakeups.connected.is_set()
    await proxy.heal()
    await eventually(proxied._wakeups.connected.is_set)
    before = listener.resyncs
    await eventually(lambda: listener.resyncs >= before + 3, within=2.0)


async def test_a_connection_that_went_silent_is_replaced(proxied: RedisBackend, proxy: FaultProxy) -> None:
    """Asked now and then whether it is there; no answer for a while, and there is a new one."""
    proxied._wakeups._every = 0.05
    listener = Listener(proxied, "news")
    await proxied._wakeups.connected.wait()
    accepted = proxy.accepted
    proxy.replies.delay(30.0)
    await eventually(lambda: proxy.accepted > accepted, within=2.0)
    await eventually(proxied._wakeups.connected.is_set)
    assert listener.resyncs


async def test_a_server_without_answers_is_given_up_in_time(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """A connection that is accepted and not answered: tried again after the deadline, not waited for."""
    proxy.black_hole()
    Listener(hurried, "news")
    await eventually(lambda: proxy.accepted >= 3, within=2.0)
    await proxy.heal()
    await eventually(hurried._wakeups.connected.is_set, within=3.0)


async def test_a_listener_that_fails_harms_nobody(
    redis_backend: RedisBackend, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a listener: in the log; the others hear on, and so does it."""

    def fail(*args: bytes) -> None:
        raise ZeroDivisionError(*args)

    redis_backend.listen("news", fail, fail)
    other = Listener(redis_backend, "news")
    await eventually(lambda: other.resyncs)
    publish(redis_server, "news", "one")
    publish(redis_server, "news", "two")
    await eventually(lambda: other.heard == [b"one", b"two"])
    assert caplog.text.count("ZeroDivisionError: b'") == 2


@both_versions
async def test_no_right_to_subscribe_is_said_once_and_tried_slowly(
    start_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """NOPERM for the channels: one warning, ever longer pauses, and the timer goes on."""
    server = start_redis()
    server.command("ACL", "SETUSER", "u", "on", ">pw", "resetchannels", "~*", "+@all")
    backend = connect(server.url.replace("//", "//u:pw@"), deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        backend._wakeups._every = 0.02
        listener = Listener(backend, "news")
        before = int(server.info("total_connections_received"))
        await eventually(lambda: listener.resyncs >= 20)
        asked = 2
        assert int(server.info("total_connections_received")) - before <= 10 + asked
    said = [record.getMessage() for record in caplog.records if record.name == "aresilience"]
    assert len([text for text in said if "no wake-ups" in text]) == 1
    assert "pw" not in caplog.text


async def test_messages_reach_every_node_of_a_cluster(redis_cluster: Cluster) -> None:
    """In a cluster: heard whichever node they are published on."""
    backend = connect(redis_cluster.url, deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        listener = Listener(backend, "news")
        await eventually(lambda: listener.resyncs)
        for n, node in enumerate(redis_cluster.nodes):
            publish(node, "news", str(n))
            await eventually(lambda n=n: len(listener.heard) == n + 1)
        await backend.command("PUBLISH", backend.channel("news"), "ours")
        await eventually(lambda: listener.heard[-1] == b"ours")


async def test_no_task_is_left_when_a_backend_with_listeners_is_closed(redis_url: str) -> None:
    """Leaving ends the wake-ups and their timer."""
    backend = connect(redis_url, deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        listener = Listener(backend, "news")
        await eventually(lambda: listener.resyncs)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    listener.end()


async def test_who_is_told_when_a_backend_opens_can_leave(redis_url: str) -> None:
    """`when_open`: called now if it is open, and at each opening, until what it returned is called."""
    backend = connect(redis_url)
    assert isinstance(backend, RedisBackend)
    told: list[str] = []
    end = backend.when_open(lambda: told.append("first"))
    backend.when_open(lambda: told.append("second"))
    async with backend:
        assert told == ["first", "second"]
        now = backend.when_open(lambda: told.append("now"))
        assert told == ["first", "second", "now"]
        now()
        end()
        end()
    async with backend:
        assert told == ["first", "second", "now", "second"]
