"""Hedge: a second call when the first one is late.

What it is for: the slow tail. If one call in a hundred takes a second, ask again after the time that
99 of 100 need, and take whichever answers first.

Use: `ar.Hedge(delay=0.05)`, or `ar.Hedge(delay=ar.Percentile(0.95))` to follow the latencies of the
last calls. Only for calls that may safely run twice at once.

Defaults: one hedge, no budget. `budget=` takes the same `RetryBudget` as the retries beside it; when
it is used up no new hedge starts, and none that runs is touched.

Events: `HedgeStarted`, `HedgeWon`.

The first success wins. A call that fails before its hedge starts fails at once (repeating is what
`Retry` is for); a refusal by an inner policy starts no further hedge. If all fail, the first call's
error is raised, the others noted on it. Losers are cancelled and awaited, and a result that came too
late goes to `dispose`, as does the winner's if the caller is cancelled before it gets it. Each call is a
task of its own, with a copy of the caller's context.

What not to do: hedge what must not happen twice; hedge without a budget a service that is slow
because it is overloaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.budget import ATTEMPT_OF, Caller, RetryBudget
from aresilience.dispose import Dispose, dispose_of
from aresilience.errors import Rejected
from aresilience.events import Event, Listener
from aresilience.percentile import Percentile
from aresilience.policy import Layer, Policy

__all__ = ["Hedge", "HedgeStarted", "HedgeWon"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HedgeStarted(Event):
    """Hedge `number` (1, 2, …) started, because no call had answered for `delay` seconds."""

    number: int
    delay: float


@dataclass(frozen=True, slots=True)
class HedgeWon(Event):
    """Hedge `number` answered first."""

    number: int


class Hedge(Policy):
    """Calls again, beside the first call, when that has not answered within `delay`."""

    __slots__ = ("_budget", "_delay", "_dispose", "_max_hedges", "_percentile")

    layer = Layer.HEDGE

    def __init__(
        self,
        *,
        delay: float | timedelta | Percentile,
        max_hedges: int = 1,
        budget: RetryBudget | None = None,
        dispose: Dispose | None = None,
        name: str | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        self._percentile = delay if isinstance(delay, Percentile) else None
        self._delay = (
            None if isinstance(delay, Percentile) else arguments.duration("Hedge: delay", delay, zero=True)
        )
        self._max_hedges = arguments.count("Hedge: max_hedges", max_hedges)
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"Hedge: budget must be a RetryBudget or None, got {budget!r}")
        self._budget = budget
        if dispose is not None and not callable(dispose):
            raise TypeError(f"Hedge: dispose must be a function or None, got {dispose!r}")
        self._dispose = dispose

    @property
    def budgeted(self) -> bool:
        """Whether a budget bounds the extra load."""
        return self._budget is not None

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def hedged(*args: P.args, **kwargs: P.kwargs) -> T:
            async def call() -> T:
                return await fn(*args, **kwargs)

            race = _Race(self, call)
            try:
                return await race.run()  # type: ignore[no-any-return]
            except GeneratorExit:
                race.abandon()
                raise
            finally:
                await race.close()

        return hedged

    def __repr__(self) -> str:
        delay = f"{self._delay:g} s" if self._percentile is None else repr(self._percentile)
        return f"<Hedge {self.name!r} after {delay}, at most {self._max_hedges}>"


class _Race(Caller):
    """One call and its hedges; to policies further in, the call that they are attempts of."""

    __slots__ = ("_call", "_hedge", "_loop", "_started", "_tasks", "_winner")

    def __init__(self, hedge: Hedge, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        super().__init__()
        self._hedge = hedge
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self.running = True
        self._tasks: list[asyncio.Task[Any]] = []
        self._winner: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        hedge = self._hedge
        if hedge._budget is not None:
            hedge._budget.deposit(self._started)
        delay = hedge._percentile.delay() if hedge._percentile is not None else hedge._delay
        self._start()
        open_to_hedges = delay is not None
        pending = set(self._tasks)
        while pending:
            wait_for = delay if open_to_hedges and len(self._tasks) <= hedge._max_hedges else None
            done, pending = await asyncio.wait(
                pending, timeout=wait_for, return_when=asyncio.FIRST_COMPLETED
            )
            for task in self._tasks:  # in order of start, should several be done
                if task in done and _error_of(task) is None:
                    return self._won(task)
            if any(isinstance(_error_of(task), Rejected) for task in done):
                open_to_hedges = False
            if not done and delay is not None and self._pay():
                pending.add(self._start())
                if hedge._listeners:
                    number = len(self._tasks) - 1
                    hedge._listeners.tell(HedgeStarted(hedge.name, self._loop.time(), number, delay))
            elif not done:
                open_to_hedges = False
        return self._lost()

    def _start(self) -> asyncio.Task[Any]:
        if self._hedge._budget is None:
            task = self._loop.create_task(self._call())
        else:  # policies further in that share the budget are told that this is paid for
            context = copy_context()
            context.run(ATTEMPT_OF.set, self)
            task = self._loop.create_task(self._call(), context=context)
        self._tasks.append(task)
        return task

    def has_paid(self, budget: RetryBudget) -> bool:
        return (self.running and self._hedge._budget is budget) or super().has_paid(budget)

    def _pay(self) -> bool:
        budget = self._hedge._budget
        return budget is None or budget.withdraw(self._loop.time())

    def _won(self, task: asyncio.Task[Any]) -> Any:
        self._winner = task
        number, hedge = self._tasks.index(task), self._hedge
        first = self._tasks[0]
        if hedge._percentile is not None and (task is first or not first.done()):
            hedge._percentile.add(self._loop.time() - self._started)
        if number > 0 and hedge._listeners:
            hedge._listeners.tell(HedgeWon(hedge.name, self._loop.time(), number))
        return task.result()

    def _lost(self) -> Any:
        """Every call failed: the first one's error it is."""
        first, *others = self._tasks
        if not first.cancelled() and (error := first.exception()) is not None:
            for number, task in enumerate(others, start=1):
                _note(error, f"aresilience: hedge {number} failed too: {_error_of(task)!r}")
        return first.result()  # raises: that error, or a cancel if the call cancelled itself

    async def close(self) -> None:
        """Cancel what still runs, wait until it has ended, dispose of results that nobody gets."""
        self.running = False
        running = [task for task in self._tasks if not task.done()]
        for task in running:
            task.cancel()
        cancel = await _ended(running)
        answer = self._winner if cancel is None else None
        cancel = await self._dispose([task for task in self._tasks if task is not answer]) or cancel
        if cancel is not None:
            if answer is not None:  # the cancel came while the others were disposed of
                await self._dispose([answer])
            raise cancel

    async def _dispose(self, calls: list[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
        """Give up what ended calls returned, all at once."""
        unseen = [call.result() for call in calls if _error_of(call) is None]
        dispose = self._hedge._dispose
        if dispose is None or not unseen:
            return None
        return await _ended([self._loop.create_task(dispose_of(result, dispose)) for result in unseen])

    def abandon(self) -> None:
        """Cancel what runs and leave it: the caller was closed, not cancelled, and cannot await."""
        if not self._loop.is_closed():
            for task in self._tasks:
                task.cancel()
        self._tasks.clear()


async def _ended(tasks: list[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Wait until all have ended, cancelled meanwhile or not; the cancel is kept for later."""
    cancel = None
    while tasks:
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancel = error
        tasks = [task for task in tasks if not task.done()]
    return cancel


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _note(error: BaseException, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):  # an exception object may be raised again and again
        error.add_note(note)
