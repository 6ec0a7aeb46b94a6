"""Saga: all of it, or none of it, even after a crash.

What it is for: work in several places that no transaction spans. Each step has a compensation that undoes it;
when a step fails, what was done is undone in reverse. A journal says what was about to be done before it is,
so that another process can go on, forward or back, when this one dies in the middle.

Use: declare `saga = Saga("checkout", version=1, backend=backend)`, its `@saga.step`s with
`@step.compensate`, at most one `@saga.pivot` (the point of no return), then `@saga.retriable`s (forward only);
`await saga.run(input, id=…)`, or `start` and a handle; in every service `async with saga.worker():`, which
takes over what others left. `SagaBarrier` and `sql_barrier` are for those whom steps call. Without a
journal, in one process: `async with ar.saga() as s: await s.do(work, undo=…)`.

What a step says: `Fail` (it did not happen and never will: undo), `RetryStep` (not yet), anything else:
nobody knows whether it happened. That is tried again, under the same `ctx.idempotency_key`; then it is
compensated, the step itself included (so a compensation must bear that there is nothing to undo), or parked.

Defaults: an action is tried 3 times (a retriable one 25, a compensation 10), with exponential back-off; no
deadline; a lease of 30 s; parked when it was taken over 5 times without getting any further; the journal of
an ended saga is kept for 7 days.

Events: `SagaChanged`, `SagaNeedsHelp` (stuck or parked: page somebody), `SagaTakenOver`, `StoreDegraded`.

Who cuts it short: a user's abort undoes it; so does the deadline, before the pivot; a shutdown hands it over; a
caller that is cancelled leaves it alone, or (`on_cancel="abort"`) has it undone. See `conductor`.

When the store is down: nothing is begun; an owner repeats its write until it is confirmed or its lease is lost,
and does nothing that is not written; then another goes on. With Redis, `appendfsync always` loses nothing that
was confirmed; see `redis` for the rest.

What not to do: let a step do its work without its key, or a compensation fail where there is nothing to
undo; give a step less time than its work takes; change the steps without another `version`; let Redis evict
keys; undo by hand what is stuck and not say so (`skip`).
"""

from aresilience.saga.barrier import BarrierAnswer, SagaBarrier, sql_barrier
from aresilience.saga.context import SagaContext
from aresilience.saga.facts import (
    Fail,
    RetryStep,
    SagaAborted,
    SagaChanged,
    SagaFailed,
    SagaInterrupted,
    SagaMismatch,
    SagaNeedsHelp,
    SagaParked,
    SagaRecord,
    SagaStuck,
    SagaTakenOver,
    StepFailed,
    StepRecord,
)
from aresilience.saga.handle import SagaHandle, SagaResult
from aresilience.saga.record import SagaState, StepState
from aresilience.saga.saga import Saga
from aresilience.saga.steps import Step
from aresilience.saga.undoing import Undoing, saga
from aresilience.saga.worker import SagaWorker

__all__ = [
    "BarrierAnswer",
    "Fail",
    "RetryStep",
    "Saga",
    "SagaAborted",
    "SagaBarrier",
    "SagaChanged",
    "SagaContext",
    "SagaFailed",
    "SagaHandle",
    "SagaInterrupted",
    "SagaMismatch",
    "SagaNeedsHelp",
    "SagaParked",
    "SagaRecord",
    "SagaResult",
    "SagaState",
    "SagaStuck",
    "SagaTakenOver",
    "SagaWorker",
    "Step",
    "StepFailed",
    "StepRecord",
    "StepState",
    "Undoing",
    "saga",
    "sql_barrier",
]
