"""The lock on Redis: the same answers, what travels, and what faults on the way can do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from redis_fixtures import both_versions
from servers import eventually

import aresilience as ar
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.lock.desk import desk_of
from aresilience.lock.machine import Busy
from aresilience.lock.store import Grant, LeaseStore
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

Two = tuple[ar.Backend, ar.Backend]


def store_of(backend: ar.Backend) -> LeaseStore:
    """Where its locks are."""
    return desk_of(backend, "Lock").store


def keys(server: RedisServer) -> list[str]:
    """What is there, but for the fences."""
    found = server.command("KEYS", "*")
    for key in found:
        assert server.command("PTTL", key) > 0, f"{key} has no end"
    return [key for key in found if ":fence:" not in key]


def calls(server: RedisServer) -> int:
    """Scripts run so far."""
    return server.calls("evalsha") + server.calls("eval")


@both_versions
async def test_one_at_a_time_over_processes(two: Two, redis_server: RedisServer) -> None:
    """Two processes of five tasks: one inside, fences rise in the order of the grants, nothing is left."""
    inside, fences = 0, []

    async def work(backend: ar.Backend) -> None:
        nonlocal inside
        lock = ar.Lock("a", backend=backend)
        for _ in range(10):
            async with lock as lease:
                inside += 1
                assert inside == 1
                fences.append(lease.fence)
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*(work(backend) for backend in two for _ in range(5)))
    assert len(fences) == 100
    assert fences == sorted(set(fences))
    assert keys(redis_server) == []


async def test_free_is_one_trip_to_get_and_one_to_let_go(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Acquire one command, release one command; nothing else is sent."""
    lock = ar.Lock("a", backend=redis_backend)
    async with lock:
        pass
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(10):
        async with lock:
            pass
    assert calls(redis_server) == 20


