"""One saga, run by this process: writes what it is about to do, does it, writes what came of it.

| cut short by                              | what it does                                                     |
|-------------------------------------------|------------------------------------------------------------------|
| abort (a durable flag)                    | running attempts end, nothing new begins; then undone            |
| the deadline, before the pivot            | running attempts are cancelled; then undone, by its own budget   |
| abort or deadline, after the pivot        | goes on                                                          |
| shutdown: its worker is left              | attempts cancelled, what ended is written, handed over at once   |
| the backend closed, this task cancelled   | attempts cancelled, handed over at once                          |
| the lease lost, or a write that is fenced | attempts cancelled, nothing more is written: another goes on     |
| the store fails on a write                | the same write again, until it is confirmed or the lease is lost |
| the journal gone                          | attempts cancelled, `CorruptState`; never begun again            |
| an error of our own                       | attempts cancelled; taken over, and counted, when its lease ends |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aresilience.backend.leases import Kept
from aresilience.errors import BackendError, CorruptState
from aresilience.saga.attempts import Ended, act, short, undo
from aresilience.saga.facts import SagaAborted
from aresilience.saga.machine import Course
from aresilience.saga.plan import Kind
from aresilience.saga.record import OPEN, Did, Entry, SagaState
from aresilience.saga.scribe import Scribe, Stopped
from aresilience.saga.store import Claim, SagaStore, Told

if TYPE_CHECKING:
    from aresilience.saga.definition import Definition

__all__ = ["Conductor", "Ending"]

_log = logging.getLogger("aresilience")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process's work on a saga ended. `state` None: it goes on elsewhere, and `why` says why not here."""

    state: SagaState | None
    why: str = ""
    interrupted: bool = False
    error: BackendError | None = None


