"""Verified faults of other saga packages, each of which must not be ours. Others are where they belong:

eventuate-tram-sagas: the rest skipped (`test_people_skip_retry_and_force`), writes without a predicate (the
contract in `test_store`), orphans until there is traffic (`test_a_worker_takes_over_without_traffic`).
MassTransit#4676 and arrow#3323: `test_saga`. saga-py: `test_undoing`. Temporal#305: `test_cancellation`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import run_virtual
from aresilience.testing.faulty import Fault, FaultyBackend


async def test_saga_py_undo_gets_the_result_not_the_input() -> None:
    """saga-py 1.1.0: the undo of step 1 received `{}`. Here it receives what the step returned."""
    saga, got = ar.Saga("s"), []

    @saga.step
    async def reserve(ctx: ar.SagaContext[dict[str, int]]) -> list[str]:
        return ["room 7"]

    @reserve.compensate
    async def release(ctx: ar.SagaContext[dict[str, int]], result: list[str] | None) -> None:
        got.append((ctx.input, result))

    @saga.step
    async def fails(ctx: ar.SagaContext[dict[str, int]]) -> None:
        raise ar.Fail

    with pytest.raises(ar.SagaFailed):
        await saga.run({"nights": 2})
    assert got == [({"nights": 2}, ["room 7"])]


async def test_go_saga_a_failing_compensation_is_no_panic() -> None:
    """go-saga panics, minos logs and goes on as if it were undone, saga-framework stops for good: here it is
    stuck, listed, and told."""
    saga = ar.Saga("s")

    @saga.step
    async def a(ctx: ar.SagaContext[None]) -> None: ...

    @a.compensate(attempts=2, backoff=ar.Backoff.constant(1))
    async def undo(ctx: ar.SagaContext[None], result: None) -> None:
        raise RuntimeError("panic")

    @saga.step
    async def b(ctx: ar.SagaContext[None]) -> None:
        raise ar.Fail

    with pytest.raises(ar.SagaStuck):
        await saga.run(None, id="1")
    assert [record.remaining async for record in saga.list(ar.SagaState.STUCK)] == [("a",)]


async def test_go_saga_what_cancelled_the_action_does_not_reach_the_compensation() -> None:
    """go-saga hands the cancelled context on. Here the ambient deadline and the saga's own stay outside."""
    saga, log = ar.Saga("s", deadline=2.0), []

    @saga.step(timeout=1.0, attempts=1)
    async def a(ctx: ar.SagaContext[None]) -> None:
        await asyncio.sleep(60)

    @a.compensate
    async def undo(ctx: ar.SagaContext[None], result: None) -> None:
        assert ar.time_remaining() is None
        await asyncio.sleep(30)
        log.append("undone")

    with ar.deadline(100.0), pytest.raises(ar.SagaFailed):
        await saga.run(None)
    assert log == ["undone"]


async def test_dtm_306_retries_back_off() -> None:
    """dtm#306: about 80 tries a second. Here a retriable step that fails for ten minutes is tried 25 times at
    most, ever more slowly."""
    saga, times = ar.Saga("s"), []

    @saga.retriable(attempts=1000)
    async def mail(ctx: ar.SagaContext[None]) -> None:
        times.append(asyncio.get_running_loop().time())
        raise OSError

    handle = await saga.start(None, id="1")
    await asyncio.sleep(600)
    await saga.force("1", "enough")
    with pytest.raises(ar.SagaStuck):
        await handle.result()
    assert len(times) < 200
    assert times[-1] > 500


async def test_dtm_446_a_time_limit_shorter_than_the_work_ends() -> None:
    """dtm#446: retried for ever. Here so many attempts, and then it is compensated, as unknown."""
    saga, log = ar.Saga("s"), []

    @saga.step(timeout=1.0)
    async def long(ctx: ar.SagaContext[None]) -> None:
        log.append("try")
        await asyncio.sleep(2)

    @long.compensate
    async def undo(ctx: ar.SagaContext[None], result: None) -> None:
        log.append("undo")

    with pytest.raises(ar.SagaFailed):
        await saga.run(None)
    assert log == ["try"] * 3 + ["undo"]


async def test_minos_a_base_exception_is_not_an_error_of_the_step(caplog: pytest.LogCaptureFixture) -> None:
    """saga-framework and spy catch BaseException. Here an exit of the interpreter in a step is an exit, and the
    saga is for another process."""
    backend = ar.MemoryBackend()

    def declared() -> ar.Saga:
        saga = ar.Saga("s", backend=backend)

        @saga.step
        async def a(ctx: ar.SagaContext[int]) -> str:
            await asyncio.sleep(1)
            if len(ran) == 0:
                ran.append(1)
                raise SystemExit(3)
            return "a"

        return saga

    ran: list[int] = []
    await asyncio.to_thread(_exits, declared, 3)
    assert ran == [1]


def _exits(declared: Any, code: int) -> None:
    async def main() -> None:
        await declared().run(1, id="1")

    with pytest.raises(SystemExit) as caught:
        run_virtual(main())
    assert caught.value.code == code


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.LATE])
@pytest.mark.parametrize("verb", ["begin", "append"])
async def test_every_fault_of_the_store_leaves_one_effect(fault: Fault, verb: str) -> None:
    """Whatever happens to one write, every step is made once, in order."""
    for skip in range(5):
        backend, log = FaultyBackend(), []
        async with backend:
            saga = ar.Saga("s", backend=backend)
            for name in "abc":

                @saga.step(name=name)
                async def act(ctx: ar.SagaContext[int], name: str = name, log: list[str] = log) -> str:
                    log.append(name)
                    return name

            backend.plan(*[None] * skip, fault, verb=verb)
            try:
                await saga.run(1, id="1")
            except (ar.NotSent, ar.Refused):
                assert verb == "begin"
                assert log == []
                await saga.run(1, id="1")
            assert log == ["a", "b", "c"]


async def test_a_mistake_of_ours_is_logged_and_another_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A store that raises what it must not: the saga is another's, the waiter hears of it, nothing hangs."""
    backend = ar.MemoryBackend()
    async with backend:
        saga = ar.Saga("s", backend=backend)

        @saga.step
        async def a(ctx: ar.SagaContext[int]) -> str:
            await asyncio.sleep(1)
            return "a"

        handle = await saga.start(1, id="1")

        async def broken(write: Any) -> None:
            raise ZeroDivisionError

        store: Any = saga.store
        store.append = broken
        with caplog.at_level(logging.ERROR, "aresilience"), pytest.raises(ar.SagaInterrupted):
            await handle.result()
        assert "another goes on with it when its lease ends" in caplog.text
        del store.append
        assert (await saga.attach("1").result()).last == "a"