async def test_what_is_passed_on_in_a_process_is_one_trip(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Ten tasks of one process: the release and the next acquire leave together; nobody else asks."""
    lock = ar.Lock("a", backend=redis_backend)
    lease = await lock.acquire()

    async def section() -> None:
        async with lock:
            await asyncio.sleep(0.001)

    tasks = [asyncio.ensure_future(section()) for _ in range(10)]
    await asyncio.sleep(0.01)
    redis_server.command("CONFIG", "RESETSTAT")
    await lease.release()
    await asyncio.gather(*tasks)
    assert calls(redis_server) == 11


async def test_a_hundred_waiters_are_one(redis_server: RedisServer, two: Two) -> None:
    """However many tasks wait, their process asks once, is woken by push, and does not poll."""
    mine, theirs = (ar.Lock("a", backend=backend) for backend in two)
    lease = await mine.acquire()
    waiters = [asyncio.ensure_future(theirs.acquire(timeout=10)) for _ in range(100)]
    await eventually(lambda: calls(redis_server) >= 3)  # asked again when subscribed
    await asyncio.sleep(0.1)
    redis_server.command("CONFIG", "RESETSTAT")
    await asyncio.sleep(0.4)
    assert calls(redis_server) == 0
    began = time.monotonic()
    await lease.release()
    first = await waiters[0]
    assert time.monotonic() - began < 0.5
    assert not any(waiter.done() for waiter in waiters[1:])
    for waiter in waiters[1:]:
        waiter.cancel()
    await first.release()


async def test_a_lost_message_costs_the_time_of_the_holder_at_most(
    redis_server: RedisServer, two: Two
) -> None:
    """Pushes are hints: with the connection for them cut again and again, the end of the ttl wakes."""
    theirs = ar.Lock("a", ttl=0.5, backend=two[1])
    ask = ar.Lock("a", ttl=0.5, backend=two[0])._ask()
    assert isinstance(await store_of(two[0]).acquire(ask, False), Grant)  # whose process dies
    waiting = asyncio.ensure_future(theirs.acquire(timeout=5))
    began = time.monotonic()
    while not waiting.done():
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1.5
    await (await waiting).release()


async def test_the_same_token_has_the_same_grant_and_fence(redis_backend: RedisBackend) -> None:
    """Asked twice with one token: the same fence; asked by another: busy, with the time that is left."""
    store = store_of(redis_backend)
    lock = ar.Lock("a", ttl=10.0, backend=redis_backend)
    ask = lock._ask()
    first, again = await store.acquire(ask, False), await store.acquire(ask, True)
    assert isinstance(first, Grant)
    assert isinstance(again, Grant)
    assert first.fence == again.fence
    other = await store.acquire(lock._ask(), False)
    assert isinstance(other, Busy)
    assert 9e6 < other.left <= 10e6
    assert await store.release(ask) == 1
    assert await store.release(ask) == 0


@both_versions
async def test_every_verb_says_in_redis_what_it_says_in_memory(redis_backend: RedisBackend) -> None:
    """A walk of a thousand verbs by four tokens on three names: the same answers on both sides."""
    import random

    chance = random.Random(5)
    async with connect("memory://") as memory:
        stores = [store_of(redis_backend), store_of(memory)]
        locks = [ar.Lock(name, ttl=60.0, backend=redis_backend) for name in "abc"]
        locks += [ar.Lock.all("a", "b", ttl=60.0, group=None, backend=redis_backend)]
        locks += [ar.Lock("d", ttl=60.0, fair=True, backend=redis_backend)]
        asks = [[lock._ask() for _ in range(4)] for lock in locks]
        fences: list[list[int]] = [[], []]
        for _ in range(1000):
            ask = chance.choice(chance.choice(asks))
            verb = chance.choice(["acquire", "acquire", "release", "take", "holders", "tell"])
            waits = chance.random() < 0.5
            said: list[Any] = []
            for side, store in enumerate(stores):
                ask.keys = None
                if verb == "acquire":
                    answer = await store.acquire(ask, waits)
                    said.append(type(answer))
                    if isinstance(answer, Grant):
                        fences[side].append(answer.fence)
                elif verb == "release":
                    said.append(bool(await store.release(ask)))
                elif verb == "take":
                    fences[side].append((await store.take(ask)).fence)
                    said.append(True)
                elif verb == "tell":
                    said.append(await store.tell(ask))
                else:
                    said.append([holder.owner for holder in await store.holders(ask)])
            assert said[0] == said[1], verb
        ranks = [[sorted(set(side)).index(fence) for fence in side] for side in fences]
        assert ranks[0] == ranks[1]


async def test_l11_any_text_is_a_name(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """L11: whatever the name and the owner are, the keys are short and plain."""
    for name in ("a" * 10_000_000, "\0", "\r\n", "{}", "{a}b", "\ud800", "ü"):
        async with ar.Lock(name, owner=name[:1000], backend=redis_backend) as lease:
            for key in redis_server.command("KEYS", "*"):
                assert re.fullmatch(r"ar:(lock|fence):\{l\d+\}:[0-9a-f]{32}", key)
            assert lease.fence > 1e15
    assert keys(redis_server) == []


async def test_renewals_ride_together(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """Six hundred locks: a few commands per period, each of five hundred at most; nothing is lost."""
    locks = [ar.Lock(f"n{n}", ttl=3.0, backend=redis_backend) for n in range(600)]
    leases = await asyncio.gather(*(lock.acquire() for lock in locks))
    redis_server.command("CONFIG", "RESETSTAT")
    await asyncio.sleep(4.0)
    assert 4 <= calls(redis_server) <= 60
    for lease in leases:
        lease.check()
    await asyncio.gather(*(lease.release() for lease in leases))
    assert keys(redis_server) == []


async def test_l2_what_redis_has_lost_is_lost(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S18: evicted, flushed or deleted: lost at the next renewal, and no release makes it free for others."""
    lock = ar.Lock("a", ttl=0.3, backend=redis_backend)
    with pytest.raises(ar.LockLost, match="not ours any more"):  # noqa: PT012 - the body is what fails
        async with lock:
            redis_server.command("FLUSHALL")
            await asyncio.sleep(5)
    lease = await lock.acquire()
    redis_server.command("FLUSHALL")
    other = ar.Lock("a", backend=redis_backend)._ask()
    assert isinstance(await store_of(redis_backend).acquire(other, False), Grant)
    with pytest.raises(ar.LockLost):
        await lease.release()
    assert await store_of(redis_backend).release(other) == 1


async def test_s16_fences_rise_after_a_flush(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S16: everything is gone, the fence with it: the next one is higher all the same."""
    lock = ar.Lock("a", backend=redis_backend)
    last = 0
    for _ in range(10):
        async with lock as lease:
            assert lease.fence > last
            last = lease.fence
        redis_server.command("FLUSHALL")


async def test_s17_a_fence_outlives_a_clock_that_goes_back(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """A stored fence of a clock that was ahead is counted on from."""
    lock = ar.Lock("a", backend=redis_backend)
    async with lock:
        pass
    (key,) = (k for k in redis_server.command("KEYS", "*") if ":fence:" in k)
    ahead = 4_000_000_000_000_000
    redis_server.command("SET", key, ahead, "PX", 100_000)
    async with lock as lease:
        assert lease.fence == ahead + 1
    async with lock as lease:
        assert lease.fence == ahead + 2


async def test_s20_a_ttl_longer_than_its_own_is_cut(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S20: the clock went back an hour under a dead holder: nobody waits for an hour."""
    store = store_of(redis_backend)
    lock = ar.Lock("a", ttl=0.2, backend=redis_backend)
    await store.acquire(lock._ask(), False)
    (key,) = keys(redis_server)
    redis_server.command("PEXPIRE", key, 3_600_000)
    async with asyncio.timeout(2):
        async with lock:
            pass


@both_versions
async def test_s7_out_of_memory(start_redis: Callable[..., RedisServer], redis_version: str) -> None:
    """S7: out of memory nobody acquires; who holds renews and releases, also in the same command."""
    server = start_redis("--maxmemory-policy", "noeviction")
    async with connect(server.url, deadline=2.0) as backend:
        held = ar.Lock("a", ttl=0.6, backend=backend)
        permits = ar.Lock("b", ttl=0.6, lock_delay=0.1, fair=True, backend=backend)
        async with held as lease, permits as other:
            server.command("CONFIG", "SET", "maxmemory", "1")
            refused = 0
            for _ in range(50):
                try:  # Redis lets it pass where it rides with a renewal
                    await (await ar.Lock("c", backend=backend).acquire()).release()
                except ar.Refused as error:
                    refused += "OOM" in str(error)
                await asyncio.sleep(0.02)
            assert refused >= 40
            lease.check()
            other.check()
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert keys(server) == []


async def test_s25_a_key_that_holds_something_else(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """S25, S26: garbage or another type under the name: `CorruptState` for that name, and for no other."""
    lock = ar.Lock("a", backend=redis_backend)
    async with lock:
        (key,) = keys(redis_server)
    for garbage in (("SET", key, "garbage"), ("RPUSH", key, "x")):
        redis_server.command("DEL", key)
        redis_server.command(*garbage)
        redis_server.command("PEXPIRE", key, 60_000)
        answers = await asyncio.gather(
            lock.acquire(), ar.Lock("b", backend=redis_backend).acquire(), return_exceptions=True
        )
        assert isinstance(answers[0], ar.CorruptState)
        assert isinstance(answers[1], ar.Lease)
        await answers[1].release()


# Faults on the way.


async def faulty(proxy: FaultProxy, deadline: float = 0.3) -> RedisBackend:
    backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=deadline)
    assert isinstance(backend, RedisBackend)
    return backend


@pytest.mark.parametrize("verb", ["acquire", "renew", "release", "take", "tell"])
@pytest.mark.parametrize("fault", ["swallow", "reset"])
async def test_a_lost_reply_has_one_effect(
    proxy: FaultProxy, redis_server: RedisServer, verb: str, fault: str
) -> None:
    """Rung 8: the reply of every verb is lost or cut: it ran once, is not sent again, and ends as it should."""
    async with await faulty(proxy) as backend:
        lock = ar.Lock("a", ttl=5.0, backend=backend)
        store = store_of(backend)
        async with lock:
            pass  # the script is known
        lease = await lock.acquire() if verb != "acquire" else None
        redis_server.command("CONFIG", "RESETSTAT")
        if fault == "swallow":
            proxy.replies.swallow(times=1)
        else:
            proxy.replies.reset(after=3)
        if verb == "acquire":
            with pytest.raises(ar.OutcomeUnknown):
                await lock.acquire()
            await eventually(lambda: keys(redis_server) == [])  # one release, by its token
            assert calls(redis_server) == 2
            return
        assert lease is not None
        if verb == "renew":
            (answer,) = await store.renew([lease])
            assert isinstance(answer, asyncio.Future)
            with pytest.raises(ar.OutcomeUnknown):
                await answer
        elif verb == "release":
            with pytest.raises(ar.OutcomeUnknown):
                await lease.release()
        elif verb == "take":
            with pytest.raises(ar.OutcomeUnknown):
                await lock.take_over()
            await eventually(lambda: keys(redis_server) == [])
        else:
            with pytest.raises(ar.OutcomeUnknown):
                await store.tell(lease.ask)
        assert calls(redis_server) <= 2
        if verb in ("renew", "tell"):
            lease.check()
            with contextlib.suppress(
                ar.OutcomeUnknown
            ):  # where replies are one too few, it is found out now
                await backend.ping()
            await lease.release()
        assert keys(redis_server) == []


async def test_l6_a_cancelled_acquire_leaves_no_orphan(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """L6: cancelled at any time of the exchange: free one round trip later, in 60 of 60 cases."""
    proxy.requests.delay(lambda _: 0.002, times=None)
    proxy.replies.delay(lambda _: 0.002, times=None)
    async with await faulty(proxy, 2.0) as backend:
        lock = ar.Lock("a", ttl=60.0, backend=backend)
        async with lock:
            pass
        for step in range(60):
            task = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(step * 0.0001)
            if task.cancel():
                await asyncio.wait([task])
            if not task.cancelled():
                await task.result().release()
            lease = await lock.acquire(timeout=2)
            await lease.release()
    assert keys(redis_server) == []


async def test_cancelled_tasks_of_a_crowd_leave_nothing(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Two hundred tasks on five names, each cancelled at some moment: no key, no turn, no subscription."""
    import random

    chance = random.Random(3)

    async def section(number: int) -> None:
        async with ar.Lock(f"n{number % 5}", fair=number % 2 == 0, backend=redis_backend):
            await asyncio.sleep(chance.random() * 0.004)

    tasks = [asyncio.ensure_future(section(n - n % 5 + n % 5)) for n in range(200)]
    for task in tasks:
        await asyncio.sleep(chance.random() * 0.002)
        if chance.random() < 0.7:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [t.exception() for t in tasks if not t.cancelled() and t.exception()] == []
    desk = desk_of(redis_backend, "Lock")
    await redis_backend.ping()
    await eventually(lambda: [k for k in keys(redis_server) if "queue" not in k] == [])
    assert len(desk.lines) == 0
    assert not desk.inside
    assert len(desk.keeper) == 0


async def test_l4_redis_falls_silent(proxy: FaultProxy) -> None:
    """L4: nothing comes back any more: the body is cancelled by nine tenths of the ttl, without an answer."""
    async with await faulty(proxy, 0.2) as backend:
        seen = Recorder()
        lock = ar.Lock("a", ttl=1.0, backend=backend, listeners=[seen])
        async with lock:
            pass
        began = time.monotonic()
        with pytest.raises(ar.LockLost):  # noqa: PT012 - the body is what fails
            async with lock:
                proxy.replies.swallow(times=None)
                await asyncio.sleep(10)
        assert 0.5 < time.monotonic() - began < 1.0
        assert len(seen.of(ar.LeaseLost)) == 1


async def test_s3_a_restart_loses_the_lock_and_the_next_has_a_higher_fence(
    start_redis: Callable[..., RedisServer],
) -> None:
    """S3: the server restarts empty: lost, and acquired again by who comes next, with a script anew."""
    server = start_redis()
    async with connect(server.url, deadline=0.5) as backend:
        lock = ar.Lock("a", ttl=0.6, backend=backend)
        fence = 0
        with pytest.raises(ar.LockLost):  # noqa: PT012 - the body is what fails
            async with lock as lease:
                fence = lease.fence
                server.kill()
                server.start()
                await asyncio.sleep(5)
        async with lock as lease:
            assert lease.fence > fence


async def test_s29_leaving_the_backend_releases_what_is_held(redis_server: RedisServer) -> None:
    """Leaving the backend: the bodies are told, the keys are gone."""
    backend = connect(redis_server.url)
    told = 0

    async def holder(name: str) -> None:
        nonlocal told
        try:
            async with ar.Lock(name, backend=backend):
                await asyncio.sleep(100)
        except ar.LockLost:
            told += 1

    async with backend:
        tasks = [asyncio.ensure_future(holder(f"n{n}")) for n in range(20)]
        await eventually(lambda: len(keys(redis_server)) == 20)
    await asyncio.gather(*tasks)
    assert told == 20
    assert keys(redis_server) == []


async def test_fair_is_first_come_first_served(redis_server: RedisServer) -> None:
    """Eight processes that ask one after the other are served in that order."""
    backends = [connect(redis_server.url, deadline=2.0) for _ in range(8)]
    order: list[int] = []

    async def section(number: int) -> None:
        async with ar.Lock("a", fair=True, backend=backends[number]):
            order.append(number)
            await asyncio.sleep(0.005)

    for backend in backends:
        await backend.__aenter__()
    try:
        lease = await ar.Lock("a", fair=True, backend=backends[0]).acquire()
        tasks = []
        for number in range(1, 8):
            tasks.append(asyncio.ensure_future(section(number)))
            await asyncio.sleep(0.02)
        await lease.release()
        await asyncio.gather(*tasks)
    finally:
        for backend in backends:
            await backend.__aexit__(None, None, None)
    assert order == list(range(1, 8))
    assert keys(redis_server) == []


async def test_fair_survives_a_dead_waiter(two: Two) -> None:
    """The first in the queue died: the next is served when its place runs out."""
    lock = ar.Lock("a", fair=True, backend=two[0])
    store = store_of(two[1])
    lease = await lock.acquire()
    dead = ar.Lock("a", fair=True, backend=two[1])._ask()
    dead.place = 500_000
    assert isinstance(await store.acquire(dead, True), Busy)
    waiting = asyncio.ensure_future(ar.Lock("a", fair=True, backend=two[1]).acquire(timeout=5))
    await asyncio.sleep(0.05)
    await lease.release()
    began = time.monotonic()
    got = await waiting
    assert 0.2 < time.monotonic() - began < 2.0
    await got.release()


async def test_take_over_over_processes(two: Two) -> None:
    """By force from another process: the holder is told when it renews, and its release harms nobody."""
    mine, theirs = (ar.Lock("a", ttl=0.6, backend=backend) for backend in two)
    lease = await mine.acquire()
    taken = await theirs.take_over()
    assert taken.fence > lease.fence
    await eventually(lambda: lease.lost)
    with pytest.raises(ar.LockLost):
        await lease.release()
    taken.check()
    await asyncio.sleep(0.3)
    taken.check()
    assert await mine.try_acquire() is None
    await taken.release()


async def test_lock_delay(two: Two) -> None:
    """Its holder dies: nobody has it for its ttl and the delay; its holder releases: free at once."""
    mine, theirs = (ar.Lock("a", ttl=0.2, lock_delay=0.4, backend=backend) for backend in two)
    async with mine:
        assert await theirs.try_acquire() is None
    began = time.monotonic()
    async with theirs:
        assert time.monotonic() - began < 0.15
    await store_of(two[0]).acquire(mine._ask(), False)
    began = time.monotonic()
    assert await mine.holder() is not None
    async with theirs:
        assert time.monotonic() - began >= 0.58


async def test_wait_replicas(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """Without the replicas that were asked for, it is given back and refused."""
    lock = ar.Lock("a", wait_replicas=1, backend=redis_backend)
    with pytest.raises(ar.Refused, match="only 0 of 1 replicas"):
        await lock.acquire()
    await eventually(lambda: keys(redis_server) == [])


async def test_a_cluster(redis_cluster: Cluster) -> None:
    """Locks on all nodes; names that are taken together need a group."""
    async with connect(redis_cluster.url, deadline=2.0) as backend:
        locks = [ar.Lock(f"n{n}", ttl=0.6, backend=backend) for n in range(50)]
        leases = await asyncio.gather(*(lock.acquire() for lock in locks))
        assert sum(len(node.command("KEYS", "ar:lock:*")) > 0 for node in redis_cluster.nodes) == 3
        assert [await lock.try_acquire() for lock in locks] == [None] * 50
        await asyncio.sleep(1.0)
        for lease in leases:
            lease.check()
            await lease.release()
        with pytest.raises(ar.ConfigurationError, match="group"):
            await ar.Lock.all("a", "b", "c", "d", backend=backend).acquire()
        async with ar.Lock.all("a", "b", group="g", backend=backend):
            assert await ar.Lock("a", group="g", backend=backend).try_acquire() is None
        waiter = asyncio.ensure_future(locks[0].acquire(timeout=5))
        await (await waiter).release()
        held = await locks[1].acquire()
        other = asyncio.ensure_future(ar.Lock("n1", backend=backend).acquire(timeout=5))
        await asyncio.sleep(0.05)
        await held.release()
        await (await other).release()
    assert [node.command("KEYS", "ar:lock:*") for node in redis_cluster.nodes] == [[], [], []]


MAKE: dict[str, Callable[[ar.Backend], Any]] = {
    "fair": lambda backend: ar.Lock("a", fair=True, backend=backend),
    "all": lambda backend: ar.Lock.all("a", "b", backend=backend),
    "semaphore": lambda backend: ar.Semaphore("a", permits=2, backend=backend),
    "read": lambda backend: ar.ReadWriteLock("a", backend=backend).read(),
    "write": lambda backend: ar.ReadWriteLock("a", backend=backend).write(),
    "campaign": lambda backend: ar.LeaderElection("a", backend=backend).campaign(),
}


@pytest.mark.parametrize("kind", MAKE)
async def test_a_lost_reply_of_the_others_leaves_nothing(
    proxy: FaultProxy, redis_server: RedisServer, kind: str
) -> None:
    """Rung 8: the answer to an acquire of each kind is lost: the error, and nothing is held or waited for."""
    async with await faulty(proxy) as backend:
        async with MAKE[kind](backend):
            pass
        proxy.replies.swallow()
        with pytest.raises(ar.OutcomeUnknown):
            await MAKE[kind](backend).__aenter__()

        def left() -> list[str]:
            queues = [key for key in keys(redis_server) if key.endswith((":queue", ":places"))]
            waiting = [key for key in queues if redis_server.command("ZCARD", key)]
            return [key for key in keys(redis_server) if key not in queues] + waiting

        await eventually(lambda: left() == [])


async def test_a_lost_reply_of_a_guarded_write_is_one_write(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """Rung 8: it was written once, may be repeated with the same fence, and not with a lower one."""
    async with await faulty(proxy) as backend:
        guard = ar.FencedGuard("g", backend=backend)
        await guard.write("k", "first", 1)
        redis_server.command("CONFIG", "RESETSTAT")
        proxy.replies.swallow()
        with pytest.raises(ar.OutcomeUnknown):
            await guard.write("k", "second", 2)
        assert calls(redis_server) == 1
        with contextlib.suppress(ar.OutcomeUnknown):
            await backend.ping()
        assert await guard.read("k") == (b"second", 2)
        await guard.write("k", "second", 2)
        with pytest.raises(ar.StaleFence):
            await guard.write("k", "first", 1)


async def answers(backend: ar.Backend) -> bool:
    """Whether it works again."""
    try:
        return await backend.ping() > 0
    except ar.BackendError:
        return False


async def test_a_release_that_was_not_sent_is_never_sent(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """Told `NotSent`, it does not happen later either: what is acquired again with the token stays."""
    async with await faulty(proxy, 0.2) as backend:
        lock = ar.Lock("a", ttl=30.0, backend=backend)
        lease = await lock.acquire()
        proxy.replies.delay(0.3)
        in_flight = []
        for _ in range(backend._routes.link().PIPELINES):  # type: ignore[union-attr]
            in_flight.append(asyncio.ensure_future(answers(backend)))
            await asyncio.sleep(0.02)
        with pytest.raises(ar.NotSent):  # it waits behind them until its time is over
            await lease.release()
        await asyncio.gather(*in_flight)
        await asyncio.sleep(0.2)
        await eventually(lambda: answers(backend))
        assert await lock.holder() is not None
        await lease.release()
        assert await lock.holder() is None


async def test_cancelled_by_an_anyio_scope(redis_backend: RedisBackend) -> None:
    """A scope that is cancelled in the body, or runs out: the lock is free, and the scope knows."""
    lock = ar.Lock("a", ttl=0.5, backend=redis_backend)
    with anyio.CancelScope() as scope:
        async with lock:
            scope.cancel()
    assert await lock.holder() is None
    with anyio.move_on_after(0.2) as scope:
        async with lock:
            await asyncio.sleep(10)
    assert scope.cancelled_caught
    assert await lock.holder() is None
    async with lock as lease:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await asyncio.sleep(1)
        lease.check()
    assert await lock.holder() is None
