"""Finding others: the list in memory, its watch, and what it does when the registry is wrong or away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aresilience.backend import MemoryBackend
from aresilience.errors import BackendError, CorruptState, NotSent
from aresilience.registry import (
    DiscoveryChanged,
    DiscoveryDegraded,
    Instance,
    InstanceState,
    ServiceRegistry,
)
from aresilience.registry.machine import EXPIRED, WITHDRAWN, Change, Changes
from aresilience.registry.memory import MemoryRegistryStore
from aresilience.testing import FaultyBackend, Recorder, cancel_sweep
from aresilience.testing.faulty import Fault


def instance(n: int, **facts: object) -> Instance:
    """The n-th instance of users."""
    return Instance("users", f"10.0.0.{n}", 8080, id=f"i{n}", **facts)  # type: ignore[arg-type]


def ids(instances: tuple[Instance, ...]) -> str:
    """Their ids, in one line."""
    return " ".join(sorted(each.id for each in instances))


class World:
    """Instances that are registered by hand, and die by not being renewed; and a process that watches."""

    def __init__(self, backend: MemoryBackend, **options: object) -> None:
        self.backend = backend
        self.recorder = Recorder()
        self.registry = ServiceRegistry(
            **{"ttl": 10.0, "backend": backend, "listeners": [self.recorder], **options}  # type: ignore[arg-type]
        )
        self.others = ServiceRegistry(ttl=10.0, backend=MemoryBackend())
        self.alive: dict[str, Instance] = {}

    @property
    def store(self) -> MemoryRegistryStore:
        """The store itself, without faults."""
        found = self.registry._store()
        return getattr(found, "_store", found)  # type: ignore[no-any-return]

    async def start(self, *numbers: int, **facts: object) -> None:
        """These come up."""
        from aresilience.registry.record import packed
        from aresilience.registry.store import Beat

        for n in numbers:
            each = self.alive[f"i{n}"] = instance(n, **facts)
            await self.store.register(Beat("users", each.id, f"t{n}", 10.0), packed(each), takeover=True)

    def kill(self, *numbers: int) -> None:
        """These die without a word."""
        for n in numbers:
            del self.alive[f"i{n}"]

    async def leave(self, *numbers: int) -> None:
        """These withdraw."""
        for n in numbers:
            del self.alive[f"i{n}"]
            await self.store.withdraw("users", f"i{n}", "")

    async def pass_time(self, seconds: float) -> None:
        """Those that live go on saying so, and register again where they are not known."""
        from aresilience.registry.record import packed
        from aresilience.registry.store import Beat

        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(min(1.0, end - loop.time()))
            for who, each in self.alive.items():
                beat = Beat("users", who, f"t{who[1:]}", 10.0)
                if not (await self.store.renew([beat]))[0]:
                    await self.store.register(beat, packed(each), takeover=False)

    async def known(self) -> str:
        """Who is served."""
        return ids(await self.registry.discover("users"))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Four instances that have been up for a minute, known to the process that watches."""
    world = World(MemoryBackend())
    await world.start(1, 2, 3, 4)
    assert await world.known() == "i1 i2 i3 i4"
    await world.pass_time(60)
    world.recorder.clear()
    yield world
    await world.registry.aclose()


async def test_discover_answers_from_memory(world: World) -> None:
    """After the first time nothing is asked: not a turn of the loop."""
    backend = FaultyBackend()
    other = World(backend)
    await other.start(1)
    await other.known()
    calls = len(backend.calls)
    coroutine = other.registry.discover("users")
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert ids(stop.value.value) == "i1"
    assert len(backend.calls) == calls


async def test_a_service_that_nobody_knows_is_empty(world: World) -> None:
    """No error: the registry has answered, and there is nobody."""
    assert await world.registry.discover("orders") == ()
    assert world.registry.snapshot("orders").stale is False


