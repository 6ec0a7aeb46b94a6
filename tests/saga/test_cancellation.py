"""The cancellation table: who cuts a saga short, and what becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import cancel_sweep

SECONDS = 10.0


class Trial:
    """Three steps of ten seconds each: a, b, then the pivot p; then r. Undoing one takes a second."""

    def __init__(self, backend: ar.Backend | None = None, **options: Any) -> None:
        self.log: list[str] = []
        self.saga = saga = ar.Saga("trial", backend=backend, **options)

        def declare(name: str) -> None:
            @saga.step(name=name)
            async def step(ctx: ar.SagaContext[None]) -> str:
                return await self.work(name)

            @step.compensate
            async def undo(ctx: ar.SagaContext[None], result: str | None) -> None:
                await asyncio.sleep(1.0)
                self.log.append(f"-{name}{'?' if ctx.outcome_unknown else ''}")

        declare("a")
        declare("b")

        @saga.pivot
        async def p(ctx: ar.SagaContext[None]) -> str:
            return await self.work("p")

        @saga.retriable
        async def r(ctx: ar.SagaContext[None]) -> str:
            return await self.work("r")

    async def work(self, name: str) -> str:
        """Ten seconds of it."""
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            self.log.append(f"{name} cut")
            raise
        self.log.append(name)
        return name

    async def started(self, after: float) -> ar.SagaHandle:
        """A saga that has run for so long."""
        handle = await self.saga.start(None, id="1")
        await asyncio.sleep(after)
        return handle


async def test_user_abort_before_the_pivot() -> None:
    """A durable flag first; the attempt that runs ends, nothing new begins, and then it is undone."""
    trial = Trial()
    handle = await trial.started(15)
    assert await handle.abort("changed my mind")
    record = await handle.get()
    assert record is not None
    assert record.abort == "changed my mind"
    assert trial.log == ["a"]
    with pytest.raises(ar.SagaFailed, match="changed my mind") as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ar.SagaAborted)
    assert trial.log == ["a", "b", "-b", "-a"]
    assert not await handle.abort("again")


async def test_user_abort_after_the_pivot_is_too_late() -> None:
    """Once the pivot has begun the answer is no, and it goes on to its end."""
    trial = Trial()
    handle = await trial.started(25)
    assert not await handle.abort("too late")
    assert (await handle.result()).last == "r"


async def test_an_abort_stops_attempts_that_would_be_repeated() -> None:
    """Between two attempts, however long it would have waited."""
    saga, log = ar.Saga("s"), []

    @saga.step(backoff=ar.Backoff.constant(3600))
    async def failing(ctx: ar.SagaContext[None]) -> None:
        log.append(ctx.attempt)
        raise OSError

    handle = await saga.start(None)
    await asyncio.sleep(10)
    began = asyncio.get_running_loop().time()
    await handle.abort()
    with pytest.raises(ar.SagaFailed):
        await handle.result()
    assert asyncio.get_running_loop().time() - began < 1
    assert log == [1]


async def test_shutdown_hands_over() -> None:
    """The backend is closed: what runs is cancelled, nothing is undone, and another goes on at once."""
    backend = ar.MemoryBackend()
    first = Trial(backend)
    async with backend:
        handle = await first.started(15)
        waits = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
    with pytest.raises(ar.SagaInterrupted):
        await waits
    assert first.log == ["a", "b cut"]
    second = Trial(backend)
    async with backend:
        began = asyncio.get_running_loop().time()
        async with second.saga.worker():
            assert (await second.saga.attach("1").result()).last == "r"
        assert asyncio.get_running_loop().time() - began < 31
        record = await second.saga.get("1")
    assert second.log == ["b", "p", "r"]
    assert record is not None
    assert record.recoveries == 0


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_nothing_is_handed_over_while_an_attempt_still_ends(how: str) -> None:
    """Its step needs a while to be cancelled: until then it is owned, or there were two at once."""
    owned: list[bool] = []
    backend = ar.MemoryBackend()
    async with backend:
        saga = ar.Saga("s", backend=backend)

        @saga.step
        async def slow(ctx: ar.SagaContext[int]) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.1)
                record = await saga.get("1")
                owned.append(record is not None and record.owned)

        await saga.start(1, id="1")
        await asyncio.sleep(1)
        if how == "cancelled":
            for task in asyncio.all_tasks():
                if "_conducted" in repr(task):
                    task.cancel()
            await asyncio.sleep(1)
    assert owned == [True]
    async with backend:
        record = await saga.get("1")
        assert record is not None
        assert not record.owned


async def test_leaving_a_worker_hands_over_what_it_took() -> None:
    """Within the time that its steps need to be cancelled; what it did not take over goes on."""
    backend = ar.MemoryBackend()
    async with backend:
        first, second = Trial(backend), Trial(backend)
        await first.started(5)
        first.saga.running["1"].stop()
        await asyncio.sleep(0)
        async with second.saga.worker() as worker:
            await asyncio.sleep(5)
            assert worker.taken == 1
            assert "1 at work" in repr(worker)
        assert second.log == ["a cut"]
        assert (await second.saga.attach("1").result()).last == "r"  # who waits goes on with it


async def test_a_cancelled_caller_leaves_it_alone() -> None:
    """By default: the saga goes on, detached."""
    trial = Trial()
    caller = asyncio.ensure_future(trial.saga.run(None, id="1"))
    await asyncio.sleep(15)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert (await trial.saga.attach("1").result()).last == "r"
    assert trial.log == ["a", "b", "p", "r"]


async def test_a_cancelled_caller_may_have_it_undone() -> None:
    """on_cancel="abort": the caller's cancel is the user's abort."""
    trial = Trial(on_cancel="abort")
    caller = asyncio.ensure_future(trial.saga.run(None, id="1"))
    await asyncio.sleep(15)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    with pytest.raises(ar.SagaFailed, match="cancelled"):
        await trial.saga.attach("1").result()
    assert trial.log == ["a", "b", "-b", "-a"]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_caller_cancelled_while_it_begins_may_have_it_undone(turns: int) -> None:
    """on_cancel="abort" counts from the call on: what is being begun then is undone when it has begun."""
    trial = Trial(on_cancel="abort")
    caller = asyncio.ensure_future(trial.saga.run(None, id="1"))
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    with pytest.raises(ar.SagaFailed, match="cancelled"):
        await trial.saga.attach("1").result()
    assert "b" not in trial.log


async def test_the_deadline_before_the_pivot() -> None:
    """What runs is cut, its outcome unknown; undoing is not under the deadline."""
    trial = Trial(deadline=15.0)
    handle = await trial.started(0)
    with pytest.raises(ar.SagaFailed, match="deadline"):
        await handle.result()
    assert asyncio.get_running_loop().time() == pytest.approx(17.0)
    assert trial.log == ["a", "b cut", "-b?", "-a"]


async def test_the_deadline_after_the_pivot() -> None:
    """It does not count any more once the pivot has begun."""
    trial = Trial(deadline=21.0)
    assert (await (await trial.started(0)).result()).last == "r"


async def test_the_deadline_survives_a_takeover() -> None:
    """It counts from when the saga began, by the store's clock, whoever owns it."""
    backend = ar.MemoryBackend()
    trial = Trial(backend, deadline=25.0)
    async with backend:
        await trial.started(12)
    await asyncio.sleep(9)
    async with backend:
        with pytest.raises(ar.SagaFailed, match="deadline"):
            await trial.saga.attach("1").result()
    assert trial.log == ["a", "b cut", "b cut", "-b?", "-a"]
    assert asyncio.get_running_loop().time() == pytest.approx(27.0, abs=0.1)


