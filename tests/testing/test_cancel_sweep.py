"""The cancel sweep: it covers every await in every way, and finds every planted fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from aresilience.testing import CancelSweepError, SweepReport, VirtualLoop, cancel_sweep


class Permits:
    """One permit, which a use takes and gives back."""

    def __init__(self) -> None:
        self.taken = 0
        self.log: list[str] = []

    def check(self) -> None:
        assert self.taken == 0, f"{self.taken} permits are still taken"


async def forever() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


# What it covers


async def three_awaits(permits: Permits) -> str:
    """Take the permit, wait in three ways, give it back."""
    permits.taken += 1
    try:
        await asyncio.sleep(0)  # for the next turn
        await asyncio.sleep(1.0)  # for a timer
        await asyncio.create_task(asyncio.sleep(1.0))  # for a task
        return "done"
    finally:
        permits.taken -= 1


def test_every_await_is_cut_in_every_way() -> None:
    """Three awaits are three points: each is cut pending, ready and twice, and there is the cut before all."""
    report = cancel_sweep(three_awaits, make=Permits, check=Permits.check)
    assert report == SweepReport(points=3, runs=1 + 3 * 3)


def test_the_cuts_are_where_they_say() -> None:
    """Each cut reaches its await: pending before its result is there, ready after, twice in the clean-up."""
    seen: list[tuple[str, bool]] = []

    def make() -> SimpleNamespace:
        return SimpleNamespace(future=asyncio.get_running_loop().create_future())

    async def use(state: SimpleNamespace) -> None:
        if not state.future.done():
            asyncio.get_running_loop().call_later(
                1.0, lambda: state.future.done() or state.future.set_result(None)
            )
        try:
            await asyncio.shield(state.future)
        except asyncio.CancelledError:
            seen.append(("cut", state.future.done()))
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                seen.append(("cut again", state.future.done()))
            raise

    assert cancel_sweep(use, make=make) == SweepReport(1, 4)
    assert seen == [("cut", False), ("cut", True), ("cut", False), ("cut again", False)]


def test_a_coroutine_without_awaits_has_no_points() -> None:
    """What never waits can be cancelled only before it begins."""

    async def use(state: None) -> int:
        return 1

    assert cancel_sweep(use, make=lambda: None) == SweepReport(0, 1)


def test_each_run_starts_afresh() -> None:
    """State and loop are new for each run; `make` and `check` may be coroutine functions."""
    loops: list[asyncio.AbstractEventLoop] = []
    checked: list[int] = []

    async def make() -> int:
        await asyncio.sleep(1.0)
        loops.append(asyncio.get_running_loop())
        return len(loops)

    async def check(state: int) -> None:
        await asyncio.sleep(1.0)
        checked.append(state)

    async def use(state: int) -> None:
        await asyncio.sleep(1.0)

    assert cancel_sweep(use, make=make, check=check).runs == 4
    assert len({id(loop) for loop in loops}) == len(loops) == 5
    assert checked == [
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
    ]  # after the cut, and after running through on what it left


def test_it_runs_on_the_loop_that_it_is_given() -> None:
    """With `loop_factory` the runs are on any loop, one that shuffles, say.

    There a run may end in the turn in which its cancel comes; it is not counted, and no cancel was lost.
    """
    for seed in range(20):
        loops: list[VirtualLoop] = []

        def factory(seed: int = seed, loops: list[VirtualLoop] = loops) -> VirtualLoop:
            loops.append(VirtualLoop(seed))
            return loops[-1]

        report = cancel_sweep(three_awaits, make=Permits, check=Permits.check, loop_factory=factory)
        assert (report.points, len(loops)) == (3, 11)
        assert 9 <= report.runs <= 10


# Planted faults


async def leaks_a_permit(permits: Permits) -> None:
    """Give the permit back, but not when cancelled."""
    await asyncio.sleep(0.5)
    permits.taken += 1
    await asyncio.sleep(1.0)
    permits.taken -= 1


async def keeps_what_it_waited_for(permits: Permits) -> None:
    """Be granted a permit and cancelled in one turn, and forget it."""
    granted = asyncio.get_running_loop().create_future()

    def grant() -> None:
        if not granted.done():
            permits.taken += 1
            granted.set_result(None)

    asyncio.get_running_loop().call_later(1.0, grant)
    await granted
    permits.taken -= 1


async def swallows_the_cancel(permits: Permits) -> str:
    """Treat a cancel as the end of a wait."""
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        return "ended early"
    return "done"


async def swallows_the_cancel_when_ready(permits: Permits) -> str:
    """As `asyncio.wait_for` on Python 3.11: if the result is there, a cancel is lost."""
    future = asyncio.ensure_future(asyncio.sleep(1.0, "done"))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if future.done():
            return future.result()
        future.cancel()
        raise


async def turns_the_cancel_into_an_error(permits: Permits) -> None:
    """Raise something else instead of the cancel."""
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        raise ValueError("interrupted") from None


async def leaves_a_task_behind(permits: Permits) -> None:
    """Forget to end a child when cancelled."""
    child = asyncio.create_task(asyncio.sleep(60.0))
    await asyncio.sleep(1.0)
    child.cancel()
    await asyncio.wait([child])


async def deadlocks_in_the_clean_up(permits: Permits) -> None:
    """Wait for ever for something that a cancelled run no longer does."""
    finished = asyncio.Event()
    try:
        await asyncio.sleep(1.0)
        finished.set()
    finally:
        await finished.wait()


async def deadlocks_for_good(permits: Permits) -> None:
    """Wait for ever in the clean-up, whoever cancels that too."""
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                permits.log.append("ignored")


async def spoils_it_for_the_next(permits: Permits) -> None:
    """Leave a state behind with which nobody can go on."""
    if permits.log:
        raise RuntimeError("still marked as running")
    permits.log.append("running")
    await asyncio.sleep(1.0)
    permits.log.clear()


async def breaks_a_callback(permits: Permits) -> None:
    """Answer a future that a cancelled run has given up."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1.0, future.set_result, None)
    try:
        await future
    except asyncio.CancelledError:
        await asyncio.sleep(2.0)
        raise