class Conductor(Kept):
    """Owns one saga. `over` is done when this process has ended its work on it."""

    __slots__ = (
        "_batch", "_conducting", "_cut", "_deadline", "_ended", "_facts", "_first", "_loop", "_lost",
        "_progress", "_scribe", "_stopping", "_tasks", "_undo_ends", "_wake", "_winding", "_woken",
        "causes", "course", "fence", "id", "input", "over", "owner", "packed", "saga", "store", "token",
        "values",
    )  # fmt: skip

    def __init__(
        self,
        owner: Definition,
        saga: Definition,
        store: SagaStore,
        input: Any,
        claim: Claim,
        first: Sequence[str] = (),
    ) -> None:
        super().__init__(store, owner.lease)  # as it was claimed
        self.owner = owner
        """Who runs it: its lease, and its listeners. `saga`: what it runs, perhaps an older version."""
        self.saga = saga
        self.store = store
        self.id = claim.found.head.id
        self.input = input
        self.packed = claim.found.head.input
        self.fence = claim.fence
        self.token = claim.token
        self.course = Course(saga.plan, claim.found.entries)
        self.values: dict[str, Any] = {}
        """Results of steps that ran here."""
        self.causes: dict[str, BaseException] = {}
        """Errors of steps that ran here."""
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[Ending] = self._loop.create_future()
        self._first = [(step, 1, False) for step in first]  # begun on paper when the saga was
        self._batch: list[Entry] = []
        self._progress = False
        self._tasks: dict[asyncio.Task[Ended], str] = {}
        self._wake: asyncio.Future[None] | None = None
        self._stopping = self._conducting = False
        self._scribe = Scribe(owner, store, claim, self._may_write, self._may_wait)
        self._woken = False
        self._ended: list[asyncio.Task[Ended]] = []
        self._cut: set[asyncio.Task[Ended]] = set()
        self._facts: list[Callable[[], None]] = []
        self._winding: asyncio.Future[None] = self._loop.create_future()
        self._lost: str | None = None
        self._undo_ends: float | None = None
        self._deadline: float | None = None
        if claim.found.head.deadline:
            left = claim.found.began + claim.found.head.deadline - claim.found.now
            self._deadline = self._loop.time() + left / 1e6
        store.keeper.keep(self, claim.sent)

    # What others tell it.

    def on_lost(self, why: str) -> None:
        self._lose(why)

    def on_close(self) -> asyncio.Future[Ending] | None:
        self._stopping = True
        self._lose("the backend was closed")
        ours = asyncio.current_task() in self._tasks  # who would wait for itself
        return None if ours else self.over  # handed over when its attempts have ended, while there is a way

    def stop(self) -> None:
        """Work no more on it: hand it over."""
        self._stopping = True
        self._cancel_all()
        self.wake()

    def abort(self, reason: str) -> None:
        """Somebody asked, and it is written down."""
        if self.course.abort is None:
            self._apply(Entry(Did.ABORT, payload=reason.encode("utf-8", "replace")))
            self.wake()

    def wake(self) -> None:
        """Look again."""
        self._woken = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
            self._cancel_all()
            self.wake()

    def _step_ended(self, task: asyncio.Task[Ended]) -> None:
        self._ended.append(task)
        self.wake()

    def _cancel_all(self) -> None:
        for task in self._tasks.keys() - self._cut:  # once: it may need a while to end
            self._cut.add(task)
            task.cancel()

    # The work.

    async def conduct(self) -> None:
        """Until it is over, one way or another."""
        ending = Ending(None, "it was cancelled", interrupted=True)
        self._conducting = handed = True
        end_watch = self.store.watch(self.id, self._look)
        try:
            ending = await self._conduct()
        except CorruptState as error:
            ending = Ending(None, str(error), error=error)
        except Exception as error:
            _log.exception("running a saga failed; another goes on with it when its lease ends")
            ending = Ending(None, f"running it failed: {short(error)}", interrupted=True)
            handed = False  # so that it is counted, and does not come back at once
            raise
        finally:
            end_watch()
            self._conducting = False
            self._cancel_all()
            try:
                await self._settle()
            finally:
                if ending.state is None and ending.error is None and handed and not self._tasks:
                    self.store.hand_over_later(self.id, self.token)
                self.store.keeper.drop(self)
                self.over.set_result(ending)

    async def _settle(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    async def _conduct(self) -> Ending:
        course = self.course
        first = self._first
        while True:
            launch, first = first or self._decide(), []
            if self._batch:
                try:
                    abort_before = course.abort
                    await self._write_batch()
                except Stopped:
                    return await self._stopped()
                if course.state not in OPEN:
                    return Ending(course.state)
                if course.abort is not abort_before and not course.turned and self._withdrawn(launch):
                    continue
            for step, number, back in launch:
                work: Coroutine[Any, Any, Ended] = (undo if back else act)(self, step, number)
                task = self._loop.create_task(work, name=f"saga step {step}")
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # as for ourselves
                self._tasks[task] = step
                task.add_done_callback(self._step_ended)
            if not await self._wait():
                return await self._stopped()

    def _decide(self) -> list[tuple[str, int, bool]]:
        """Note what the machine says, up to what has to be done before it can say more."""
        course = self.course
        while True:
            running = len(self._tasks)
            move = course.next(running, late=self._is_late())
            if move.turn is not None:
                reason = course.progress(move.turn).error if move.turn else self._reason()
                self.note(Entry(Did.TURN, move.turn, self.fence, reason.encode()))
                self._changed(SagaState.RUNNING, move.turn)
                continue
            if move.start:
                launch = [(step, course.progress(step).tries + 1, False) for step in move.start]
                for step, number, _ in launch:
                    self.note(Entry(Did.START, step, number))
                return launch
            if move.undo is not None and course.state is SagaState.COMPENSATING:
                number = course.progress(move.undo).undo_tries + 1
                self.note(Entry(Did.UNDO, move.undo, number))
                self._begin_budget()
                return [(move.undo, number, True)]
            if move.park is not None:
                self.note(Entry(Did.PARK, move.park, self.fence, course.progress(move.park).error.encode()))
                self._changed(SagaState.RUNNING, move.park)
            elif move.finish is not None:
                before = course.state
                self.note(Entry(Did.END, "", self.fence, move.finish.value.encode()))
                self._changed(before)
            return []

    def _withdrawn(self, launch: Sequence[tuple[str, int, bool]]) -> bool:
        """An abort came with the answer to our intents: nothing of them has been begun, so none is."""
        if any(self.saga.plan.steps[step].kind is Kind.RETRIABLE for step, _, _ in launch):
            return False
        for step, number, _ in launch:
            self.note(Entry(Did.DROP, step, number))
        return bool(launch)

    def _reason(self) -> str:
        return self.course.abort if self.course.abort is not None else "the deadline has passed"

    def _is_late(self) -> bool:
        return self._deadline is not None and self._loop.time() >= self._deadline

    def _begin_budget(self) -> None:
        if self._undo_ends is None and self.saga.undo_budget is not None:
            self._undo_ends = self._loop.time() + self.saga.undo_budget

    async def _wait(self) -> bool:
        """Until a step has ended, or there is something to look at. False: stop."""
        if self._stopping or self._lost is not None:
            return False
        when = self._undo_ends if self.course.turned else self._deadline
        if not self.course.turned and (self.course.past_pivot or self.course.by_hand):
            when = None
        timer = None
        if when is not None and when <= self._loop.time():
            self._cancel_all()  # it is too late for them
        elif when is not None:
            timer = self._loop.call_at(when, self.wake)
        try:
            if not self._woken:
                self._wake = self._loop.create_future()
                await self._wake
        finally:
            self._woken = False
            if timer is not None:
                timer.cancel()
        if not self._may_write():
            return False
        self._collect()
        return not self._stopping

    def _collect(self) -> None:
        ended, self._ended = self._ended, []
        for task in ended:
            step = self._tasks.pop(task)
            progress = self.course.progress(step)
            self._cut.discard(task)
            if not task.cancelled() and not isinstance(task.exception(), Stopped):
                found = task.result()
                self.note(found.entry)
                self._progress |= found.entry.did in (Did.DONE, Did.UNDONE)
                if found.error is not None:
                    self.causes[step] = found.error
                    if found.entry.did is Did.STUCK:
                        self._changed(SagaState.COMPENSATING, step)
                if found.entry.did is Did.DONE:
                    self.values[step] = found.value
            elif self._stopping or self._lost is not None or not task.cancelled():
                continue  # nobody knows: the next owner makes it again
            elif self.course.turned:
                late = self._undo_ends is not None and self._loop.time() >= self._undo_ends
                why = "the budget for undoing ran out" if late else "it was cancelled"
                self.note(Entry(Did.STUCK, step, progress.undo_tries, why.encode()))
                self._changed(SagaState.COMPENSATING, step)
            else:
                why = "the deadline has passed" if self._is_late() else "it was cancelled"
                self.note(Entry(Did.UNKNOWN, step, progress.tries, why.encode()))
                self.causes[step] = SagaAborted(why)

    async def _stopped(self) -> Ending:
        """No more of it here. What has ended is written, if it is still ours."""
        self._cancel_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # for `_step_ended`
        if self._lost is None:
            self._collect()
            try:
                if self._batch:
                    await self._write_batch()
                if self.course.state not in OPEN:
                    return Ending(self.course.state)
            except Stopped:
                pass
        self._tasks.clear()
        return Ending(None, self._lost or "this process stops", interrupted=self._stopping)

    # The journal.

    def note(self, entry: Entry) -> None:
        """It is so from now on, and goes with the next write."""
        self._apply(entry)
        self._batch.append(entry)

    def _apply(self, entry: Entry) -> None:
        self.course.apply(entry)
        if not self._winding.done() and self.course.winding_down():
            self._winding.set_result(None)

    def _changed(self, old: SagaState, step: str = "") -> None:
        """To be told when it is written."""
        new, cause = self.course.state, self.causes.get(step)
        self._facts.append(lambda: self.owner.tell_change(old, new, step, cause))

    async def _write_batch(self) -> None:
        batch, self._batch = self._batch, []
        progress, self._progress = self._progress, False
        await self.write(batch, progress=progress)
        facts, self._facts = self._facts, []
        for tell in facts:
            tell()

    async def write(self, entries: Sequence[Entry], *, progress: bool = False) -> None:
        """Write until it is confirmed. Raises `Stopped` when nothing more is to be written."""
        told = await self._scribe.write(entries, self.course.state, progress)
        if told is None:
            self._lose("another process has taken it over")
            raise Stopped
        self._hear(told)

    def _may_write(self) -> bool:
        return self._lost is None

    def _may_wait(self) -> bool:
        return not self._stopping

    def _hear(self, told: Told) -> None:
        if told.abort is not None and self.course.abort is None:
            self._apply(Entry(Did.ABORT, payload=told.abort.encode("utf-8", "replace")))

    def _look(self) -> None:
        """There may be news: of an abort. The next write would tell, but that may be hours away."""
        if self._conducting and self.course.abort is None and self.course.state is SagaState.RUNNING:
            self.store.keeper.aside(self._look_up())

    async def _look_up(self) -> None:
        try:
            found = await self.store.load(self.id)
        except BackendError:
            return  # the next write will tell
        for entry in found.entries if found is not None else ():
            if entry.did is Did.ABORT:
                self.abort(entry.text)

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt of an action; not if there is to be none."""
        await asyncio.wait([self._winding], timeout=seconds)

    def begin_attempt(self, intent: Entry) -> Coroutine[Any, Any, None]:
        """Write that an attempt begins, before it does."""
        self._apply(intent)
        return self.write([intent])
