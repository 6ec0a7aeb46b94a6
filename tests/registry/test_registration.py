"""Being found: registered for ever, drained and withdrawn in the end, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from functools import partial

import pytest

import aresilience as ar
from aresilience.backend import Backend, MemoryBackend
from aresilience.registry import (
    Instance,
    InstanceState,
    Registered,
    Registration,
    RegistrationLost,
    RegistrationStatus,
    ServiceRegistry,
)
from aresilience.testing import FaultyBackend, Recorder, VirtualLoop, cancel_sweep
from aresilience.testing.faulty import Fault

ME = Instance("users", "10.0.0.1", 8080, id="users-1")


def registry(backend: Backend, **options: object) -> ServiceRegistry:
    """A registry that watches closely."""
    return ServiceRegistry(**{"ttl": 10.0, "backend": backend, **options})  # type: ignore[arg-type]


async def found(backend: Backend, service: str = "users") -> list[tuple[str, str]]:
    """Who the store has, with what state: as a process sees it that starts now."""
    store = ServiceRegistry(backend=backend)._store()
    changes = await store.changes(service, -1, -1, 100)
    from aresilience.registry.record import unpacked

    return [
        (c.id, unpacked(service, c.id, c.value).state.value) for c in changes.changes if c.value is not None
    ]


async def test_registered_while_the_body_runs() -> None:
    """There from the first line of the body, still there after hours, and gone after it."""
    backend = MemoryBackend()
    async with registry(backend).register(ME) as registration:
        assert registration.registered
        assert await found(backend) == [("users-1", "up")]
        for _ in range(30):
            await asyncio.sleep(60)
            assert await found(backend) == [("users-1", "up")]
    assert registration.status is RegistrationStatus.WITHDRAWN
    assert await found(backend) == []
    assert len(backend.keeper) == 0


async def test_leaving_drains_first() -> None:
    """Out of rotation, a time for that to get about, and only then gone."""
    backend = MemoryBackend()
    seen = []

    async def look() -> None:
        for _ in range(7):
            seen.append(await found(backend))
            await asyncio.sleep(0.5)

    async with registry(backend).register(ME, propagation=2.0):
        task = asyncio.create_task(look())
        await asyncio.sleep(0.25)
    await task
    up, draining = [("users-1", "up")], [("users-1", "draining")]
    assert seen == [up, draining, draining, draining, draining, [], []]


async def test_a_body_that_failed_withdraws_at_once() -> None:
    """There is nothing left to drain, and the error is the body's."""
    backend = MemoryBackend()
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        async with registry(backend).register(ME, propagation=60.0):
            raise ZeroDivisionError
    assert loop.time() == 0.0
    assert await found(backend) == []


async def test_drained_by_hand_it_is_not_drained_again() -> None:
    """`drain()`, then what takes its time, then the end: one wait."""
    backend = MemoryBackend()
    loop = asyncio.get_running_loop()
    async with registry(backend).register(ME, propagation=2.0) as registration:
        await registration.drain()
        assert await found(backend) == [("users-1", "draining")]
        assert loop.time() == 2.0
    assert loop.time() == 2.0


async def test_facts_are_updated_live_and_it_is_the_newest_that_is_sent_again() -> None:
    """A weight that was changed survives the loss of everything: not the first record is registered anew."""
    backend = MemoryBackend()
    async with registry(backend).register(ME.but(state=InstanceState.STARTING)) as registration:
        assert await registration.update(weight=0.25, state=InstanceState.UP)
        first = registration.generation
        flush(backend)
        assert await found(backend) == []
        await asyncio.sleep(5.0)
        assert registration.registered
        assert registration.generation != first
        (instance,) = await registry(backend).discover("users")
        assert (instance.weight, instance.state) == (0.25, InstanceState.UP)


def flush(backend: Backend) -> None:
    """The store loses everything, as Redis does when it is flushed, or restarts empty."""
    store = ServiceRegistry(backend=backend)._store()
    store._services.clear()  # type: ignore[attr-defined]


async def test_d3_after_a_flush_the_heartbeat_creates_it_again() -> None:
    """Within a third of the ttl, and some jitter; lost and registered are told."""
    backend, recorder = MemoryBackend(), Recorder()
    async with registry(backend, listeners=[recorder]).register(ME) as registration:
        await asyncio.sleep(20)
        flush(backend)
        await asyncio.sleep(10 / 3 + 10 / 20 + 0.2)
        assert registration.registered
        assert await found(backend) == [("users-1", "up")]
    (lost,) = recorder.of(RegistrationLost)
    assert lost.status is RegistrationStatus.PENDING
    assert "not ours" in lost.why
    assert len(recorder.of(Registered)) >= 2


