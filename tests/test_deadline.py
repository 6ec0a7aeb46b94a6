"""The ambient deadline: it only shortens, child tasks inherit it, and policies keep to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import NoReturn

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.deadline import Expiry
from aresilience.testing import Recorder, run_virtual

EPSILON = 1e-6


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def forever() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def ending(awaitable: Awaitable[object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error)


async def within(limit: ar.deadline, takes: float | None) -> str:
    """Sleep under a deadline; None is for ever."""
    with limit:
        await (forever() if takes is None else asyncio.sleep(takes))
    return "done"


# The limit


@pytest.mark.parametrize(
    ("seconds", "takes", "expected", "at"),
    [
        (5.0, 5.0 - EPSILON, "done", 5.0 - EPSILON),
        (5.0, 5.0, ar.DeadlineExceeded, 5.0),
        (5.0, 5.0 + EPSILON, ar.DeadlineExceeded, 5.0),
        (timedelta(minutes=1), None, ar.DeadlineExceeded, 60.0),
        (0, 1.0, ar.DeadlineExceeded, 0.0),
        (None, 3600.0, "done", 3600.0),
    ],
)
async def test_the_body_is_cut_off_exactly_at_the_deadline(
    seconds: float | timedelta | None, takes: float | None, expected: object, at: float
) -> None:
    """The body has less than `seconds`; 0 is none at all, None sets no limit."""
    limit = ar.deadline(seconds)
    assert await ending(within(limit, takes)) == expected
    assert now() == at
    assert limit.expired == (expected is ar.DeadlineExceeded)
    assert ar.time_remaining() is None


async def test_without_time_a_body_may_still_do_what_needs_none() -> None:
    """Under a deadline of 0 a body that never waits runs through."""
    with ar.deadline(0) as limit:
        total = sum(range(10))
    assert (total, limit.expired) == (45, False)


async def test_the_error_says_what_passed() -> None:
    """`DeadlineExceeded` is a `TimedOut` and a `TimeoutError`, and says which limit was set."""
    with pytest.raises(
        TimeoutError, match=r"the deadline \(1\.5 s, or an earlier one around it\)"
    ) as caught:
        await within(ar.deadline(1.5), None)
    assert isinstance(caught.value, ar.TimedOut)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("seconds", [1.0, None])
async def test_a_deadline_is_entered_once(seconds: float | None) -> None:
    """The same object is refused a second time, inside its own body and after it, limit or none."""
    limit = ar.deadline(seconds)
    with limit:
        with pytest.raises(RuntimeError, match=r"entered once: write a new deadline"), limit:
            raise AssertionError
        assert ar.time_remaining() == seconds
    with pytest.raises(RuntimeError, match="entered once"), limit:
        raise AssertionError
    assert ar.time_remaining() is None


def test_outside_of_a_loop_there_is_no_clock() -> None:
    """Without a running loop a deadline is refused, and nothing remains set."""
    with pytest.raises(RuntimeError, match="no running event loop"), ar.deadline(1.0):
        raise AssertionError
    assert ar.time_remaining() is None


async def test_an_error_of_the_body_passes_as_it_is() -> None:
    """The body's own TimeoutError, and its error while it cleans up after the expiry, stay themselves."""
    inner = TimeoutError("the socket's")
    with pytest.raises(TimeoutError) as caught, ar.deadline(1.0):
        raise inner
    assert caught.value is inner

    async def clean_up() -> None:
        with ar.deadline(1.0):
            try:
                await forever()
            finally:
                raise ValueError("clean-up")

    assert await ending(clean_up()) is ValueError
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_at_the_moment_of_the_deadline_wins(cancel_first: bool) -> None:
    """When both come in the same turn, in either order, the cancel is not lost."""
    loop = asyncio.get_running_loop()

    async def work() -> None:
        with ar.deadline(1.0):
            if not cancel_first:
                loop.call_at(1.0, task.cancel)
            await forever()

    task = asyncio.create_task(work())
    if cancel_first:
        loop.call_at(1.0, task.cancel)
    await asyncio.wait([task])
    assert (task.cancelled(), task.cancelling(), now()) == (True, 1, 1.0)


# Deadlines in deadlines


