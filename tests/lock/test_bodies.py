"""Bodies that begin in one task and end in another, are entered twice, or outlive what they hold."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import FaultyBackend, Recorder
from aresilience.testing.faulty import Fault

Place = ar.Lock | ar.Semaphore


@pytest.mark.parametrize("place", [ar.Lock, lambda name: ar.Semaphore(name, permits=1)])
async def test_a_generator_that_is_thrown_away_gives_back(place: Any) -> None:
    """The loop closes it in another task: its lease is released all the same."""
    lock = place("a")

    async def rows() -> AsyncIterator[int]:
        async with lock:
            yield 1

    async for _ in rows():
        break
    gc.collect()
    await asyncio.sleep(1)
    lease = await lock.acquire(timeout=0)
    await lease.release()


async def test_a_body_may_end_in_another_task() -> None:
    """As fixtures do: entered in one task that ends, left in another."""
    lock = ar.Lock("a")
    await asyncio.create_task(lock.__aenter__())
    await asyncio.create_task(lock.__aexit__(None, None, None))
    assert await lock.holder() is None


async def test_which_body_ends_is_not_guessed() -> None:
    """Two tasks are inside and a third leaves: it is told what to write, and nobody loses a permit."""
    semaphore = ar.Semaphore("a", permits=2)
    leave = asyncio.Event()

    async def section() -> None:
        async with semaphore as lease:
            await leave.wait()
            lease.check()

    tasks = [asyncio.create_task(section()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="has not entered it"):
        await semaphore.__aexit__(None, None, None)
    leave.set()
    await asyncio.gather(*tasks)
    assert await semaphore.holders() == []


async def test_entered_again_after_a_loss() -> None:
    """With `on_lost="flag"` a task may take it anew inside: each exit releases its own, errors stay."""
    backend = ar.MemoryBackend()
    lock = ar.Lock("a", ttl=1.0, on_lost="flag", backend=backend)
    with pytest.raises(ValueError, match="the body's own"):  # noqa: PT012 - the body
        async with lock as first:
            other = await asyncio.create_task(ar.Lock("a", backend=backend).take_over())
            await asyncio.sleep(1)
            assert first.lost
            await other.release()
            async with lock as second:
                assert second.held
            raise ValueError("the body's own")
    assert await lock.holder() is None


@pytest.mark.parametrize("kind", ["read", "campaign"])
async def test_one_side_and_one_campaign_are_one_body(kind: str) -> None:
    """Two tasks that enter the same one: the second is told, and nothing is left behind."""
    backend = FaultyBackend(deadline=0.25)
    rw, election = ar.ReadWriteLock("a", backend=backend), ar.LeaderElection("a", backend=backend)
    backend.plan(Fault.SLOW, verb="acquire", times=2)
    body: Any = rw.read() if kind == "read" else election.campaign()

    async def section() -> None:
        async with body:
            await asyncio.sleep(1)

    said = await asyncio.gather(section(), section(), return_exceptions=True)
    assert [type(each) for each in said] == [type(None), RuntimeError]
    assert len(backend.keeper) == 0


async def test_each_try_of_a_campaign_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the first try that comes late does not free what the second was granted."""
    backend = FaultyBackend(deadline=0.25)
    election, tokens = ar.LeaderElection("a", backend=backend), []
    new = election.new_ask

    def noted(*args: Any, **more: Any) -> Any:
        ask = new(*args, **more)
        tokens.append(ask.token)
        return ask

    monkeypatch.setattr(election, "new_ask", noted)
    campaign = election.campaign()
    backend.plan(Fault.LATE, verb="acquire")
    with pytest.raises(ar.OutcomeUnknown):
        await campaign.__aenter__()
    async with campaign as leadership:
        assert leadership.held
    assert len(set(tokens)) == 2


async def test_finding_out_by_oneself_cancels_nothing() -> None:
    """`proclaim` on lost leadership raises `LockLost`; no cancel is left for what comes after."""
    backend = ar.MemoryBackend()
    election = ar.LeaderElection("a", ttl=1.0, backend=backend)
    with pytest.raises(ar.LockLost):  # noqa: PT012 - the body
        async with election.campaign() as leadership:
            other = ar.LeaderElection("a", backend=backend)
            await leadership._desk.store.take(other._ask_as(other._card("")))
            await leadership.proclaim("x")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_who_closes_the_backend_in_his_body_is_cut_off_and_followed_after_his_time() -> None:
    """It cannot be waited for: its body is cancelled at its next await, and nobody gets in before."""
    backend = ar.MemoryBackend()
    await backend.__aenter__()
    with pytest.raises(ar.LockLost, match="closed"):  # noqa: PT012 - the body
        async with ar.Lock("a", ttl=5.0, backend=backend):
            await backend.__aexit__(None, None, None)
            assert await ar.Lock("a", backend=backend).holder() is not None
            await asyncio.sleep(1)
            raise AssertionError("not reached")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await ar.Lock("a", backend=backend).holder() is None


