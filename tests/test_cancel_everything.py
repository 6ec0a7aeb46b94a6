"""Cancelled at every await, in every way: no policy holds anything, leaves a task, or loses the cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

import aresilience as ar
from aresilience.testing import CancelSweepError, VirtualLoop, cancel_sweep


async def work(takes: float = 1.0, *, error: Exception | None = None) -> str:
    """Wait for a turn and for a time, then answer or fail."""
    await asyncio.sleep(0)
    await asyncio.sleep(takes)
    if error is not None:
        raise error
    return "done"


async def failing() -> str:
    """Fail after a while."""
    return await work(error=OSError("down"))


async def cleaning() -> str:
    """Take some time to clean up, however it ends."""
    try:
        return await work()
    finally:
        await asyncio.sleep(0.25)


async def settled(call: Callable[..., Awaitable[object]], *args: float) -> None:
    """Make this call, whatever it raises, but for a cancel."""
    with suppress(Exception):
        await call(*args)


class State:
    """The policies of one run, and what they may still hold after it."""

    def __init__(self) -> None:
        self.bulkhead = ar.Bulkhead(1, max_waiting=3, max_wait=2.5)
        self.patient = ar.Bulkhead(1, max_waiting=3)
        self.breaker = ar.CircuitBreaker(failure_threshold=1, recovery_timeout=1.0)
        self.limit = ar.Timeout(1.5)
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.calls = 0

    async def open(self) -> int:
        """Open a connection; every other one opens late, and ignores a cancel."""
        n, self.calls = self.calls, self.calls + 1
        ends = asyncio.get_running_loop().time() + (3.0 if n % 2 == 0 else 1.0)
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if n % 2:
                    raise
        self.opened.append(n)
        return n

    async def close(self, n: int) -> None:
        """Close a connection, which takes a while."""
        await asyncio.sleep(0.5)
        self.closed.append(n)

    def check(self) -> None:
        """Nothing is held: no permit, place, probe, running timer, open connection or deadline."""
        assert (self.bulkhead.running, self.bulkhead.waiting) == (0, 0)
        assert (self.patient.running, self.patient.waiting) == (0, 0)
        assert self.breaker.snapshot().probes == 0
        assert repr(self.limit).endswith(" 0 timed now>")
        assert set(self.opened) == set(self.closed)
        assert ar.time_remaining() is None


# Each is swept as it is: `use(state)` waits in as many ways as it can.


async def timeout_in_time(state: State) -> None:
    """A call that ends before its limit."""
    await state.limit.call(work)


async def timeout_expired(state: State) -> None:
    """A call that is cut off, and cleans up after that."""

    async def slow() -> None:
        try:
            await work(60.0)
        finally:
            await asyncio.sleep(0.25)

    await settled(state.limit.wrap(slow))


async def timeout_under_deadline(state: State) -> None:
    """A call that a nearer deadline cuts off, in a timeout in a timeout."""

    async def hurried() -> None:
        with ar.deadline(1.25):
            await state.limit.wrap(state.limit.wrap(cleaning))(), await work(60.0)

    await settled(hurried)


async def deadlines(state: State) -> None:
    """A body cut off by the inner of two deadlines, then the rest under the outer one."""

    async def nested() -> None:
        with ar.deadline(5.0):
            try:
                with ar.deadline(0.5):
                    await work(60.0)
            except ar.DeadlineExceeded:
                await work(1.0)

    await nested()


async def bulkhead_inside(state: State) -> None:
    """A call inside a bulkhead, a block inside another."""
    await state.bulkhead.call(cleaning)
    async with state.patient:
        await work()


async def queued(bulkhead: ar.Bulkhead) -> None:
    """In the queue, behind one and before another; a TaskGroup ends them if this is cancelled."""
    async with asyncio.TaskGroup() as others:
        others.create_task(settled(bulkhead.wrap(work)))
        await asyncio.sleep(0)
        others.create_task(settled(bulkhead.wrap(work), 0.5))
        await asyncio.sleep(0)
        others.create_task(later(bulkhead))
        await bulkhead.call(work, 0.25)


async def later(bulkhead: ar.Bulkhead) -> None:
    """Come a little later."""
    await asyncio.sleep(0.5)
    await settled(bulkhead.wrap(work))


async def bulkhead_queue(state: State) -> None:
    """Waiting for a permit, with an end of patience."""
    await queued(state.bulkhead)


async def bulkhead_queue_for_ever(state: State) -> None:
    """Waiting for a permit, however long it takes."""
    await queued(state.patient)


async def bulkhead_refused(state: State) -> None:
    """Waiting for a permit until patience ends."""
    async with state.bulkhead:
        await settled(state.bulkhead.wrap(work))


async def bulkhead_under_deadline(state: State) -> None:
    """Waiting for a permit until the deadline does."""
    async with state.bulkhead:
        await settled(state.limit.wrap(state.bulkhead.wrap(work)))


async def hedge_first_wins(state: State) -> None:
    """The first call answers before a hedge starts."""
    await ar.Hedge(delay=2.0).call(cleaning)


async def hedge_second_wins(state: State) -> None:
    """The hedge wins, the first call is cancelled, cleans up and is awaited."""
    slow = iter([60.0, 0.5])

    async def call() -> str:
        try:
            return await work(next(slow, 0.5))
        finally:
            await asyncio.sleep(0.25)

    await ar.Hedge(delay=1.0).call(call)


async def hedge_all_fail(state: State) -> None:
    """All calls fail, one after the other."""
    await settled(ar.Hedge(delay=0.5, max_hedges=2).wrap(failing))


async def hedge_disposes(state: State) -> None:
    """A loser ignores its cancel, is awaited, and its result is disposed of; the winner's is closed here."""
    n = await ar.Hedge(delay=0.5, dispose=state.close).call(state.open)
    state.closed.append(n)


