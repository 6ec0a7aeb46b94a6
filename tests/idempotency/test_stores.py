"""The stores: one contract for both, and the same answers from the machine and from its twin in Lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_fixtures import both_versions

import aresilience as ar
from aresilience.backend.redis import RedisBackend
from aresilience.errors import CorruptState, Refused
from aresilience.idempotency.memory import MemoryIdempotencyStore
from aresilience.idempotency.record import (
    Answer,
    Ask,
    Ending,
    Record,
    Standing,
    Work,
    claim,
    renew,
    settle,
    view,
)
from aresilience.idempotency.redis import RedisIdempotencyStore
from aresilience.idempotency.store import Lease
from aresilience.testing import check_idempotency_store

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

on_redis = [pytest.mark.redis, pytest.mark.real_time]
MINUTE = 60_000_000
EPOCH = 1_700_000_000_000_000


def in_memory(max_keys: int = 1000) -> MemoryIdempotencyStore:
    """A store in this process."""
    return MemoryIdempotencyStore(lambda: 0.0, max_keys)


async def test_the_memory_store_keeps_the_contract() -> None:
    """All of it, in virtual time."""
    await check_idempotency_store(in_memory())


@both_versions
@pytest.mark.redis
@pytest.mark.real_time
async def test_the_redis_store_keeps_the_contract(redis_backend: RedisBackend) -> None:
    """All of it, on both versions."""
    await check_idempotency_store(RedisIdempotencyStore(redis_backend, "contract"))


@pytest.mark.redis
@pytest.mark.real_time
async def test_a_cluster_keeps_the_contract(redis_cluster: Cluster) -> None:
    """Each record and the list that it is on share a slot; wake-ups cross nodes."""
    async with ar.connect(redis_cluster.url, deadline=2.0) as backend:
        assert isinstance(backend, RedisBackend)
        await check_idempotency_store(RedisIdempotencyStore(backend, "contract"))


step = st.tuples(
    st.sampled_from(
        [0, 1, MINUTE - 1, MINUTE, MINUTE + 1, 10 * MINUTE, 11 * MINUTE - 1, 11 * MINUTE, -MINUTE]
    ),
    st.sampled_from("ab"),
    st.sampled_from(["claim", "claim", "claim", "refuse", "renew", "look", "forget", *Ending]),
    st.sampled_from(["1:f", "1:f", "1:f", "1:g", "2:f", ""]),
    st.booleans(),
)
LEASE, KEEP, TTL = MINUTE, 10 * MINUTE, 5 * MINUTE


async def agree(store: RedisIdempotencyStore, ident: str, steps: list[Any]) -> None:
    """Drive the scripts and the machine through one history; every answer must be equal."""
    record: Record | None = None
    now, number = EPOCH, 0
    owners = {who: Work(f"none-{who}", "1:f", 0, 0) for who in "ab"}
    for gap, who, verb, fingerprint, anew in steps:
        now += gap
        store.set_time(now)
        if verb in ("claim", "refuse"):
            number += anew
            asked = Ask(f"{who}{number}", fingerprint, LEASE, KEEP, verb == "claim")
            answer = await store.claim(ident, asked)
            expected, record = claim(record, now, asked)
            assert answer == expected
            if answer.answer is Answer.CLAIMED:
                assert record is not None
                owners[who] = Work(asked.token, record.fingerprint, answer.fence, answer.attempt)
        elif verb == "renew":
            token = owners[who].token
            [said] = await store.renew([Lease(store, ident, token, LEASE / 1e6, KEEP)])
            after = renew(record, now, token, LEASE, KEEP)
            assert (said is None) is (after is None)
            record = after or record
        elif verb == "look":
            assert await store.look(ident) == view(record, now)
        elif verb == "forget":
            gone = record is None or now >= record.expires
            assert await store.forget(ident) is not gone
            record = None
        else:
            counts, record, _ = settle(record, now, owners[who], verb, b"\x00\xffv", TTL)
            said = await store.settle(ident, owners[who], verb, b"\x00\xffv", TTL)
            assert said is counts, (steps, owners[who], record)
        assert await store.look(ident) == view(record, now)
    store.set_time(0)


@both_versions
@pytest.mark.redis
@pytest.mark.real_time
async def test_lua_and_python_agree(redis_backend: RedisBackend) -> None:
    """Random histories, at the edges of leases and ttls, with steps back in time: the same answers."""
    store = RedisIdempotencyStore(redis_backend, "agree")
    histories: list[list[Any]] = []

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(step, min_size=1, max_size=25))
    def collect(steps: list[Any]) -> None:
        histories.append(steps)

    collect()
    for number, steps in enumerate(histories):
        await agree(store, f"{number:032x}", steps)


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize(
    "command",
    [
        ("SET", "a string"),
        ("HSET", "s", "Q"),
        ("HSET", "s", "R"),
        ("HSET", "x", "1"),
        ("HSET", "s", "R", "f", "", "t", "t", "n", "x", "a", "1", "b", "1", "l", "1", "u", "1", "x", "1"),
        ("LPUSH", "item"),
    ],
)
async def test_what_we_did_not_write_is_an_error(
    redis_backend: RedisBackend, redis_server: RedisServer, command: tuple[str, ...]
) -> None:
    """A key of ours that holds something else: `CorruptState`, never a free claim."""
    store = RedisIdempotencyStore(redis_backend, "corrupt")
    ident = "0" * 32
    key = store._keys(ident)[0].decode()
    redis_server.command(command[0], key, *command[1:])
    with pytest.raises(CorruptState):
        await store.claim(ident, Ask("a", "1:f", MINUTE, MINUTE, True))
    with pytest.raises(CorruptState):
        await store.look(ident)


@pytest.mark.redis
@pytest.mark.real_time
async def test_every_key_expires(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """Records, and the list of what is open: nothing is left for ever, whatever happens."""
    idem = ar.Idempotency(name="ttl", ttl=50.0, lease=5.0, backend=redis_backend)

    async def work() -> int:
        return 1

    await idem.run("done", work)
    async with idem.claim("open") as held:
        keys = redis_server.command("KEYS", "*")
        lives = {key: int(redis_server.command("PTTL", key)) for key in keys}
        assert len([k for k in keys if ":idem:" in k]) == 2
        assert all(0 < ttl <= 55_000 for ttl in lives.values()), lives
        held.release()
    assert redis_server.command("KEYS", "*idem-open*") == []


async def test_memory_is_bounded() -> None:
    """A full table refuses a new key: to forget a record would be to run its work again. What expired goes."""
    store = in_memory(max_keys=10)
    for n in range(10):
        await store.claim(f"{n}", Ask("t", "", 10, 10, True))
    with pytest.raises(Refused, match="10 records"):
        await store.claim("one more", Ask("t", "", 10, 10, True))
    assert (await store.claim("3", Ask("t", "", 10, 10, True))).answer is Answer.CLAIMED
    store._shift += 100  # time passes
    for n in range(100):
        await store.claim(f"new {n}", Ask("t", "", 10, 10, True))
        store._shift += 100
        assert len(store) <= 10


async def test_a_million_releases_leave_nothing() -> None:
    """Claimed and released over and over, a key takes no room."""
    store = in_memory()
    for n in range(1000):
        standing = await store.claim("k", Ask(f"{n}", "", 10, 10, True))
        assert standing == Standing(Answer.CLAIMED, standing.fence, 1, 0, 10)
        await store.settle("k", Work(f"{n}", "", standing.fence, 1), Ending.RELEASED, b"", 0)
    assert len(store) == 0
