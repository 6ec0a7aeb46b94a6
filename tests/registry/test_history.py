"""Histories by seed: a fleet that registers, dies, restarts, over a store that loses requests, replies and
everything; and processes that watch it. Then the faults end, and all must be as it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

import aresilience as ar
from aresilience.backend import MemoryBackend
from aresilience.registry.damping import Served
from aresilience.registry.feed import Feed
from aresilience.registry.machine import Catalogue, Place
from aresilience.registry.memory import MemoryRegistryStore
from aresilience.registry.record import packed
from aresilience.registry.registration import Registration
from aresilience.registry.store import Beat
from aresilience.testing import FaultyBackend, run_virtual
from aresilience.testing.faulty import Fault

TTL = 6.0
SLACK = 1.5
"""Seconds for a sweep, and for the jitter of whoever does it."""


class Shared(FaultyBackend):
    """A process's own way to the one store: its own faults and keeper, and everybody's registrations."""

    def __init__(self, store: object, seed: int) -> None:
        super().__init__(seed=seed, deadline=0.25)
        super(FaultyBackend, self).shared("registry", "", lambda: store)
        inner = self._shared["registry", ""]
        self._shared.clear()
        self.shared("registry", "", lambda: inner)


class Member:
    """One instance: a process that comes, serves, and ends in one of the ways in which processes end."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.instance = ar.Instance("users", "10.0.0.1", 1000 + number, id=f"i{number}")
        self.backend: Shared | None = None
        self.registration: Registration | None = None
        self.dead_since: float | None = 0.0
        """Since when nothing of it beats; None: it does."""

    async def start(self) -> None:
        """A new process."""
        self.backend = self.world.backend()
        registry = ar.ServiceRegistry(ttl=TTL, backend=self.backend)
        self.registration = registry.register(self.instance, propagation=0)
        await self.registration.__aenter__()
        self.dead_since = None

    def kill(self) -> None:
        """kill -9: nothing runs any more, what is on its way may arrive or not."""
        assert self.registration is not None
        assert self.backend is not None
        if self.registration._task is not None:
            self.registration.status = ar.RegistrationStatus.WITHDRAWN
            self.registration._task.cancel()
        for kept in list(self.backend.keeper._kept):
            self.backend.keeper.drop(kept)
        for task in list(self.backend.keeper._tasks):
            task.cancel()
        self.dead_since = self.world.now
        self.registration = None

    async def leave(self) -> None:
        """In good order."""
        assert self.registration is not None
        await self.registration.__aexit__(None, None, None)
        self.dead_since = self.world.now
        self.registration = None