async def fallback_answers(state: State) -> None:
    """The call fails, and the fallback takes its time."""

    async def instead(error: Exception) -> str:
        return await work()

    await ar.Fallback(instead).call(failing)


async def fallback_fails(state: State) -> None:
    """The call fails, and so does the fallback."""
    await settled(ar.Fallback(lambda error: failing()).wrap(failing))


def everything(state: State, retry: ar.Retry) -> ar.Pipeline:
    """All policies, in the recommended order."""
    return ar.Pipeline.standard(
        fallback=ar.Fallback("instead", on=ar.CircuitOpen),
        bulkhead=state.bulkhead,
        deadline=ar.Timeout(10.0),
        retry=retry,
        hedge=ar.Hedge(delay=0.75, budget=ar.RetryBudget()),
        breaker=state.breaker,
        attempt_timeout=state.limit,
    )


async def pipeline_answers(state: State) -> None:
    """Through all policies, with an answer."""
    await everything(state, ar.Retry(on=OSError)).call(cleaning)


async def pipeline_fails(state: State) -> None:
    """Through all policies: hedged, failed, the circuit opens, a wait, a refusal, the fallback."""
    retry = ar.Retry(on=OSError, deadline=8.0, backoff=ar.Backoff.constant(0.5))
    await everything(state, retry).call(failing)


async def pipeline_recovers(state: State) -> None:
    """The circuit is open; after that a probe through all policies, and a second one."""
    await settled(state.breaker.wrap(failing))
    await asyncio.sleep(1.0)
    pipeline = everything(state, ar.Retry(on=OSError))
    await pipeline.call(cleaning)
    await pipeline.call(work, 0.25)


async def pipeline_crowded(state: State) -> None:
    """Two calls through one pipeline, of which the second waits in the queue."""
    pipeline = everything(state, ar.Retry(on=OSError))
    async with asyncio.TaskGroup() as others:
        others.create_task(settled(pipeline.wrap(work), 0.5))
        await asyncio.sleep(0)
        await pipeline.call(work, 0.5)


SCENES: list[Callable[[State], Awaitable[None]]] = [
    timeout_in_time, timeout_expired, timeout_under_deadline, deadlines,
    bulkhead_inside, bulkhead_queue, bulkhead_queue_for_ever, bulkhead_refused, bulkhead_under_deadline,
    hedge_first_wins, hedge_second_wins, hedge_all_fail, hedge_disposes,
    fallback_answers, fallback_fails,
    pipeline_answers, pipeline_fails, pipeline_recovers, pipeline_crowded,
]  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_a_cancel_at_any_await_leaves_nothing_behind(scene: Callable[[State], Awaitable[None]]) -> None:
    """Cut before the first step, pending, ready and twice at each await, a policy gives back what it took."""
    report = cancel_sweep(scene, make=State, check=State.check)
    assert report.points >= 1
    assert report.runs == 1 + 3 * report.points


@pytest.mark.parametrize("seed", [1, 2])
def test_in_any_order_of_what_is_ready(seed: int) -> None:
    """The same on a loop that shuffles what is ready at once, and timers of one moment."""

    def shuffled() -> VirtualLoop:
        return VirtualLoop(seed)

    for scene in SCENES:
        cancel_sweep(scene, make=State, check=State.check, loop_factory=shuffled)


@pytest.mark.parametrize("policy", ["bulkhead", "breaker"])
def test_the_sweep_would_see_what_is_kept(policy: str) -> None:
    """A use that keeps a permit or a probe when it is cancelled fails the sweep."""

    async def keep(state: State) -> None:
        if policy == "breaker":
            await settled(state.breaker.wrap(failing))
            await asyncio.sleep(1.0)
        try:
            await work()
        except asyncio.CancelledError:
            await (state.breaker.admit() if policy == "breaker" else state.bulkhead.__aenter__())
            raise

    with pytest.raises(CancelSweepError, match="afterwards AssertionError: assert"):
        cancel_sweep(keep, make=State, check=State.check)
