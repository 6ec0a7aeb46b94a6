"""The virtual loop: exact time, deadlocks found, order by seed."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest

from aresilience.testing import Deadlock, VirtualLoop, run_virtual


async def test_an_hour_costs_nothing() -> None:
    """A sleep ends exactly when it should, at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    started = loop.time()
    await asyncio.sleep(3600)
    assert loop.time() == started + 3600


async def test_timers_meet_their_time_exactly() -> None:
    """A timer at t sees the clock at t, not a float's breadth beside it."""
    loop = asyncio.get_running_loop()
    seen: list[float] = []
    times = [0.1 + 0.2, 0.7, 1 / 3, 86_400 * 30.0]
    for when in times:
        loop.call_at(when, lambda: seen.append(loop.time()))
    await asyncio.sleep(86_400 * 31)
    assert seen == sorted(times)


@pytest.mark.parametrize("days", [1, 30, 200, 3650, 365_000])
async def test_time_passes_however_late_it_is(days: int) -> None:
    """Far out, where a nanosecond no longer changes a float, timers still run, and in their order."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(days * 86_400.0)
    seen: list[str] = []
    loop.call_later(0.5, seen.append, "second")
    loop.call_later(0.25, seen.append, "first")
    await asyncio.sleep(0.75)
    assert (loop.time(), seen) == (days * 86_400.0 + 0.75, ["first", "second"])


async def test_a_cancelled_timer_moves_no_clock() -> None:
    """The clock jumps to timers that will run, not to those that were called off."""
    loop = asyncio.get_running_loop()
    loop.call_later(1.0, lambda: None).cancel()
    await asyncio.sleep(5.0)
    assert loop.time() == 5.0
    handle = loop.call_later(1.0, lambda: None)
    await asyncio.sleep(0.5)
    handle.cancel()
    await asyncio.sleep(9.5)
    assert loop.time() == 15.0


async def test_asyncio_and_anyio_limits_work() -> None:
    """The time limits of asyncio and anyio expire in virtual time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1e6):
            await asyncio.sleep(2e6)
    with pytest.raises(TimeoutError), anyio.fail_after(5):
        await anyio.sleep(6)


async def test_threads_are_waited_for() -> None:
    """Work in a thread is given real time before the clock jumps."""
    assert await asyncio.to_thread(sum, [1, 2]) == 3
    assert await anyio.to_thread.run_sync(sum, [3, 4]) == 7


def test_a_deadlock_is_an_error_that_says_who_waits() -> None:
    """When nothing can wake any task, the loop raises instead of hanging."""

    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"waits in .*forever"):
        run_virtual(forever())


def test_the_same_seed_gives_the_same_order() -> None:
    """What is ready at once runs in an order that the seed decides, and only the seed."""

    async def order() -> str:
        seen: list[str] = []

        async def note(letter: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append(letter)

        async with asyncio.TaskGroup() as group:
            for letter in "abcdef":
                group.create_task(note(letter))
        return "".join(seen)

    assert run_virtual(order()) == "abcdef"
    orders = {seed: run_virtual(order(), seed=seed) for seed in range(50)}
    assert len(set(orders.values())) > 20
    assert orders == {seed: run_virtual(order(), seed=seed) for seed in range(50)}


def test_timers_of_one_moment_run_in_an_order_by_seed() -> None:
    """What is due at the same time is shuffled too; what is due earlier comes earlier all the same."""

    async def order() -> str:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        for letter in "abcdef":
            loop.call_at(1.0, seen.append, letter)
        loop.call_at(0.5, seen.append, "0")
        loop.call_at(2.0, seen.append, "1")
        await asyncio.sleep(3.0)
        return "".join(seen)

    orders = {seed: run_virtual(order(), seed=seed) for seed in range(50)}
    assert len(set(orders.values())) > 20
    assert {(text[0], text[-1], *sorted(text[1:-1])) for text in orders.values()} == {("0", "1", *"abcdef")}
    assert orders == {seed: run_virtual(order(), seed=seed) for seed in range(50)}


def test_a_seed_decides_chance_too() -> None:
    """The loop's entropy repeats with the seed; without one it is that of seed 0."""

    async def drawn() -> tuple[float, str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.entropy.random(), loop.entropy.token()

    assert run_virtual(drawn(), seed=3) == run_virtual(drawn(), seed=3) != run_virtual(drawn(), seed=4)
    assert run_virtual(drawn()) == run_virtual(drawn(), seed=0)


async def test_sockets_are_waited_for() -> None:
    """What comes over a socket is given real time before the clock jumps to a timer."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    with ours, theirs:
        ours.setblocking(False)
        received = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        theirs.send(b"hello")
        async with asyncio.timeout(1e-3):
            assert await received == b"hello"
    assert loop.time() == 0.0


@pytest.mark.virtual_time(seed=7)
async def test_the_marker_takes_a_seed() -> None:
    """The plugin hands the marker's seed to the loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    assert loop.seed == 7


@pytest.mark.real_time
async def test_the_marker_real_time_opts_out() -> None:
    """Where virtual time is the default, a test can still ask for the real clock."""
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