async def gives_up_the_clean_up(permits: Permits) -> None:
    """Give the permit back only if the clean-up is not cancelled too."""
    permits.taken += 1
    try:
        await asyncio.sleep(1.0)
    finally:
        await asyncio.sleep(0.1)
        permits.taken -= 1


@pytest.mark.parametrize(
    ("use", "places", "what"),
    [
        (leaks_a_permit, ["at await 2, pending", "at await 2, ready", "at await 2, twice"], "1 permits are"),
        (keeps_what_it_waited_for, ["at await 1, ready"], "1 permits are still taken"),
        (swallows_the_cancel, ["at await 1, pending", "at await 1, ready"], "lost: it returned 'ended early'"),
        (swallows_the_cancel_when_ready, ["at await 1, ready"], "the cancel was lost: it returned 'done'"),
        (turns_the_cancel_into_an_error, ["at await 1, pending"], "lost: it raised ValueError('interrupted')"),
        (leaves_a_task_behind, ["at await 1, pending", "at await 1, ready"], "tasks left: <coroutine obj"),
        (deadlocks_in_the_clean_up, ["at await 1, pending", "at await 1, ready"], "Deadlock: nothing can"),
        (deadlocks_for_good, ["at await 1, pending", "at await 1, ready", "at await 1, twice"], "Deadlock"),
        (spoils_it_for_the_next, ["at await 1, pending"], "afterwards RuntimeError: still marked as running"),
        (breaks_a_callback, ["at await 1, pending"], "callback Future.set_result(None): InvalidState"),
        (gives_up_the_clean_up, ["at await 1, twice", "at await 2, pending"], "afterwards AssertionError"),
    ],
)  # fmt: skip
def test_every_planted_fault_is_found(
    use: Callable[[Permits], Awaitable[object]], places: list[str], what: str
) -> None:
    """Each fault is reported with the await at which it was found, who awaits there, and what was wrong."""
    with pytest.raises(CancelSweepError) as caught:
        cancel_sweep(use, make=Permits, check=Permits.check)
    message = str(caught.value)
    assert what in message
    for place in places:
        assert f"{place} ({use.__name__}:" in message
    assert "before the first step" not in message


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (forever, "undisturbed: Deadlock"),
        (asyncio.Event().wait, "undisturbed: Deadlock"),
        (lambda: int("x"), "undisturbed: ended with it raised ValueError"),
        (lambda: asyncio.create_task(asyncio.sleep(1.0)).cancel() and forever(), "undisturbed: Deadlock"),
    ],
)
def test_what_does_not_work_at_all_is_said_first(use: Callable[[], Any], what: str) -> None:
    """If the undisturbed run fails no run is cancelled: the error says so."""
    with pytest.raises(CancelSweepError, match=f"the undisturbed run failed: {what}"):
        cancel_sweep(lambda state: use(), make=lambda: None)


def test_a_check_that_fails_undisturbed_is_said_first() -> None:
    """So is a check that does not hold after the undisturbed run."""
    with pytest.raises(
        CancelSweepError, match="the undisturbed run failed: undisturbed: afterwards AssertionError"
    ):
        cancel_sweep(
            three_awaits, make=Permits, check=lambda permits: permits.check() or Permits.check(_taken())
        )


def _taken() -> Permits:
    permits = Permits()
    permits.taken = 1
    return permits


# Adding up


def test_reports_add_up(caplog: pytest.LogCaptureFixture) -> None:
    """Reports can be summed; each clean sweep is logged with its report, a faulty one is not."""
    caplog.set_level(logging.INFO, "aresilience.testing")
    reports = [cancel_sweep(three_awaits, make=Permits) for _ in range(2)]
    with pytest.raises(CancelSweepError):
        cancel_sweep(leaks_a_permit, make=Permits, check=Permits.check)
    assert sum(reports, SweepReport()) == SweepReport(6, 20)
    assert [SweepReport(3, 10)] * 2 == [record.sweep for record in caplog.records]  # type: ignore[attr-defined]
    assert str(SweepReport(6, 20)) == "cancel sweep: 6 points, 20 runs, 0 leaks"
