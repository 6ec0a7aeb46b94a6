"""RetryBudget: what the first calls of a window pay for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.policy import Policy
from aresilience.testing import run_virtual

CALL, EXTRA, REFUSED = "call", "extra", "refused"


def replay(budget: ar.RetryBudget, *rows: tuple[float, str]) -> None:
    """Run rows of (time, what happens)."""
    for now, what in rows:
        if what == CALL:
            budget.deposit(now)
        else:
            assert budget.withdraw(now) is (what == EXTRA), f"at {now}, {budget!r}"


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(0, REFUSED)], id="nothing paid, nothing to spend"),
        pytest.param(
            [(0, CALL)] * 4 + [(0, REFUSED), (0, CALL), (0, EXTRA), (0, REFUSED)], id="one per five"
        ),
        pytest.param(
            [(0, CALL)] * 10 + [(9.99, EXTRA), (9.99, EXTRA), (9.99, REFUSED)], id="within the window"
        ),
        pytest.param([(0, CALL)] * 5 + [(10.99, EXTRA)], id="a tenth of the window more is remembered"),
        pytest.param([(0, CALL)] * 5 + [(11, REFUSED)], id="then it is forgotten"),
        pytest.param(
            [(0, CALL)] * 5 + [(0, EXTRA), (5, CALL), (11, CALL)] + [(11, CALL)] * 3 + [(11, EXTRA)],
            id="what was spent is forgotten with it",
        ),
        pytest.param(
            [(0, CALL)] * 5 + [(9, EXTRA)] + [(15, CALL)] * 5 + [(15, REFUSED), (20, EXTRA)],
            id="a late extra call outlives what paid for it",
        ),
        pytest.param(
            [(1e9, CALL)] * 5 + [(1e9, EXTRA), (1e9, REFUSED)], id="a clock that started anywhere"
        ),
    ],
)
def test_a_fifth_of_the_calls(rows: list[tuple[float, str]]) -> None:
    """With a ratio of 0.2 and no floor, five first calls pay for one more."""
    replay(ar.RetryBudget(ratio=0.2, floor=0, window=10), *rows)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(0, EXTRA)] * 4 + [(0, REFUSED)], id="floor x window at once"),
        pytest.param([(0, EXTRA)] * 4 + [(2.19, REFUSED), (2.2, EXTRA)], id="again after a window"),
        pytest.param([(0.19, EXTRA)] * 4 + [(2, REFUSED), (2.2, EXTRA)], id="not by the edge of a bucket"),
        pytest.param([(0, CALL)] * 2 + [(0, EXTRA)] * 5 + [(0, REFUSED)], id="calls pay on top"),
    ],
)
def test_the_floor_is_free(rows: list[tuple[float, str]]) -> None:
    """A client that hardly calls may still retry: here twice a second, over 2 s."""
    replay(ar.RetryBudget(ratio=0.5, floor=2, window=2), *rows)


def test_the_defaults_are_a_fifth_and_ten_a_second() -> None:
    """By default 100 extra calls in 10 s are free, and each first call pays for a fifth of one."""
    budget = ar.RetryBudget()
    for _ in range(10):
        budget.deposit(0)
    assert repr(budget) == "<RetryBudget 0 of 102 used by 10 calls>"
    assert [budget.withdraw(0) for _ in range(103)] == [True] * 102 + [False]
    assert repr(budget) == "<RetryBudget 102 of 102 used by 10 calls>"


def test_a_refusal_costs_nothing() -> None:
    """What was not granted does not count against later calls."""
    replay(ar.RetryBudget(ratio=1, floor=0), *[(0, REFUSED)] * 100, (0, CALL), (0, EXTRA))


def test_a_clock_that_goes_back_a_little_forgets_nothing() -> None:
    """Another loop's clock that is slightly behind counts as now."""
    rows = [(5, CALL), (5, CALL), (3, EXTRA), (5, EXTRA), (4, REFUSED), (3, CALL), (5, EXTRA), (5, REFUSED)]
    replay(ar.RetryBudget(ratio=1, floor=0), *rows)


def test_a_clock_of_another_world_starts_afresh() -> None:
    """A loop whose clock is far behind (a test's, say) is not held up by what the other has seen."""
    replay(ar.RetryBudget(ratio=1, floor=0), (1e6, CALL), (0, REFUSED), (0, CALL), (0, EXTRA))


boundary_steps = st.sampled_from([0.0, 0.5, 1.0, 1.5, 9.0, 9.5, 10.0, 10.5, 11.0, 30.0])


