"""The shell: what people have in hand."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aresilience import arguments
from aresilience.codecs import pack
from aresilience.saga.definition import Definition
from aresilience.saga.facts import SagaFailed, SagaRecord, SagaStuck
from aresilience.saga.handle import SagaHandle, record_of, step_records
from aresilience.saga.machine import Course
from aresilience.saga.record import ENDED, WAITING, Did, Entry, SagaState, StepState
from aresilience.saga.running import Running
from aresilience.saga.steps import Step
from aresilience.saga.store import Found

__all__ = ["Saga"]

_TRIES = 5
_PAGE = 100


class Saga(Running):
    """Steps that happen all or, undone in reverse, not at all; also if the process dies in the middle.

    - `version`: yours; another one whenever the steps change. `older`: the definitions that are still to be
      run here for sagas which were begun with them.
    - `deadline`: seconds for the way forward, up to the pivot; then it is undone, or parked if it cuts off a
      step with `on_exhausted="park"`. `undo_budget`: seconds for one process to undo it; then it is stuck.
      None: no limit but that of the steps.
    - `lease`: seconds after which another worker takes over from one that died. This, `retention`,
      `max_recoveries` and the listeners are those of the definition that runs it, also for an older one.
    - `max_recoveries`: so often it is taken over without getting any further, then it is parked.
    - `retention`: seconds for which the journal of an ended one is kept.
    - `on_cancel`: when the caller of `run` is cancelled, the saga goes on without it ("detach"), or is
      undone ("abort").
    - `codec`, `max_bytes`: how inputs and results are kept, unless a step says; see `aresilience.codecs`.
    - `input`: the type of the input, where the annotation of the first step, `SagaContext[…]`, does not say.

    Steps run in tasks of their own, which have neither the caller's deadline nor its context variables. Without
    `backend`, or on a memory backend, the journals are in this process and end with it; of those that have
    ended the last 10,000 are kept. A change of state is told as `SagaChanged`, or, where a person is needed, as
    `SagaNeedsHelp`.
    """

    async def list(self, state: SagaState | None = None) -> AsyncIterator[SagaRecord]:
        """All sagas (of this name), or those in one state. What changes meanwhile may be missed or not.

        Raises a `BackendError`.
        """
        if state is not None and not isinstance(state, SagaState):
            raise TypeError(f"Saga.list: state must be a SagaState or None, got {state!r}")
        store = self.store
        some: builtins.list[str] = []
        async for id_ in store.ids(tuple(SagaState) if state is None else (state,)):
            some.append(id_)
            if len(some) == _PAGE:
                for record in await self._records(some, state):
                    yield record
                some.clear()
        for record in await self._records(some, state):
            yield record

    async def _records(self, ids: Sequence[str], state: SagaState | None) -> Sequence[SagaRecord]:
        """In as few round trips as may be."""
        every = await asyncio.gather(*(self.store.load(id_) for id_ in ids))
        found = [each for each in every if each is not None]
        return [record_of(self, each) for each in found if state is None or each.state is state]

    async def resume(self, id: str) -> SagaHandle:
        """Go on with a saga that is stuck or parked: what it failed at is tried again, as often as at first.

        Raises `LookupError` if there is none, `ValueError` if it is neither, a `BackendError`.
        """
        return await self._again(id, "")

    async def retry(self, id: str, step: Step[Any] | str) -> SagaHandle:
        """As `resume`, for the one step that is named."""
        return await self._again(id, _name(step))

    async def skip(self, id: str, step: Step[Any] | str, result: Any = None) -> SagaHandle:
        """Go on as if the step that it failed at were done, with this result; or undone, if it goes back.

        For when somebody has seen to it by hand. What is as good as done is compensated like what is done, if
        the saga fails later. Raises as `resume`.
        """
        name = _name(step)
        found = await self._found(id)
        course = self._course(found)
        definition = self._waits_for(found, course, name)
        payload = b"" if course.turned or result is None else pack(definition.codec_of(name), result)
        return await self._go_on(id, [Entry(Did.SKIP, name, found.length, payload)])

    async def force(self, id: str, reason: str) -> None:
        """End a saga as it is. Nothing is done or undone any more; whoever works on it is stopped.

        Raises `LookupError`, `ValueError` if it has ended, a `BackendError`.
        """
        arguments.text("Saga.force: reason", reason)
        for _ in range(_TRIES):
            found = await self._found(id)
            if found.state in ENDED:
                raise ValueError(f"saga {self.name!r}: it has ended already, {found.state.value}")
            payload = f"{SagaState.FORCED.value} {reason}".encode("utf-8", "replace")
            entry = Entry(Did.END, "", found.length, payload)
            keep = round(self.retention * 1e6)
            if await self.store.change(id, found.length, [entry], SagaState.FORCED, keep):
                self.tell_change(found.state, SagaState.FORCED)
                return
        raise SagaStuck(f"saga {self.name!r}: it changes faster than it can be ended", id=id)

    async def undo(self, id: str, *, missing_ok: bool = True) -> None:
        """See that none of a saga has happened: for the compensation of what ran it.

        One that runs is aborted, one that is done is undone, as far as its steps can be. Where there is none
        nothing is undone, but it is noted: one that is begun under this id later, by a request that was on its
        way for so long, is as good as undone. Raises `SagaStuck` if it cannot be done: it is past its pivot, a
        compensation fails, its journal is not kept any more (if it must be there, `missing_ok=False`).
        """
        for _ in range(_TRIES):
            found = await self.store.load(id)
            if found is None:
                if not missing_ok:
                    raise SagaStuck(f"saga {self.name!r}: its journal is not kept any more", id=id)
                begun = self.store.keeper.aside(self._begin(id, None, b""))
                await asyncio.wait([begun])  # it goes on if we are cancelled
                found = begun.result()
            if found is None:
                pass  # it was begun as undone
            elif found.state is SagaState.DONE:
                await self._reopen(found)
            elif found.state is SagaState.RUNNING:
                await self.abort(id, "undone by what ran it")
            try:
                await self.attach(id).result()
            except SagaFailed:
                return
            # it was done before it heard of us, or somebody else changed it
        raise SagaStuck(f"saga {self.name!r}: it is done, however often it is undone", id=id)

    async def _again(self, id: str, step: str) -> SagaHandle:
        found = await self._found(id)
        if step:
            self._waits_for(found, self._course(found), step)
        return await self._go_on(id, [Entry(Did.RETRY, step, found.length)])

    def _waits_for(self, found: Found, course: Course, step: str) -> Definition:
        """The definition that has the step at which it is stuck or parked; what was started when it was parked
        is one, too."""
        definition = self._known(found)
        states = {StepState.STUCK} if course.turned else {StepState.UNKNOWN, StepState.STARTED}
        if step not in definition.steps or course.progress(step).state not in states:
            raise ValueError(f"saga {self.name!r}: it does not wait for the step {step!r}")
        return definition

    async def _go_on(self, id: str, entries: Sequence[Entry]) -> SagaHandle:
        if not await self._change(id, entries, *WAITING):
            raise ValueError(
                f"saga {self.name!r}: it is neither stuck nor parked, or somebody else was quicker"
            )
        return self.attach(id)

    async def _reopen(self, found: Found) -> None:
        """What is done is to be undone after all."""
        definition = self.definition_of(found.head)
        if definition is None:
            raise SagaStuck(
                f"saga {self.name!r} is done, with a version that is not known here", id=found.head.id
            )
        plan = definition.plan
        back = plan.pivot is None and not plan.retriable
        if not back:
            raise SagaStuck(
                f"saga {self.name!r} is done, and past its point of no return",
                id=found.head.id,
                steps=step_records(plan, self._course(found)),
            )
        entry = Entry(Did.TURN, "", found.length, b"undone by what ran it")
        if await self.store.change(found.head.id, found.length, [entry], SagaState.COMPENSATING, 0):
            await self.adopt(found.head.id)


def _name(step: Step[Any] | str) -> str:
    return step if isinstance(step, str) else step.name