async def test_a_release_that_fails_while_cancelled_is_asked_again() -> None:
    """The first is cancelled and meets an error; the next one asks, and tells of the release."""
    backend, seen = FaultyBackend(deadline=0.25), Recorder()
    lease = await ar.Lock("a", backend=backend, listeners=[seen]).acquire()
    lease._pending = failed = asyncio.get_running_loop().create_future()
    backend.keeper.drop(lease)
    releasing = asyncio.create_task(lease.release())
    await asyncio.sleep(0)
    releasing.cancel()
    await asyncio.sleep(0)
    failed.set_exception(ar.OutcomeUnknown("no answer"))
    await asyncio.wait([releasing])
    assert releasing.cancelled()
    assert seen.of(ar.LeaseReleased) == []
    await lease.release()
    assert len(seen.of(ar.LeaseReleased)) == 1
    assert await ar.Lock("a", backend=backend).holder() is None


async def test_a_release_that_succeeds_while_cancelled_is_told() -> None:
    """The cancel comes after its end, and `LeaseReleased` is told once."""
    backend, seen = ar.MemoryBackend(), Recorder()
    lease = await ar.Lock("a", backend=backend, listeners=[seen]).acquire()
    lease._pending = done = asyncio.get_running_loop().create_future()
    backend.keeper.drop(lease)
    releasing = asyncio.create_task(lease.release())
    await asyncio.sleep(0)
    releasing.cancel()
    await asyncio.sleep(0)
    done.set_result(True)
    await asyncio.wait([releasing])
    assert releasing.cancelled()
    await lease.release()
    assert len(seen.of(ar.LeaseReleased)) == 1


async def test_l10_reentry_is_seen_after_a_take_over_too() -> None:
    """The task that took its own lock over holds it by the second lease, whatever becomes of the first."""
    lock = ar.Lock("a", ttl=1.0)
    first, second = await lock.acquire(), await lock.take_over()
    await asyncio.sleep(1)
    assert first.lost
    with pytest.raises(RuntimeError, match="held by this task"):
        await lock.acquire(timeout=5)
    await second.release()
    await (await lock.acquire()).release()


async def test_the_error_of_the_body_wins_over_every_error_of_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the release cannot even be asked for."""
    backend = ar.MemoryBackend()
    lease = await ar.Lock("a", backend=backend).acquire()
    monkeypatch.setattr(type(lease), "_start_release", _not_open)
    with pytest.raises(ValueError, match="the body's own") as caught:
        async with lease:
            raise ValueError("the body's own")
    assert "not open" in caught.value.__notes__[0]


def _not_open(_: object) -> Any:
    raise RuntimeError("it is not open")


async def test_a_body_that_eats_its_cancel_is_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be stopped, but somebody hears of it; of one that ends in time nobody does."""
    backend = ar.MemoryBackend()

    async def body(patience: float) -> None:
        async with ar.Lock("a", ttl=1.0, backend=backend) as lease:
            asyncio.get_running_loop().call_later(0.1, backend.keeper.lose, lease, "a test")
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(patience)

    with caplog.at_level(logging.WARNING, "aresilience"):
        with pytest.raises(ar.LockLost):
            await asyncio.create_task(body(0.1))
        await asyncio.sleep(1)
        assert caplog.records == []
        with pytest.raises(ar.LockLost):
            await asyncio.create_task(body(5))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "goes on" in caplog.text


def test_a_memory_backend_is_one_loops() -> None:
    """Used on a second loop while the first runs: an error that says so."""
    backend, there, over = ar.MemoryBackend(), threading.Event(), threading.Event()

    async def hold() -> None:
        async with ar.Lock("a", backend=backend):
            there.set()
            while not over.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(hold(),))
    thread.start()
    there.wait(5)
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(ar.Lock("a", backend=backend).acquire())
    finally:
        over.set()
        thread.join()


def test_who_waited_on_a_loop_that_is_closed_is_in_nobodys_way() -> None:
    """Waiters of a loop that ended stay behind in a shared memory: the next loop does not stumble over them."""
    backend = ar.MemoryBackend()

    async def leave_waiters() -> None:
        await ar.Lock("a", ttl=0.3, backend=backend).acquire()
        waiting.extend(
            asyncio.get_running_loop().create_task(lock.acquire())
            for lock in (ar.Lock("a", backend=backend), ar.Lock.all("a", "b", backend=backend))
        )
        await asyncio.sleep(0.05)

    async def use() -> None:
        await asyncio.sleep(0.4)
        async with ar.Lock("a", backend=backend):
            pass

    waiting: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_waiters())
    for task in waiting:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    asyncio.run(use())
