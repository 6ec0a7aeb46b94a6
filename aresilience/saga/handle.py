"""What `start` returns: to wait for a saga, or to call it back, wherever it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from aresilience.codecs import unpack
from aresilience.saga.conductor import Conductor, Ending
from aresilience.saga.facts import (
    Fail,
    SagaAborted,
    SagaFailed,
    SagaInterrupted,
    SagaMismatch,
    SagaParked,
    SagaRecord,
    SagaStuck,
    StepFailed,
    StepRecord,
)
from aresilience.saga.machine import Course
from aresilience.saga.plan import Plan
from aresilience.saga.record import ENDED, WAITING, Did, SagaState
from aresilience.saga.store import Found

if TYPE_CHECKING:
    from aresilience.saga.definition import Definition
    from aresilience.saga.running import Running
    from aresilience.saga.steps import Step

__all__ = ["SagaHandle", "SagaResult", "record_of", "step_records"]

R = TypeVar("R")

_SAYS_WHY = frozenset({Did.TURN, Did.PARK})

_LOOK = 5.0
"""Seconds after which one looks for oneself, if no news come."""


class SagaResult:
    """All of it has happened: `result[step]` is what a step returned, `result.last` the one declared last."""

    __slots__ = ("_names", "_value_of", "id")

    def __init__(self, id: str, names: list[str], value_of: Callable[[str], Any]) -> None:
        self.id = id
        self._names = names
        self._value_of = value_of

    def __getitem__(self, step: Step[R]) -> R:
        return self._value_of(step.name)  # type: ignore[no-any-return]

    @property
    def last(self) -> Any:
        """The result of the step that was declared last."""
        return self._value_of(self._names[-1])

    @property
    def results(self) -> Mapping[str, Any]:
        """All results, by the names of the steps."""
        return {name: self._value_of(name) for name in self._names}

    def __repr__(self) -> str:
        return f"<SagaResult of {self.id!r}, {len(self._names)} steps>"


class SagaHandle:
    """A saga that was started, here or elsewhere."""

    __slots__ = ("_saga", "id")

    def __init__(self, saga: Running, id: str) -> None:
        self._saga = saga
        self.id = id

    async def result(self) -> SagaResult:
        """Wait until it has ended.

        Cancelled, it leaves the saga alone. Where nobody owns the saga any more, this process goes on with it.
        Raises `SagaFailed`, `SagaStuck`, `SagaParked`; `SagaInterrupted` if this process ran it and stops;
        `LookupError` if there is none of this id; `SagaMismatch` if it is done, with a version that is not
        known here, so that its results cannot be read; a `BackendError`.
        """
        saga, store = self._saga, self._saga.store
        while True:
            run = saga.running.get(self.id)
            if run is not None:
                ending = await _the_end_of(run)
                if ending.state is not None:
                    return _ended_here(run, ending)
                if ending.error is not None:
                    raise ending.error
                if ending.interrupted:
                    raise SagaInterrupted(
                        f"saga {saga.name!r}: {ending.why}; another process goes on with it"
                    )
            news = asyncio.get_running_loop().create_future()
            end_watch = store.watch(self.id, lambda news=news: news.done() or news.set_result(None))  # type: ignore[misc]
            try:
                found = await store.load(self.id)
                if found is None:
                    raise LookupError(f"saga {saga.name!r}: there is none of this id, or not any more")
                if found.state in ENDED | WAITING:
                    return _ended_elsewhere(saga, found)
                if found.leased == 0 and await saga.adopt(self.id):
                    continue
                pause = min(_LOOK, max(0.05, found.leased / 1e6)) if found.leased else 1.0
                await asyncio.wait([news], timeout=pause)
            finally:
                end_watch()

    async def abort(self, reason: str = "aborted") -> bool:
        """Have it undone: first a durable flag, then its owner turns back. See `Saga.abort`."""
        return await self._saga.abort(self.id, reason)

    async def get(self) -> SagaRecord | None:
        """How it is. Raises a `BackendError`."""
        return await self._saga.get(self.id)

    def __repr__(self) -> str:
        return f"<SagaHandle {self.id!r} of {self._saga.name!r}>"


async def _the_end_of(run: Conductor) -> Ending:
    await asyncio.wait([run.over])  # which a cancel of ours does not touch
    return run.over.result()


def _ended_here(run: Conductor, ending: Ending) -> SagaResult:
    from aresilience.saga.attempts import result_of

    saga, course = run.saga, run.course
    if ending.state is SagaState.DONE:
        return SagaResult(run.id, list(saga.steps), lambda name: result_of(run, name))
    cause = run.causes.get(course.cause_step)
    raise _error(saga, run.id, course, cause)


def _ended_elsewhere(saga: Running, found: Found) -> SagaResult:
    definition = saga.definition_of(found.head)
    if definition is None:
        if found.state is SagaState.DONE:
            raise SagaMismatch(
                f"saga {saga.name!r}: it is done, but with version {found.head.version} of the definition, "
                "which is not known here: register it, Saga(…, older=[…])"
            )
        raise _error(saga, found.head.id, _strange(saga, found), None)
    course = Course(definition.plan, found.entries)
    if found.state is SagaState.DONE:

        def value_of(name: str) -> Any:
            result = course.progress(name).result
            return None if result is None else unpack(definition.codec_of(name), result)

        return SagaResult(found.head.id, list(definition.steps), value_of)
    raise _error(definition, found.head.id, course, None)


def _error(saga: Definition, id: str, course: Course, cause: BaseException | None) -> Exception:
    steps = step_records(saga.plan, course)
    where = f"saga {saga.name!r}"
    at = f" (step {course.cause_step!r})" if course.cause_step else ""
    if cause is None:
        kind, _, text = course.cause.partition(": ")
        if not course.cause_step:
            cause = SagaAborted(course.cause)
        elif kind == "Fail":
            cause = Fail(text)
        else:
            cause = StepFailed(course.cause)
    error: Exception
    if course.state is SagaState.COMPENSATED:
        error = SagaFailed(f"{where} was undone{at}: {course.cause}", id=id, cause=cause, steps=steps)
    elif course.state is SagaState.FORCED:
        error = SagaStuck(f"{where} was ended by hand: {course.cause}", id=id, cause=cause, steps=steps)
    elif course.state is SagaState.PARKED:
        text = f"{where} is parked{at}: {course.cause}"
        error = SagaParked(text, id=id, cause=cause, steps=steps, remaining=course.remaining())
    else:
        left = course.remaining()
        stuck = course.progress(left[0]).error if left else ""
        text = f"{where} is stuck: {left[0] if left else '?'} cannot be undone: {stuck}"
        error = SagaStuck(text, id=id, cause=cause, steps=steps, remaining=left)
    error.__cause__ = cause
    return error


def step_records(plan: Plan, course: Course) -> tuple[StepRecord, ...]:
    """What became of each step."""
    found = ((name, course.progress(name)) for name in plan.steps)
    return tuple(StepRecord(name, p.state, p.tries, p.undo_tries, p.error) for name, p in found)


def _strange(saga: Running, found: Found) -> Course:
    """What can be said of a journal whose version is not known here."""
    course = Course(Plan(saga.name, found.head.version))
    course.state = found.state
    for entry in found.entries:
        if entry.did in _SAYS_WHY:
            course.cause, course.cause_step = entry.text, entry.step
        elif entry.did is Did.END:
            course.apply(entry)
    return course


def record_of(saga: Running, found: Found) -> SagaRecord:
    """A journal, for people; also one of a version that is not known here."""
    definition = saga.definition_of(found.head)
    if definition is None:
        course = _strange(saga, found)
        steps: tuple[StepRecord, ...] = ()
    else:
        course = Course(definition.plan, found.entries)
        steps = step_records(definition.plan, course)
    return SagaRecord(
        id=found.head.id,
        version=found.head.version,
        state=found.state,
        steps=steps,
        remaining=course.remaining(),
        cause=course.cause,
        abort=course.abort,
        recoveries=found.recoveries,
        age=(found.now - found.began) / 1e6,
        owned=found.leased > 0,
        timeline=tuple(sorted(found.entries, key=lambda entry: entry.seq)),
    )
