"""Fault cases S1–S10, S14, S15, S22, S28, S32: the states that a server can be in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
import states
from redis_fixtures import both_versions
from servers import RedisServer, eventually

from aresilience import ConfigurationError, CorruptState, NotSent, OutcomeUnknown, Refused
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script, commands
from aresilience.errors import BackendError
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
DELETE = Script("delete", "return {tonumber(ARGV[1]), redis.call('DEL', KEYS[1])}")
SLACK = 0.4

Start = Callable[..., RedisServer]


def on(url: str, deadline: float = 0.2) -> RedisBackend:
    """A backend, not yet open."""
    backend = connect(url, deadline=deadline)
    assert isinstance(backend, RedisBackend)
    return backend


async def error_of(backend: RedisBackend, script: Script = COUNT) -> BackendError:
    """What a script call meets; it must not take longer than the deadline."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(BackendError) as met:
        await backend.run(script, [b"ar:n"], [])
    assert loop.time() - started < backend.deadline + SLACK
    return met.value


@both_versions
async def test_s1_an_unknown_script_costs_one_more_trip(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S1 NOSCRIPT: sent once more, as EVAL; two trips in all, and one from then on."""
    link = redis_backend._routes.link()
    before = (link.writes, link.commands)
    assert await redis_backend.run(COUNT, [b"ar:n"], []) == [1]
    assert (link.writes - before[0], link.commands - before[1]) == (2, 2)
    assert await redis_backend.run(COUNT, [b"ar:n"], []) == [2]
    assert link.writes - before[0] == 3
    assert redis_server.calls("eval") == 1


@both_versions
async def test_s1_all_of_a_turn_recover_together(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S1 NOSCRIPT for 50 calls of one turn: all are sent once more, in one write, and each runs once."""
    link = redis_backend._routes.link()
    before = link.writes
    results = await asyncio.gather(*(redis_backend.run(COUNT, [b"ar:n"], []) for _ in range(50)))
    assert sorted(n for (n,) in results) == list(range(1, 51))
    assert link.writes - before == 2


@both_versions
async def test_s2_scripts_that_are_flushed_all_the_time_are_sent_again_each_time(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S2 SCRIPT FLUSH all the time: EVAL fallback, no loop, nothing run twice."""
    for n in range(1, 101):
        redis_server.command("SCRIPT", "FLUSH")
        assert await redis_backend.run(COUNT, [b"ar:n"], []) == [n]
    link = redis_backend._routes.link()
    assert link.commands <= 2 * 100 + 1


@both_versions
async def test_s3_a_restart_is_survived_without_a_hand(start_redis: Start) -> None:
    """S3 restart in the middle: errors of the right kind while it is away, then NOSCRIPT; its state is lost."""
    server = start_redis()
    async with on(server.url) as backend:
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]
        server.kill()
        for _ in range(3):
            assert type(await error_of(backend)) in (NotSent, OutcomeUnknown)
        assert type(await error_of(backend)) is NotSent
        server.start()
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]


@both_versions
async def test_s3_calls_in_flight_when_the_server_dies_are_unknown(start_redis: Start) -> None:
    """S3 kill -9 with calls in flight: they are UNKNOWN at once, the ones after them NOT_SENT."""
    server = start_redis()
    async with on(server.url, deadline=1.0) as backend:
        server.pause()
        calls = [asyncio.ensure_future(error_of(backend)) for _ in range(20)]
        link = backend._routes.link()
        await eventually(lambda: link.writes == 2)
        server.kill()
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert {OutcomeUnknown} == {type(error) for error in await asyncio.gather(*calls)}
        assert loop.time() - started < SLACK
        assert type(await error_of(backend)) is NotSent


async def test_s4_loading_is_waited_for_within_the_deadline(
    proxied: RedisBackend, proxy: FaultProxy
) -> None:
    """S4 LOADING for a moment: asked again after a short pause, and the caller sees nothing of it."""
    proxy.replies.replace(b"-LOADING Redis is loading the dataset in memory\r\n", times=3)
    assert await proxied.run(ECHO, [], ["x"]) == [b"x"]
    assert proxy.accepted == 1


async def test_s4_loading_for_longer_is_refused_at_the_deadline(
    hurried: RedisBackend, proxy: FaultProxy
) -> None:
    """S4 LOADING until the deadline: REFUSED, and it says why."""
    proxy.replies.replace(b"-LOADING Redis is loading the dataset in memory\r\n", times=None)
    error = await error_of(hurried)
    assert (type(error), "LOADING" in str(error)) == (Refused, True)
    proxy.replies.heal()
    assert await hurried.run(ECHO, [], ["x"]) == [b"x"]


@both_versions
async def test_s4_a_server_that_really_loads(start_redis: Start) -> None:
    """S4 a server that reads its data: asked again until it has, within the deadline, and nothing is lost."""
    server = start_redis("--rdbcompression", "no")
    server.command("EVAL", "for i = 1, 4000 do redis.call('SET', 'k' .. i, ('x'):rep(2000)) end", 0)
    server.command("SAVE")
    server.kill()
    server.options += ["--key-load-delay", "100"]
    server.start()  # it answers once for every 2 MB that it has read, so four times in 0.4 s
    assert "loading:1" in server.command("INFO", "persistence")
    async with on(server.url, deadline=3.0) as backend:
        assert await backend.command("STRLEN", "k4000") == 2000


async def answers(backend: RedisBackend) -> bool:
    """Whether it does."""
    try:
        await backend.ping()
    except BackendError:
        return False
    return True


@both_versions
async def test_s5_s6_a_replica_refuses(start_redis: Start) -> None:
    """S5 READONLY, S6 MASTERDOWN: REFUSED, by plain commands and out of scripts, and the code is told."""
    server = start_redis()
    async with on(server.url) as backend:
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]
        with states.demoted(server):
            error = await error_of(backend)
            assert (type(error), "READONLY" in str(error)) == (Refused, True)
            with pytest.raises(Refused, match="READONLY"):
                await backend.command("SET", "ar:n", "1")
        with states.orphaned(server):
            with pytest.raises(Refused, match="MASTERDOWN"):
                await backend.command("GET", "ar:n")
            assert "MASTERDOWN" in str(await error_of(backend))


@both_versions
async def test_s7_a_full_server_refuses_what_takes_and_runs_what_gives_back(start_redis: Start) -> None:
    """S7 OOM under noeviction: REFUSED; a script that only deletes still runs."""
    server = start_redis()
    async with on(server.url) as backend:
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]
        with states.full(server):
            error = await error_of(backend)
            assert (type(error), "OOM" in str(error)) == (Refused, True)
            with pytest.raises(Refused, match="OOM"):
                await backend.command("SET", "ar:n", "1")
            assert await backend.run(DELETE, [b"ar:n"], []) == [1]


@both_versions
async def test_s8_a_busy_server_refuses_and_is_left_alone(start_redis: Start) -> None:
    """S8 BUSY script: REFUSED fast; the script of somebody else is not killed."""
    server = start_redis("--lua-time-limit", "20")
    async with on(server.url) as backend:
        assert await backend.ping() > 0
        with states.busy(server):
            error = await error_of(backend)
            assert (type(error), "BUSY" in str(error)) == (Refused, True)
            assert server.command("PING").startswith("-BUSY")
        await eventually(lambda: answers(backend))
        assert (await backend.run(COUNT, [b"ar:n"], []))[0] == 1


@both_versions
async def test_s9_a_server_that_cannot_save_refuses_writes(start_redis: Start) -> None:
    """S9 MISCONF: writes REFUSED, reads go on."""
    server = start_redis()
    async with on(server.url) as backend:
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]
        with states.unable_to_save(server):
            error = await error_of(backend)
            assert (type(error), "MISCONF" in str(error)) == (Refused, True)
            assert await backend.command("GET", "ar:n") == b"1"


@both_versions
async def test_s10_a_master_that_misses_its_replicas_refuses_writes(start_redis: Start) -> None:
    """S10 NOREPLICAS: REFUSED."""
    server = start_redis()
    async with on(server.url) as backend:
        with states.without_replicas(server):
            error = await error_of(backend)
            assert (type(error), "NOREPLICAS" in str(error)) == (Refused, True)


@both_versions
async def test_s14_a_wrong_password_is_a_configuration_error(start_redis: Start) -> None:
    """S14 NOAUTH and WRONGPASS: ConfigurationError when the backend is entered, one try, no secret told."""
    server = start_redis("--requirepass", "hunter2")
    server.password = "hunter2"
    for credentials in ("", ":pass-w0rd@", "user:pass-w0rd@"):
        url = server.url.replace("//", f"//{credentials}")
        before = int(server.info("total_connections_received"))
        backend = on(url)
        with pytest.raises(ConfigurationError) as met:
            await backend.__aenter__()
        assert "w0rd" not in f"{met.value!r} {met.value.__cause__!r} {met.value.__context__!r} {backend!r}"
        assert int(server.info("total_connections_received")) - before == 2  # ours, and the one that asks
    async with on(server.url.replace("//", "//:hunter2@")) as backend:
        assert await backend.ping() > 0


@both_versions
async def test_s14_a_password_that_was_changed_is_a_configuration_error_later(start_redis: Start) -> None:
    """S14 a password that is changed while we are connected: ConfigurationError on the next connection."""
    server = start_redis()
    async with on(server.url) as backend:
        assert await backend.ping() > 0
        with states.locked(server):
            await eventually(lambda: " idle" in repr(backend._routes.link()))
            assert type(await error_of(backend)) is ConfigurationError


@both_versions
async def test_s15_a_server_with_too_many_clients_is_not_sent(start_redis: Start) -> None:
    """S15 maxclients: NOT_SENT, and it works as soon as there is room."""
    server = start_redis("--maxclients", "8")
    async with on(server.url) as backend:
        with states.crowded(server):
            await eventually(lambda: " idle" in repr(backend._routes.link()))
            assert type(await error_of(backend)) is NotSent
        await eventually(lambda: answers(backend))


@both_versions
async def test_s22_big_numbers_come_back_as_they_were(
    redis_backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S22 Lua numbers: a nonce is exact up to 2^53, also after a long life."""
    monkeypatch.setattr(commands, "_nonces", itertools.count(2**53 - 3))
    for n in range(3):
        assert await redis_backend.run(ECHO, [], [n]) == [str(n).encode()]


@both_versions
async def test_s25_a_key_of_another_type_is_corrupt_state(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S25 WRONGTYPE, from a command and out of a script: CorruptState."""
    redis_server.command("RPUSH", "ar:n", "x")
    assert type(await error_of(redis_backend)) is CorruptState
    with pytest.raises(CorruptState):
        await redis_backend.command("GET", "ar:n")


@pytest.mark.parametrize("version", ["5.0.14", "6.0.16"])
async def test_s28_an_old_server_is_refused_when_the_backend_is_entered(
    proxy: FaultProxy, version: str
) -> None:
    """S28 Redis < 6.2: refused at start, with the version."""
    info = f"# Server\r\nredis_version:{version}\r\n"
    proxy.replies.replace(f"${len(info)}\r\n{info}\r\n".encode())
    with pytest.raises(ConfigurationError, match=f"{version} is too old"):
        await on(f"redis://127.0.0.1:{proxy.port}").__aenter__()


@pytest.mark.parametrize("info", ["redis_version:7.2.4\r\nvalkey_version:8.0.1", "redis_version:6.2.0-rc1"])
async def test_s28_a_new_one_is_not(proxy: FaultProxy, info: str) -> None:
    """S28 Valkey, whatever Redis it claims to be, and odd version texts are taken."""
    proxy.replies.replace(f"${len(info)}\r\n{info}\r\n".encode())
    async with on(f"redis://127.0.0.1:{proxy.port}") as backend:
        assert await backend.ping() > 0
        assert backend.health.version is not None
        assert backend.health.version >= (6, 2)


@both_versions
async def test_a_server_that_may_evict_keys_is_warned_of(
    start_redis: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """S18 maxmemory-policy other than noeviction: said once in the log, and in `health.warnings`."""
    server = start_redis("--maxmemory-policy", "allkeys-lru")
    async with on(server.url) as backend:
        assert "allkeys-lru" in backend.health.warnings[0]
        server.command("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: " idle" in repr(backend._routes.link()))
        await backend.ping()
    said = [record.getMessage() for record in caplog.records if record.name == "aresilience"]
    assert len([text for text in said if "evict" in text]) == 1


async def test_s32_a_stopped_server_costs_each_call_its_deadline_and_no_more(start_redis: Start) -> None:
    """S32 SIGSTOP for many deadlines: every call ends at its own; then it resumes, over one connection."""
    server = start_redis()
    async with on(server.url, deadline=0.1) as backend:
        await backend.ping()
        loop = asyncio.get_running_loop()
        server.pause()
        stopped = loop.time()
        while loop.time() < stopped + 1.0:
            kinds = {type(e) for e in await asyncio.gather(*(error_of(backend) for _ in range(5)))}
            assert kinds <= {OutcomeUnknown, NotSent}
        server.resume()
        await eventually(lambda: answers(backend), within=1.0)
        await eventually(lambda: len(server.clients()) == 1)