async def test_an_outage_is_survived_however_long() -> None:
    """The store is away for an hour: lost is told once, the tries go on, and it comes back by itself."""
    backend, recorder = FaultyBackend(seed=1), Recorder()
    async with registry(backend, listeners=[recorder]).register(ME) as registration:
        backend.rate, backend.faults = 1.0, (Fault.NOT_SENT, Fault.LOST_REQUEST)
        await asyncio.sleep(3600)
        assert not registration.registered
        assert len(recorder.of(RegistrationLost)) == 1
        tries = [call for call in backend.calls if call.verb == "register"]
        assert 3600 / 3.5 < len(tries) < 3600 / 1.5
        backend.heal()
        await asyncio.sleep(3.5)
        assert registration.registered
        assert await found(backend) == [("users-1", "up")]


async def test_the_registry_may_be_away_at_the_start() -> None:
    """Entering tries once and goes on: a service starts without its registry, and is found later."""
    backend = FaultyBackend()
    backend.plan(Fault.NOT_SENT, times=3, verb="register")
    async with registry(backend).register(ME) as registration:
        assert not registration.registered
        assert "NotSent" in registration.why
        await asyncio.sleep(1.0)
        assert registration.registered


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.LATE, Fault.TWICE, Fault.SLOW])
async def test_a_lost_reply_is_one_registration(fault: Fault) -> None:
    """It may have happened: asked again with the same token it is the same registration, and ends as one."""
    backend = FaultyBackend()
    backend.plan(fault, verb="register")
    async with registry(backend).register(ME) as registration:
        await asyncio.sleep(2.0)
        assert registration.registered
        (change,) = (await registry(backend)._store().changes("users", -1, -1, 10)).changes
        assert change.generation == change.revision, "registered more than once"
        backend.plan(fault, verb="withdraw")
    assert await found(backend) == []


async def test_the_health_function_withholds_the_beat() -> None:
    """While it says no, no beat: gone after a ttl; when it says yes again, it is back."""
    backend, recorder = MemoryBackend(), Recorder()
    well = True
    own = registry(backend, listeners=[recorder])
    async with own.register(ME, health=lambda: well) as registration:
        await asyncio.sleep(30)
        well = False
        await asyncio.sleep(14)
        assert registration.status is RegistrationStatus.WITHHELD
        assert await found(backend) == []
        await asyncio.sleep(600)
        assert await found(backend) == []
        well = True
        await asyncio.sleep(2.0)
        assert registration.registered
        assert registration.why == ""
        assert await found(backend) == [("users-1", "up")]
    told = [event.status for event in recorder.of(RegistrationLost)]
    assert told == [RegistrationStatus.WITHHELD, RegistrationStatus.PENDING, RegistrationStatus.WITHHELD]


async def test_who_is_unwell_can_still_say_that_it_drains() -> None:
    """Health withholds beats, not words: draining is told at once."""
    backend = MemoryBackend()
    well = True
    async with registry(backend).register(ME, health=lambda: well, propagation=0) as registration:
        well = False
        assert await registration.update(state=InstanceState.DOWN)
        assert await found(backend) == [("users-1", "down")]


async def test_d8_a_health_function_that_raises_is_told() -> None:
    """Not silent: no beat, and the error is in the event and in `why`."""
    backend, recorder = MemoryBackend(), Recorder()

    def health() -> bool:
        if asyncio.get_running_loop().time() > 5:
            raise ZeroDivisionError("how well?")
        return True

    async with registry(backend, listeners=[recorder]).register(ME, health=health) as registration:
        await asyncio.sleep(60)
        assert not registration.registered
        assert "ZeroDivisionError" in registration.why
    assert any("ZeroDivisionError: how well?" in event.why for event in recorder.of(RegistrationLost))


async def test_d8_a_task_that_is_cancelled_from_outside_is_told() -> None:
    """Somebody cancels every task of the loop: the registration says that it is none any more."""
    backend, recorder = MemoryBackend(), Recorder()
    async with registry(backend, listeners=[recorder]).register(ME) as registration:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(1)
        assert not registration.registered
        assert registration.why == "its task was cancelled"
    assert [event.why for event in recorder.of(RegistrationLost)] == ["its task was cancelled"]
    assert await found(backend) == []


async def test_a_late_end_of_the_old_process_does_not_remove_the_new() -> None:
    """The new process has the same id: the old one, leaving after that, withdraws nothing."""
    backend = MemoryBackend()
    old = registry(backend).register(ME, propagation=0)
    await old.__aenter__()
    async with registry(backend).register(ME.but(version="2")) as new:
        assert new.generation is not None
        assert old.generation is not None
        assert new.generation > old.generation
        await old.__aexit__(None, None, None)
        assert await found(backend) == [("users-1", "up")]
        await asyncio.sleep(60)
        assert new.registered
        assert await found(backend) == [("users-1", "up")]


