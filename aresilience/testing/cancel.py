"""The cancel sweep: cancelled at every await, is anything left behind, is the cancel lost?

A coroutine runs once to count where it suspends. Then it runs again for each of those points, cancelled

- before its first step,
- while it waits there,
- there, when what it waited for is ready but it has not run on yet,
- there, and once more where it suspends next, while it cleans up.

Each run starts afresh, on a loop of its own. After each, the task must be cancelled (not finished, not
failed), no other task may be alive, no callback may have failed, `check` must hold, and the coroutine must
run through on what the cancelled one left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from aresilience.testing.virtual import VirtualLoop

__all__ = ["CancelSweepError", "SweepReport", "cancel_sweep"]

S = TypeVar("S")

_MODES = ("pending", "ready", "twice")


class CancelSweepError(AssertionError):
    """Some cancel was lost, or left something behind."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """`points`: suspensions of the undisturbed run. `runs`: runs that were cancelled, all of them clean.

    Reports add up: `sum(reports, SweepReport())`; each is also logged,
    in the `sweep` attribute of a record of the logger "aresilience.testing".
    """

    points: int = 0
    runs: int = 0

    def __add__(self, other: SweepReport) -> SweepReport:
        return SweepReport(self.points + other.points, self.runs + other.runs)

    def __str__(self) -> str:
        return f"cancel sweep: {self.points} points, {self.runs} runs, 0 leaks"


_log = logging.getLogger("aresilience.testing")


def cancel_sweep(
    use: Callable[[S], Awaitable[object]],
    *,
    make: Callable[[], S | Awaitable[S]],
    check: Callable[[S], object] | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = VirtualLoop,
) -> SweepReport:
    """Cancel `use(state)` at each of its awaits; `state` is made anew by `make()` for each run.

    `check(state)` asserts that nothing is held any more; it and `make` may be coroutine functions. Call it
    from a test that is not itself async. Raises `CancelSweepError` with every run that went wrong.
    """
    sweep = _Sweep(use, make, check, loop_factory)
    points = sweep.run(None).points
    if sweep.faults:
        raise CancelSweepError(f"the undisturbed run failed: {sweep.faults[0]}")
    runs = 0
    for cut in _cuts(points):
        runs += not sweep.run(cut).missed
    if sweep.faults:
        listed = "\n".join(f"  {fault}" for fault in sweep.faults[:10])
        raise CancelSweepError(f"{len(sweep.faults)} faults in {runs} cancelled runs:\n{listed}")
    report = SweepReport(points, runs)
    _log.info("%s", report, extra={"sweep": report})
    return report


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where and how a run is cancelled; point 0 is before the first step."""

    point: int
    mode: str

    def __str__(self) -> str:
        return "before the first step" if self.point == 0 else f"at await {self.point}, {self.mode}"


def _cuts(points: int) -> Iterator[_Cut]:
    yield _Cut(0, "pending")
    yield from (_Cut(point, mode) for point in range(1, points + 1) for mode in _MODES)


class _Sweep(Generic[S]):
    def __init__(
        self,
        use: Callable[[S], Awaitable[object]],
        make: Callable[[], S | Awaitable[S]],
        check: Callable[[S], object] | None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        self._use = use
        self._make = make
        self._check = check
        self._loop_factory = loop_factory
        self.faults: list[str] = []

    def run(self, cut: _Cut | None) -> _Driver:
        """One run on a loop of its own."""
        driver = _Driver(cut)
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._once(cut, driver))
        except RuntimeError as error:  # Deadlock (when the loop closes, too), or a loop that was stopped
            self.faults.append(f"{driver}: {type(error).__name__}: {error}")
        return driver

    async def _once(self, cut: _Cut | None, driver: _Driver) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(partial(self._told, driver))
        state = await _maybe(self._make())
        task = driver.task = loop.create_task(self._driven(driver, state))
        if cut is not None and cut.point == 0:
            task.cancel()
        await asyncio.wait([task])
        await self._judge(cut, task, driver, state)

    async def _driven(self, driver: _Driver, state: S) -> object:
        return await _Stepped(self._use(state), driver)

    async def _judge(self, cut: _Cut | None, task: asyncio.Task[object], driver: _Driver, state: S) -> None:
        if cut is None:
            if task.cancelled() or task.exception() is not None:
                self.faults.append(f"{driver}: ended with {_ending(task)}")
        elif driver.points < cut.point:
            driver.missed = True
        elif not task.cancelled() and not driver.missed:
            self.faults.append(f"{driver}: the cancel was lost: {_ending(task)}")
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            names = ", ".join(sorted(repr(t.get_coro()) for t in left))
            self.faults.append(f"{driver}: tasks left: {names}")
        try:
            await self._checked(state)
            if cut is not None:
                await self._use(state)
                await self._checked(state)
        except Exception as error:  # noqa: BLE001 - reported with the run that it belongs to
            self.faults.append(f"{driver}: afterwards {type(error).__name__}: {error}")

    def _told(self, driver: _Driver, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error that nobody awaits, told to the loop: of a callback, of a task left alone."""
        self.faults.append(f"{driver}: {context['message']}: {context.get('exception')!r}")

    async def _checked(self, state: S) -> None:
        if self._check is not None:
            await _maybe(self._check(state))


class _Driver:
    """Steps a coroutine by hand, so that each of its suspensions can be seen, and cut."""

    def __init__(self, cut: _Cut | None) -> None:
        self._cut = cut
        self._again = False
        self.task: asyncio.Task[object] | None = None
        self.points = 0
        self.where = ""
        self.missed = False
        """It ended before the cancel came, because the loop shuffles what is ready, or its time is real."""

    def __str__(self) -> str:
        return f"{self._cut or 'undisturbed'}{self.where}"

    def suspended(self, waits_for: Any, coroutine: Any) -> None:
        """The coroutine waits for this future, or (None) for its next turn."""
        self.points += 1
        task, cut = self.task, self._cut
        if task is None or cut is None:
            return
        if self._again:
            self._again = False
            asyncio.get_running_loop().call_soon(task.cancel)
        if self.points != cut.point:
            return
        self.where = f" ({_await_chain(coroutine)})"
        self._again = cut.mode == "twice"
        if cut.mode == "ready" and isinstance(waits_for, asyncio.Future):
            # Added before the task adds its own wake-up, so it is called before that.
            waits_for.add_done_callback(lambda _: self._cancel(task))
        else:
            asyncio.get_running_loop().call_soon(self._cancel, task)

    def _cancel(self, task: asyncio.Task[object]) -> None:
        self.missed = not task.cancel()


class _Stepped:
    def __init__(self, awaitable: Awaitable[object], driver: _Driver) -> None:
        self._awaitable = awaitable
        self._driver = driver

    def __await__(self) -> Generator[Any, Any, object]:
        iterator = self._awaitable.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = next(iterator) if thrown is None else iterator.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
            self._driver.suspended(waits_for, self._awaitable)
            try:
                yield waits_for
            except GeneratorExit:  # its loop is gone: what it waits for will never be stepped again
                inner = self._awaitable
                if (
                    not inspect.iscoroutine(inner)
                    or inspect.getcoroutinestate(inner) != inspect.CORO_CLOSED
                ):
                    iterator.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown on into the coroutine
                thrown = error


def _await_chain(coroutine: Any) -> str:
    """Who awaits whom, down to where it suspends."""
    names: list[str] = []
    while coroutine is not None and len(names) < 20:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return " > ".join(names)


def _ending(task: asyncio.Task[object]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return f"it returned {task.result()!r}" if error is None else f"it raised {error!r}"


async def _maybe(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
