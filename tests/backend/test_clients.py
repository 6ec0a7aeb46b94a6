"""Fault cases R14–R19: what is handed in, and where it is used."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from servers import Cluster, RedisServer, SentinelTrio

import aresilience
from aresilience import OutcomeUnknown
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.testing.proxy import FaultProxy

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")


@pytest.mark.parametrize("client", [redis.Redis(), object(), None, "redis://localhost"])
def test_r14_what_is_no_asynchronous_client_is_refused_when_the_backend_is_made(client: object) -> None:
    """R14 user passes a sync Redis client: TypeError at construction."""
    with pytest.raises(TypeError, match=r"redis\.asyncio"):
        RedisBackend(client)


async def test_r15_decoded_responses_change_nothing(redis_server: RedisServer) -> None:
    """R15 user passes `decode_responses=True`: works the same."""
    for decode in (False, True):
        client = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=decode)
        async with RedisBackend(client, deadline=1.0) as backend:
            assert await backend.run(ECHO, [], ["ä"]) == ["ä".encode()]
            assert await backend.command("ECHO", "ä") == "ä".encode()
        await client.aclose()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protocol": 3},
        {"retry": Retry(NoBackoff(), 5)},
        {"socket_timeout": 0.05, "retry_on_timeout": True},
    ],
    ids=["defaults", "resp3", "retries", "timeouts"],
)
async def test_r16_the_retries_of_a_client_are_not_ours(
    redis_server: RedisServer, proxy: FaultProxy, options: dict[str, Any]
) -> None:
    """R16 user passes a client with retries: a sibling without them, and a lost reply means one execution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = redis.asyncio.Redis(port=proxy.port, **options)
    async with RedisBackend(client, deadline=0.5) as backend:
        assert await backend.run(COUNT, [b"ar:n"], []) == [1]
        proxy.replies.swallow()
        with pytest.raises(OutcomeUnknown):
            await backend.run(COUNT, [b"ar:n"], [])
        assert redis_server.command("GET", "ar:n") == "2"
    assert proxy.accepted == 1
    await client.aclose()


async def test_a_client_keeps_its_own_connections(redis_server: RedisServer) -> None:
    """A client that was handed in works as before, also after the backend is closed."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    await client.set("mine", "1")
    async with RedisBackend(client, deadline=1.0) as backend:
        assert await backend.command("GET", "mine") == b"1"
        assert await client.get("mine") == b"1"
    assert await client.get("mine") == b"1"
    await client.aclose()


async def test_a_client_of_sentinels_leads_to_their_master(redis_sentinel: SentinelTrio) -> None:
    """S29 `master_for` and `slave_for` clients: we ask the sentinels ourselves, and use the master."""
    places = [("127.0.0.1", sentinel.port) for sentinel in redis_sentinel.sentinels]
    sentinel = Sentinel(places, socket_timeout=1)
    for client in (sentinel.master_for("mymaster"), sentinel.slave_for("mymaster")):
        async with RedisBackend(client, deadline=1.0) as backend:
            assert (await backend.run(COUNT, [b"ar:n"], []))[0] > 0
        await client.aclose()
    assert redis_sentinel.master.command("GET", "ar:n") == "2"
    await sentinel.aclose()


@pytest.mark.parametrize("replicas", [False, True])
async def test_a_client_of_a_cluster_leads_to_its_masters(redis_cluster: Cluster, replicas: bool) -> None:
    """S29 a cluster client, also one that reads from replicas: every key from its master."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = redis.asyncio.RedisCluster(
            host="127.0.0.1", port=redis_cluster.nodes[0].port, read_from_replicas=replicas
        )
    async with RedisBackend(client, deadline=1.0) as backend:
        keys = [backend.key("n", str(n)) for n in range(20)]
        assert await asyncio.gather(*(backend.run(COUNT, [key], []) for key in keys)) == [[1]] * 20
        for node in redis_cluster.nodes:
            assert "flags=r" not in "".join(node.clients())  # READONLY mode
    await client.aclose()