async def test_d5_of_two_with_one_id_the_newer_is_registered_and_the_older_knows() -> None:
    """No fight: the older is superseded, tells it, and takes the place again when that is free."""
    backend, recorder = MemoryBackend(), Recorder()
    async with registry(backend, listeners=[recorder]).register(ME) as old:
        async with registry(backend).register(ME.but(version="2"), propagation=0) as new:
            await asyncio.sleep(100)
            assert old.status is RegistrationStatus.SUPERSEDED
            assert new.registered
            generation = new.generation
            (change,) = (await registry(backend)._store().changes("users", -1, -1, 10)).changes
            assert change.generation == generation
        await asyncio.sleep(16)
        assert old.registered
        assert [event.status for event in recorder.of(RegistrationLost)] == [
            RegistrationStatus.PENDING,
            RegistrationStatus.SUPERSEDED,
        ]


async def test_py_eureka_nothing_beats_after_the_end() -> None:
    """Leaving joins the heartbeat first: half a second, or a day later, nobody has registered again."""
    backend = FaultyBackend(seed=3, rate=0.5, faults=(Fault.SLOW, Fault.LOST_REPLY, Fault.NOT_SENT))
    for _ in range(20):
        async with registry(backend, ttl=1.0).register(ME, propagation=0.0) as registration:
            await asyncio.sleep(1.7)
            await registration.update(weight=0.5)
    backend.heal()
    calls = len(backend.calls)
    await asyncio.sleep(86_400)
    assert len(backend.calls) == calls
    assert await found(backend) == []


async def test_eureka_ninety_seconds_are_ninety_seconds() -> None:
    """The ttl is counted once: an instance that dies is gone after it, not after twice that."""
    backend = MemoryBackend()
    registration = registry(backend, ttl=90.0).register(ME)
    await registration.__aenter__()
    await asyncio.sleep(3.0)
    kill(registration)
    await asyncio.sleep(89.9)
    assert await found(backend) == []


def kill(registration: Registration) -> None:
    """The process is gone, without a word."""
    assert registration._heart is not None
    assert registration._task is not None
    registration._beats.keeper.drop(registration._heart)
    registration.status = RegistrationStatus.WITHDRAWN
    registration._task.cancel()


async def test_d12_a_fleet_does_not_come_back_all_at_once() -> None:
    """A thousand instances after an outage: no tenth of a second sees more than a fraction of them."""
    backend = FaultyBackend()
    own = registry(backend)
    registrations = [own.register(ME.__class__("users", "h", 1 + n), propagation=0) for n in range(60)]
    for each in registrations:
        await each.__aenter__()
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    await asyncio.sleep(120)
    assert not any(each.registered for each in registrations)
    backend.calls.clear()
    backend.heal()
    backed: list[int] = []
    while not all(each.registered for each in registrations):
        await asyncio.sleep(0.1)
        backed.append(sum(each.registered for each in registrations))
    steps = [after - before for before, after in zip([0, *backed], backed, strict=False)]
    assert max(steps) < 15
    assert len(backed) < 35
    for each in registrations:
        await each.__aexit__(None, None, None)


async def test_d9_leaving_under_cancel_withdraws_within_a_bound() -> None:
    """Cancelled while it drains, with a store that does not answer: it ends within three deadlines."""
    backend = FaultyBackend(deadline=0.25)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        async with registry(backend).register(ME, propagation=60.0):
            await asyncio.sleep(1)

    task = asyncio.create_task(serve())
    await asyncio.sleep(2)
    backend.plan(Fault.LOST_REQUEST, times=9, verb="withdraw")
    task.cancel()
    task.cancel()
    before = loop.time()
    await asyncio.wait([task])
    assert task.cancelled()
    assert loop.time() - before <= 0.75
    await asyncio.sleep(10)
    assert await found(backend) == []


async def test_a_closed_backend_withdraws() -> None:
    """The backend is left before the registration: the instance is withdrawn all the same."""
    backend = MemoryBackend()
    async with backend:
        registration = registry(backend).register(ME, propagation=0)
        await registration.__aenter__()
    assert registration.status is RegistrationStatus.WITHDRAWN
    assert await found(backend) == []
    await registration.__aexit__(None, None, None)


