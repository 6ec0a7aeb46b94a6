"""The registry over a real Redis: processes that are killed and stopped, a server that forgets, restarts, fails
over; messages that are lost, replies too. Two backends stand for two processes where that will do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.backend.redis import RedisBackend
from aresilience.registry.redis import _SCRIPT, RedisRegistryStore
from aresilience.registry.store import Beat
from aresilience.testing import FaultProxy, Recorder, cancel_sweep

if TYPE_CHECKING:
    from servers import RedisServer, SentinelTrio

from servers import eventually

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

WORKER = Path(__file__).with_name("worker.py")


def me(n: int, **facts: Any) -> ar.Instance:
    """The n-th instance of users."""
    return ar.Instance("users", "127.0.0.1", 8000 + n, id=f"i{n}", **facts)


def ids(instances: tuple[ar.Instance, ...]) -> list[str]:
    """Their ids."""
    return sorted(each.id for each in instances)


@pytest.fixture
async def two(redis_server: RedisServer) -> AsyncIterator[tuple[RedisBackend, RedisBackend]]:
    """Two open backends on one server, both with their subscriptions."""
    async with (
        ar.connect(redis_server.url, deadline=1.0) as one,
        ar.connect(redis_server.url, deadline=1.0) as other,
    ):
        assert isinstance(one, RedisBackend)
        assert isinstance(other, RedisBackend)
        for each in (one, other):
            assert each._wakeups is not None
            each.listen("warm", lambda _: None, lambda: None)
            await each._wakeups.connected.wait()
        yield one, other


class Process:
    """A worker, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))

    def has_said(self, what: str, status: str = "") -> bool:
        """Whether it has said that."""
        return any(each["what"] == what and status in each.get("status", "") for each in self.said)

    def send(self, number: signal.Signals) -> None:
        """Stop it, let it go on, kill it."""
        os.kill(self._process.pid, number)

    def leave(self) -> None:
        """Tell it to leave."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def end(self) -> None:
        """Be sure that it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


@pytest.fixture
async def start(redis_server: RedisServer) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """Starts workers, and ends them."""
    running: list[Process] = []

    async def starting(who: str, ttl: float, version: str = "") -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(WORKER), redis_server.url, who, str(ttl), version,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(ar.__file__).parents[1])},
        )  # fmt: skip
        running.append(Process(process))
        await eventually(lambda: running[-1].has_said("ready"), within=20)
        return running[-1]

    yield starting
    for each in running:
        await each.end()


async def test_a_change_is_seen_by_a_watcher_at_once(two: tuple[RedisBackend, RedisBackend]) -> None:
    """Registered in one process, found in the other, its weight changed, drained, gone: each within moments,
    and by messages alone: no listing is asked for."""
    here, there = (ar.ServiceRegistry(ttl=600.0, resync=600.0, backend=backend) for backend in two)
    await here.announce(me(0).but(state=ar.InstanceState.DOWN))
    await there.discover("users")
    await asyncio.sleep(0.3)  # the subscription, and the look that it causes
    feed = there.feed("users")
    looked = feed._listed_at
    async with here.register(me(1), propagation=0.1) as registration:
        await eventually(lambda: ids(feed.instances) == ["i1"])
        await registration.update(weight=2.0)
        await eventually(lambda: feed.instances[0].weight == 2.0)
    await eventually(lambda: feed.instances == ())
    assert feed._listed_at == looked


async def test_d1_a_killed_process_is_gone_after_its_ttl(
    two: tuple[RedisBackend, RedisBackend], start: Callable[..., Awaitable[Process]]
) -> None:
    """kill -9: not gone before its ttl, and gone soon after it; the other process is not touched."""
    one = await start("i1", 0.6)
    await start("i2", 0.6)
    registry = ar.ServiceRegistry(ttl=0.6, grace=0, backend=two[0])
    assert ids(await registry.discover("users")) == ["i1", "i2"]
    loop = asyncio.get_running_loop()
    one.send(signal.SIGKILL)
    killed = loop.time()
    feed = registry.feed("users")
    await eventually(lambda: ids(feed.instances) == ["i2"])
    assert 0.3 < loop.time() - killed < 2.0