@given(
    limits=st.lists(st.sampled_from([None, 0.0, 1.0, 1.0 + EPSILON, 2.0]), min_size=1, max_size=4),
    takes=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    seed=st.none() | st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_deadline_in_a_deadline_only_shortens(
    limits: list[float | None], takes: float, seed: int | None
) -> None:
    """However deadlines are nested, the shortest one holds from where it begins."""

    async def main() -> tuple[object, float, list[float | None]]:
        seen: list[float | None] = []

        async def nested(rest: list[float | None]) -> str:
            if not rest:
                return await within(ar.deadline(None), takes)
            with ar.deadline(rest[0]):
                seen.append(ar.time_remaining())
                return await nested(rest[1:])

        return await ending(nested(limits)), now(), seen

    def shortest(known: list[float | None]) -> float | None:
        return min((limit for limit in known if limit is not None), default=None)

    least = shortest(limits)
    expected = (ar.DeadlineExceeded, least) if least is not None and least <= takes else ("done", takes)
    remaining = [shortest(limits[: k + 1]) for k in range(len(limits))]
    assert run_virtual(main(), seed=seed) == (*expected, remaining)


async def test_an_expiry_leaves_an_earlier_deadline_as_it_is() -> None:
    """What limits a body to a moment after the ambient deadline does not move that deadline."""
    with ar.deadline(1.0):
        with Expiry(5.0, lambda: ar.TimedOut("late")):
            assert ar.time_remaining() == 1.0
        with Expiry(0.5, lambda: ar.TimedOut("late")):
            assert ar.time_remaining() == 0.5
        assert ar.time_remaining() == 1.0


async def test_what_remains_runs_down_to_zero() -> None:
    """`time_remaining` counts down, is 0 while the body cleans up, and None where there is no deadline."""
    seen: list[float | None] = [ar.time_remaining()]

    async def body() -> None:
        with ar.deadline(5.0):
            seen.append(ar.time_remaining())
            await asyncio.sleep(2.0)
            seen.append(ar.time_remaining())
            try:
                await forever()
            finally:
                await asyncio.sleep(1.0)
                seen.append(ar.time_remaining())

    assert await ending(body()) is ar.DeadlineExceeded
    assert [*seen, ar.time_remaining()] == [None, 5.0, 3.0, 0.0, None]


async def test_a_child_task_inherits_the_deadline_but_is_not_cancelled_by_it() -> None:
    """A child's own limits shrink to the parent's deadline; the cancel goes to the parent's task alone."""

    async def child() -> list[object]:
        first = await ending(within(ar.deadline(60.0), None))
        return [first, now(), await ending(within(ar.deadline(None), None)), now()]

    async def grandchild() -> object:
        await asyncio.sleep(3.0)
        return ar.time_remaining()

    async def parent() -> None:
        with ar.deadline(5.0):
            tasks.append(asyncio.create_task(child()))
            tasks.append(asyncio.create_task(grandchild()))
            await forever()

    tasks: list[asyncio.Task[object]] = []
    assert await ending(parent()) is ar.DeadlineExceeded
    assert now() == 5.0
    assert await tasks[0] == [ar.DeadlineExceeded, 5.0, ar.DeadlineExceeded, 5.0]
    assert await tasks[1] == 2.0


# Beside the limits of others


@pytest.mark.parametrize(
    ("layers", "expected", "at"),
    [
        ("ours 1, asyncio 2", ar.DeadlineExceeded, 1.0),
        ("ours 2, asyncio 1", TimeoutError, 1.0),
        ("asyncio 1, ours 2", TimeoutError, 1.0),
        ("asyncio 2, ours 1", ar.DeadlineExceeded, 1.0),
        ("asyncio 1, ours 1", TimeoutError, 1.0),
        ("ours 1, asyncio 1", ar.DeadlineExceeded, 1.0),
        ("anyio 1, ours 2", TimeoutError, 1.0),
        ("anyio 2, ours 1", ar.DeadlineExceeded, 1.0),
        ("ours 1, anyio 2", ar.DeadlineExceeded, 1.0),
        ("ours 2, anyio 1", TimeoutError, 1.0),
        ("ours 1, anyio 1", ar.DeadlineExceeded, 1.0),
        ("anyio 1, ours 1", TimeoutError, 1.0),
        ("asyncio 3, ours 2, anyio 1, asyncio 4", TimeoutError, 1.0),
        ("anyio 3, ours 1, anyio 2, ours 4", ar.DeadlineExceeded, 1.0),
    ],
)
async def test_it_nests_with_the_limits_of_asyncio_and_anyio(
    layers: str, expected: object, at: float
) -> None:
    """The nearest limit speaks, of several at once the outermost, and no cancel is left over."""

    async def body() -> str:
        async with AsyncExitStack() as stack:
            for layer in layers.split(", "):
                kind, seconds = layer.split()
                if kind == "ours":
                    stack.enter_context(ar.deadline(float(seconds)))
                elif kind == "asyncio":
                    await stack.enter_async_context(asyncio.timeout(float(seconds)))
                else:
                    stack.enter_context(anyio.fail_after(float(seconds)))
            await forever()
        raise AssertionError

    assert await ending(body()) is expected
    assert now() == at
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    await asyncio.sleep(5.0)


async def test_an_anyio_scope_that_is_cancelled_ends_the_body_quietly() -> None:
    """A cancelled anyio scope around a deadline is left as anyio has it: no error, no expiry."""
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_at(1.0, scope.cancel)
        with ar.deadline(2.0) as limit:
            await forever()
    assert (scope.cancelled_caught, limit.expired, now()) == (True, False, 1.0)


# Policies keep to it


@pytest.mark.parametrize(
    ("ambient", "own", "expected", "at"),
    [
        (2.0, 1.0, ar.TimedOut, 1.0),
        (1.0, 1.0, ar.TimedOut, 1.0),
        (1.0, 1.0 + EPSILON, ar.DeadlineExceeded, 1.0),
        (1.0, 2.0, ar.DeadlineExceeded, 1.0),
    ],
)
async def test_a_timeout_ends_at_the_nearer_of_its_limit_and_the_deadline(
    ambient: float, own: float, expected: object, at: float
) -> None:
    """In a child task, which the deadline itself does not cut off, a `Timeout` is min(own, ambient)."""
    recorder = Recorder()
    limit = ar.Timeout(own, name="own", listeners=[recorder])
    with ar.deadline(ambient):
        child = asyncio.create_task(ending(limit.call(forever)))
    assert await child is expected
    assert now() == at
    assert recorder.events == [ar.TimeoutExpired("own", at, at)]


async def test_a_call_is_not_made_when_the_deadline_has_passed() -> None:
    """Under a passed deadline `Timeout` refuses at once, and says that no time was left."""
    calls: list[float] = []
    recorder = Recorder()

    async def fetch() -> None:
        calls.append(now())

    async def child() -> object:
        await asyncio.sleep(3.0)
        return await ending(ar.Timeout(10.0, name="own", listeners=[recorder]).call(fetch))

    with ar.deadline(1.0):
        late = asyncio.create_task(child())
    assert await late is ar.DeadlineExceeded
    assert (calls, now()) == ([], 3.0)
    assert recorder.events == [ar.TimeoutExpired("own", 3.0, 0.0)]


async def test_for_what_runs_inside_a_timeout_is_the_deadline() -> None:
    """A `Timeout` sets the ambient deadline for its call, and takes it back after an answer and an error."""

    async def left(then: BaseException | None = None) -> float | None:
        await asyncio.sleep(0.25)
        if then is not None:
            raise then
        return ar.time_remaining()

    limit = ar.Timeout(1.0)
    assert await limit.call(left) == 0.75
    assert ar.time_remaining() is None
    assert await ending(limit.call(left, ValueError())) is ValueError
    assert ar.time_remaining() is None
    assert await ending(limit.call(forever)) is ar.TimedOut
    assert ar.time_remaining() is None


async def test_a_wait_for_a_permit_ends_at_the_deadline() -> None:
    """A child task's wait in a bulkhead is over when the inherited deadline is, with a refusal."""
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=60.0)
    async with bulkhead:
        with ar.deadline(2.0):
            child = asyncio.create_task(ending(bulkhead.call(forever)))
        assert await child is ar.BulkheadFull
    assert (now(), bulkhead.running, bulkhead.waiting) == (2.0, 0, 0)


async def test_disposal_has_time_of_its_own_when_the_deadline_has_passed() -> None:
    """What is given up because time ran out is disposed of with the five seconds that disposal has."""
    left: list[float | None] = []

    async def dispose(result: object) -> None:
        left.append(ar.time_remaining())
        await ar.Timeout(2.0).call(asyncio.sleep, 1.0)
        left.append(ar.time_remaining())

    async def late() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "too late"

    assert (
        await ending(ar.Timeout(1.0).wrap(ar.Hedge(delay=60.0, dispose=dispose).wrap(late))())
        is ar.TimedOut
    )
    assert (left, now()) == ([5.0, 4.0], 2.0)
