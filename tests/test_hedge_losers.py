"""Hedge: losers are cancelled and awaited, and no result is dropped undisposed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

import aresilience as ar
from aresilience.testing import run_virtual


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def ending(awaitable: Awaitable[object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error)


class Connections:
    """The n-th call opens connection n after the n-th delay; `close` takes its time."""

    def __init__(self, *takes: float, closing: float = 0.0, stubborn: bool = False) -> None:
        self.takes = takes
        self.closing = closing
        self.stubborn = stubborn
        self.opened: list[int] = []
        self.closed: list[tuple[int, float]] = []
        self._calls = 0

    async def open(self) -> int:
        n, self._calls = self._calls, self._calls + 1
        ends = now() + self.takes[n]
        while (left := ends - now()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        self.opened.append(n)
        return n

    async def close(self, n: int) -> None:
        await asyncio.sleep(self.closing)
        self.closed.append((n, now()))

    def leaked(self, kept: object = None) -> set[int]:
        """Connections that were opened, and neither closed nor given to the caller."""
        return set(self.opened) - {n for n, _ in self.closed} - {kept}  # type: ignore[arg-type]


async def test_losers_are_awaited() -> None:
    """The answer comes when every loser has ended, its clean-up included: no task is left behind."""
    ends: list[float] = []

    async def call() -> str:
        if not ends:
            ends.append(0.0)
            try:
                await asyncio.sleep(60.0)
            finally:
                await asyncio.sleep(2.0)
                ends.append(now())
        return "second"

    assert await ar.Hedge(delay=1.0).call(call) == "second"
    assert (ends, now()) == ([0.0, 3.0], 3.0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_of_two_that_finish_together_one_is_disposed_of(seed: int | None) -> None:
    """Two answers in one turn: one is returned, and the other closed (nopanic drops it)."""

    async def main() -> None:
        pool = Connections(2.0, 1.0)
        kept = await ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open)
        assert (sorted(pool.opened), pool.leaked(kept), len(pool.closed), now()) == ([0, 1], set(), 1, 2.0)

    run_virtual(main(), seed=seed)


async def test_the_winner_s_result_is_not_touched() -> None:
    """The result that is returned stays open (failsafe-go#65, #123 closed the winner's body)."""
    pool = Connections(9.0, 0.5)
    assert await ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open) == 1
    await asyncio.sleep(60.0)
    assert pool.closed == []


async def test_a_result_that_comes_after_the_cancel_is_disposed_of() -> None:
    """A loser that ignores its cancel is waited for, and what it returns is closed."""
    pool = Connections(3.0, 1.0, stubborn=True, closing=0.5)
    assert await ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open) == 1
    assert (pool.opened, pool.closed) == ([1, 0], [(0, 3.5)])


async def test_results_are_disposed_of_side_by_side() -> None:
    """Several results are given up at the same time, not one after the other."""
    pool = Connections(6.0, 5.0, 4.0, 1.0, stubborn=True, closing=2.0)
    assert await ar.Hedge(delay=1.0, max_hedges=3, dispose=pool.close).call(pool.open) == 3
    assert sorted(pool.closed) == [(0, 8.0), (1, 8.0), (2, 8.0)]


@pytest.mark.parametrize(
    ("cancel_at", "what"),
    [
        (0.5, "while the first call runs alone"),
        (1.5, "while both run"),
        (2.0, "in the turn in which the winner answers"),
        (2.5, "while the loser that ignores its cancel is awaited"),
        (3.0, "in the turn in which that loser answers"),
        (3.5, "while the loser's result is disposed of"),
        (4.0, "in the turn in which that is done"),
    ],
)
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_cancelled_caller_leaves_nothing_open(cancel_at: float, what: str, seed: int | None) -> None:
    """Cancelled at any time before the answer, the caller is cancelled, and the winner's result closed."""

    async def main() -> None:
        pool = Connections(3.0, 1.0, stubborn=True, closing=1.0)
        call = asyncio.create_task(ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open))
        asyncio.get_running_loop().call_at(cancel_at, call.cancel)
        await asyncio.wait([call])
        kept = None if call.cancelled() else call.result()
        assert pool.leaked(kept) == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if cancel_at != 4.0:  # that one may come just too late
            assert (call.cancelled(), call.cancelling()) == (True, 1)

    run_virtual(main(), seed=seed)


@pytest.mark.parametrize(("cancels", "at"), [((2.5, 3.5, 5.5), 6.0), ((5.25, 5.5, 6.5), 7.0)])
async def test_cancelled_again_and_again_it_still_cleans_up(cancels: tuple[float, ...], at: float) -> None:
    """Cancelled three times while losers end and results are closed, the caller is cancelled when all is."""
    pool = Connections(5.0, 1.0, stubborn=True, closing=1.0)
    call = asyncio.create_task(ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open))
    for when in cancels:
        asyncio.get_running_loop().call_at(when, call.cancel)
    await asyncio.wait([call])
    assert (call.cancelled(), call.cancelling(), pool.leaked(), now()) == (True, 3, set(), at)


# Giving up a result


def test_disposal_may_be_a_plain_function() -> None:
    """`dispose` may be a plain function, a coroutine function, or return an awaitable."""

    async def main(of: Callable[[list[int]], Callable[[int], object]]) -> None:
        closed: list[int] = []
        pool = Connections(2.0, 1.0)
        assert await ar.Hedge(delay=1.0, dispose=of(closed)).call(pool.open) == 0
        assert closed == [1]

    def coroutine_function(closed: list[int]) -> Callable[[int], object]:
        async def close(n: int) -> None:
            await asyncio.sleep(1.0)
            closed.append(n)

        return close

    run_virtual(main(lambda closed: closed.append))
    run_virtual(main(coroutine_function))
    run_virtual(main(lambda closed: lambda n: coroutine_function(closed)(n)))


@pytest.mark.parametrize("late", [True, False])
async def test_a_disposal_that_fails_is_logged(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An error of `dispose` harms nobody: it is logged, and the call has its answer."""

    async def close_later(n: int) -> None:
        raise ValueError("cannot close")

    def close(n: int) -> None:
        raise ValueError("cannot close")

    pool = Connections(2.0, 1.0)
    with caplog.at_level(logging.WARNING, "aresilience"):
        assert await ar.Hedge(delay=1.0, dispose=close_later if late else close).call(pool.open) == 0
    assert [record.message for record in caplog.records] == ["a discarded result could not be disposed of"]
    assert "cannot close" in caplog.text


async def test_a_disposal_that_hangs_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """`dispose` has five seconds; then it is cancelled, and that is logged."""
    pool = Connections(2.0, 1.0, closing=3600.0)
    with caplog.at_level(logging.WARNING, "aresilience"):
        assert await ar.Hedge(delay=1.0, dispose=pool.close).call(pool.open) == 0
    assert now() == 7.0
    assert "dispose took more than 5 s" in caplog.text