class World:
    """Everything, and its rules."""

    def __init__(self, seed: int, members: int, watchers: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.store = ar.ServiceRegistry(backend=MemoryBackend())._store()
        self.backends: list[Shared] = []
        self.members = [Member(self, number) for number in range(members)]
        self.watching = [
            ar.ServiceRegistry(ttl=TTL, resync=2.0, backend=self.backend()) for _ in range(watchers)
        ]
        self.rate = 0.0

    @property
    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    def backend(self) -> Shared:
        """Another process's way to the store."""
        backend = Shared(self.store, self.chance.getrandbits(32))
        backend.rate = getattr(self, "rate", 0.0)
        self.backends.append(backend)
        return backend

    def faults(self, rate: float) -> None:
        """From now on so many calls go wrong; 1: none comes through."""
        self.rate = rate
        for backend in self.backends:
            backend.rate = rate
            backend.faults = tuple(Fault) if rate < 1 else (Fault.NOT_SENT, Fault.LOST_REQUEST)

    async def step(self) -> None:
        """Something happens."""
        chance = self.chance
        member = chance.choice(self.members)
        what = chance.choice(
            [
                "start",
                "start",
                "start",
                "kill",
                "leave",
                "restart",
                "update",
                "flush",
                "faults",
                "outage",
                "heal",
            ]
        )
        if what == "start" and member.registration is None:
            await member.start()
        elif what == "kill" and member.registration is not None:
            member.kill()
        elif what == "leave" and member.registration is not None:
            await member.leave()
        elif what == "restart" and member.registration is not None:
            old = member.registration
            await member.start()  # the new one is there before the old one ends
            await old.__aexit__(None, None, None)
        elif what == "update" and member.registration is not None:
            await member.registration.update(weight=chance.choice([0.5, 1.0, 2.0]))
        elif what == "flush":
            self.store._services.clear()  # type: ignore[attr-defined]
        elif what == "faults":
            self.faults(0.3)
        elif what == "outage":
            self.faults(1.0)
        elif what == "heal":
            self.faults(0.0)
        await asyncio.sleep(chance.choice([0.0, 0.01, 1.0, TTL / 3, TTL * 0.9, TTL, TTL + 0.01, 2 * TTL]))

    async def check_store(self) -> None:
        """Safety, at any time: nobody is in the store whose process has been dead for a ttl, and a margin."""
        found = await self.store.changes("users", -1, -1, 1000)
        there = {change.id for change in found.changes if change.value is not None}
        for member in self.members:
            if member.dead_since is not None and self.now - member.dead_since > TTL + SLACK:
                assert member.instance.id not in there, f"{member.instance.id} is dead, and registered"

    async def check_end(self) -> None:
        """Liveness, after the faults: who lives is registered and found by everybody, who is dead is not."""
        living = {m.instance.id for m in self.members if m.registration is not None}
        for member in self.members:
            assert member.registration is None or member.registration.registered, repr(member.registration)
        for registry in self.watching:
            found = await registry.discover("users")
            assert {each.id for each in found} == living
            assert not registry.snapshot("users").stale
            for each in found:
                member = next(m for m in self.members if m.instance.id == each.id)
                assert member.registration is not None
                assert each == member.registration.instance, "not the newest facts"


async def history(seed: int, steps: int = 40) -> None:
    """One history."""
    world = World(seed, members=5, watchers=2)
    for registry in world.watching:
        registry.feed("users")
    for _ in range(steps):
        await world.step()
        await world.check_store()
    world.faults(0.0)
    await asyncio.sleep(3 * TTL + TTL + 3 * SLACK + 5)  # hold, grace, slack, and the last pause of a retry
    await world.check_end()
    for member in world.members:
        with suppress(ar.BackendError):
            if member.registration is not None:
                await member.leave()


FAILED_ONCE = [3, 17]
"""Seeds that have found something: always run."""


@pytest.mark.parametrize("seed", [*FAILED_ONCE, *range(100, 140)])
def test_in_any_history_the_dead_go_and_the_living_are_found(seed: int) -> None:
    """Kills, restarts, flushes, outages, lost replies: safe at each step, and right when they are over."""
    run_virtual(history(seed), seed=seed)


@pytest.mark.slow
def test_in_long_histories_too() -> None:
    """For as long as SOAK_SECONDS says."""
    import os
    import time

    ends = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "20")) / 20
    seed = 1_000_000
    while time.monotonic() < ends:
        run_virtual(history(seed, steps=150), seed=seed)
        seed += 1


def never_sweeps(patch: pytest.MonkeyPatch) -> None:
    """The store never ends anybody."""
    patch.setattr(Catalogue, "_sweep", lambda self, now: False)


def counts_the_ttl_twice(patch: pytest.MonkeyPatch) -> None:
    """Eureka's: twice the ttl."""
    lives = Catalogue._lives_until
    patch.setattr(
        Catalogue,
        "_lives_until",
        lambda self, who, live, ends: lives(self, who, live, ends + int(TTL * 1e6)),
    )


def gives_up_after_a_loss(patch: pytest.MonkeyPatch) -> None:
    """Kratos': lost once, lost for ever."""

    def lost(self: Registration, why: str) -> None:
        self._heart = None
        self._sent = packed(self._instance, self._token)
        self.status = ar.RegistrationStatus.PENDING

    patch.setattr(Registration, "_lost", lost)
    patch.setattr(Registration, "_wanting", lambda self: self._sent is None)


def sends_the_first_record(patch: pytest.MonkeyPatch) -> None:
    """Curator's: what is registered again, or now, is what was registered first."""
    first: dict[str, bytes] = {}
    send = MemoryRegistryStore.register

    async def register(self: MemoryRegistryStore, beat: Beat, value: bytes, *, takeover: bool) -> Place:
        return await send(self, beat, first.setdefault(beat.token, value), takeover=takeover)

    patch.setattr(MemoryRegistryStore, "register", register)


def keeps_the_vanished(patch: pytest.MonkeyPatch) -> None:
    """A list that only grows: stale for ever."""
    patch.setattr(Served, "settle", lambda self, now: [])
    patch.setattr(Served, "next_at", lambda self, now: None)


def believes_the_empty(patch: pytest.MonkeyPatch) -> None:
    """Never asks again after the first listing, and has no timer: what was not told is not known."""
    patch.setattr(Feed, "_arm", lambda self, within: None)


PLANTED = [
    never_sweeps,
    counts_the_ttl_twice,
    gives_up_after_a_loss,
    sends_the_first_record,
    keeps_the_vanished,
    believes_the_empty,
]


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Each of the faults of others, put into this package, is found by a few of these histories."""
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        found = 0
        for seed in range(200, 212):
            try:
                run_virtual(history(seed), seed=seed)
            except AssertionError:
                found += 1
                break
    assert found
