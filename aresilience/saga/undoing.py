"""The form without a journal: what was done is undone if the body fails, and forgotten if the process dies.

| the body                           | what becomes of it                                                     |
|------------------------------------|------------------------------------------------------------------------|
| ends                               | nothing is undone                                                      |
| raises, whatever it is             | undone in reverse, in a task of its own, then the same error is raised |
| is cancelled                       | the same, and the cancel goes on when that is done                     |
| is cancelled again while it undoes | it undoes to the end, or to that of `undo_budget`, and then it goes on |
| raises while a `do` is on its way  | that is waited for, then undone with the rest; for half of the budget: |
|                                    | if it comes later than that it is undone by itself, at once            |
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from aresilience import arguments
from aresilience.backend.backend import to_the_end
from aresilience.deadline import AMBIENT, Expiry
from aresilience.errors import TimedOut
from aresilience.saga.cuts import cancels, ends_the_task

__all__ = ["Undoing", "saga"]

T = TypeVar("T")

_log = logging.getLogger("aresilience")


class Undoing:
    """What `saga()` returns. `failures`: the errors of what could not be undone; `remaining`: how many were not
    even tried, because the budget ran out."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._undos: list[Callable[[], Any]] = []
        self._state = "new"
        self._flying = 0
        self._landed: asyncio.Future[None] | None = None
        self.failures: tuple[BaseException, ...] = ()
        self.remaining = 0

    async def do(self, work: Awaitable[T], *, undo: Callable[[T], object] | None = None) -> T:
        """Await `work`; from then on `undo(its result)`, which may be async, is called if the body fails.

        Several may be on their way at once: they are undone in reverse of the order in which they ended, also
        those that end when the body has failed already. Work that fails or is cancelled is not undone; see
        `register`.
        """
        usable = undo is None or callable(undo)
        if (self._state != "open" or not usable) and inspect.iscoroutine(work):
            work.close()  # or it would warn that it was never awaited
        if self._state != "open":
            raise RuntimeError("saga: do() belongs into the body of 'async with saga() as s:'")
        if not usable:
            raise TypeError(f"saga.do: undo must be a function of the result, got {undo!r}")
        if undo is None:
            return await work
        self._flying += 1
        try:
            result = await work
            self._undos.append(lambda: undo(result))
        finally:
            self._flying -= 1
            if self._landed is not None and not self._landed.done() and not self._flying:
                self._landed.set_result(None)
        if self._state == "undone":  # nobody waited for so long
            await to_the_end(self._undo_all())
        return result

    def register(self, undo: Callable[[], object]) -> None:
        """Have this called too if the body fails: before work of which one could not tell whether it happened,
        and that can be undone without its result."""
        if not callable(undo):
            raise TypeError(f"saga.register: undo must be a function of nothing, got {undo!r}")
        self._undos.append(undo)

    async def __aenter__(self) -> Undoing:
        if self._state != "new":
            raise RuntimeError("saga: entered once; write 'async with saga() as s:' each time")
        self._state = "open"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "over"
        if error is None or isinstance(error, GeneratorExit) or not (self._undos or self._flying):
            return  # (its loop is gone: nothing can be awaited any more)
        try:
            await to_the_end(self._undo_all())
        finally:
            for failure in self.failures:
                error.add_note(f"saga: something could not be undone: {failure!r}")
            if self.remaining:
                error.add_note(f"saga: {self.remaining} things were not undone: no time was left")

    async def _undo_all(self) -> None:
        AMBIENT.set(None)  # this task's own: a deadline that has passed is no reason to leave a mess
        loop = asyncio.get_running_loop()
        end = loop.time() + self._budget
        out_of_time = TimedOut(f"undoing took longer than {self._budget:g} s")
        if self._flying and self._state == "over":
            self._landed = loop.create_future()
            await asyncio.wait([self._landed], timeout=self._budget / 2)
        while self._undos and out_of_time not in self.failures:
            undo, before = self._undos.pop(), cancels()
            try:
                with Expiry(end, lambda: out_of_time):
                    said = undo()
                    if inspect.isawaitable(said):
                        await said
            except BaseException as error:
                if ends_the_task(error, before):
                    raise
                self.failures += (error,)  # and told; the others are undone all the same
                _log.error("saga: something could not be undone: %s", type(error).__name__)
        self.remaining += len(self._undos)
        self._undos.clear()
        self._state = "undone"

    def __repr__(self) -> str:
        return f"<saga {self._state}, {len(self._undos)} to undo>"


def saga(*, undo_budget: float | timedelta = 30.0) -> Undoing:
    """All of it or none of it, within this process: no journal, so a crash leaves what was done.

        async with ar.saga() as s:
            order = await s.do(create(cart), undo=lambda order: delete(order))

    If the body fails, or is cancelled, what was done is undone in reverse, shielded from cancellation, for at
    most `undo_budget` seconds; then the body's error is raised. What fails to be undone becomes a note of it.
    """
    return Undoing(arguments.duration("saga: undo_budget", undo_budget))
