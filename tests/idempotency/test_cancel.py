"""Cancelled at every await, in every way: no claim is left in flight, no task, no lease; no cancel is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.testing import FaultyBackend, cancel_sweep
from aresilience.testing.faulty import Fault

if TYPE_CHECKING:
    from servers import RedisServer

PAUSE = 0.001


async def work() -> int:
    """Wait for a turn and for a moment, then answer."""
    await asyncio.sleep(0)
    await asyncio.sleep(PAUSE)
    return 1


async def failing() -> int:
    """Fail after a moment."""
    await work()
    raise OSError("down")


async def reconcile(claim: ar.Claim[Any]) -> None:
    """Take a moment to find out."""
    claim.complete(await work())


Scene = Callable[[ar.Backend, dict[str, Any]], Awaitable[object]]


async def first_and_replay(backend: ar.Backend, options: dict[str, Any]) -> None:
    """A first call, and its answer again."""
    idem = ar.Idempotency(name="s", backend=backend, **options)
    await idem.run("k", work)
    await idem.run("k", work)


async def fails(backend: ar.Backend, options: dict[str, Any]) -> None:
    """A call that fails, and one whose failure is kept."""
    idem = ar.Idempotency(name="s", backend=backend, **options)
    with suppress(OSError):
        await idem.run("f", failing)
    kept = ar.Idempotency(name="t", backend=backend, store_errors=[OSError], **options)
    with suppress(OSError):
        await kept.run("f", failing)


async def waits(backend: ar.Backend, options: dict[str, Any]) -> None:
    """A call that waits for another one's answer."""
    idem = ar.Idempotency(name="w", backend=backend, **options)
    other = asyncio.ensure_future(ar.Idempotency(name="w", backend=backend).run("k", work))
    try:
        await asyncio.sleep(0)
        await idem.run("k", work)
    finally:
        other.cancel()
        await asyncio.wait([other])


async def by_hand(backend: ar.Backend, options: dict[str, Any]) -> None:
    """Claims in blocks: completed, released, abandoned, replayed."""
    idem = ar.Idempotency(name="h", backend=backend, **options)
    async with idem.claim("done") as claim:
        if not claim.replayed:
            claim.complete(await work())
    async with idem.claim("released") as claim:
        await work()
        claim.release()
    async with idem.claim("done") as claim:
        await work()


async def takes_over(backend: ar.Backend, options: dict[str, Any]) -> None:
    """Work that was abandoned, and is found out about."""
    lost = ar.Idempotency(name="o", backend=backend)
    async with lost.claim("k", operation="work") as claim:
        if not claim.replayed:
            claim.abandon()
    idem = ar.Idempotency(name="o", backend=backend, on_abandoned=reconcile, **options)
    await idem.run("k", work)


async def looks(backend: ar.Backend, options: dict[str, Any]) -> None:
    """What operators do."""
    idem = ar.Idempotency(name="l", backend=backend, **options)
    await idem.get("k")
    await idem.in_flight()
    await idem.evict("k")


async def with_a_bad_store(backend: ar.Backend, options: dict[str, Any]) -> None:
    """Answers of the store that are slow, or lost, or come too late."""
    assert isinstance(backend, FaultyBackend)
    idem = ar.Idempotency(name="b", backend=backend, **options)
    backend.plan(Fault.SLOW, verb="claim")
    backend.plan(Fault.SLOW, Fault.LOST_REPLY, verb="settle")
    await idem.run("k", work)
    backend.heal()
    backend.plan(Fault.LOST_REPLY, Fault.SLOW, verb="claim")
    with suppress(ar.BackendError):
        await idem.run("other", work)
    await asyncio.sleep(2)
    backend.heal()


SCENES = [first_and_replay, fails, waits, by_hand, takes_over, looks]
WAYS = ["finish", "release", "unknown"]


class World:
    """The backend of one run, closed when the run ends, however it ends."""

    def __init__(self) -> None:
        self.backend = FaultyBackend()

    async def nothing_left(self) -> None:
        """Nobody is at work on anything, and nothing is renewed; the way in is free for the next run."""
        assert len(self.backend.keeper) == 0
        for name in "stwhob":
            idem = ar.Idempotency(name=name, backend=self.backend)
            for entry in await idem.in_flight():
                assert entry.state is ar.RecordState.ABANDONED, entry
                await idem.evict(entry)
            for key in ("k", "f", "done", "released", "other"):
                await idem.evict(key)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scene", [*SCENES[:-1], with_a_bad_store])
def test_a_cancel_at_any_await_leaves_nothing_in_flight(scene: Scene, way: str) -> None:
    """In memory: by each policy, in each scene; the same key is free for the next call, which runs through."""

    async def use(world: World) -> None:
        async with world.backend:
            await scene(world.backend, {"on_cancel": way})

    report = cancel_sweep(use, make=World, check=World.nothing_left)
    assert report.points > 0


@pytest.mark.redis
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scene", SCENES)
def test_nor_on_redis(redis_server: RedisServer, scene: Scene, way: str) -> None:
    """The same against a server: what was claimed is ended, or given back, before the backend is closed."""

    async def use(url: str) -> None:
        async with ar.connect(url, deadline=10.0) as backend:
            try:
                await scene(backend, {"on_cancel": way})
            finally:
                assert len(backend.keeper) <= 2  # the work that goes on

    async def check(url: str) -> None:
        async with ar.connect(url, deadline=10.0) as backend:
            for name in "stwhol":
                idem = ar.Idempotency(name=name, backend=backend)
                for entry in await idem.in_flight():
                    assert entry.state is ar.RecordState.ABANDONED, (name, entry)
        await asyncio.to_thread(redis_server.command, "FLUSHALL")

    cancel_sweep(use, make=lambda: redis_server.url, check=check, loop_factory=asyncio.new_event_loop)


def test_the_sweep_would_see_a_claim_that_is_kept() -> None:
    """A claim that is taken and never ended fails the sweep."""

    async def use(world: World) -> None:
        async with world.backend:
            claiming = ar.Idempotency(name="s", backend=world.backend).claim("k")
            try:
                await asyncio.sleep(1)
            finally:
                await claiming.__aenter__()
            await claiming.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)

    with pytest.raises(AssertionError, match="RUNNING"):
        cancel_sweep(use, make=World, check=World.nothing_left)


async def test_a_claim_that_is_closed_instead_of_cancelled_is_ended() -> None:
    """GeneratorExit at an await, where nothing can be awaited: the key is abandoned, by a task aside."""
    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", backend=backend, on_cancel="unknown")

    async def block() -> None:
        async with idem.claim("block"):
            await asyncio.sleep(10)

    async def said() -> None:
        async with idem.claim("said") as claim:
            claim.complete(1)
            await asyncio.sleep(10)

    for each in (block(), said(), idem.run("call", asyncio.sleep, 10)):
        each.send(None)
        each.close()
    await asyncio.sleep(1)
    states = [await idem.get(key) for key in ("block", "said", "call")]
    assert [state and state.state.name for state in states] == ["ABANDONED", "DONE", "ABANDONED"]
    assert len(backend.keeper) == 0
