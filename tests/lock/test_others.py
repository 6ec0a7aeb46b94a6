"""Semaphore, read-write lock and election, in memory (virtual time) and on Redis (two processes)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from servers import eventually

import aresilience as ar
from aresilience.lock.desk import desk_of
from aresilience.lock.machine import Busy
from aresilience.testing import FaultyBackend, cancel_sweep
from aresilience.testing.faulty import Fault

if TYPE_CHECKING:
    from servers import RedisServer

Two = tuple[ar.Backend, ar.Backend]
redis = [pytest.mark.redis, pytest.mark.real_time]


def on_redis(function: Any) -> Any:
    """A test that talks to a server."""
    for mark in redis:
        function = mark(function)
    return function


def keys(server: RedisServer) -> list[str]:
    """What is there, but for the fences and what is empty after a while."""
    return [key for key in server.command("KEYS", "*") if ":fence:" not in key]


# Semaphore


async def crowd(semaphores: list[ar.Semaphore], tasks: int, most: int) -> list[int]:
    """Let many tasks through; the fences in order of the grants."""
    inside, fences = 0, []

    async def section(semaphore: ar.Semaphore) -> None:
        nonlocal inside
        async with semaphore as lease:
            inside += 1
            assert inside <= most
            fences.append(lease.fence)
            await asyncio.sleep(0.002)
            inside -= 1

    await asyncio.gather(*(section(semaphores[n % len(semaphores)]) for n in range(tasks)))
    return fences


async def test_so_many_at_once() -> None:
    """Three of thirty tasks inside; each grant has a fence of its own."""
    fences = await crowd([ar.Semaphore("a", permits=3)], 30, 3)
    assert fences == sorted(set(fences))
    assert await ar.Semaphore("a", permits=3).holders() == []


@on_redis
async def test_so_many_at_once_over_processes(two: Two, redis_server: RedisServer) -> None:
    """The same of two processes; nothing is left."""
    fences = await crowd([ar.Semaphore("a", permits=3, backend=backend) for backend in two], 60, 3)
    assert len(set(fences)) == 60
    await eventually(lambda: keys(redis_server) == [])


@on_redis
async def test_all_permits_in_one_trip(two: Two, redis_server: RedisServer) -> None:
    """What is free can be had by many tasks in one command; who is refused waits as one."""
    semaphore = ar.Semaphore("a", permits=50, backend=two[0])
    async with semaphore:
        pass
    redis_server.command("CONFIG", "RESETSTAT")
    leases = await asyncio.gather(*(semaphore.acquire() for _ in range(50)))
    assert redis_server.calls("evalsha") == 1
    assert await ar.Semaphore("a", permits=50, backend=two[1]).try_acquire() is None
    assert len(await semaphore.holders()) == 50
    await asyncio.gather(*(lease.release() for lease in leases))


async def test_a_permit_of_the_dead_is_free_after_its_ttl() -> None:
    """A lease per permit: what is not renewed ends by itself, alone."""
    async with ar.connect("memory://") as backend:
        semaphore = ar.Semaphore("a", permits=2, ttl=10.0, backend=backend)
        store = desk_of(backend, "x").store
        await store.acquire(semaphore._ask(), False)  # nobody renews this one
        async with semaphore:
            assert await semaphore.try_acquire() is None
            await asyncio.sleep(11)
            lease = await semaphore.try_acquire()
            assert lease is not None
            await lease.release()


@on_redis
async def test_a_permit_of_the_dead_is_free_after_its_ttl_on_redis(two: Two) -> None:
    """The same, waited for; the fence of one token is always the same."""
    mine, theirs = (ar.Semaphore("a", permits=1, ttl=0.3, backend=backend) for backend in two)
    ask = mine._ask()
    store = desk_of(two[0], "x").store
    first, again = await store.acquire(ask, False), await store.acquire(ask, False)
    assert first.fence == again.fence  # type: ignore[union-attr]
    lease = await theirs.acquire(timeout=3)
    assert await store.release(ask) == 0
    await asyncio.sleep(0.5)
    lease.check()
    await lease.release()


@on_redis
async def test_permits_go_in_order_over_processes(redis_server: RedisServer) -> None:
    """Five processes that ask one after the other get the one permit in that order."""
    backends = [ar.connect(redis_server.url, deadline=2.0) for _ in range(5)]
    order: list[int] = []

    async def section(number: int) -> None:
        async with ar.Semaphore("a", permits=1, backend=backends[number]):
            order.append(number)

    for backend in backends:
        await backend.__aenter__()
    lease = await ar.Semaphore("a", permits=1, backend=backends[0]).acquire()
    tasks = []
    for number in range(5):
        tasks.append(asyncio.ensure_future(section(number)))
        await asyncio.sleep(0.02)
    await lease.release()
    await asyncio.gather(*tasks)
    for backend in backends:
        await backend.__aexit__(None, None, None)
    assert order == [0, 1, 2, 3, 4]


@on_redis
async def test_an_hour_back_keeps_no_permit_for_an_hour(two: Two, redis_server: RedisServer) -> None:
    """S20: the clock went back under a dead holder: its permit ends after its own ttl."""
    semaphore = ar.Semaphore("a", permits=1, ttl=0.2, backend=two[0])
    ask = semaphore._ask()
    await desk_of(two[0], "x").store.acquire(ask, False)
    (key,) = (k for k in keys(redis_server) if k.endswith(":many"))
    redis_server.command("ZINCRBY", key, 3_600_000_000, ask.token)
    redis_server.command("PEXPIRE", key, 3_600_000)
    await (await semaphore.acquire(timeout=2)).release()


async def test_a_task_may_hold_several_permits() -> None:
    """One task, two permits of three, entered one in the other."""
    semaphore = ar.Semaphore("a", permits=3)
    async with semaphore as one, semaphore as two:
        assert one.fence != two.fence
        assert len(await semaphore.holders()) == 2
    assert await semaphore.holders() == []


async def test_a_lost_permit_cancels_its_body() -> None:
    """L4 for a permit."""
    async with FaultyBackend() as backend:
        semaphore = ar.Semaphore("a", permits=2, ttl=10.0, backend=backend)
        backend.plan(Fault.NOT_SENT, verb="renew", times=100)
        with pytest.raises(ar.LockLost, match="Semaphore"):
            async with semaphore:
                await asyncio.sleep(100)
        assert asyncio.get_running_loop().time() == pytest.approx(9)


# Read-write lock


async def read(rw: ar.ReadWriteLock, log: list[str], name: str, seconds: float) -> None:
    """A reader."""
    async with rw.read():
        log.append(f"+{name}")
        await asyncio.sleep(seconds)
        log.append(f"-{name}")


async def write(rw: ar.ReadWriteLock, log: list[str], name: str, seconds: float) -> None:
    """A writer."""
    async with rw.write():
        log.append(f"+{name}")
        await asyncio.sleep(seconds)
        log.append(f"-{name}")


async def in_turn(works: list[Awaitable[None]], pause: float) -> None:
    """Start one after the other, and wait for all."""
    tasks = []
    for work in works:
        tasks.append(asyncio.ensure_future(work))
        await asyncio.sleep(pause)
    await asyncio.gather(*tasks)


async def test_readers_share_and_writers_come_first() -> None:
    """Two readers at once; a writer waits for them; a reader that comes later waits for the writer."""
    rw, log = ar.ReadWriteLock("a"), []  # type: tuple[ar.ReadWriteLock, list[str]]
    await in_turn(
        [read(rw, log, "r1", 5), read(rw, log, "r2", 3), write(rw, log, "w", 2), read(rw, log, "r3", 1)],
        0.1,
    )
    assert log == ["+r1", "+r2", "-r2", "-r1", "+w", "-w", "+r3", "-r3"]


@on_redis
async def test_readers_share_and_writers_come_first_over_processes(
    two: Two, redis_server: RedisServer
) -> None:
    """The same, every one of them in the other process than the one before."""
    one, other = (ar.ReadWriteLock("a", backend=backend) for backend in two)
    log: list[str] = []
    await in_turn(
        [
            read(one, log, "r1", 0.3),
            read(other, log, "r2", 0.15),
            write(one, log, "w", 0.05),
            read(other, log, "r3", 0.02),
        ],
        0.03,
    )
    assert log == ["+r1", "+r2", "-r2", "-r1", "+w", "-w", "+r3", "-r3"]
    await eventually(lambda: keys(redis_server) == [])


async def test_no_upgrade() -> None:
    """A task that reads and asks to write would wait for itself: told at once; so is one that reads twice."""
    rw = ar.ReadWriteLock("a")
    async with rw.read():
        with pytest.raises(RuntimeError, match="held by this task"):
            await rw.write().acquire()
        with pytest.raises(RuntimeError, match="held by this task"):
            await rw.read().acquire()
        assert await rw.write().try_acquire() is None
    side = rw.read()
    async with side:
        with pytest.raises(RuntimeError, match="once"):
            await side.__aenter__()


@pytest.mark.parametrize("redis_version", [pytest.param("path", marks=redis)])
async def test_a_writer_that_gives_up_lets_readers_in(two: Two) -> None:
    """Its place goes with it: readers that waited for it begin."""
    one, other = (ar.ReadWriteLock("a", backend=backend) for backend in two)
    async with one.read():
        writer = asyncio.ensure_future(other.write().acquire(timeout=0.2))
        await asyncio.sleep(0.05)
        assert await other.read().try_acquire() is None
        waiting = asyncio.ensure_future(other.read().acquire(timeout=2))
        with pytest.raises(ar.LockTimeout):
            await writer
        async with asyncio.timeout(0.5):
            await (await waiting).release()


@on_redis
async def test_a_writer_that_died_waiting_holds_nobody_up_for_long(two: Two) -> None:
    """Its place runs out."""
    rw = ar.ReadWriteLock("a", backend=two[0])
    store = desk_of(two[1], "x").store
    async with rw.read():
        from aresilience.lock.machine import Kind

        ask = ar.ReadWriteLock("a", backend=two[1])._ask_for(Kind.WRITE)
        ask.place = 300_000
        assert isinstance(await store.acquire(ask, True), Busy)
        waiting = asyncio.ensure_future(ar.ReadWriteLock("a", backend=two[1]).read().acquire(timeout=3))
        await (await waiting).release()


async def test_a_writers_fence_is_above_all_before() -> None:
    """Readers and writers in turn: each grant higher."""
    rw = ar.ReadWriteLock("a")
    fences = []
    for side in (rw.read, rw.write, rw.read, rw.write):
        async with side() as lease:
            fences.append(lease.fence)
    assert fences == sorted(set(fences))


# Election


async def lead(election: ar.LeaderElection, log: list[Any], seconds: float) -> None:
    """Lead for a while."""
    async with election.campaign() as leadership:
        log.append((election.owner, leadership.fence))
        await asyncio.sleep(seconds)


async def test_one_leads_after_the_other() -> None:
    """Three candidates, in turn, each with a higher fence."""
    log: list[Any] = []
    elections = [ar.LeaderElection("a", candidate=name) for name in ("x", "y", "z")]
    await asyncio.gather(*(lead(election, log, 2) for election in elections))
    assert [name for name, _ in log] == ["x", "y", "z"]
    assert [fence for _, fence in log] == sorted({fence for _, fence in log})


async def observed(election: ar.LeaderElection, log: list[Any]) -> None:
    """Write down who leads."""
    async for leader in election.observe():
        log.append(leader and (leader.candidate, leader.metadata))


async def test_observe_proclaim_resign() -> None:
    """All can see who leads, what it proclaims, and that nobody does."""
    election, log = ar.LeaderElection("a", candidate="x"), []  # type: tuple[ar.LeaderElection, list[Any]]
    watching = asyncio.ensure_future(observed(election, log))
    await asyncio.sleep(1)
    async with election.campaign(metadata="http://x:1") as leadership:
        await asyncio.sleep(30)
        await leadership.proclaim("http://x:2")
        await asyncio.sleep(30)
        leader = await election.leader()
        assert leader is not None
        assert (leader.candidate, leader.metadata, leader.fence) == ("x", "http://x:2", leadership.fence)
        assert leader.held_for == pytest.approx(60)
        await leadership.resign()
        await asyncio.sleep(1)
        assert await election.leader() is None
        with pytest.raises(ar.LockLost):
            await leadership.proclaim("still me")
    assert log == [None, ("x", "http://x:1"), ("x", "http://x:2"), None]
    watching.cancel()
    await asyncio.wait([watching])


@on_redis
async def test_observe_over_processes(two: Two) -> None:
    """What one process proclaims the other sees, soon."""
    one, other = (
        ar.LeaderElection("a", candidate=c, ttl=0.5, backend=b) for c, b in zip("xy", two, strict=True)
    )
    log: list[Any] = []
    watching = asyncio.ensure_future(observed(other, log))
    await asyncio.sleep(0.1)
    async with one.campaign(metadata="1") as leadership:
        await eventually(lambda: log[-1:] == [("x", "1")])
        await leadership.proclaim("2")
        await eventually(lambda: log[-1:] == [("x", "2")])
        follower = asyncio.ensure_future(lead(other, [], 0.2))
        await asyncio.sleep(0.6)
    await eventually(lambda: log[-1:] == [("y", "")])
    await follower
    await eventually(lambda: log[-1:] == [None])
    watching.cancel()
    await asyncio.wait([watching])


async def test_the_deposed_ends_before_the_next_begins() -> None:
    """Cut off from the store: the body is cancelled a tenth of the ttl before anybody else can lead."""
    loop = asyncio.get_running_loop()
    log: list[tuple[str, float]] = []
    async with FaultyBackend() as backend:
        one = ar.LeaderElection("a", candidate="x", ttl=10.0, backend=backend)

        async def leads() -> None:
            async with one.campaign():
                try:
                    await asyncio.sleep(1000)
                finally:
                    log.append(("x ends", loop.time()))

        task = asyncio.ensure_future(leads())
        await asyncio.sleep(0)
        backend.plan(Fault.NOT_SENT, verb="renew", times=10)
        # Another process: it has the store, and not our local queue.
        store = desk_of(backend, "x").store
        other = ar.LeaderElection("a", candidate="y", ttl=10.0, backend=backend)
        while isinstance(await store.acquire(other._ask_as(""), False), Busy):
            await asyncio.sleep(0.01)
            if loop.time() > 9.5 and task.done():
                break
        log.append(("y begins", loop.time()))
        with pytest.raises(ar.LockLost):
            await task
    assert log[0] == ("x ends", pytest.approx(9.0))
    assert log[1][1] >= 9.0


async def test_a_campaign_can_time_out_and_be_entered_once() -> None:
    """`LockTimeout` after `timeout` seconds; metadata is text."""
    election = ar.LeaderElection("a", candidate="x")
    task = asyncio.ensure_future(lead(election, [], 10))
    await asyncio.sleep(1)
    with pytest.raises(ar.LockTimeout):
        async with election.campaign(timeout=2):
            pass
    with pytest.raises(TypeError, match="metadata"):
        election.campaign(metadata=7)  # type: ignore[arg-type]
    await task
    campaign = election.campaign()
    async with campaign:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await campaign.__aenter__()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ar.Semaphore("a", permits=0), "permits"),
        (lambda: ar.Semaphore("a", permits=True), "permits"),
        (lambda: ar.Semaphore("", permits=1), "name"),
        (lambda: ar.ReadWriteLock("a", ttl=0), "ttl"),
        (lambda: ar.LeaderElection("a", candidate=""), "owner"),
        (lambda: ar.LeaderElection("a", ttl=-1), "ttl"),
    ],
)
def test_bad_options(make: Callable[[], object], words: str) -> None:
    """Refused when it is made."""
    with pytest.raises((TypeError, ValueError), match=words):
        make()


# Cancelled at every await


class World:
    """One of each."""

    def __init__(self, backend: ar.Backend | None = None) -> None:
        self.semaphore = ar.Semaphore("s", permits=1, wait=20.0, backend=backend)
        self.rw = ar.ReadWriteLock("rw", wait=20.0, backend=backend)
        self.election = ar.LeaderElection("l", candidate="x", backend=backend)

    async def idle(self) -> None:
        """All is free, nothing is kept."""
        for lease in (
            await self.semaphore.try_acquire(),
            await self.rw.write().try_acquire(),
        ):
            assert lease is not None, "held"
            await lease.release()
        assert await self.election.leader() is None
        desk = self.semaphore.desk
        assert len(desk.lines) == 0
        assert not desk.inside
        assert len(desk.keeper) == 0


async def use_all(world: World) -> None:
    """Each, waited for behind another task, and held."""

    async def other() -> None:
        async with world.semaphore, world.rw.read(), world.election.campaign():
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        await asyncio.sleep(0.5)
        async with world.semaphore:
            await asyncio.sleep(0.1)
        async with world.rw.write():
            await asyncio.sleep(0.1)
        async with world.rw.read():
            await asyncio.sleep(0.1)
        async with world.election.campaign(metadata="m") as leadership:
            await leadership.proclaim("n")
            await world.election.leader()


def test_cancel_sweep_of_the_others() -> None:
    """Cancelled anywhere: nothing is held, nobody waits, no cancel is lost."""
    cancel_sweep(use_all, make=World, check=World.idle)


async def first_seen(world: World) -> None:
    """Observe until there is something to see."""
    observing = world.election.observe()
    async for _ in observing:
        await asyncio.sleep(1)
        break
    await observing.aclose()  # type: ignore[attr-defined]


def test_cancel_sweep_of_observing() -> None:
    """Cancelled while it observes, it has stopped listening."""
    cancel_sweep(first_seen, make=World, check=World.idle)


MAKE: dict[str, Callable[[ar.Backend], Any]] = {
    "lock": lambda backend: ar.Lock("a", backend=backend),
    "fair": lambda backend: ar.Lock("a", fair=True, backend=backend),
    "all": lambda backend: ar.Lock.all("a", "b", backend=backend),
    "semaphore": lambda backend: ar.Semaphore("a", permits=1, backend=backend),
    "write": lambda backend: ar.ReadWriteLock("a", backend=backend).write(),
    "read": lambda backend: ar.ReadWriteLock("a", backend=backend).read(),
    "campaign": lambda backend: ar.LeaderElection("a", backend=backend).campaign(),
}


@pytest.mark.redis
@pytest.mark.parametrize("kind", [*MAKE, "take"])
def test_cancel_sweep_on_redis(redis_server: RedisServer, kind: str) -> None:
    """The same on Redis: free, and behind another process that holds it; no key is left, nothing is kept."""

    async def held_for_a_moment(backend: ar.Backend, held: asyncio.Event) -> None:
        async with MAKE["write" if kind == "read" else kind](backend):
            held.set()
            await asyncio.sleep(0.002)

    async def use(url: str) -> None:
        async with ar.connect(url, deadline=2.0) as mine, ar.connect(url, deadline=2.0) as theirs:
            try:
                if kind == "take":
                    async with await ar.Lock("a", backend=mine).take_over():
                        await asyncio.sleep(0)
                    return
                async with MAKE[kind](mine):
                    await asyncio.sleep(0)
                async with asyncio.TaskGroup() as group:
                    held = asyncio.Event()
                    group.create_task(held_for_a_moment(theirs, held))
                    await held.wait()
                    async with MAKE[kind](mine):
                        await asyncio.sleep(0)
            finally:
                assert len(mine.keeper) == 0
                assert len(theirs.keeper) == 0

    def look() -> list[str]:
        queues = [key for key in keys(redis_server) if key.endswith((":queue", ":places"))]
        return [
            *(key for key in keys(redis_server) if key not in queues),
            *(key for key in queues if redis_server.command("ZCARD", key)),
        ]

    async def check(url: str) -> None:
        assert await asyncio.to_thread(look) == []

    cancel_sweep(use, make=lambda: redis_server.url, check=check, loop_factory=asyncio.new_event_loop)


async def test_nobody_reads_between_one_writer_of_a_line_and_the_next() -> None:
    """The first gives up while the second stands in line: readers that come later stay behind both."""
    rw, log = ar.ReadWriteLock("x"), []
    loop = asyncio.get_running_loop()

    async def read(name: str, after: float, seconds: float) -> None:
        await asyncio.sleep(after)
        async with rw.read():
            log.append((name, round(loop.time())))
            await asyncio.sleep(seconds)

    async def write(name: str, after: float, timeout: float | None) -> None:
        await asyncio.sleep(after)
        try:
            lease = await rw.write().acquire(timeout)
        except ar.LockTimeout:
            return
        log.append((name, round(loop.time())))
        await lease.release()

    await asyncio.gather(
        read("first", 0, 5), write("gives up", 0.1, 1), write("waits", 0.2, None), read("late", 0.5, 50)
    )
    assert log == [("first", 0), ("waits", 5), ("late", 5)]