async def test_adds_and_goodbyes_are_seen_at_once(world: World) -> None:
    """Who comes is there, who says that it goes is gone, after some turns of the loop."""
    await world.start(5)
    await asyncio.sleep(0.02)
    assert await world.known() == "i1 i2 i3 i4 i5"
    await world.leave(1, 2)
    await asyncio.sleep(0.02)
    assert await world.known() == "i3 i4 i5"
    await world.leave(3, 4, 5)
    await asyncio.sleep(0.02)
    assert await world.known() == ""


@pytest.mark.parametrize("state", [InstanceState.STARTING, InstanceState.DRAINING, InstanceState.DOWN])
async def test_only_those_that_are_up_are_found(world: World, state: InstanceState) -> None:
    """Starting, draining, down: registered, and out of rotation at once."""
    await world.start(1, state=state)
    await asyncio.sleep(0.02)
    assert await world.known() == "i2 i3 i4"


async def test_d1_a_killed_instance_is_gone_after_its_ttl_and_little_more(world: World) -> None:
    """Ten seconds after its last beat, and half a second."""
    world.kill(2)
    await world.pass_time(8.9)
    assert await world.known() == "i1 i2 i3 i4"
    await world.pass_time(1.7)
    assert await world.known() == "i1 i3 i4"


async def test_mass_expiry_is_damped(world: World) -> None:
    """Three of four vanish together: one in each ttl, all after the hold; marked as held, and told."""
    world.kill(1, 2, 3)
    await world.pass_time(10.6)
    assert len(world.registry.snapshot("users").instances) == 3
    assert len(world.registry.snapshot("users").held) == 2
    assert world.registry.snapshot("users").stale
    assert world.recorder.of(DiscoveryChanged)[-1].held == 2
    await world.pass_time(10)
    assert len(world.registry.snapshot("users").instances) == 2
    await world.pass_time(20)
    assert await world.known() == "i4"
    assert not world.registry.snapshot("users").stale


async def test_d4_all_instances_gone_is_not_believed_at_once(world: World) -> None:
    """Last known, stale and held, until the hold is over; then empty, and not stale."""
    world.kill(1, 2, 3, 4)
    await world.pass_time(10.6)
    snapshot = world.registry.snapshot("users")
    assert len(snapshot.instances) >= 3
    assert (snapshot.stale, snapshot.healthy) == (True, True)
    await world.pass_time(31)
    assert await world.known() == ""
    assert not world.registry.snapshot("users").stale


async def test_d3_a_flush_is_not_noticed_by_those_who_call(world: World) -> None:
    """The registry loses everything: nobody is removed while the living register again."""
    world.store._services.clear()
    least = 4
    for _ in range(200):
        await world.pass_time(0.1)
        least = min(least, len(world.registry.snapshot("users").instances))
    assert least == 4
    assert world.registry.snapshot("users").held == ()
    assert not world.recorder.of(DiscoveryChanged)


async def test_a_flush_in_which_one_dies_ends_with_the_others(world: World) -> None:
    """Who does not come back after a flush goes when the grace is over."""
    world.store._services.clear()
    world.kill(3)
    await world.pass_time(9)
    assert await world.known() == "i1 i2 i3 i4"
    await world.pass_time(15)
    assert await world.known() == "i1 i2 i4"


async def test_an_error_is_not_empty() -> None:
    """The registry is away for half an hour: what was known is served, and its age is told."""
    world = World(FaultyBackend())
    await world.start(1, 2)
    assert await world.known() == "i1 i2"
    backend = world.backend
    assert isinstance(backend, FaultyBackend)
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT, Fault.REFUSED, Fault.LOST_REQUEST)
    await asyncio.sleep(1800)
    snapshot = world.registry.snapshot("users")
    assert ids(snapshot.instances) == "i1 i2"
    assert (snapshot.stale, snapshot.healthy) == (True, False)
    assert snapshot.age == pytest.approx(1800, abs=20)
    assert len(world.recorder.of(DiscoveryDegraded)) == 1