@settings(deadline=None)
@given(
    ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
    floor=st.sampled_from([0.1, 0.25, 1.0]),
    history=st.lists(st.tuples(boundary_steps, st.booleans()), max_size=60),
)
def test_no_window_has_more_extra_calls_than_were_paid_for(
    ratio: float, floor: float, history: list[tuple[float, bool]]
) -> None:
    """In every window extra ≤ ratio · calls + floor · window, and what the bound allows is granted."""
    window, tenth = 10.0, 1.0
    budget = ar.RetryBudget(ratio=ratio, floor=floor, window=window)
    now, calls, extras = 0.0, list[float](), list[float]()
    for step, is_call in history:
        now += step
        if is_call:
            calls.append(now)
            budget.deposit(now)
            continue
        granted = budget.withdraw(now)
        # Seen from any moment of the last tenth, so that the edges of buckets are no part of the model.
        least = sum(now - t < window for t in extras), sum(now - t < window + tenth for t in calls)
        most = sum(now - t < window + tenth for t in extras), sum(now - t <= window for t in calls)
        if granted:
            assert least[0] + 1 <= ratio * least[1] + floor * window
            extras.append(now)
        else:
            assert most[0] + 1 > ratio * most[1] + floor * window


@settings(deadline=None, max_examples=60)
@given(
    ratio=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
    attempts=st.integers(2, 6),
    gaps=st.lists(st.sampled_from([0.0, 0.1, 1.0, 5.0, 9.9, 10.0, 11.0, 40.0]), min_size=1, max_size=40),
    seed=st.integers(0, 3),
    policies=st.integers(1, 3),
)
def test_y4(ratio: float, attempts: int, gaps: list[float], seed: int, policies: int) -> None:
    """Retry budget: extra load at most the budget's ratio (20 % by default) under total outage."""

    async def main() -> tuple[int, int]:
        made = 0

        async def down() -> None:
            nonlocal made
            made += 1
            await asyncio.sleep(0.5)
            raise ConnectionError

        budget = ar.RetryBudget(ratio=ratio, floor=0)
        retries = [ar.Retry(on=ConnectionError, attempts=attempts, budget=budget) for _ in range(policies)]
        async with asyncio.TaskGroup() as group:
            for number, gap in enumerate(gaps):
                await asyncio.sleep(gap)
                group.create_task(failing(retries[number % policies], down))
        return len(gaps), made

    async def failing(retry: ar.Retry, down: Any) -> None:
        with pytest.raises(ConnectionError):
            await retry.call(down)

    first, made = run_virtual(main(), seed=seed)
    assert first <= made <= first + ratio * first


def test_y4_with_the_defaults() -> None:
    """Ratio 0.2 and 10 a second: 20 calls a second into a dead server are at most 33 (not 60)."""

    async def main() -> list[float]:
        made: list[float] = []

        async def down() -> None:
            made.append(asyncio.get_running_loop().time())
            raise ConnectionError

        async def one() -> None:
            with pytest.raises(ConnectionError):
                await retry.call(down)

        retry = ar.Retry(on=ConnectionError, budget=ar.RetryBudget())
        async with asyncio.TaskGroup() as group:
            for _ in range(60 * 20):
                await asyncio.sleep(0.05)
                group.create_task(one())
        return made

    made = run_virtual(main())
    calls = 44 * 20
    extra = sum(15 < t <= 59 for t in made) - calls
    bound = 4 * (11 * 20 * 0.2 + 100)  # four times what the budget looks back
    assert 0.9 * bound < extra <= bound < 2 * calls


async def down() -> None:
    """A call that always fails."""
    raise ConnectionError


@pytest.mark.parametrize(
    "retry_of",
    [
        lambda budget: ar.Retry(on=ConnectionError, attempts=5, budget=budget).call(down),
        lambda budget: in_a_loop(ar.Retry(on=ConnectionError, attempts=5, budget=budget)),
    ],
    ids=["call", "loop"],
)
async def test_each_call_deposits_once(retry_of: Any) -> None:
    """A first call deposits, its retries do not."""
    budget = ar.RetryBudget(ratio=1, floor=0)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await retry_of(budget)
    assert repr(budget) == "<RetryBudget 3 of 3 used by 3 calls>"


async def in_a_loop(retry: ar.Retry) -> None:
    """The same call in the iterator form."""
    async for attempt in retry:
        async with attempt:
            await down()


