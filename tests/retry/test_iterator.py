"""The iterator form: `async for attempt in retry: async with attempt: …`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


RETRY = ar.Retry(on=ConnectionError, attempts=3, backoff=ar.Backoff.constant(1))
"""Shared by the tests, as one at the top of a module is by its functions: there is no state on it."""


async def test_attempts_until_one_succeeds() -> None:
    """Each turn is an attempt; an error that is retried ends the block, not the loop."""
    seen: list[tuple[int, float, float]] = []
    async for attempt in RETRY:
        async with attempt:
            seen.append((attempt.number, attempt.elapsed, now()))
            await asyncio.sleep(0.5)
            if attempt.number < 3:
                raise ConnectionError
            seen.append((attempt.number, attempt.elapsed, now()))
    assert seen == [(1, 0.0, 0.0), (2, 1.5, 1.5), (3, 3.0, 3.0), (3, 3.5, 3.5)]


async def test_one_success_is_one_turn() -> None:
    """A loop whose first attempt succeeds turns once."""
    turns = 0
    async for attempt in RETRY:
        turns += 1
        async with attempt:
            pass
    assert turns == 1


async def test_the_last_error_leaves_the_loop() -> None:
    """It comes out of the block in which it was raised."""
    turns = 0

    async def loop() -> None:
        nonlocal turns
        async for attempt in RETRY:
            turns += 1
            async with attempt:
                raise ConnectionError(f"turn {turns}")

    with pytest.raises(ConnectionError, match="turn 3") as caught:
        await loop()
    assert (turns, now()) == (3, 2.0)
    assert [a.number for a in ar.retry_history(caught.value)] == [1, 2, 3]


async def test_every_loop_has_fresh_state() -> None:
    """A second loop over the same policy starts at 1 (tenacity: `async for attempt in SHARED` mixes state)."""
    numbers: list[int] = []

    async def loop() -> None:
        async for attempt in RETRY:
            async with attempt:
                numbers.append(attempt.number)
                raise ConnectionError

    for _ in range(3):
        numbers.clear()
        with pytest.raises(ConnectionError):
            await loop()
        assert numbers == [1, 2, 3]


async def test_a_loop_inside_a_loop_over_the_same_policy() -> None:
    """Nested over one object they count apart, too."""
    both = ar.Retry(on=ConnectionError, attempts=2, backoff=ar.Backoff.constant(1), nested="both")
    numbers: list[tuple[int, int]] = []

    async def loop() -> None:
        async for outer in both:
            async with outer:
                async for inner in both:
                    async with inner:
                        numbers.append((outer.number, inner.number))
                        raise ConnectionError

    with pytest.raises(ConnectionError):
        await loop()
    assert numbers == [(1, 1), (1, 2), (2, 1), (2, 2)]


async def test_shared_by_many_tasks_at_once() -> None:
    """Tasks in a loop over one policy do not see each other's attempts or errors."""

    async def work(failures: int) -> tuple[list[int], str]:
        numbers: list[int] = []
        try:
            async for attempt in RETRY:
                async with attempt:
                    numbers.append(attempt.number)
                    await asyncio.sleep(0.1 * failures)
                    if attempt.number <= failures:
                        raise ConnectionError(f"of {failures}")
        except ConnectionError as error:
            return numbers, str(error)
        return numbers, "ok"

    done = await asyncio.gather(*(work(failures) for failures in [0, 1, 2, 3, 4] * 4))
    assert (
        done
        == [
            ([1], "ok"),
            ([1, 2], "ok"),
            ([1, 2, 3], "ok"),
            ([1, 2, 3], "of 3"),
            ([1, 2, 3], "of 4"),
        ]
        * 4
    )


async def test_breaking_out_of_a_block() -> None:
    """`break` in a block that has not failed ends the loop as a success does."""
    recorder = Recorder()
    retry = ar.Retry(on=ConnectionError, deadline=60, listeners=[recorder])
    async for attempt in retry:
        async with attempt:
            break
    assert recorder.events == []
    assert ar.time_remaining() is None


async def test_breaking_out_between_attempts() -> None:
    """`break` after a failed attempt gives up without an error and without the wait."""
    async for attempt in RETRY:
        async with attempt:
            raise ConnectionError
        break
    assert now() == 0.0


async def test_returning_and_continuing_in_a_block() -> None:
    """`return` and `continue` count as success, as they do for every context manager."""

    async def first() -> int:
        async for attempt in RETRY:
            async with attempt:
                return attempt.number
        return 0

    assert await first() == 1
    turns = 0
    async for attempt in RETRY:
        async with attempt:
            turns += 1
            continue
    assert turns == 1


async def test_code_after_the_block_runs_after_failures_as_well() -> None:
    """What stands in the loop, outside of the block, runs on every turn."""
    after: list[int] = []
    async for attempt in RETRY:
        async with attempt:
            if attempt.number < 3:
                raise ConnectionError
        after.append(attempt.number)
    assert after == [1, 2, 3]


async def test_an_error_outside_of_the_block_is_not_retried() -> None:
    """Only the block is repeated."""
    turns = 0

    async def loop() -> None:
        nonlocal turns
        async for attempt in RETRY:
            turns += 1
            async with attempt:
                pass
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await loop()
    assert turns == 1


async def test_an_attempt_that_is_not_entered() -> None:
    """A loop that forgets `async with` is an error at its second turn, not an endless loop."""
    turns = 0

    async def loop() -> None:
        nonlocal turns
        async for _ in RETRY:
            turns += 1

    with pytest.raises(RuntimeError, match="each attempt must be entered: async with attempt"):
        await loop()
    assert turns == 1


async def test_an_attempt_is_entered_once() -> None:
    """Entering one twice would be two calls for one attempt."""
    async for attempt in RETRY:
        async with attempt:
            pass
        with pytest.raises(RuntimeError, match="an attempt is entered once"):
            async with attempt:
                pytest.fail("it was entered again")


async def test_cancelled_in_a_block() -> None:
    """The cancel passes, the next attempt does not come."""
    turns = 0

    async def loop() -> None:
        nonlocal turns
        async for attempt in ar.Retry(on=Exception, deadline=60):
            async with attempt:
                turns += 1
                await asyncio.sleep(10)

    task = asyncio.create_task(loop())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert turns == 1


async def test_the_same_options_hold() -> None:
    """Attempts, budget, hints, refusals and groups are those of the other forms."""
    turns: list[float] = []

    async def loop() -> None:
        async for attempt in ar.Retry(on=(ar.Rejected, ConnectionError), attempts=2):
            async with attempt:
                turns.append(now())
                if attempt.number == 1:
                    raise ExceptionGroup("", [ar.Rejected(retry_after=5), ConnectionError()])
                raise ar.Rejected

    with pytest.raises(ar.Rejected):
        await loop()
    assert turns == [0, 5]


async def test_elapsed_is_nothing_before_the_first_attempt() -> None:
    """The time of a loop counts from its first attempt, not from when it was made."""
    iterator = aiter(RETRY)
    await asyncio.sleep(5)
    attempt: Any = await anext(iterator)
    assert attempt.elapsed == 0.0
    await asyncio.sleep(2)
    assert attempt.elapsed == 2.0


async def test_an_iterator_that_has_ended_stays_ended() -> None:
    """Asking it again gives nothing new."""
    iterator = aiter(RETRY)
    async for attempt in iterator:
        async with attempt:
            pass
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


def test_it_needs_a_running_loop() -> None:
    """Outside of one the error says so."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        aiter(RETRY)
