"""A lease: what somebody holds.

What happens to a holder at each of its awaits:

| awaits       | cancelled                       | the process dies   | no answer, or lost                     |
|--------------|---------------------------------|--------------------|----------------------------------------|
| in its body  | released on the way out         | free after its ttl | its body is cancelled; `LockLost`      |
| the release  | waits for its end, then is over | free after its ttl | the error, or a note on the body's own |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aresilience.backend.leases import MARGIN, Body
from aresilience.errors import AresilienceError
from aresilience.lock.desk import Desk, to_its_end
from aresilience.lock.facts import LeaseLost, LeaseReleased, LockLost
from aresilience.lock.machine import Ask
from aresilience.lock.memory import MemoryLeaseStore
from aresilience.lock.store import Grant, HasAsk

if TYPE_CHECKING:
    from aresilience.lock.leasing import Leasing

__all__ = ["Lease"]

_OTHERS_TOLD = 2

_log = logging.getLogger("aresilience")


class Lease(HasAsk):
    """What was acquired: renewed from then on, until it is released or lost.

    `async with lease:` cancels its body when it is lost, and releases it at the end. Hold it in one task.
    """

    __slots__ = (
        "_began",
        "_body",
        "_desk",
        "_given_back",
        "_has_turn",
        "_leasing",
        "_pending",
        "_stopped",
        "_task",
        "_why",
        "fence",
    )

    def __init__(
        self, leasing: Leasing, desk: Desk, ask: Ask, grant: Grant, *, has_turn: bool = True
    ) -> None:
        super().__init__(desk.store, leasing.ttl)
        self.ask = ask
        self.fence = grant.fence
        """Rises with every grant of this name: for the resource, to refuse those who were before."""
        self._leasing = leasing
        self._desk = desk
        self._body: Body | None = None
        self._why: str | None = None
        self._pending: asyncio.Future[Any] | None = None
        self._given_back = False
        self._stopped: asyncio.Future[None] | None = None
        self._has_turn = has_turn
        self._task = asyncio.current_task()
        self._began = desk.loop.time()

    @property
    def names(self) -> tuple[str, ...]:
        """What is held."""
        return self.ask.names

    @property
    def remaining(self) -> float:
        """Seconds for which it is ours for certain, without another renewal; 0 when it is not ours any more."""
        return max(0.0, self.ends - self._desk.keeper.now()) if self.held else 0.0

    @property
    def lost(self) -> bool:
        """Whether it was lost."""
        return self._why is not None

    def check(self) -> None:
        """Raise `LockLost` if it is not ours any more: for just before a side effect. Never waits."""
        if not self.held:
            raise self._lost_error()
        if self.ends <= self._desk.keeper.now():  # the loop stood still: nobody was told yet
            raise self._lost_error("it was not confirmed in time")

    async def release(self) -> None:
        """Give it back. Again: nothing happens. Raises `LockLost` if it had been lost, or `BackendError`: then
        it is free after its ttl, or after another `release`."""
        if self._given_back:
            return
        others_first = False
        if self.held:
            others_first = self._has_turn and self._desk.others_first(self._leasing.line(self.ask))
            self._let_go(keep_turn=others_first)
        elif self._why is not None:
            self._desk.store.release_later(self.ask)
            raise self._lost_error()
        if self._pending is None:
            self._pending = self._start_release()
        pending = self._pending
        try:
            await to_its_end(pending)
        except BaseException:  # it has an end, also for one who was cancelled
            self._released(pending)
            raise
        finally:
            if others_first:
                self._pass_on(pending)
        self._released(pending)
        if self._why is not None:
            raise self._lost_error()

    def _released(self, pending: asyncio.Future[Any]) -> None:
        """What came of it, once, whoever waited for it."""
        if self._pending is not pending:
            return
        self._pending = None
        if not pending.done() or pending.cancelled() or pending.exception() is not None:
            return  # the next `release` asks again
        self._given_back = True
        if not pending.result():
            self._why = "it ended before it was released"
        else:
            if pending.result() == _OTHERS_TOLD and self._has_turn:
                self._desk.told_others(self._leasing.line(self.ask))
            self._leasing.tell(LeaseReleased, self.fence, self._desk.loop.time() - self._began)

    def on_lost(self, why: str) -> None:
        """See `Kept`."""
        self._why = why
        self._leave()
        self._cut()
        self._leasing.tell(LeaseLost, self.fence, self._desk.loop.time() - self._began, why)

    def on_close(self) -> asyncio.Future[None] | None:
        """See `Kept`."""
        why = "the backend was closed"
        if self._body is None:
            self._desk.store.release_later(self.ask)
            self.on_lost(why)
            return None
        if (
            self._body.is_current
        ):  # it closes the backend itself, and goes on: nobody gets it before its time
            self._desk.loop.call_soon(self._cut)
            self.on_lost(why)
            return None
        self._stopped = self._desk.loop.create_future()
        self.on_lost(why)  # it is given back when its body has ended
        return self._stopped

    def _cut(self) -> None:
        body = self._body
        if body is not None and self._leasing.cancels:
            body.cut()
            self._desk.loop.call_later(2 * MARGIN * self.ttl, self._goes_on, body)

    def _goes_on(self, body: Body) -> None:
        """A cancel may be eaten on its way: somebody should know."""
        if self._body is body and not body.task.done():
            _log.warning(
                "the body under fence %d goes on, though its %s was lost: others may hold it by now; ask "
                "lease.check() in its loops",
                self.fence,
                self._leasing.kind,
            )

    async def __aenter__(self) -> Lease:
        if self._body is not None:
            raise RuntimeError(f"{self!r} is entered already: two tasks never share a lease")
        self.check()
        self._body = Body()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        body, self._body = self._body, None
        cut = body is not None and body.ended(error)
        if self._why is not None:
            self._desk.store.release_later(self.ask)  # the body is over: nobody need wait for the ttl
            if self._stopped is not None and not self._stopped.done():
                self._stopped.set_result(None)
            if error is None or cut:
                raise self._lost_error() from error
            if not isinstance(error, LockLost):
                error.add_note(f"aresilience: {self._lost_error()}")
            return
        try:
            await self.release()
        except (AresilienceError, OSError, RuntimeError) as failure:
            if error is None:
                raise
            error.add_note(f"aresilience: its release failed: {type(failure).__name__}: {failure}")

    def _start_release(self) -> asyncio.Future[Any]:
        store = self._desk.store
        if isinstance(store, MemoryLeaseStore):
            done: asyncio.Future[Any] = self._desk.loop.create_future()
            done.set_result(store.release_now(self.ask))
            return done
        answer = store.release(self.ask)
        return (
            self._desk.keeper.aside(answer)
            if isinstance(answer, Coroutine)
            else asyncio.ensure_future(answer)
        )

    def _let_go(self, *, keep_turn: bool = False) -> None:
        """From here on it is not renewed, and the next of this process may ask."""
        self._desk.keeper.drop(self)
        self._leave(keep_turn=keep_turn)

    def _leave(self, *, keep_turn: bool = False) -> None:
        if self._task is not None:
            inside = self._desk.inside
            for room in self._leasing.rooms(self.ask):
                if inside.get((room, self._task)) is self:  # else the task has it by another lease
                    del inside[room, self._task]
        if self._has_turn and not keep_turn:
            self._desk.pass_on(self._leasing.line(self.ask))

    def _pass_on(self, pending: asyncio.Future[Any]) -> None:
        """After the release: if others were told of it, they come first."""
        told = not pending.cancelled() and pending.exception() is None and pending.result() == _OTHERS_TOLD
        pass_on = self._desk.pass_on_later if told else self._desk.pass_on
        pass_on(self._leasing.line(self.ask))

    def _lost_error(self, why: str | None = None) -> LockLost:
        what = ", ".join(map(repr, self.ask.names))
        if self._why is None and why is None:
            why = "it was released"
        return LockLost(
            f"{self._leasing.kind} {what} is not ours any more: {self._why or why}", fence=self.fence
        )

    def __repr__(self) -> str:
        state = "lost" if self.lost else f"{self.remaining:.3g} s left" if self.held else "released"
        return (
            f"<{type(self).__name__} of {', '.join(map(repr, self.ask.names))} fence {self.fence}, {state}>"
        )
