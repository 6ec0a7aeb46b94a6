"""`async with ar.saga()`: no journal, but undone in reverse whatever ends the body."""

from __future__ import annotations

import asyncio

import pytest

import aresilience as ar
from aresilience.testing import cancel_sweep


class Bench:
    """What exists."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.log: list[str] = []

    async def create(self, name: str, takes: float = 1.0) -> str:
        """Make something."""
        await asyncio.sleep(takes)
        self.there.append(name)
        return name

    async def delete(self, name: str, takes: float = 1.0) -> None:
        """Take it away again."""
        await asyncio.sleep(takes)
        self.there.remove(name)
        self.log.append(name)

    async def two(self, error: BaseException | None = None) -> None:
        """Create two things, and end so."""
        async with ar.saga() as s:
            await s.do(self.create("a"), undo=self.delete)
            await s.do(self.create("b"), undo=lambda b: self.delete(b))
            if error is not None:
                raise error


async def test_a_body_that_ends_undoes_nothing() -> None:
    """What was made stays."""
    bench = Bench()
    await bench.two()
    assert bench.there == ["a", "b"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_the_error_is_the_same_after_undoing(kind: type[BaseException]) -> None:
    """saga-py: any BaseException became a SagaError. Here it is what it was; and undo gets the results."""
    bench, error = Bench(), kind("mine")
    with pytest.raises(kind) as caught:
        await bench.two(error)
    assert caught.value is error
    assert bench.log == ["b", "a"]


async def test_a_cancel_is_raised_again_when_all_is_undone() -> None:
    """The body is cancelled; so is the undoing, twice; it goes on to its end all the same."""
    bench = Bench()

    async def use() -> None:
        async with ar.saga() as s:
            await s.do(bench.create("a"), undo=bench.delete)
            await s.do(bench.create("b"), undo=bench.delete)
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    await asyncio.sleep(5)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.3)
    await asyncio.wait([task])
    assert task.cancelled()
    assert bench.log == ["b", "a"]


async def test_a_timeout_around_it_is_a_timeout() -> None:
    """The deadline that cut the body does not cut the undoing; the error is the deadline's."""
    bench = Bench()
    with pytest.raises(ar.DeadlineExceeded):  # noqa: PT012, SIM117
        with ar.deadline(3.0):
            async with ar.saga() as s:
                await s.do(bench.create("a"), undo=bench.delete)
                await s.do(bench.create("b", takes=60), undo=bench.delete)
    assert bench.there == []
    assert bench.log == ["a"]

    async def undo(_: str) -> None:
        assert ar.time_remaining() is None or ar.time_remaining() > 1  # type: ignore[operator]
        bench.log.append("undone")

    with pytest.raises(ar.DeadlineExceeded):  # noqa: PT012, SIM117
        with ar.deadline(3.0):
            async with ar.saga() as s:
                await s.do(bench.create("c"), undo=undo)
                await asyncio.sleep(60)
    assert bench.log[-1] == "undone"


async def test_what_cannot_be_undone_is_a_note_and_the_rest_is_undone() -> None:
    """saga-framework, Temporal: the first failing compensation ended it. Here the others are made."""
    bench = Bench()

    def broken(_: str) -> None:
        raise OSError("disk")

    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
        async with ar.saga() as s:
            await s.do(bench.create("a"), undo=bench.delete)
            await s.do(bench.create("b"), undo=broken)
            await s.do(bench.create("c"), undo=bench.delete)
            raise ValueError("mine")
    assert bench.log == ["c", "a"]
    assert [str(failure) for failure in s.failures] == ["disk"]
    assert "could not be undone: OSError('disk')" in caught.value.__notes__[0]


async def test_undoing_is_bounded() -> None:
    """One that hangs is cut at the end of the budget, and what is left is said."""
    bench = Bench()
    began = asyncio.get_running_loop().time()
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
        async with ar.saga(undo_budget=5.0) as s:
            await s.do(bench.create("a"), undo=bench.delete)
            await s.do(bench.create("b"), undo=lambda b: bench.delete(b, takes=60))
            raise ValueError("mine")
    assert asyncio.get_running_loop().time() - began == pytest.approx(7.0)
    assert s.remaining == 1
    assert "1 things were not undone" in caught.value.__notes__[1]


