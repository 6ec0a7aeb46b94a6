"""The memory store at its limits: full, over several loops, and taken over."""

from __future__ import annotations

import asyncio

import pytest

import aresilience as ar
from aresilience.testing import run_virtual


async def test_several_names_at_once_need_place_for_all() -> None:
    """With place for two of three names: refused, nothing held, and what is held stays one holder's."""
    backend = ar.MemoryBackend(max_keys=3)
    other = await ar.Lock("z", backend=backend).acquire()
    with pytest.raises(ar.Refused, match="max_keys"):
        await ar.Lock.all("a", "b", "c", backend=backend).acquire()
    lease = await ar.Lock("a", backend=backend).try_acquire()
    assert lease is not None
    await lease.release()
    await other.release()


async def test_the_place_of_what_is_over_serves_several_names() -> None:
    """What ended makes place for two names, and both are held by one."""
    backend = ar.MemoryBackend(max_keys=3)
    for name in "xy":  # of holders that died
        lease = await ar.Lock(name, ttl=0.1, backend=backend).acquire()
        backend.keeper.drop(lease)
    await asyncio.sleep(1)
    async with ar.Lock.all("a", "b", backend=backend):
        for name in "ab":
            assert await ar.Lock(name, backend=backend).try_acquire() is None


async def test_a_full_memory_costs_nobody_what_he_holds() -> None:
    """Renewing and releasing what is gone takes no place: the others are renewed, and errors stay theirs."""
    backend = ar.MemoryBackend(max_keys=2)
    first = ar.Lock("a", ttl=1.0, on_lost="flag", backend=backend)
    innocent = await ar.Lock("b", ttl=1.0, on_lost="flag", backend=backend).acquire()
    with pytest.raises(ValueError, match="the body's own"):  # noqa: PT012 - the body
        async with first as lease:
            thief = await asyncio.create_task(ar.Lock("a", backend=backend).take_over())
            await thief.release()
            third = await ar.Lock("c", ttl=60.0, backend=backend).acquire()
            await asyncio.sleep(2)
            assert lease.lost
            assert await first.holder() is None
            raise ValueError("the body's own")
    assert innocent.held
    await third.release()
    await innocent.release()


def test_fences_rise_from_loop_to_loop() -> None:
    """A guard that outlives a loop admits whoever comes on the next one, and refuses the earlier."""
    guard, lock = ar.FencedGuard("a"), ar.Lock("a")

    async def sections(number: int) -> int:
        for _ in range(number):
            async with lock as lease:
                guard.admit(lease)
        return lease.fence

    first = run_virtual(sections(5))
    assert run_virtual(sections(1)) > first
    with pytest.raises(ar.StaleFence):
        guard.admit(first)


async def test_who_waits_hears_of_a_take_over() -> None:
    """Taken over for a shorter time by one who then dies: the waiter has it when that time is over."""
    backend, loop = ar.MemoryBackend(), asyncio.get_running_loop()
    long = await ar.Lock("a", ttl=100.0, on_lost="flag", backend=backend).acquire()
    waiter = asyncio.create_task(ar.Lock.all("a", "b", backend=backend).acquire())
    await asyncio.sleep(1)
    short = await ar.Lock("a", ttl=1.0, backend=backend).take_over()
    backend.keeper.drop(short)
    backend.keeper.drop(long)
    lease = await waiter
    assert loop.time() == pytest.approx(2.0, abs=0.1)
    await lease.release()