async def test_a_step_that_ignores_its_cancel_is_waited_for() -> None:
    """No task is abandoned: what it returns after the deadline counts, and is undone with its result."""
    saga, log = ar.Saga("s", deadline=1.0), []

    @saga.step
    async def stubborn(ctx: ar.SagaContext[None]) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        return "done all the same"

    @stubborn.compensate
    async def undo(ctx: ar.SagaContext[None], result: str | None) -> None:
        log.append(result)

    @saga.step
    async def never(ctx: ar.SagaContext[None]) -> None:
        log.append("never")

    with pytest.raises(ar.SagaFailed):
        await saga.run(None)
    assert log == ["done all the same"]
    assert asyncio.get_running_loop().time() == pytest.approx(6.0)


async def test_the_budget_for_undoing() -> None:
    """When it is used up the saga is stuck, with all that remains; resumed, it has a new one."""
    saga, log, takes = ar.Saga("s", undo_budget=5.0), [], [60.0]

    @saga.step
    async def a(ctx: ar.SagaContext[None]) -> None:
        return None

    @a.compensate
    async def undo(ctx: ar.SagaContext[None], result: None) -> None:
        await asyncio.sleep(takes[0])
        log.append("-a")

    @saga.step
    async def b(ctx: ar.SagaContext[None]) -> None:
        raise ar.Fail

    with pytest.raises(ar.SagaStuck, match="budget") as caught:
        await saga.run(None, id="1")
    assert asyncio.get_running_loop().time() == pytest.approx(5.0)
    assert caught.value.remaining == ("a",)
    takes[0] = 1.0
    with pytest.raises(ar.SagaFailed):
        await (await saga.resume("1")).result()
    assert log == ["-a"]


