"""Fault cases S5, S16, S17 under Sentinel, as far as the backend goes: a master that dies, or is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from servers import RedisServer, SentinelTrio, eventually, free_port

from aresilience import ConfigurationError, NotSent, OutcomeUnknown, Refused
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.errors import BackendError

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")


@pytest.fixture
async def backend(redis_sentinel: SentinelTrio) -> AsyncIterator[RedisBackend]:
    """An open backend on `redis_sentinel`."""
    backend = connect(redis_sentinel.url, deadline=0.3)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend


async def works(backend: RedisBackend) -> bool:
    """Whether a call does; if not, the error must be one of those that a failover has."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        await backend.run(COUNT, [b"ar:n"], [])
    except ConfigurationError:
        raise
    except (NotSent, Refused, OutcomeUnknown):
        return False
    finally:
        assert loop.time() - started < backend.deadline + 0.15
    return True


async def test_s5_after_a_failover_the_new_master_is_found(
    redis_sentinel: SentinelTrio, backend: RedisBackend
) -> None:
    """S5, S16 kill -9 of the master: errors of the three kinds while there is none, each within its deadline;
    the first success comes soon after the sentinels have chosen; nothing is run twice."""
    old = redis_sentinel.master
    assert await backend.run(COUNT, [b"ar:n"], []) == [1]
    await eventually(lambda: all(node.command("GET", "ar:n") == "1" for node in redis_sentinel.nodes))
    loop = asyncio.get_running_loop()
    old.kill()
    chosen: list[float] = []

    async def recovered() -> bool:
        if [node is old for node in redis_sentinel.masters].count(False) >= 2:
            chosen.append(loop.time())
        return await works(backend)

    await eventually(recovered, within=10)
    assert not chosen or loop.time() - chosen[0] < 1.0
    new = redis_sentinel.master
    assert new is not old
    assert await backend.run(COUNT, [b"ar:n"], []) == [3]
    assert new.command("GET", "ar:n") == "3"


async def test_s5_a_master_that_is_one_no_more_is_left(
    redis_sentinel: SentinelTrio, backend: RedisBackend
) -> None:
    """S5 READONLY: REFUSED for all that is in flight, unknown for none; the sentinels are asked again, and a
    replica that they still name is not used."""
    old = redis_sentinel.master
    other = next(node for node in redis_sentinel.nodes if node is not old)
    assert await backend.run(COUNT, [b"ar:n"], []) == [1]
    connections = len(old.clients())
    old.command("REPLICAOF", "127.0.0.1", other.port)  # the sentinels do not know of it yet
    try:
        calls = [backend.run(COUNT, [b"ar:n"], []) for _ in range(10)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert type(error) is Refused
            assert "READONLY" in str(error)
        with pytest.raises(NotSent, match="replica"):
            await backend.run(COUNT, [b"ar:n"], [])
    finally:
        old.command("REPLICAOF", "NO", "ONE")
    await eventually(lambda: works(backend))
    assert len(old.clients()) <= connections


async def test_s5_a_failover_that_is_ordered_is_followed_at_once(
    redis_sentinel: SentinelTrio, backend: RedisBackend
) -> None:
    """S5 SENTINEL FAILOVER: the old master would take our calls for ten seconds more, and lose them; we leave
    it as soon as the sentinels name another, and no call is unknown."""
    old, loop = redis_sentinel.master, asyncio.get_running_loop()
    await eventually(lambda: works(backend))
    assert redis_sentinel.sentinels[1].command("SENTINEL", "FAILOVER", "mymaster") == "OK"
    chosen: list[float] = []

    async def at_the_new_master() -> bool:
        names = redis_sentinel.masters
        if not chosen and [node is old for node in names].count(False) >= 2:
            chosen.append(loop.time())
        try:
            counted = await backend.run(COUNT, [b"ar:n"], [])
        except (NotSent, Refused):
            return False
        new = next((node for node in names if node is not old), old)
        return new is not old and new.command("GET", "ar:n") == str(counted[0])

    await eventually(at_the_new_master, within=10)
    assert not chosen or loop.time() - chosen[0] < 2.0
    assert old.info("role") == "master"


async def test_s17_an_old_master_that_comes_back_is_not_used(
    redis_sentinel: SentinelTrio, backend: RedisBackend
) -> None:
    """S17 a stopped master is replaced; when it wakes, a master still in its own eyes, nothing of ours goes
    there any more."""
    old = redis_sentinel.master
    assert await backend.run(COUNT, [b"ar:n"], []) == [1]
    old.pause()
    try:
        await eventually(lambda: redis_sentinel.master is not old, within=10)
        await eventually(lambda: works(backend), within=10)
    finally:
        old.resume()
    assert old.info("role") == "master"
    before = old.command("GET", "ar:n")  # some calls were in its socket when it was stopped
    for _ in range(20):
        counted = await backend.run(COUNT, [b"ar:n"], [])
    assert redis_sentinel.master.command("GET", "ar:n") == str(counted[0])
    assert old.command("GET", "ar:n") == before


@pytest.mark.parametrize("away", [1, 2])
async def test_sentinels_that_are_away_cost_nothing(redis_sentinel: SentinelTrio, away: int) -> None:
    """One or two of three sentinels stopped: the master is found all the same, within the deadline."""
    stopped = redis_sentinel.sentinels[:away]
    for sentinel in stopped:
        sentinel.pause()
    try:
        backend = connect(redis_sentinel.url, deadline=0.4)
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with backend:
            assert await backend.ping() > 0
            assert loop.time() - started < (0.2 if away == 1 else 0.4)
    finally:
        for sentinel in stopped:
            sentinel.resume()


async def test_no_sentinel_at_all_is_not_sent() -> None:
    """Nobody at the sentinels' addresses: NOT_SENT."""
    backend = connect(
        f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/mymaster", deadline=0.2
    )
    async with backend:
        with pytest.raises(NotSent):
            await backend.ping()


async def test_a_service_that_nobody_knows_is_a_configuration_error(redis_sentinel: SentinelTrio) -> None:
    """The sentinels do not know the service: ConfigurationError when the backend is entered."""
    backend = connect(redis_sentinel.url.replace("mymaster", "nomaster"))
    with pytest.raises(ConfigurationError, match="nomaster"):
        await backend.__aenter__()


async def test_an_address_that_is_no_sentinel_is_refused(redis_server: RedisServer) -> None:
    """A plain server where a sentinel should be: an error that says so, at once."""
    backend = connect(f"redis+sentinel://127.0.0.1:{redis_server.port}/mymaster", deadline=0.5)
    async with backend:
        with pytest.raises(BackendError, match="unknown command"):
            await backend.ping()
