"""The attempts of one step, or of its compensation: each is in the journal before it is made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aresilience.chance import entropy
from aresilience.codecs import NotStorable, pack, unpack
from aresilience.saga.context import SagaContext
from aresilience.saga.cuts import ends_the_task
from aresilience.saga.facts import Fail, RetryStep, SagaFailed, SagaStuck
from aresilience.saga.plan import Kind
from aresilience.saga.record import Did, Entry, StepState

if TYPE_CHECKING:
    from aresilience.saga.conductor import Conductor

__all__ = ["Ended", "act", "result_of", "short", "undo"]

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a step."""

    entry: Entry
    value: Any = None
    error: BaseException | None = None


def short(error: BaseException) -> str:
    """An error as the journal keeps it."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not be the end of us
        text = type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _words(error: BaseException) -> bytes:
    return short(error).encode("utf-8", "replace")


def result_of(run: Conductor, name: str) -> Any:
    """The result of a step, from this process or from the journal. Raises `LookupError` if it is not done."""
    if name in run.values:
        return run.values[name]
    progress = run.course.steps.get(name)
    if name not in run.saga.plan.steps or progress is None or progress.order == 0:
        raise LookupError(f"the step {name!r} is not done")
    if progress.result is None:
        if not progress.given and progress.state is not StepState.SKIPPED:
            raise LookupError(f"the step {name!r} is not done")
        return None
    value = run.values[name] = unpack(run.saga.codec_of(name), progress.result)
    return value


async def act(run: Conductor, name: str, number: int) -> Ended:
    """Try the action of a step until it works, says that it fails, or has been tried enough."""
    saga, progress = run.saga, run.course.progress(name)
    step = saga.steps[name]
    forward = step.plan.kind is Kind.RETRIABLE
    ctx: SagaContext[Any] = SagaContext(saga.name, run.id, name, run.input, lambda s: result_of(run, s))
    while True:
        ctx.attempt = number
        try:
            value = await step.effort.call(ctx)
            packed = pack(saga.codec_of(name), value, max_bytes=saga.max_bytes)
        except RetryStep as again:
            error: BaseException = again
            if not run.course.winding_down():
                await run.pause(again.after)
            if not run.course.winding_down():
                continue  # the same attempt: nothing has changed that would have to be written
        except BaseException as caught:
            if ends_the_task(caught):
                raise
            error = caught  # it becomes an entry of the journal
            if isinstance(caught, Fail | SagaFailed) and not forward:
                return Ended(Entry(Did.FAILED, name, number, _words(caught)), error=caught)
        else:
            return Ended(Entry(Did.DONE, name, number, packed), value)
        spent = number - progress.forgiven
        final = isinstance(error, NotStorable | SagaStuck) or spent >= step.effort.attempts
        if not final and not run.course.winding_down():
            await run.pause(step.effort.backoff.delay(spent, entropy().random()))
        if final or run.course.winding_down():
            return Ended(Entry(Did.UNKNOWN, name, number, _words(error)), error=error)
        number += 1
        await run.begin_attempt(Entry(Did.START, name, number, _words(error)))


async def undo(run: Conductor, name: str, number: int) -> Ended:
    """Try the compensation of a step until it works, or has been tried enough."""
    saga, progress = run.saga, run.course.progress(name)
    effort = saga.steps[name].undo
    assert effort is not None, "the machine undoes only what can be undone"
    known = progress.given or progress.result is not None
    ctx: SagaContext[Any] = SagaContext(
        saga.name,
        run.id,
        name,
        run.input,
        lambda s: result_of(run, s),
        compensating=True,
        outcome_unknown=not known,
    )
    while True:
        ctx.attempt = number
        try:
            await effort.call(ctx, result_of(run, name) if known else None)
        except RetryStep as again:
            await asyncio.sleep(again.after)
            continue
        except BaseException as caught:
            if ends_the_task(caught):
                raise
            error = caught  # it becomes an entry of the journal
        else:
            return Ended(Entry(Did.UNDONE, name, number))
        spent = number - progress.undo_forgiven
        if isinstance(error, Fail | SagaStuck) or spent >= effort.attempts:
            return Ended(Entry(Did.STUCK, name, number, _words(error)), error=error)
        await asyncio.sleep(effort.backoff.delay(spent, entropy().random()))
        number += 1
        await run.begin_attempt(Entry(Did.UNDO, name, number, _words(error)))
