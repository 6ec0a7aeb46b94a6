"""A loop that ends with calls alive: nothing is said, nothing is held, the next loop finds all as new."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

import aresilience as ar
from aresilience.testing import VirtualLoop


async def forever() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def fail() -> NoReturn:
    """Fail at once."""
    raise OSError


async def stubborn() -> NoReturn:
    """Ignore the first cancel."""
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()


Scene = Callable[[], tuple[list[Callable[[], Awaitable[object]]], Callable[[], object]]]
"""Calls to leave alive, and what shows that nothing is held after them."""


def timeouts() -> Any:
    """Inside a Timeout, inside two, under a nearer deadline."""
    limit = ar.Timeout(60.0)

    async def under_deadline() -> None:
        with ar.deadline(30.0):
            await limit.call(forever)

    calls = [limit.wrap(forever), limit.wrap(limit.wrap(forever)), under_deadline]
    return calls, lambda: repr(limit).endswith(" 0 timed now>")


def bulkheads() -> Any:
    """Inside, and in the queue with and without an end of patience, by call and by block."""
    patient, impatient = ar.Bulkhead(1, max_waiting=2), ar.Bulkhead(1, max_waiting=2, max_wait=60.0)

    async def block() -> None:
        async with patient:
            await forever()

    calls = [*[patient.wrap(forever)] * 2, block, *[impatient.wrap(forever)] * 3]
    return calls, lambda: {patient.running, patient.waiting, impatient.running, impatient.waiting} == {0}


def hedges() -> Any:
    """With one call on its way, with two, and while a loser that ignores its cancel is awaited."""
    plan = iter([stubborn, lambda: asyncio.sleep(0)])
    calls = [
        ar.Hedge(delay=60.0).wrap(forever),
        ar.Hedge(delay=0, max_hedges=2).wrap(forever),
        lambda: ar.Hedge(delay=0).call(lambda: next(plan)()),
    ]
    return calls, lambda: True


def retries() -> Any:
    """In an attempt and in a wait, with a deadline and without."""
    plain, limited = ar.Retry(on=OSError), ar.Retry(on=OSError, deadline=60.0, budget=ar.RetryBudget())
    calls = [retry.wrap(fn) for retry in (plain, limited) for fn in (forever, fail)]
    return calls, lambda: True


def breakers() -> Any:
    """In a call of a closed circuit, and in a probe of a half-open one."""
    closed = ar.CircuitBreaker()
    probed = ar.CircuitBreaker(failure_threshold=1, recovery_timeout=1e-9)

    async def probe() -> None:
        with pytest.raises(OSError):
            await probed.call(fail)
        await asyncio.sleep(1e-9)
        await probed.call(forever)

    return [closed.wrap(forever), probe], lambda: probed.snapshot().probes == 0


def pipelines() -> Any:
    """In everything at once, and in a fallback."""
    bulkhead = ar.Bulkhead(2)
    pipeline = ar.Pipeline(
        ar.Fallback(lambda error: forever(), on=OSError),
        bulkhead,
        ar.Timeout(60.0),
        ar.Retry(on=KeyError, deadline=50.0),
        ar.CircuitBreaker(),
        ar.Timeout(5.0),
    )
    return [pipeline.wrap(forever), pipeline.wrap(fail)], lambda: bulkhead.running == 0


SCENES = [timeouts, bulkheads, hedges, retries, breakers, pipelines]


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what is alive now need not be looked at again by each collection below
    yield
    gc.unfreeze()


@contextmanager
def noise(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What asyncio logs, and errors that nobody could be told, until all garbage is gone."""
    heard: list[str] = []
    gc.collect()
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda fact: heard.append(f"unraisable: {fact.exc_value!r}"),
    )
    try:
        with caplog.at_level(logging.WARNING, "asyncio"):
            yield heard
            gc.collect()
    finally:
        sys.unraisablehook = hook
    heard += [record.message.splitlines()[0] for record in caplog.records]


async def start(calls: list[Callable[[], Awaitable[object]]]) -> None:
    """Start them, and let them get to where they wait."""
    alive = [asyncio.ensure_future(call()) for call in calls]
    await asyncio.sleep(1e-3)
    assert not any(task.done() for task in alive)


@pytest.mark.parametrize("scene", SCENES)
def test_v11_a_loop_that_ends_with_tasks_alive_is_silent(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Loop stopped with tasks alive: `asyncio.run` cancels them, and there is no noise."""
    calls, is_free = scene()

    async def main() -> None:
        await start(calls)
        raise KeyError("main ends early")

    with noise(caplog) as heard:
        with pytest.raises(KeyError), asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
        assert is_free()
    assert heard == []


@pytest.mark.parametrize("scene", SCENES)
def test_v11_a_loop_that_is_just_closed_adds_no_errors(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody cancels the tasks asyncio says that they were destroyed; no error of ours is added.

    A Timeout holds the calls of the closed loop until its next use.
    """
    calls, is_free = scene()
    with noise(caplog) as heard:
        loop = VirtualLoop()
        loop.run_until_complete(start(calls))
        loop.close()
        del loop
        asyncio.run(use_again(calls))
    assert set(heard) == {"Task was destroyed but it is pending!"}
    assert is_free()
    assert ar.time_remaining() is None


async def use_again(calls: list[Callable[[], Awaitable[object]]]) -> None:
    """Use the same policies on another loop, and end properly."""
    alive = [asyncio.ensure_future(call()) for call in calls]
    await asyncio.sleep(0)
    for task in alive:
        task.cancel()
    await asyncio.wait(alive)


async def test_a_coroutine_that_is_closed_by_hand_gives_everything_back() -> None:
    """Closed instead of awaited, in the same context, a call leaves no limit, permit, probe or task behind."""
    bulkhead = ar.Bulkhead(1)
    pipeline = ar.Pipeline(bulkhead, ar.Timeout(60.0), ar.CircuitBreaker(), ar.Hedge(delay=60.0))
    call = pipeline.call(forever)
    call.send(None)
    assert (bulkhead.running, ar.time_remaining()) == (1, 60.0)
    call.close()
    assert (bulkhead.running, ar.time_remaining()) == (0, None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