async def test_d2_a_process_that_was_stopped_does_not_take_its_id_back(
    two: tuple[RedisBackend, RedisBackend], start: Callable[..., Awaitable[Process]]
) -> None:
    """SIGSTOP past its ttl; a new process has its id; it wakes, knows that it is superseded, and leaves without
    removing the new one. When the new one leaves, nobody is there."""
    old = await start("i1", 0.5, "old")
    registry = ar.ServiceRegistry(ttl=0.5, backend=two[0])
    old.send(signal.SIGSTOP)
    await asyncio.sleep(0.8)
    new = await start("i1", 0.5, "new")
    old.send(signal.SIGCONT)
    await eventually(lambda: old.has_said("RegistrationLost", "SUPERSEDED"))
    assert not new.has_said("RegistrationLost")
    assert [each.version for each in await registry.discover("users")] == ["new"]
    old.leave()
    await eventually(lambda: old.has_said("left"))
    store = registry._store()
    assert await store.renew([Beat("users", "i1", "", 0.5)]) == [True]
    new.leave()
    await eventually(lambda: new.has_said("left"))
    assert await store.renew([Beat("users", "i1", "", 0.5)]) == [False]


async def test_a_stopped_process_alone_comes_back_by_itself(
    two: tuple[RedisBackend, RedisBackend], start: Callable[..., Awaitable[Process]]
) -> None:
    """SIGSTOP past its ttl and nobody else: gone, and when it wakes it registers again."""
    process = await start("i1", 0.5)
    store = RedisRegistryStore(two[0])
    process.send(signal.SIGSTOP)
    await asyncio.sleep(0.8)
    assert (await store.changes("users", -1, -1, 10)).changes == ()
    process.send(signal.SIGCONT)
    await eventually(lambda: process.has_said("RegistrationLost", "PENDING"))

    async def there() -> bool:
        return len((await store.changes("users", -1, -1, 10)).changes) == 1

    await eventually(there)


async def test_d3_a_flush_is_repaired_and_not_noticed(
    two: tuple[RedisBackend, RedisBackend], redis_server: RedisServer
) -> None:
    """FLUSHALL under three instances and a watcher: they register again, and the watcher never has fewer."""
    here, there = (ar.ServiceRegistry(ttl=0.9, resync=0.2, backend=backend) for backend in two)
    registrations = [here.register(me(n), propagation=0) for n in range(3)]
    for each in registrations:
        await each.__aenter__()
    feed = there.feed("users")
    await eventually(lambda: len(feed.instances) == 3)
    fewest = 3
    await asyncio.to_thread(redis_server.command, "FLUSHALL")
    generations = {each.generation for each in registrations}

    def repaired() -> bool:
        nonlocal fewest
        fewest = min(fewest, len(feed.instances))
        new = {each.generation for each in registrations}
        return not new & generations and all(each.registered for each in registrations)

    await eventually(repaired)
    await asyncio.sleep(0.3)
    assert len(feed.instances) == 3
    assert fewest == 3
    assert feed.snapshot().held == ()
    for each in registrations:
        await each.__aexit__(None, None, None)


async def test_a_restart_is_survived_by_all(start_redis: Callable[..., RedisServer]) -> None:
    """The server dies, comes back empty: what was known is served meanwhile, stale, and then it is fresh."""
    server = start_redis()
    recorder = Recorder()
    async with ar.connect(server.url, deadline=0.2) as backend:
        registry = ar.ServiceRegistry(ttl=1.0, resync=0.3, backend=backend, listeners=[recorder])
        async with registry.register(me(1), propagation=0) as registration:
            assert ids(await registry.discover("users")) == ["i1"]
            await asyncio.to_thread(server.kill)
            await eventually(lambda: not registration.registered)
            snapshot = registry.snapshot("users")
            assert (ids(snapshot.instances), snapshot.stale) == (["i1"], True)
            await asyncio.to_thread(server.start)
            await eventually(lambda: registration.registered)
            await eventually(lambda: not registry.snapshot("users").stale)
            assert ids(registry.snapshot("users").instances) == ["i1"]
    assert len(recorder.of(ar.DiscoveryDegraded)) >= 1