async def test_r17_another_event_loop_is_a_clear_error(redis_backend: RedisBackend) -> None:
    """R17 client used from another event loop: clear error, not a hang."""

    async def elsewhere() -> None:
        await redis_backend.ping()

    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, elsewhere())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_r18_a_forked_child_hears_that_it_needs_its_own(redis_backend: RedisBackend) -> None:
    """R18 fork after connect: the child gets an error, and the parent's connection is unharmed."""
    assert await redis_backend.command("ECHO", "before") == b"before"
    child = os.fork()
    if child == 0:
        code = 3
        try:
            asyncio.run(_use(redis_backend))
        except RuntimeError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it does next to nothing
    assert os.waitstatus_to_exitcode(status) == 0
    assert await redis_backend.command("ECHO", "after") == b"after"


async def _use(backend: RedisBackend) -> None:
    await backend.ping()


def test_a_backend_that_was_not_entered_says_so() -> None:
    """Using a backend before it is entered, or after it was left: RuntimeError that says what to write."""
    backend = connect("redis://localhost")

    async def use() -> None:
        with pytest.raises(RuntimeError, match="async with"):
            await backend.ping()

    asyncio.run(use())


async def test_a_backend_can_be_entered_again_but_not_twice(redis_url: str) -> None:
    """Once at a time; after it was left it can be entered again, also on another loop."""
    backend = connect(redis_url, deadline=1.0)
    for _ in range(2):
        async with backend:
            assert await backend.ping() > 0
            with pytest.raises(RuntimeError, match="open already"):
                await backend.__aenter__()
    with pytest.raises(RuntimeError, match="not open"):
        await backend.ping()

    async def elsewhere() -> float:
        async with backend:
            return await backend.ping()

    assert await asyncio.to_thread(asyncio.run, elsewhere()) > 0


FORGOTTEN = """
    import asyncio, gc, sys
    from aresilience.backend import connect
    from aresilience.backend.redis import RedisBackend  # takes a while, which asyncio would remark on

    async def main():
        backend = connect({url!r}, deadline=1.0)
        await backend.__aenter__()
        unlisten = backend.listen("news", print, lambda: None)
        await backend.ping()
        await backend._wakeups.connected.wait()
        {forget}

    {run}
    gc.collect()
    print("done")
"""
RUNS = {
    "asyncio.run": "asyncio.run(main())",
    "a loop that is closed": "l = asyncio.new_event_loop(); l.run_until_complete(main()); l.close(); del l",
    "a loop that is left": "l = asyncio.new_event_loop(); l.run_until_complete(main()); del l",
}


COLLECTED = "del backend, unlisten; gc.collect(); await asyncio.sleep(0.05)"


@pytest.mark.parametrize(
    ("run", "forget"), [*((run, "pass") for run in RUNS), ("a loop that is closed", COLLECTED)]
)
def test_r19_a_backend_that_nobody_closed_makes_one_kind_of_noise(
    redis_server: RedisServer, run: str, forget: str
) -> None:
    """R19, V11 a backend unclosed when it is collected, or its loop is thrown away: ResourceWarning only."""
    said = python(FORGOTTEN.format(url=redis_server.url, run=RUNS[run], forget=forget))
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "done"
    assert "was never closed" in said.stderr
    for line in said.stderr.splitlines():
        if not line.startswith((" ", "Executing <")):  # asyncio remarks on a busy machine
            assert "ResourceWarning" in line, said.stderr


def test_a_backend_that_is_closed_makes_none(redis_server: RedisServer) -> None:
    """Opened and closed: not a word on stderr, with all warnings and asyncio's debug mode on."""
    closed = FORGOTTEN.format(
        url=redis_server.url, run=RUNS["asyncio.run"], forget="await backend.__aexit__(None, None, None)"
    )
    run = python(closed)
    slow = re.compile(r"^Executing .* took .* seconds$")  # what asyncio says on a busy machine
    said = [line for line in run.stderr.splitlines() if not slow.match(line)]
    assert (said, run.stdout.strip()) == ([], "done")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, with every warning shown."""
    path = str(Path(aresilience.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": path},
    )
