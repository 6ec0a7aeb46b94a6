"""Errors of a kind that nobody expects: each is an ordinary failure, none goes round for ever."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

import aresilience as ar
from aresilience.saga.conductor import Conductor


class Odd(BaseException):
    """Somebody's own, and no Exception."""


class Mute(Exception):
    """It cannot say what it is."""

    def __str__(self) -> str:
        """Raises."""
        raise TypeError


def cancelled() -> BaseException:
    """As of a task that the step awaited, and that somebody else cancelled."""
    return asyncio.CancelledError()


@pytest.mark.parametrize("make", [Odd, Mute, cancelled])
async def test_an_odd_error_of_a_step_is_an_unknown_outcome(make: type[BaseException]) -> None:
    """It is tried as often as after any error, and then undone; by one owner, without being taken over."""
    effects: list[str] = []
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend)

        @saga.step
        async def act(ctx: ar.SagaContext[int]) -> int:
            effects.append("act")
            raise make()

        @act.compensate
        async def undo(ctx: ar.SagaContext[int], result: int | None) -> None:
            effects.append("undo")
            if effects.count("undo") < 3:
                raise make()

        async with saga.worker():
            with pytest.raises(ar.SagaFailed):
                await saga.run(1, id="x")
        record = await saga.get("x")
    assert effects == ["act"] * 3 + ["undo"] * 3
    assert record is not None
    assert record.recoveries == 0


class Broken:
    """A codec that reads nothing."""

    name = "broken"
    version = 1

    def encode(self, value: int) -> bytes:
        """One byte."""
        return b"%d" % value

    def decode(self, data: bytes) -> int:
        """Not what a codec should raise."""
        if data == b"1":
            raise KeyError("gone")
        return int(data)


async def test_a_codec_that_raises_anything_does_not_end_the_worker() -> None:
    """The one that cannot be read is parked, with the reason; the next is taken over as if nothing was."""
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend, codec=Broken(), max_recoveries=1)

        @saga.step
        async def act(ctx: ar.SagaContext[int]) -> int:
            await asyncio.sleep(10)
            return 5

        for number in (1, 2):
            await saga.start(number, id=str(number))
        await asyncio.sleep(1)
        for run in list(saga.running.values()):
            run.stop()
        await asyncio.sleep(1)
        async with saga.worker():
            assert (await saga.attach("2").result()).last == 5
            with pytest.raises(ar.SagaParked, match="cannot be read by broken/1: KeyError"):
                await saga.attach("1").result()


async def test_one_that_cannot_be_taken_over_does_not_end_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with one, it is logged, and the others are taken over."""
    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend, lease=9.0)

        @saga.step
        async def act(ctx: ar.SagaContext[int]) -> int:
            await asyncio.sleep(10)
            return 5

        for id_ in "ab":
            await saga.start(1, id=id_)
        await asyncio.sleep(1)
        for run in list(saga.running.values()):
            run.stop()
        await asyncio.sleep(1)
        claimed = saga.claimed

        async def broken(id: str) -> object:
            if id == "a" and not caplog.records:
                raise RuntimeError("broken")
            return await claimed(id)

        monkeypatch.setattr(saga, "claimed", broken)
        async with saga.worker() as worker:
            await asyncio.sleep(60)
            assert worker.taken == 2
    assert "one could not be taken over" in caplog.text


async def test_an_error_of_our_own_is_counted_and_does_not_come_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails while it is run is not handed over: it waits for its lease, and is parked in the end."""
    times: list[float] = []

    def broken(self: Conductor) -> None:
        times.append(asyncio.get_running_loop().time())
        raise RuntimeError("broken")

    async with ar.MemoryBackend() as backend:
        saga = ar.Saga("s", backend=backend, lease=9.0, max_recoveries=2)

        @saga.step
        async def act(ctx: ar.SagaContext[int]) -> int:
            return 1

        monkeypatch.setattr(Conductor, "_collect", broken)
        async with saga.worker():
            with pytest.raises(ar.SagaInterrupted, match="RuntimeError: broken"):
                await saga.run(1, id="x")
            await asyncio.sleep(100)
        record = await saga.get("x")
    assert record is not None
    assert record.state is ar.SagaState.PARKED
    assert len(times) == 3
    assert min(b - a for a, b in pairwise(times)) >= 8