async def test_a_failover_converges(redis_sentinel: SentinelTrio) -> None:
    """kill -9 of the master: the list is served throughout, and instances, old and new, are found after it."""
    async with ar.connect(redis_sentinel.url, deadline=0.3) as backend:
        registry = ar.ServiceRegistry(ttl=2.0, resync=0.5, backend=backend)
        async with registry.register(me(1), propagation=0) as one:
            assert ids(await registry.discover("users")) == ["i1"]
            redis_sentinel.master.kill()
            async with registry.register(me(2), propagation=0) as two:
                feed = registry.feed("users")

                def converged() -> bool:
                    assert "i1" in ids(feed.instances)
                    return one.registered and two.registered and ids(feed.instances) == ["i1", "i2"]

                await eventually(converged, within=15)


async def test_d7_lost_messages_are_made_up_for(
    two: tuple[RedisBackend, RedisBackend], redis_server: RedisServer
) -> None:
    """The pub/sub connection is killed again and again, with changes between: in the end all are known."""
    here, there = (ar.ServiceRegistry(ttl=60.0, resync=0.3, backend=backend) for backend in two)
    feed = there.feed("users")
    await feed.known()
    for n in range(30):
        if n % 5 == 0:
            await asyncio.to_thread(redis_server.command, "CLIENT", "KILL", "TYPE", "pubsub")
        await here.announce(me(n))
        if n % 3 == 0:
            await here.deregister("users", f"i{n}")
    await eventually(lambda: len(feed.instances) == 20)


async def test_messages_that_never_come_are_made_up_for_by_the_timer(
    two: tuple[RedisBackend, RedisBackend],
) -> None:
    """Nothing is heard, and no gap is noticed: the listing finds what was said."""
    registry = ar.ServiceRegistry(ttl=60.0, resync=0.3, backend=two[1])
    feed = registry.feed("users")
    await feed.known()
    assert feed._unlisten is not None
    feed._unlisten()  # nothing is heard from here on
    await ar.ServiceRegistry(ttl=60.0, backend=two[0]).announce(me(1))
    await eventually(lambda: ids(feed.instances) == ["i1"])


async def test_d10_a_slow_watcher_sees_the_newest_state(two: tuple[RedisBackend, RedisBackend]) -> None:
    """A hundred changes while it is busy: one step, to the end of them."""
    here, there = (ar.ServiceRegistry(ttl=60.0, resync=60.0, backend=backend) for backend in two)
    watch = there.watch("users")
    assert await anext(watch) == ()
    for n in range(100):
        await here.announce(me(n))
    await eventually(lambda: len(there.feed("users").instances) == 100)
    assert len(await anext(watch)) == 100


async def test_mass_expiry_in_redis_is_one_message_and_damped_here(
    two: tuple[RedisBackend, RedisBackend],
) -> None:
    """Fifty of sixty expire at once: the watcher goes on with most of them, and says so."""
    here, there = (
        ar.ServiceRegistry(ttl=60.0, resync=0.2, grace=0, hold=30.0, backend=backend) for backend in two
    )
    for n in range(60):
        await here.announce(me(n), ttl=60.0 if n < 10 else 1.0)
    feed = there.feed("users")
    await eventually(lambda: len(feed.instances) == 60)
    await eventually(lambda: len(feed.snapshot().held) == 41)
    assert len(feed.instances) == 51
    assert feed.snapshot().stale


