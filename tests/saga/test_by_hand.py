"""What people do to a saga that waits for them: retry, skip, one step at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar


async def test_one_of_two_that_wait_is_retried() -> None:
    """It is tried again, as often as at first, whatever the other waits for; then the other is what is left."""
    ran: list[str] = []
    broken = {"a", "b"}
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend)
        for name in "ab":

            @saga.step(name=name, after=[], attempts=2, on_exhausted="park")
            async def act(ctx: ar.SagaContext[int], name: str = name) -> str:
                ran.append(name)
                await asyncio.sleep(1)
                if name in broken or (name == "a" and ran.count("a") == 1):
                    raise OSError(name)
                return name

        with pytest.raises(ar.SagaParked):
            await saga.run(1, id="x")
        ran.clear()
        broken.remove("a")
        with pytest.raises(ar.SagaParked, match="OSError: b"):
            await (await saga.retry("x", "a")).result()
        assert ran == ["a", "a"]
        result = await (await saga.skip("x", "b", "by hand")).result()
    assert result.results == {"a": "a", "b": "by hand"}


@pytest.mark.parametrize("given", [7, None])
async def test_what_was_skipped_forward_is_compensated(given: int | None) -> None:
    """It is as good as done: it is undone, with the result that was given, which may be None."""
    log: list[Any] = []
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend)

        @saga.step(attempts=1, on_exhausted="park")
        async def a(ctx: ar.SagaContext[int]) -> int | None:
            raise OSError

        @a.compensate
        async def undo(ctx: ar.SagaContext[int], result: int | None) -> None:
            log.append((result, ctx.result(a), ctx.outcome_unknown))

        @saga.step
        async def b(ctx: ar.SagaContext[int]) -> None:
            raise ar.Fail("no")

        with pytest.raises(ar.SagaParked):
            await saga.run(1, id="x")
        with pytest.raises(ar.SagaFailed):
            await (await saga.skip("x", a, given)).result()
    assert log == [(given, given, False)]


async def test_a_step_that_was_cut_off_and_is_late_can_be_skipped() -> None:
    """Its owner died while it ran, and then the deadline passed: whether it happened a person finds out."""
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend, deadline=20.0)

        @saga.step(on_exhausted="park")
        async def a(ctx: ar.SagaContext[int]) -> int:
            await asyncio.sleep(10)
            return 1

        await saga.start(1, id="x")
        await asyncio.sleep(1)
        saga.running["x"].stop()
        await asyncio.sleep(30)
        async with saga.worker():
            with pytest.raises(ar.SagaParked):
                await saga.attach("x").result()
            assert (await (await saga.skip("x", a, 5)).result()).last == 5