async def test_retries_stacked_on_one_budget_deposit_once() -> None:
    """Where retries on the way share a budget, the first call of the outermost is the one that pays."""
    budget = ar.RetryBudget(ratio=3, floor=0)
    inner = ar.Retry(on=ConnectionError, attempts=2, nested="both", budget=budget)
    outer = ar.Retry(on=ConnectionError, attempts=2, nested="both", budget=budget)
    with pytest.raises(ConnectionError):
        await outer.call(inner.wrap(down))
    assert repr(budget) == "<RetryBudget 3 of 3 used by 1 calls>"


async def test_a_retry_and_a_hedge_on_one_budget_deposit_once() -> None:
    """A hedged retry pays once per call, without being told (Finagle needs a WithdrawOnly view for that)."""
    budget = ar.RetryBudget(ratio=2, floor=0)
    made = 0

    async def slow() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(1)
        raise ConnectionError

    retry = ar.Retry(on=ConnectionError, attempts=9, budget=budget)
    pipeline = ar.Pipeline(retry, ar.Hedge(delay=0.5, budget=budget))
    with pytest.raises(ConnectionError):
        await pipeline.call(slow)
    assert repr(budget) == "<RetryBudget 2 of 2 used by 1 calls>"
    assert made == 3


async def test_tasks_that_outlive_an_attempt_pay_for_themselves() -> None:
    """What an attempt leaves running is no attempt any more once the call has ended."""
    budget = ar.RetryBudget(ratio=1, floor=0)
    retry = ar.Retry(on=ConnectionError, budget=budget)
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await asyncio.sleep(1)
        with pytest.raises(ConnectionError):
            await retry.call(down)

    @retry
    async def start() -> None:
        tasks.append(asyncio.create_task(later()))

    await start()
    await tasks[0]
    assert repr(budget) == "<RetryBudget 2 of 2 used by 2 calls>"


async def test_calls_after_each_other_leave_nothing_behind() -> None:
    """However many calls a task makes, each stands alone (a chain of them would end in a RecursionError)."""
    budget = ar.RetryBudget(ratio=1, floor=0)
    call = ar.Retry(on=ConnectionError, budget=budget).wrap(AsyncMock())
    for _ in range(1200):
        await call()
    assert repr(budget) == "<RetryBudget 0 of 1200 used by 1200 calls>"


@pytest.mark.parametrize(
    ("make", "deposits"),
    [
        (lambda budget: ar.Retry(on=ConnectionError, budget=budget), 1201),
        (lambda budget: ar.Hedge(delay=1.0, budget=budget), None),
    ],
    ids=["retry", "hedge"],
)
async def test_tasks_that_start_each_other_leave_nothing_behind(
    make: Callable[[ar.RetryBudget], Policy], deposits: int | None
) -> None:
    """Nor does a call that leaves the next one running, and so on.

    A hedged call is still at its end when the next begins, which is then a part of it and pays nothing.
    """
    budget = ar.RetryBudget(ratio=1, floor=0)
    done = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    @make(budget)
    async def step(left: int) -> None:
        if left:
            tasks[:] = [asyncio.create_task(step(left - 1))]
        else:  # somebody who has to ask all further out
            await ar.Retry(on=ConnectionError, budget=ar.RetryBudget()).call(AsyncMock())
            done.set()

    await step(1200)
    await done.wait()
    if deposits is not None:
        assert repr(budget) == f"<RetryBudget 0 of {deposits} used by {deposits} calls>"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": -0.1}, ValueError, "RetryBudget: ratio must be at least 0, got -0.1"),
        ({"floor": -1}, ValueError, "RetryBudget: floor must be at least 0, got -1.0"),
        ({"ratio": math.nan}, ValueError, "RetryBudget: ratio must be at least 0 and finite, got nan"),
        ({"floor": math.inf}, ValueError, "RetryBudget: floor must be at least 0 and finite, got inf"),
        (
            {"ratio": 0, "floor": 0},
            ValueError,
            "RetryBudget: ratio or floor must be greater than 0, got 0 for both",
        ),
        (
            {"window": 0},
            ValueError,
            "RetryBudget: window must be a number of seconds greater than 0, got 0",
        ),
        ({"ratio": "20%"}, TypeError, "RetryBudget: ratio must be at least 0, got '20%' (str)"),
        ({"ratio": True}, TypeError, "RetryBudget: ratio must be at least 0, got True (bool)"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A wrong value is refused when the budget is made, by name."""
    with pytest.raises(error) as caught:
        ar.RetryBudget(**options)
    assert str(caught.value) == message


def test_a_window_may_be_a_timedelta() -> None:
    """The window is seconds or a timedelta."""
    replay(ar.RetryBudget(floor=0, window=timedelta(minutes=1)), *[(0, CALL)] * 5, (59, EXTRA))