@pytest.mark.parametrize("verb", ["register", "withdraw", "changes", "renew"])
@pytest.mark.parametrize("fault", ["swallow", "reset", "swallow request"])
async def test_a_lost_reply_has_at_most_one_effect(
    redis_server: RedisServer, verb: str, fault: str
) -> None:
    """Each script, its reply or its request lost: an unknown outcome within the deadline; asked again, the same
    answer as if nothing had been lost."""
    async with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.2) as backend,
    ):
        assert isinstance(backend, RedisBackend)
        store = RedisRegistryStore(backend)
        beat = Beat("users", "a", "token", 60.0)
        first = await store.register(beat, b"1", takeover=True)
        await store.announce(["users"])

        async def ask() -> object:
            if verb == "register":
                return await store.register(beat, b"1", takeover=True)
            if verb == "withdraw":
                return await store.withdraw("users", "a", "token")
            if verb == "changes":
                return (await store.changes("users", -1, -1, 10)).changes[0].generation
            (answer,) = await store.renew([beat])
            if isinstance(answer, ar.BackendError):
                raise answer
            return answer

        side = proxy.requests if "request" in fault else proxy.replies
        side.reset() if fault == "reset" else side.swallow()
        with pytest.raises((ar.OutcomeUnknown, ar.NotSent)):
            await ask()
        proxy.replies.heal()
        proxy.requests.heal()
        answer: object = None
        for _ in range(5):  # replies that belong to nobody cost another connection
            with suppress(ar.OutcomeUnknown, ar.NotSent):
                answer = await ask()
                break
        if verb == "withdraw":
            assert answer in (True, False)
            assert (await store.changes("users", -1, -1, 10)).changes == ()
        else:
            assert answer == {"register": first, "changes": first.generation, "renew": True}[verb]


async def test_ten_thousand_instances(redis_server: RedisServer) -> None:
    """Listed in parts, none of which keeps the server for long; then a change costs one message."""
    async with (
        ar.connect(redis_server.url, deadline=10.0) as here,
        ar.connect(redis_server.url, deadline=10.0) as there,
    ):
        assert isinstance(here, RedisBackend)
        await ten_thousand(here, there)


async def ten_thousand(here: RedisBackend, there: ar.Backend) -> None:
    """Registered by one, known by the other."""
    store = RedisRegistryStore(here)
    many = 10_000
    value = b'{"schema":1,"host":"10.0.0.1","port":8080,"state":"up"}'
    for start in range(0, many, 500):
        asked = [
            here.run(
                _SCRIPT,
                store.keys("users"),
                [0, 10**8, "r", "ar:registry:users", f"i{n}", "t", 600_000_000, 1, value],
            )
            for n in range(start, start + 500)
        ]
        await asyncio.gather(*asked)
    registry = ar.ServiceRegistry(ttl=600.0, resync=600.0, backend=there)
    feed = registry.feed("users")
    await eventually(lambda: len(feed.instances) == many, within=20)
    await asyncio.sleep(0.5)
    listings = feed.listings
    await store.withdraw("users", "i77", "t")
    await eventually(lambda: len(feed.instances) == many - 1)
    assert feed.listings == listings


def test_cancel_sweep_on_redis(redis_server: RedisServer) -> None:
    """Registering, updating, discovering, picking, leaving, cut at every await: nobody is left registered."""

    async def use(url: str) -> None:
        async with ar.connect(url, deadline=2.0) as backend:
            registry = ar.ServiceRegistry(ttl=60.0, backend=backend)
            async with registry.register(me(1), propagation=0) as registration:
                await registration.update(weight=2.0)
                await registry.discover("users")
                async with registry.service("users").pick():
                    await asyncio.sleep(0)
                token = await registry.announce(me(2), ttl=0.05)
                await registry.heartbeat("users", "i2", token=token, ttl=0.05)
                await registry.deregister("users", "i2", token=token)
            await registry.aclose()

    backend = ar.connect(redis_server.url)
    assert isinstance(backend, RedisBackend)
    ends = RedisRegistryStore(backend).keys("users")[2].decode()

    def living() -> list[str]:
        return [who for who in redis_server.command("ZRANGE", ends, 0, -1) if who == "i1"]

    async def check(url: str) -> None:
        assert await asyncio.to_thread(living) == []

    cancel_sweep(use, make=lambda: redis_server.url, check=check, loop_factory=asyncio.new_event_loop)