async def test_stale_is_not_for_ever() -> None:
    """After `max_stale` what is known is not served any more; when the registry is back it is."""
    world = World(FaultyBackend(), max_stale=60.0)
    await world.start(1, 2)
    assert await world.known() == "i1 i2"
    backend = world.backend
    assert isinstance(backend, FaultyBackend)
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    await world.pass_time(59)
    assert await world.known() == "i1 i2"
    await world.pass_time(20)
    assert await world.known() == ""
    backend.heal()
    await world.pass_time(6)
    assert await world.known() == "i1 i2"


async def test_go_kit_a_registry_that_is_down_is_not_asked_in_a_busy_loop() -> None:
    """An hour of refusals at once: a try every few seconds, no more."""
    world = World(FaultyBackend())
    await world.start(1)
    await world.known()
    backend = world.backend
    assert isinstance(backend, FaultyBackend)
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    backend.calls.clear()
    await asyncio.sleep(3600)
    assert 3600 / 10 < len(backend.calls) < 3600 / 2


async def test_nothing_known_and_no_registry_is_an_error() -> None:
    """The first question of all, and no answer: the error, for each who asks; later the answer."""
    world = World(FaultyBackend())
    backend = world.backend
    assert isinstance(backend, FaultyBackend)
    backend.plan(Fault.NOT_SENT, times=2)
    for _ in range(2):
        with pytest.raises(NotSent):
            await world.known()
        await asyncio.sleep(0)
    await asyncio.sleep(1)
    assert await world.known() == ""


async def test_a_watch_is_coalesced_and_bounded(world: World) -> None:
    """First what is known, then the changes; who is slow sees the newest state, once."""
    watch = world.registry.watch("users")
    assert ids(await anext(watch)) == "i1 i2 i3 i4"
    for n in range(5, 105):
        await world.start(n)
        await asyncio.sleep(0.02)
    assert len(await anext(watch)) == 104
    reading = asyncio.ensure_future(anext(watch))
    await world.pass_time(1)
    assert not reading.done()
    await world.leave(104)
    await asyncio.sleep(0.02)
    assert len(await reading) == 103


async def test_a_watch_that_is_cancelled_can_go_on(world: World) -> None:
    """Cancelled while it waits, it has lost nothing; two readers at once are refused."""
    watch = world.registry.watch("users")
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one reader"):
        await anext(watch)
    waiting.cancel()
    await asyncio.wait([waiting])
    await world.start(5)
    await asyncio.sleep(0.02)
    assert len(await anext(watch)) == 5