def test_a_cancel_at_any_await_leaves_nothing_registered() -> None:
    """Entering, updating, draining and leaving, cut anywhere: no instance, no lease, no task."""

    class State:
        def __init__(self) -> None:
            self.backend = FaultyBackend(faults=(Fault.SLOW,), rate=1.0)
            self.registry = registry(self.backend)

        async def check(self) -> None:
            self.backend.heal()
            assert await found(self.backend) == []
            assert len(self.backend.keeper) == 0

    async def use(state: State) -> None:
        async with state.registry.register(ME, propagation=0.5) as registration:
            await asyncio.sleep(4.0)
            await registration.update(weight=0.5)
            await registration.drain()

    for seed in (None, 1, 2):
        report = cancel_sweep(use, make=State, check=State.check, loop_factory=partial(VirtualLoop, seed))
        assert report.points >= 5


def test_by_hand_a_cancel_leaves_what_a_ttl_ends() -> None:
    """`announce`, `heartbeat`, `deregister`, cut anywhere: no task; what is left has a ttl."""

    class State:
        def __init__(self) -> None:
            self.backend = FaultyBackend(faults=(Fault.SLOW,), rate=1.0)
            self.registry = registry(self.backend)

        async def check(self) -> None:
            self.backend.heal()
            await asyncio.sleep(10)
            assert await found(self.backend) == []

    async def use(state: State) -> None:
        token = await state.registry.announce(ME)
        await state.registry.heartbeat("users", "users-1", token=token)
        await state.registry.services()
        await state.registry.deregister("users", "users-1", token=token)

    cancel_sweep(use, make=State, check=State.check)


async def test_by_hand() -> None:
    """For a neighbour: registered for a ttl, renewed and withdrawn by its token, or by anybody without one."""
    backend = MemoryBackend()
    own = registry(backend)
    token = await own.announce(ME, ttl=5.0)
    await asyncio.sleep(4)
    assert await own.heartbeat("users", "users-1", token=token)
    assert not await own.heartbeat("users", "users-1", token="another")
    assert not await own.heartbeat("users", "nobody")
    assert await own.services() == ("users",)
    await asyncio.sleep(9.9)
    assert await found(backend) == [("users-1", "up")]
    assert not await own.deregister("users", "users-1", token="another")
    assert await own.deregister("users", "users-1")
    assert not await own.deregister("users", "users-1")
    with pytest.raises(ValueError, match="token must be what announce returned"):
        await own.heartbeat("users", "users-1", token="a|b")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ttl": 0}, "ttl must be a number of seconds greater than 0"),
        ({"resync": -1}, "resync must be"),
        ({"remove_share": 0}, "remove_share must be greater than 0 and at most 1"),
        ({"max_stale": float("inf")}, "max_stale must be"),
        ({"name": ""}, "name must not be empty"),
    ],
)
def test_options_are_checked_when_it_is_made(options: dict, complaint: str) -> None:
    """The message names the argument, the value and what is allowed."""
    with pytest.raises(ValueError, match=complaint):
        ServiceRegistry(**options)


def test_objects_are_checked_too() -> None:
    """A backend must be one, an instance one, a health function plain."""
    with pytest.raises(TypeError, match="backend must come from"):
        ServiceRegistry(backend="redis://")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"instance must be an ar\.Instance"):
        ServiceRegistry().register("me")  # type: ignore[arg-type]

    async def health() -> bool:
        return True

    with pytest.raises(TypeError, match="must be a plain function"):
        ServiceRegistry().register(ME, health=health)


async def test_it_is_entered_once() -> None:
    """A second entrance would share a token, and so a registration."""
    registration = registry(MemoryBackend()).register(ME, propagation=0)
    async with registration:
        with pytest.raises(RuntimeError, match="entered before"):
            await registration.__aenter__()


async def test_its_repr_says_how_things_stand() -> None:
    """State, status, and why."""
    registration = registry(MemoryBackend()).register(ME, propagation=0)
    assert repr(registration) == "<Registration users 'users-1' up, pending (not begun)>"
    async with registration:
        assert repr(registration) == "<Registration users 'users-1' up, registered>"
    assert repr(registration) == "<Registration users 'users-1' draining, withdrawn (left)>"


def test_a_loop_that_is_thrown_away_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """A loop closed with a registration alive: no complaint about its task."""
    loop = asyncio.new_event_loop()
    registration = registry(MemoryBackend()).register(ME)
    loop.run_until_complete(registration.__aenter__())
    loop.close()
    del registration, loop
    gc.collect()
    assert "destroyed" not in caplog.text


def test_the_package_has_it() -> None:
    """`ar.ServiceRegistry` and what goes with it."""
    assert ar.ServiceRegistry is ServiceRegistry
    assert ar.Instance is Instance