async def test_a_cancelled_error_of_a_step_s_own_is_an_unknown_outcome() -> None:
    """A step in which something else was cancelled has not cancelled the saga."""
    saga = ar.Saga("s")

    @saga.step
    async def odd(ctx: ar.SagaContext[None]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(ar.SagaFailed, match="CancelledError"):
        await saga.run(None)


async def test_the_conductor_cancelled_is_a_shutdown() -> None:
    """All tasks of the loop are cancelled, as asyncio.run does at its end: handed over, and nothing undone."""
    backend = ar.MemoryBackend()
    trial = Trial(backend)
    async with backend:
        await trial.started(5)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        assert trial.log == ["a cut"]
        assert trial.saga.running == {}
        assert (await trial.saga.attach("1").result()).last == "r"
    assert trial.log == ["a cut", "a", "b", "p", "r"]


class Swept:
    """A backend of its own for each run, and what is left of it."""

    def __init__(self) -> None:
        self.backend = ar.MemoryBackend()
        self.trial = Trial(self.backend)
        self.number = 0

    async def use(self) -> None:
        """Run one to its end, with a worker beside it."""
        self.number += 1
        if self.number > 1:
            self.trial = Trial(self.backend)
        async with self.backend, self.trial.saga.worker():
            await self.trial.saga.run(None, id=f"{self.number}")

    async def failing(self) -> None:
        """Start one, have it undone, look at it."""
        self.number += 1
        async with self.backend:
            handle = await self.trial.saga.start(None, id=f"{self.number}")
            await handle.abort("no")
            try:
                await handle.result()
            except ar.SagaFailed:
                assert (await self.trial.saga.get(handle.id)) is not None

    def nothing_left(self) -> None:
        """Nothing runs, and all that was begun is whole."""
        assert self.trial.saga.running == {}
        assert len(self.backend.keeper) == 0


def test_cancelled_at_every_await() -> None:
    """Running, starting, aborting, waiting, working: no task, no lease and no cancel is lost."""
    report = cancel_sweep(Swept.use, make=Swept, check=Swept.nothing_left)
    assert report.points >= 2
    report = cancel_sweep(Swept.failing, make=Swept, check=Swept.nothing_left)
    assert report.points >= 2
