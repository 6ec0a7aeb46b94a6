"""Sagas of an older version, and of an unknown one: run, seen to, undone and waited for as what they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import aresilience as ar
from aresilience.testing import Recorder


def first(backend: ar.Backend, log: list[str], *, pivot: bool = False, **options: object) -> ar.Saga:
    """Version 1: `a`, which cannot be undone at the first try, and `b`, which fails for inputs below 0."""
    saga = ar.Saga("job", version=1, backend=backend, **options)  # type: ignore[arg-type]

    @saga.step(attempts=1, on_exhausted="park")
    async def a(ctx: ar.SagaContext[int]) -> int:
        log.append("a")
        await asyncio.sleep(10)
        if ctx.input == 99 and log.count("a") < 3:
            raise OSError("not yet")
        return 1

    @a.compensate(attempts=1)
    async def unmake(ctx: ar.SagaContext[int], result: int | None) -> None:
        log.append(f"-a {result}")
        if log.count(f"-a {result}") == 1:
            raise OSError("not yet")

    @(saga.pivot if pivot else saga.step)
    async def b(ctx: ar.SagaContext[int]) -> int:
        if ctx.input < 0:
            raise ar.Fail("below 0")
        return 2

    return saga


def second(backend: ar.Backend, *older: ar.Saga, **options: object) -> ar.Saga:
    """Version 2."""
    saga = ar.Saga("job", version=2, backend=backend, older=older, **options)  # type: ignore[arg-type]

    @saga.step
    async def other(ctx: ar.SagaContext[int]) -> int:
        return 3

    return saga


async def begun(saga: ar.Saga, input: int) -> None:
    """Begun as "x", and handed over in the middle of `a`."""
    await saga.start(input, id="x")
    await asyncio.sleep(1)
    saga.running["x"].stop()
    await asyncio.sleep(1)


async def test_one_owner_whatever_the_leases_of_the_versions() -> None:
    """It is renewed as it was claimed: an older version with a long lease would let the claim's run out."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        one = first(backend, log, lease=300)
        await begun(one, 1)
        log.clear()
        slow = [second(backend, one, lease=3) for _ in range(2)]
        async with slow[0].worker(), slow[1].worker():
            await asyncio.sleep(30)
        record = await slow[0].get("x")
    assert log == ["a"]
    assert record is not None
    assert record.state is ar.SagaState.DONE


@pytest.mark.parametrize("pivot", [True, False])
async def test_undone_as_far_as_its_own_version_can_be(pivot: bool) -> None:
    """Of an older version, past its pivot, nothing is undone, though the newer one has no pivot."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        one = first(backend, log, pivot=pivot)
        await one.run(1, id="x")
        two = second(backend, one)
        if pivot:
            with pytest.raises(ar.SagaStuck, match="past its point of no return"):
                await two.undo("x")
            assert log == ["a"]
            with pytest.raises(ar.SagaStuck, match="a version that is not known here"):
                await second(backend).undo("x")
        else:
            with pytest.raises(ar.SagaStuck, match="a cannot be undone"):
                await two.undo("x")
            await (await two.skip("x", "a")).get()
            await two.undo("x")
            assert log == ["a", "-a 1"]


async def test_people_see_to_older_ones_too() -> None:
    """Its alarms are heard by those who listen to what runs it, and its steps are retried and skipped there."""
    log: list[str] = []
    seen = Recorder()
    async with ar.MemoryBackend() as backend:
        one = first(backend, log)
        await begun(one, -1)
        two = second(backend, one, listeners=[seen])
        async with two.worker():
            with pytest.raises(ar.SagaStuck):
                await two.attach("x").result()
            assert [event.step for event in seen.of(ar.SagaNeedsHelp)] == ["a"]
            with pytest.raises(ar.SagaFailed):
                await (await two.retry("x", "a")).result()
        assert [event.new.value for event in seen.of(ar.SagaChanged)][-1] == "compensated"

        log.clear()
        with pytest.raises(ar.SagaParked):
            await one.run(99, id="y")
        with pytest.raises(ValueError, match="does not wait for the step 'other'"):
            await two.skip("y", "other")
        done = await (await two.skip("y", "a", 7)).result()
        assert done.results == {"a": 7, "b": 2}


async def ended(saga: ar.Saga) -> None:
    """It is done."""
    await saga.run(1, id="x")


async def failed(saga: ar.Saga) -> None:
    """It is undone."""
    with pytest.raises(ar.SagaStuck):
        await saga.run(-1, id="x")
    with pytest.raises(ar.SagaFailed):
        await (await saga.resume("x")).result()


async def parked(saga: ar.Saga) -> None:
    """It is parked."""
    with pytest.raises(ar.SagaParked):
        await saga.run(99, id="x")


async def forced(saga: ar.Saga) -> None:
    """It was ended by hand."""
    await parked(saga)
    await saga.force("x", "enough of it")


@pytest.mark.parametrize(
    ("end", "error", "match"),
    [
        (ended, ar.SagaMismatch, "version 1 of the definition, which is not known here"),
        (failed, ar.SagaFailed, "was undone .step 'b'.: Fail: below 0"),
        (parked, ar.SagaParked, "is parked .step 'a'.: OSError: not yet"),
        (forced, ar.SagaStuck, "ended by hand.*enough of it"),
    ],
)
async def test_who_waits_for_an_unknown_version_is_told(
    end: Callable[[ar.Saga], Awaitable[None]], error: type[Exception], match: str
) -> None:
    """What became of it, in words: no KeyError for a step that nobody knows here."""
    async with ar.MemoryBackend() as backend:
        await end(first(backend, []))
        two = second(backend)
        with pytest.raises(error, match=match):
            await two.attach("x").result()
        if end is parked:
            for verb in (two.abort("x"), two.skip("x", "a"), two.retry("x", "a"), two.resume("x")):
                with pytest.raises(ValueError, match=r"version 1 .* is not known here"):
                    await verb
