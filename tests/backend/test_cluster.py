"""Fault cases S11–S13, S29 in a Cluster: slots that move, nodes that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from servers import Cluster, RedisServer, eventually

from aresilience import ConfigurationError, NotSent, OutcomeUnknown, Refused
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script
from aresilience.errors import BackendError

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
BOTH = Script(
    "both", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}"
)


@pytest.fixture
async def backend(redis_cluster: Cluster) -> AsyncIterator[RedisBackend]:
    """An open backend on `redis_cluster`."""
    backend = connect(redis_cluster.url, deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend


def keys_by_node(backend: RedisBackend, cluster: Cluster) -> dict[int, bytes]:
    """A key for each node, by its place."""
    found: dict[int, bytes] = {}
    for n in range(100):
        key = backend.key("n", str(n))
        found.setdefault(cluster.nodes.index(cluster.owner(backend.slot(key))), key)
    return found


async def test_every_key_is_asked_of_its_master(redis_cluster: Cluster, backend: RedisBackend) -> None:
    """Sixty keys on three nodes: no redirection, one connection and one write for each node."""
    keys = [backend.key("n", str(n)) for n in range(60)]
    assert await asyncio.gather(*(backend.run(COUNT, [key], []) for key in keys)) == [[1]] * 60
    links = {id(link): link for link in map(backend._routes.link, keys)}.values()
    assert len(links) == 3
    before = [link.writes for link in links]
    assert await asyncio.gather(*(backend.run(COUNT, [key], []) for key in keys)) == [[2]] * 60
    assert [link.writes for link in links] == [writes + 1 for writes in before]
    assert not any("MOVED" in node.command("INFO", "errorstats") for node in redis_cluster.nodes)


async def test_a_command_without_a_key_asks_for_no_map(
    redis_cluster: Cluster, backend: RedisBackend
) -> None:
    """PING and PUBLISH go to any node, and do not make it tell its slots each time."""
    for node in redis_cluster.nodes:
        node.command("CONFIG", "RESETSTAT")
    for _ in range(10):
        await backend.ping()
    said = "".join(node.command("INFO", "commandstats") for node in redis_cluster.nodes)
    assert "cluster|slots" not in said


async def test_s12_a_slot_that_moved_is_followed_once(
    redis_cluster: Cluster, backend: RedisBackend
) -> None:
    """S12 MOVED: followed once, run once, and known from then on."""
    keys = keys_by_node(backend, redis_cluster)
    source, target = redis_cluster.nodes[0], redis_cluster.nodes[1]
    slot = backend.slot(keys[0])
    assert await backend.run(COUNT, [keys[0]], []) == [1]
    redis_cluster.move(slot, source, target)
    try:
        source.command("CONFIG", "RESETSTAT")
        assert [[n] for n in range(2, 12)] == await asyncio.gather(
            *(backend.run(COUNT, [keys[0]], []) for _ in range(10))
        )
        assert "errorstat_MOVED:count=10" in source.command("INFO", "errorstats")
        assert await backend.run(COUNT, [keys[0]], []) == [12]
        assert "errorstat_MOVED:count=10" in source.command("INFO", "errorstats")
    finally:
        redis_cluster.move(slot, target, source)
    assert await backend.run(COUNT, [keys[0]], []) == [13]


async def test_s12_a_key_that_is_on_its_way_is_asked_of_its_next_home(
    redis_cluster: Cluster, backend: RedisBackend
) -> None:
    """S12 ASK: asked of the other node with ASKING in front, NOSCRIPT on the way included; the map stays."""
    keys = keys_by_node(backend, redis_cluster)
    source, target = redis_cluster.nodes[1], redis_cluster.nodes[2]
    slot = backend.slot(keys[1])
    redis_cluster.start_move(slot, source, target)
    try:
        for n in range(1, 6):
            assert await backend.run(COUNT, [keys[1]], []) == [n]
        plain = [backend.command("INCR", keys[1], key=keys[1]) for _ in range(5)]
        assert list(range(6, 11)) == await asyncio.gather(*plain)
        assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert backend._routes._owners[slot][1] == source.port
    finally:
        for node in (source, target):
            node.command("CLUSTER", "SETSLOT", slot, "STABLE")
        target.command("ASKING")
        redis_cluster.move(slot, source, target)
        redis_cluster.move(slot, target, source)
    assert await backend.run(COUNT, [keys[1]], []) == [11]


async def test_v6_the_least_rights_in_a_cluster_are_enough(redis_cluster: Cluster) -> None:
    """V6 the minimal rule of a single server, CLUSTER SLOTS and ASKING: also enough while a slot moves."""
    rule = "on >pw resetchannels &ar:* ~ar:* -@all +ping +evalsha +eval +subscribe +unsubscribe +incr"
    for node in redis_cluster.nodes:
        node.command("ACL", "SETUSER", "u", *rule.split(), "+cluster|slots", "+asking")
    backend = connect(redis_cluster.url.replace("//", "//u:pw@"), deadline=1.0)
    assert isinstance(backend, RedisBackend)
    source, target = redis_cluster.nodes[:2]
    async with backend:
        key = keys_by_node(backend, redis_cluster)[0]
        redis_cluster.start_move(backend.slot(key), source, target)
        try:
            assert [await backend.run(COUNT, [key], []) for _ in range(3)] == [[1], [2], [3]]
            assert target.command("CLUSTER", "COUNTKEYSINSLOT", backend.slot(key)) == 1
            resynced = asyncio.Event()
            backend.listen("news", lambda message: None, resynced.set)
            await asyncio.wait([asyncio.ensure_future(resynced.wait())], timeout=2)
            assert resynced.is_set()
        finally:
            redis_cluster.move(backend.slot(key), source, target)
            redis_cluster.move(backend.slot(key), target, source)


async def test_s12_keys_half_of_which_moved_are_waited_for(
    redis_cluster: Cluster, backend: RedisBackend
) -> None:
    """S12 TRYAGAIN: asked again after a pause until the move is done; or REFUSED at the deadline."""
    tag = "tag-0"
    first, second = backend.key("n", "a", tag=tag), backend.key("n", "b", tag=tag)
    slot = backend.slot(first)
    source = redis_cluster.owner(slot)
    target = next(node for node in redis_cluster.nodes if node is not source)
    assert await backend.run(BOTH, [first, second], []) == [1, 1]
    redis_cluster.start_move(slot, source, target)
    try:
        assert source.command("MIGRATE", "127.0.0.1", target.port, first.decode(), 0, 1000) == "OK"
        with pytest.raises(Refused, match="TRYAGAIN"):
            await backend.run(BOTH, [first, second], [])
        call = backend.run(BOTH, [first, second], [])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        redis_cluster.move(slot, source, target)
        assert await call == [2, 2]
    finally:
        redis_cluster.move(slot, target, source)


async def test_s13_keys_in_two_slots_are_refused(redis_cluster: Cluster, backend: RedisBackend) -> None:
    """S13 keys of one operation in two slots: REFUSED, nothing run; with one tag they share a slot."""
    keys = keys_by_node(backend, redis_cluster)
    with pytest.raises(Refused, match="CROSSSLOT"):
        await backend.run(BOTH, [keys[0], keys[1]], [])
    tagged = [backend.key("n", part, tag="t") for part in ("a", "b", "{c}", "}{")]
    assert len({backend.slot(key) for key in tagged}) == 1


async def test_s11_a_dead_node_leaves_the_other_slots_working(
    redis_cluster: Cluster, backend: RedisBackend
) -> None:
    """S11 one master killed: its slots fail at once with the right errors, the others go on; CLUSTERDOWN, where
    the cluster wants all slots covered: REFUSED; when it comes back, so do we, entered meanwhile or before."""
    nodes, keys = redis_cluster.nodes, keys_by_node(backend, redis_cluster)
    set_coverage(redis_cluster, "no")
    await asyncio.gather(*(backend.run(COUNT, [key], []) for key in keys.values()))
    nodes[2].kill()
    loop = asyncio.get_running_loop()
    late = connect(f"redis+cluster://127.0.0.1:{nodes[2].port}", deadline=0.5)
    assert isinstance(late, RedisBackend)
    try:
        for _ in range(5):
            started = loop.time()
            calls = [backend.run(COUNT, [keys[place]], []) for place in (0, 1, 2)]
            first, second, third = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(first, list)
            assert isinstance(second, list)
            assert type(third) in (NotSent, OutcomeUnknown)
            assert loop.time() - started < 0.5
        await late.__aenter__()
        with pytest.raises(NotSent):
            await late.run(COUNT, [keys[0]], [])
        set_coverage(redis_cluster, "yes")
        await eventually(lambda: "cluster_state:fail" in nodes[0].command("CLUSTER", "INFO"))
        with pytest.raises(Refused, match="CLUSTERDOWN"):
            await backend.run(COUNT, [keys[0]], [])
    finally:
        nodes[2].start()
        set_coverage(redis_cluster, "yes")
        redis_cluster.wait()
    await eventually(lambda: works(backend, keys[2]))
    await eventually(lambda: works(late, keys[0]))
    await late.__aexit__(None, None, None)


def set_coverage(cluster: Cluster, wanted: str) -> None:
    """Whether the living refuse to work while slots are without a master."""
    for node in cluster.nodes:
        if node.process.poll() is None:
            node.command("CONFIG", "SET", "cluster-require-full-coverage", wanted)


async def works(backend: RedisBackend, key: bytes) -> bool:
    """Whether a call on this key does."""
    try:
        await backend.run(COUNT, [key], [])
    except BackendError:
        return False
    return True


async def test_a_node_that_has_left_is_left(redis_cluster: Cluster) -> None:
    """A node that has given its slots away and is not in the URL: its link is closed when nobody waits for it
    any more, not before; as a master again it has a new one."""
    first, _, leaver = redis_cluster.nodes
    backend = connect(f"redis+cluster://127.0.0.1:{first.port}", deadline=0.5)
    assert isinstance(backend, RedisBackend)
    async with backend:
        key = keys_by_node(backend, redis_cluster)[2]
        assert await backend.run(COUNT, [key], []) == [1]
        routes: Any = backend._routes
        node = "127.0.0.1", leaver.port
        leaver.pause()
        waits = backend.run(COUNT, [key], [])
        await eventually(lambda: routes._links[node].writes == 2)
        routes._owners = dict.fromkeys(range(16384), ("127.0.0.1", first.port))
        routes._leave_departed()
        assert not waits.done()
        assert node in routes._links
        leaver.resume()
        assert await waits == [2]
        await eventually(lambda: node not in routes._links)
        await eventually(lambda: not [c for c in leaver.clients() if "lib-name" in c or "cmd=evalsha" in c])
        assert await backend.run(COUNT, [key], []) == [3]  # MOVED
        assert node in routes._links
        assert await backend.run(COUNT, [key], []) == [4]


async def test_one_living_node_is_enough_to_begin(redis_cluster: Cluster) -> None:
    """A URL whose first nodes are away: the map is read from the one that answers."""
    node = redis_cluster.nodes[1]
    backend = connect(f"redis+cluster://127.0.0.1:1,127.0.0.1:{node.port}", deadline=1.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        assert (
            await asyncio.gather(*(backend.run(COUNT, [backend.key("n", str(n))], []) for n in range(9)))
            == [[1]] * 9
        )


async def test_a_server_that_is_no_cluster_is_a_configuration_error(redis_server: RedisServer) -> None:
    """redis+cluster:// to a single server: ConfigurationError when the backend is entered."""
    backend = connect(f"redis+cluster://127.0.0.1:{redis_server.port}")
    with pytest.raises(ConfigurationError, match="no cluster"):
        await backend.__aenter__()
