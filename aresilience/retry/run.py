"""The attempts of one call: everything that must not live on the shared policy."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from aresilience.budget import RetryBudget
from aresilience.chance import entropy
from aresilience.deadline import Expiry, ambient
from aresilience.dispose import Dispose, dispose_of
from aresilience.errors import PipelineWarning, Rejected, TimedOut
from aresilience.events import Event, Listeners
from aresilience.outcome import ErrorMatcher
from aresilience.retry.history import Attempt, History, StopReason, history_of, mark, unmark
from aresilience.retry.plan import Plan

__all__ = ["RetryGaveUp", "RetryScheduled", "Run", "Terms"]

P = ParamSpec("P")
T = TypeVar("T")

_RETRIED_FURTHER_OUT: ContextVar[bool] = ContextVar("aresilience_retry", default=False)


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Attempt `attempt` failed with `error` (None: its result was rejected); the next is in `delay` s."""

    attempt: int
    delay: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetryGaveUp(Event):
    """The call failed for good after `attempts` attempts."""

    attempts: int
    reason: StopReason
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What all calls of one `Retry` have in common; see there."""

    name: str
    listeners: Listeners
    plan: Plan
    matches: ErrorMatcher
    deadline: float | None
    until: Callable[[Any], object] | None
    dispose: Dispose | None
    budget: RetryBudget | None
    hint: Callable[[object], float | None] | None
    nested: str


class Run:
    """The attempts of one call: everything that must not live on the shared policy."""

    __slots__ = (
        "_ended",
        "_expiry",
        "_first_end",
        "_log",
        "_loop",
        "_nested_in_another",
        "_previous",
        "number",
        "site",
        "started",
        "terms",
        "until",
    )

    def __init__(self, terms: Terms, site: object) -> None:
        self.terms = terms
        self.site = site
        self.number = 1
        self._loop = asyncio.get_running_loop()
        self._log: list[Attempt] = []
        self._first_end: float | None = None
        self._previous: float | None = None
        self._nested_in_another = _RETRIED_FURTHER_OUT.get()
        self._expiry: Expiry | None = None
        self.until = ambient()
        self.started: float | None = None

    def begin(self) -> None:
        """The first attempt starts now: deposit in the budget, fix the deadline."""
        now = self.started = self._loop.time()
        if self.terms.budget is not None:
            self.terms.budget.deposit(now)
        if self.terms.deadline is not None:
            mine = now + self.terms.deadline
            self.until = mine if self.until is None else min(mine, self.until)

    def __enter__(self) -> None:
        """Within: the total deadline holds, and retries further in are told that they are nested."""
        if self.started is None:
            self.begin()
        if self.terms.deadline is not None and self.until is not None:
            self._expiry = Expiry(self.until, self._timed_out).__enter__()
        if self.terms.nested == "outer":
            _RETRIED_FURTHER_OUT.set(True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.terms.nested == "outer":
            _RETRIED_FURTHER_OUT.set(self._nested_in_another)
        expiry, self._expiry = self._expiry, None
        if expiry is not None:
            expiry.__exit__(kind, error, traceback)

    async def attempts(
        self,
        failure: Exception | None,
        fn: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Attempt until one succeeds. `failure` is that of the first, if it was made already."""
        while True:
            if failure is None:
                try:
                    result = await fn(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - judged below, outside this block
                    failure = error
                else:
                    delay = self.judged(result)
                    if delay is None:
                        return result
                    await dispose_of(result, self.terms.dispose)
                    await asyncio.sleep(delay)
                    continue
            delay = self.failed(failure)
            if delay is None:
                try:
                    raise failure
                finally:
                    failure = None  # or the traceback would keep this frame, and it the traceback
            failure = None
            await asyncio.sleep(delay)

    def judged(self, result: object) -> float | None:
        """None if this result is to be returned, else the delay before the next attempt."""
        if self.terms.until is None or self.terms.until(result):
            return None
        return self._next(None, self._hint(result), refused=False)

    def failed(self, error: Exception) -> float | None:
        """The delay before the next attempt, or None if the error is to be raised as it is."""
        terms = self.terms
        if not terms.matches(error):
            if self.number > 1:
                self._give_up(error, StopReason.NOT_RETRYABLE)
            return None
        inner = history_of(error)
        if inner is not None and inner.site is self.site:
            inner = None  # an exception object that is raised again and again, marked by an earlier call
        if inner is not None and terms.nested == "inner":
            return None
        refused = isinstance(error, Rejected)
        hint = error.retry_after if isinstance(error, Rejected) else self._hint(error)
        delay = self._next(error, hint, refused=refused)
        if inner is not None and delay is not None:
            unmark(error)
            if terms.nested == "warn":
                self._warn_of(inner)
        return delay

    def _next(self, error: Exception | None, hint: float | None, *, refused: bool) -> float | None:
        terms, now = self.terms, self._loop.time()
        if self._nested_in_another:
            verdict: float | StopReason = StopReason.NESTED
        elif (task := asyncio.current_task()) is not None and task.cancelling():
            verdict = StopReason.CANCELLED  # the call swallowed it: at least do not go on
        else:
            verdict = terms.plan.decide(
                self.number,
                now,
                entropy().random(),
                previous=self._previous,
                hint=hint,
                refused=refused,
                until=self.until,
                pay=None if terms.budget is None else terms.budget.withdraw,
            )
        if isinstance(verdict, StopReason):
            self._give_up(error, verdict)
            return None
        self._note(error, now, verdict)
        if terms.listeners:
            terms.listeners.tell(RetryScheduled(terms.name, now, self.number, verdict, error))
        self.number += 1
        self._previous = verdict
        return verdict

    def _note(self, error: BaseException | None, now: float, delay: float | None) -> None:
        if self._first_end is None:
            self._first_end = now
        self._log.append(Attempt(self.number, error, now - self._first_end, delay))

    def _give_up(self, error: BaseException | None, reason: StopReason) -> None:
        terms, now = self.terms, self._loop.time()
        self._note(None, now, None)  # the last error carries the history; it is not in it
        if error is not None:
            if terms.plan.attempts == 1:
                unmark(error)
            else:
                mark(error, History(tuple(self._log), reason, self.site), terms.name)
        if terms.listeners:
            terms.listeners.tell(RetryGaveUp(terms.name, now, self.number, reason, error))

    def _hint(self, outcome: object) -> float | None:
        reader = self.terms.hint
        hint = None if reader is None else reader(outcome)
        return hint if hint is not None and hint > 0 else None

    def _timed_out(self) -> TimedOut:
        name, limit = self.terms.name, self.terms.deadline
        error = TimedOut(f"{name}: attempt {self.number} was cut off by the deadline of {limit:g} s")
        self._give_up(error, StopReason.TIMED_OUT)
        return error

    def _warn_of(self, inner: History) -> None:
        site = getattr(inner.site, "__qualname__", None) or repr(inner.site)
        warnings.warn(
            f"{self.terms.name}: an error was already retried further in, at {site}, "
            f"{len(inner.attempts)} times; retries multiply. Remove one, or say who retries with "
            "nested='inner' or 'outer' (or 'both')",
            PipelineWarning,
            stacklevel=2,
        )
