"""The same results on every kind of loop, in every mode of the interpreter, on two loops and in two threads.

Run as a script this file writes the results of one run, for an interpreter with other options.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder, VirtualLoop, run_virtual


async def never() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def ending(awaitable: Awaitable[object]) -> str:
    """What it returns, or the type of what it raises, as text."""
    try:
        return repr(await awaitable)
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error).__name__


class Flaky:
    """Fails the first calls, then answers; may wait for its turn before."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls <= self.failures:
            raise OSError(f"call {self.calls}")
        return self.calls


# Nothing here sleeps: what waits, waits for a future, for its turn, or for a limit that must come.


async def of_timeout() -> list[str]:
    """In time, too late, an error of the call, under a deadline that is nearer, and one that has passed."""
    limit = ar.Timeout(1e-3, name="limit")
    results = [await ending(limit.call(never)), await ending(ar.Timeout(60.0).call(Flaky(0)))]
    results.append(await ending(ar.Timeout(60.0).call(Flaky(1))))
    with ar.deadline(0):
        inherited = asyncio.create_task(ending(ar.Timeout(60.0).call(never)))
    results.append(await inherited)

    async def under_deadline() -> None:
        with ar.deadline(1e-3):
            await ar.Timeout(60.0).call(never)

    results.append(await ending(under_deadline()))
    task = asyncio.current_task()
    return [*results, repr(limit), str(ar.time_remaining()), str(task and task.cancelling())]


async def of_bulkhead() -> list[str]:
    """Two inside, two in the queue of whom one is cancelled, one refused, and one whose patience ends."""
    bulkhead = ar.Bulkhead(2, max_waiting=2)
    gate = asyncio.Event()
    tasks: list[asyncio.Task[str]] = []
    for _ in range(5):
        tasks.append(asyncio.create_task(ending(bulkhead.call(gate.wait))))
        await asyncio.sleep(0)
    seen = [repr(bulkhead)]
    tasks[2].cancel()
    gate.set()
    seen += [await task for task in tasks]
    impatient = ar.Bulkhead(1, max_waiting=1, max_wait=1e-3)
    async with impatient:
        seen.append(await ending(impatient.call(never)))
    return [*seen, repr(bulkhead), repr(impatient)]


async def of_hedge() -> list[str]:
    """The second of two calls wins, the first one is cancelled; all fail; a result is disposed of."""
    events: list[str] = []

    async def call() -> str:
        events.append("call")
        if events.count("call") > 1:
            return "second"
        try:
            await never()
        finally:
            events.append("cancelled")
        return "never"

    async def stubborn() -> str:
        events.append("stubborn")
        if events.count("stubborn") > 1:
            return "second"
        try:
            await never()
        except asyncio.CancelledError:
            return "late"
        return "never"

    results = [await ending(ar.Hedge(delay=0).call(call))]
    results.append(await ending(ar.Hedge(delay=0, dispose=events.append).call(stubborn)))
    results.append(await ending(ar.Hedge(delay=60.0).call(Flaky(1))))
    return [*results, *events]


async def of_all() -> list[str]:
    """A pipeline of everything: an answer at the third attempt, an open circuit, a fallback, a cancel."""
    recorder = Recorder()
    breaker = ar.CircuitBreaker("b", failure_threshold=3)
    pipeline = ar.Pipeline.standard(
        fallback=ar.Fallback(lambda error: f"instead of {type(error).__name__}"),
        bulkhead=ar.Bulkhead(1),
        deadline=ar.Timeout(3600.0),
        retry=ar.Retry(on=OSError, backoff=ar.Backoff.constant(0), budget=ar.RetryBudget()),
        hedge=ar.Hedge(delay=3600.0),
        breaker=breaker,
        attempt_timeout=ar.Timeout(60.0),
    )
    pipeline.listen(recorder)
    results = [await ending(pipeline.call(Flaky(failures))) for failures in (0, 1, 2, 3, 0)]
    await breaker.reset()
    waiting = asyncio.create_task(pipeline.call(never))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    results.append(await ending(waiting))
    return [*results, *(type(event).__name__ for event in recorder.events)]


SCENES: list[Callable[[], Coroutine[Any, Any, list[str]]]] = [of_timeout, of_bulkhead, of_hedge, of_all]
EXPECTED = {
    "of_timeout": [
        "TimedOut", "1", "OSError", "DeadlineExceeded", "DeadlineExceeded",
        "<Timeout 'limit' 0.001 s, 0 timed now>", "None", "0",
    ],
    "of_bulkhead": [
        "<Bulkhead 'Bulkhead' 2/2 running, 2/2 waiting>",
        "True", "True", "CancelledError", "True", "BulkheadFull", "BulkheadFull",
        "<Bulkhead 'Bulkhead' 0/2 running, 0/2 waiting>", "<Bulkhead 'Bulkhead' 0/1 running, 0/1 waiting>",
    ],
    "of_hedge": [
        "'second'", "'second'", "OSError",
        "call", "call", "cancelled", "stubborn", "stubborn", "late",
    ],
    "of_all": [
        "1", "2", "3", "'instead of OSError'", "'instead of CircuitOpen'", "CancelledError",
        "RetryScheduled", "RetryScheduled", "RetryScheduled", "RetryScheduled", "RetryScheduled",
        "BreakerChanged", "RetryGaveUp", "FallbackUsed", "CallRejected", "FallbackUsed", "BreakerChanged",
    ],
}  # fmt: skip


