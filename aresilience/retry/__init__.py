"""Retry: call again what failed for a reason that may pass.

What it is for: errors that are gone a moment later. Use it at one layer only, on what may safely run
twice.

Use: `@ar.Retry(on=ConnectionError)`, `await retry.call(fn, …)`, or

    async for attempt in retry:
        async with attempt:
            ...

Defaults: three calls in total, exponential back-off from 0.1 to 10 s with full jitter, Retry-After
honoured up to 60 s. `on` has no default: only you know what may be repeated.

Events: `RetryScheduled`, `RetryGaveUp`.

When it gives up, the last error is raised as it is, with a note of the attempts and, for programs,
`retry_history(error)`. Cancellation is never handled, and in a task that is being cancelled, its
clean-up included, nothing is repeated. A refusal (`Rejected`) is retried only if `on` names its type,
and then exactly at its `retry_after`. A deadline, its own or the ambient one, is never slept past. A
group of errors is retried if all its leaves match (or any: `groups=`), after the longest wait that one
of them asks for.

What not to do: retry inside a breaker, which then trips late; retry what is not idempotent; stack
retries, since 4 · 4 attempts are 16 (`nested=` says who yields).
"""

from aresilience.retry.hint import retry_after_hint
from aresilience.retry.history import Attempt, StopReason, retry_history
from aresilience.retry.retry import Retry
from aresilience.retry.run import RetryGaveUp, RetryScheduled

__all__ = [
    "Attempt",
    "Retry",
    "RetryGaveUp",
    "RetryScheduled",
    "StopReason",
    "retry_after_hint",
    "retry_history",
]