async def test_a_corrupt_record_costs_one_instance(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody else wrote is left out, and logged; the others are found."""
    from aresilience.registry.store import Beat

    await world.store.register(Beat("users", "i9", "t", 10.0), b"garbage", takeover=True)
    await asyncio.sleep(0.02)
    assert await world.known() == "i1 i2 i3 i4"
    assert "left out" in caplog.text


class Scripted(MemoryRegistryStore):
    """A store whose listings are written down."""

    def __init__(self, *answers: Changes | BackendError) -> None:
        super().__init__(10)
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []

    async def changes(self, service: str, since: int, base: int, most: int) -> Changes:
        """The next answer; the last one again and again."""
        self.asked.append((since, base))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BackendError):
            raise answer
        return answer


def scripted(*answers: Changes | BackendError) -> tuple[ServiceRegistry, Scripted]:
    """A registry over such a store."""
    store = Scripted(*answers)
    backend = MemoryBackend()
    backend.shared("registry", "", lambda: store)
    return ServiceRegistry(backend=backend), store


def up(who: str, revision: int) -> Change:
    """A change: somebody is up."""
    from aresilience.registry.record import packed

    return Change(who, revision, revision, packed(Instance("users", "h", 1)))


async def test_a_digest_that_does_not_add_up_is_listed_anew() -> None:
    """A change that was lost in a failover shows in the sum: everything is listed from the beginning."""
    registry, store = scripted(
        Changes(True, False, 10, 10, 10**9, (up("a", 10),)),
        Changes(False, False, 12, 10 + 12, 10**9, (up("c", 12),)),  # of a, c; b (11) was never told
        Changes(False, False, 12, 11 + 12, 10**9, ()),
        Changes(True, False, 12, 11 + 12, 10**9, (up("b", 11), up("c", 12))),
    )
    feed = registry.feed("users")
    assert ids(await registry.discover("users")) == "a"
    feed.look()
    await asyncio.sleep(0.1)
    assert ids(feed.instances) == "a c"
    feed.look()
    await asyncio.sleep(0.1)
    assert store.asked == [(-1, -1), (10, 10), (12, 12), (-1, -1)]
    assert {"b", "c"} <= {each.id for each in feed.instances}
    assert feed.snapshot().held == ("a",)


async def test_a_full_listing_in_parts_is_read_to_its_end() -> None:
    """Each part is asked for from the last revision of the one before, and belongs to the first one's base."""
    registry, store = scripted(
        Changes(True, True, 20, 0, 10**9, (up("a", 10), up("b", 11))),
        Changes(False, True, 20, 0, 10**9, (up("c", 12), up("d", 13))),
        Changes(
            False, False, 21, 10 + 12 + 13 + 21, 10**9, (up("e", 21), Change("b", 0, 20, None, WITHDRAWN))
        ),
    )
    assert ids(await registry.discover("users")) == "a c d e"
    assert store.asked == [(-1, -1), (11, 20), (13, 20)]


async def test_an_error_in_the_middle_of_a_listing_removes_nobody() -> None:
    """A full listing that breaks off says nothing of those who were not in it yet."""
    registry, _ = scripted(
        Changes(True, False, 10, 10 + 11, 10**9, (up("a", 10), up("b", 10 + 1))),
        Changes(True, True, 20, 0, 10**9, (up("a", 20),)),
        NotSent("in the middle"),
    )
    assert ids(await registry.discover("users")) == "a b"
    registry.feed("users").look()
    await asyncio.sleep(100)
    assert ids(await registry.discover("users")) == "a b"
    assert not registry.snapshot("users").healthy


async def test_a_bug_in_a_store_is_logged_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """An error that is none of ours: told, and tried again."""
    registry, store = scripted(CorruptState("x"), Changes(True, False, 10, 10, 10**9, (up("a", 10),)))
    store.answers.insert(0, ZeroDivisionError("a bug"))  # type: ignore[arg-type]
    original = store.changes

    async def changes(*args: object) -> Changes:
        answer = await original(*args)  # type: ignore[arg-type]
        if isinstance(answer, ZeroDivisionError):
            raise answer
        return answer

    store.changes = changes  # type: ignore[method-assign,assignment]
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        await registry.discover("users")
    await asyncio.sleep(5)
    assert ids(await registry.discover("users")) == "a"
    assert "looking at the registry failed" in caplog.text


async def test_an_expiry_that_was_only_told_is_held_like_any_other() -> None:
    """Two who expire in a listing: one goes, the other is held."""
    registry, _ = scripted(
        Changes(True, False, 12, 10 + 11 + 12, 10**9, (up("a", 10), up("b", 11), up("c", 12))),
        Changes(
            False,
            False,
            14,
            10,
            10**9,
            (Change("b", 0, 13, None, EXPIRED), Change("c", 0, 14, None, EXPIRED)),
        ),
    )
    await registry.discover("users")
    await asyncio.sleep(13)
    assert registry.snapshot("users").held == ("c",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a snapshot is kept."""
    return tmp_path / "registry.json"


def exists(path: Path) -> bool:
    """Whether it was written."""
    return path.exists()


def write(path: Path, content: bytes) -> None:
    """Put something there."""
    path.write_bytes(content)


def read(path: Path) -> str:
    """What is there."""
    return path.read_text()


def beside(path: Path) -> list[str]:
    """What is in its folder."""
    return [each.name for each in path.parent.iterdir()]


async def test_a_cold_start_without_the_registry(path: Path) -> None:
    """What was known last is served from the disk, stale, until the registry answers."""
    world = World(MemoryBackend(), snapshot=path)
    async with world.registry:
        await world.start(1, 2, version="1.4")
        await world.known()
        await world.start(3)
        await asyncio.sleep(1.5)
        assert exists(path)
    cold = World(FaultyBackend(), snapshot=str(path))
    backend = cold.backend
    assert isinstance(backend, FaultyBackend)
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    async with cold.registry:
        assert await cold.known() == "i1 i2 i3"
        snapshot = cold.registry.snapshot("users")
        assert (snapshot.stale, snapshot.healthy, snapshot.age) == (True, False, None)
        assert snapshot.instances[0].version == "1.4"
        backend.heal()
        await cold.start(2, 4)
        await cold.pass_time(6)
        assert await cold.known() == "i1 i2 i3 i4"
        await cold.pass_time(40)
        assert await cold.known() == "i2 i4"


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b'{"users": {"i1": "{}"}}', b"\xff"])
async def test_a_snapshot_that_is_none_is_no_hindrance(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage on the disk is logged, and the registry is asked."""
    write(path, content)
    world = World(MemoryBackend(), snapshot=path)
    await world.start(1)
    async with world.registry:
        assert await world.known() == "i1"
    assert "cannot be used" in caplog.text


async def test_a_snapshot_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is not there: a warning, and no harm."""
    world = World(MemoryBackend(), snapshot=tmp_path / "nowhere" / "registry.json")
    async with world.registry:
        await world.start(1)
        assert await world.known() == "i1"
        await asyncio.sleep(2)
    assert "cannot be written" in caplog.text


async def test_the_snapshot_is_json_and_replaced_at_once(path: Path) -> None:
    """No half-written file is ever seen, and none is left beside it."""
    world = World(MemoryBackend(), snapshot=path)
    async with world.registry:
        await world.start(1)
        await world.known()
    assert list(json.loads(read(path))) == ["users"]
    assert beside(path) == ["registry.json"]


async def test_a_registry_that_nobody_holds_stops_looking() -> None:
    """Its timer holds it weakly: collected, it asks no more."""
    import gc

    backend = FaultyBackend()
    world = World(backend)
    await world.start(1)
    await world.known()
    await asyncio.sleep(60)
    calls = len(backend.calls)
    assert calls > 3
    world.registry = None  # type: ignore[assignment]
    gc.collect()
    await asyncio.sleep(600)
    assert len(backend.calls) == calls


def test_a_cancel_at_any_await_of_finding_leaves_nothing() -> None:
    """Discovering, watching, looking around, closing, cut anywhere: no task and no listener is left."""
    listeners: list[dict] = []

    async def use(faults: int) -> None:
        async with FaultyBackend(seed=faults, rate=0.5, faults=(Fault.SLOW,)) as backend:
            async with ServiceRegistry(ttl=10.0, resync=1.0, backend=backend) as registry:
                await registry.announce(instance(1))
                assert ids(await registry.discover("users")) == "i1"
                watch = registry.watch("users")
                await anext(watch)
                await registry.announce(instance(2))
                assert ids(await anext(watch)) == "i1 i2"
                await registry.services()
            store = registry._store()
            listeners.append(store._listeners)  # type: ignore[attr-defined]

    for faults in range(3):
        report = cancel_sweep(use, make=lambda: faults)  # noqa: B023
        assert report.points >= 3
    assert not any(listeners)


def test_another_loop_begins_anew() -> None:
    """A registry made at import time serves each loop that runs, one after the other."""
    registry = ServiceRegistry()
    for _ in range(2):
        assert asyncio.run(registry.discover("users")) == ()
    assert repr(registry) == "<ServiceRegistry 'registry' ttl=10 1 services, 0 up>"