async def test_side_by_side() -> None:
    """In reverse of the order in which they ended; what did not end is not undone, what was registered is."""
    bench = Bench()
    with pytest.raises(ExceptionGroup):  # noqa: PT012
        async with ar.saga() as s, asyncio.TaskGroup() as group:
            s.register(lambda: bench.log.append("registered"))
            group.create_task(s.do(bench.create("slow", takes=2), undo=bench.delete))
            group.create_task(s.do(bench.create("quick", takes=1), undo=bench.delete))
            group.create_task(s.do(bench.create("never", takes=60), undo=bench.delete))
            await asyncio.sleep(3)
            raise ValueError
    assert bench.log == ["slow", "quick", "registered"]


async def test_what_is_on_its_way_when_the_body_fails_is_undone_too() -> None:
    """`gather` leaves the siblings of what failed running: they are waited for, and undone first."""
    bench = Bench()

    async def fail() -> None:
        await asyncio.sleep(2)
        raise ValueError("mine")

    began = asyncio.get_running_loop().time()
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012
        async with ar.saga() as s:
            await s.do(bench.create("first"), undo=bench.delete)
            await asyncio.gather(s.do(bench.create("slow", 5), undo=bench.delete), s.do(fail(), undo=print))
    assert bench.log == ["slow", "first"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(8.0)


async def test_what_comes_too_late_undoes_itself() -> None:
    """It is waited for half of the budget, so that there is time for the rest; then it is on its own."""
    bench = Bench()
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012
        async with ar.saga(undo_budget=10.0) as s:
            await s.do(bench.create("first"), undo=bench.delete)
            late = asyncio.create_task(s.do(bench.create("late", takes=60), undo=bench.delete))
            await asyncio.sleep(1)
            raise ValueError("mine")
    assert bench.log == ["first"]
    await asyncio.sleep(53.5)
    late.cancel()  # while it undoes
    with pytest.raises(asyncio.CancelledError):
        await late
    assert bench.log == ["first", "late"]
    assert s.remaining == 0


class Odd(BaseException):
    """Somebody's own."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Odd])
async def test_an_undo_that_raises_what_is_no_exception_does_not_end_the_rest(
    error: type[BaseException],
) -> None:
    """It awaited a task that was cancelled, say: a failure like any other, and no cancel of the caller."""
    bench = Bench()

    async def broken(_: str) -> None:
        raise error("broken")

    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
        async with ar.saga() as s:
            await s.do(bench.create("a"), undo=bench.delete)
            await s.do(bench.create("b"), undo=broken)
            raise ValueError("mine")
    assert bench.log == ["a"]
    assert [type(failure) for failure in s.failures] == [error]
    assert "could not be undone" in caught.value.__notes__[0]


async def test_it_is_used_as_it_is_meant() -> None:
    """Once, within its body, with functions."""
    bench = Bench()
    saga = ar.saga()
    with pytest.raises(RuntimeError, match="body"):
        await saga.do(bench.create("a"))
    async with saga:
        with pytest.raises(TypeError, match="undo"):
            await saga.do(asyncio.sleep(0), undo=3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="register"):
            saga.register(3)  # type: ignore[arg-type]
        assert "open" in repr(saga)
    with pytest.raises(RuntimeError, match="once"):
        async with saga:
            pass
    with pytest.raises(ValueError, match="undo_budget"):
        ar.saga(undo_budget=0)


def test_cancelled_at_every_await() -> None:
    """Wherever it is cut: both things are there, or none is."""

    def whole(bench: Bench) -> None:
        assert bench.there in ([], ["a", "b"])
        bench.there.clear()

    report = cancel_sweep(Bench.two, make=Bench, check=whole)
    assert report.points >= 2

    async def failing(bench: Bench) -> None:
        with pytest.raises(ValueError):
            await bench.two(ValueError())

    def nothing(bench: Bench) -> None:
        assert bench.there == []

    cancel_sweep(failing, make=Bench, check=nothing)