def results() -> dict[str, list[str]]:
    """All scenes, on the loop that asyncio makes."""
    return {scene.__name__: asyncio.run(scene()) for scene in SCENES}


def uvloop_or_skip() -> asyncio.AbstractEventLoop:
    """A uvloop, loudly skipped where it cannot be had."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed: its runs are NOT made")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def eager_or_skip() -> asyncio.AbstractEventLoop:
    """A loop whose tasks begin at once, loudly skipped where Python has none."""
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks need Python 3.12: their runs are NOT made")
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize(
    "make",
    [
        asyncio.SelectorEventLoop,
        uvloop_or_skip,
        eager_or_skip,
        VirtualLoop,
        *(partial(VirtualLoop, seed) for seed in (1, 2)),
    ],
    ids=["asyncio", "uvloop", "eager", "virtual", "virtual-1", "virtual-2"],
)
def test_v14_every_loop_gives_the_same_results(
    make: Callable[[], asyncio.AbstractEventLoop], debug: bool
) -> None:
    """asyncio's loop, uvloop and the virtual loop in any order, debugged or not, do the same."""
    for scene in SCENES:
        with asyncio.Runner(loop_factory=make, debug=debug) as runner:
            assert runner.run(scene()) == EXPECTED[scene.__name__]


def test_v14_another_interpreter_gives_the_same_results() -> None:
    """`python -O` with a random PYTHONHASHSEED does the same as this interpreter, events included."""
    run = subprocess.run(
        [sys.executable, "-P", "-O", __file__],
        env={**os.environ, "PYTHONHASHSEED": "random"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (json.loads(run.stdout or "null"), run.stderr) == (EXPECTED, "")


# One object, several loops


def test_one_object_serves_one_loop_after_the_other() -> None:
    """Policies made at import time work on a loop, and on the next one, whatever the first left behind."""
    limit = ar.Timeout(5.0)
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=2.0)
    call = ar.Pipeline(bulkhead, limit).wrap(never)

    async def main() -> list[str]:
        asyncio.get_running_loop().create_task(call())  # still inside when the loop ends
        queued = asyncio.get_running_loop().create_task(ending(call()))
        waited = await queued
        return [waited, str(asyncio.get_running_loop().time()), repr(bulkhead)]

    expected = ["BulkheadFull", "2.0", "<Bulkhead 'Bulkhead' 1/1 running, 0/1 waiting>"]
    for _ in range(3):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(main()) == expected
        assert (bulkhead.running, repr(limit)) == (0, "<Timeout 'Timeout' 5 s, 0 timed now>")


def test_one_timeout_serves_two_threads_at_once() -> None:
    """Calls of two loops that are inside one Timeout at the same time end as they should, each on its own."""
    limit = ar.Timeout(60.0)
    soon = ar.Timeout(2e-3)
    loops: dict[int, asyncio.AbstractEventLoop] = {}
    met: dict[int, asyncio.Event] = {}
    results: dict[int, list[str]] = {}
    ready = threading.Barrier(2)

    async def meet(me: int) -> str:
        """Wait, inside, until the other one is inside too; then end."""
        other = 1 - me
        loops[other].call_soon_threadsafe(met[other].set)
        await met[me].wait()
        return f"met {me}"

    async def main(me: int) -> None:
        met[me] = asyncio.Event()
        loops[me] = asyncio.get_running_loop()
        await asyncio.to_thread(ready.wait)
        calls = [
            limit.call(meet, me),
            *(soon.call(never) for _ in range(20)),
            limit.call(asyncio.sleep, 0, 1),
        ]
        results[me] = [await task for task in [asyncio.create_task(ending(call)) for call in calls]]
        task = asyncio.current_task()
        results[me].append(f"{task and task.cancelling()}")

    threads = [threading.Thread(target=lambda me=me: asyncio.run(main(me))) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert results == {me: [f"'met {me}'", *["TimedOut"] * 20, "1", "0"] for me in (0, 1)}


def test_a_thread_never_takes_the_task_of_another_thread() -> None:
    """While one loop runs a task, a call in another thread is timed by its own loop, and its own clock."""
    limit = ar.Timeout(5.0)
    seen: list[float | None] = []

    async def left() -> None:
        seen.append(ar.time_remaining())

    async def main() -> None:
        await asyncio.sleep(1000.0)
        await limit.call(left)
        other = threading.Thread(target=run_virtual, args=(limit.call(left),))
        other.start()  # while this task is the running one of its loop
        other.join(50)
        await limit.call(left)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert seen == [5.0, 5.0, 5.0]


if __name__ == "__main__":
    json.dump(results(), sys.stdout)
