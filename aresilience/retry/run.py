"""The attempts of one call: everything that must not live on the shared policy."""

from __future__ import annotations

import asyncio
import logging
import warnings
from asyncio import current_task
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from aresilience.budget import ATTEMPT_OF, Caller, RetryBudget
from aresilience.chance import entropy
from aresilience.deadline import COUNT_IS_RIGHT, Expiry, ambient
from aresilience.dispose import Dispose, dispose_of
from aresilience.errors import DeadlineExceeded, PipelineWarning, Rejected, TimedOut
from aresilience.events import Event, Listeners
from aresilience.outcome import ErrorMatcher
from aresilience.retry.history import (
    KEPT,
    Attempt,
    History,
    StopReason,
    history_of,
    mark,
    note,
    tick,
    unmark,
)
from aresilience.retry.plan import Plan
from aresilience.retry.rehearsal import rehearsal

__all__ = ["RetryGaveUp", "RetryScheduled", "Run", "Terms"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Attempt `attempt` failed with `error` (None: its result was rejected); the next is in `delay` s."""

    attempt: int
    delay: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetryGaveUp(Event):
    """The call failed for good after `attempts` attempts."""

    level = logging.WARNING

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
    seen_within: bool
    """Whether policies further in must be able to tell that they are part of an attempt."""


class Run(Caller):
    """The attempts of one call."""

    __slots__ = (
        "_began",
        "_cancels",
        "_expiry",
        "_first_end",
        "_log",
        "_loop",
        "_previous",
        "_started",
        "_token",
        "_until",
        "_waited",
        "number",
        "site",
        "terms",
    )

    def __init__(self, terms: Terms, site: object) -> None:
        super().__init__()
        self.terms = terms
        self.site = site
        self.number = 1
        self._loop = asyncio.get_running_loop()
        self._log: deque[Attempt] | None = None
        self._waited = 0.0
        self._first_end = 0.0
        self._previous: float | None = None
        self._token: Token[Caller | None] | None = None
        self._expiry: Expiry | None = None
        self._until = ambient()
        self._cancels = 0
        self._started: float | None = None
        self._began: int | None = None  # the tick; not known of a first attempt that was made before

    def begin(self) -> None:
        """The first attempt starts now: deposit in the budget, fix the deadline."""
        now = self._started = self._loop.time()
        if self.terms.budget is not None:
            self.terms.budget.deposit(now)
        if (
            self.terms.until is not None
            and not COUNT_IS_RIGHT
            and (task := current_task(self._loop)) is not None
        ):
            self._cancels = task.cancelling()
        if self.terms.deadline is not None:
            mine = now + self.terms.deadline
            self._until = mine if self._until is None else min(mine, self._until)

    def __enter__(self) -> None:
        """Within, an attempt is made: the deadline cuts it off, and policies further in can tell."""
        if self._started is None:
            self.begin()
        self._began = tick()
        if self.terms.deadline is not None and self._until is not None:
            self._expiry = Expiry(self._until, self._timed_out).__enter__()
        if self.terms.seen_within:
            self.running = True
            self._token = ATTEMPT_OF.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            self.running = False
            try:  # noqa: SIM105 - suppress() would be a third of what all this costs
                ATTEMPT_OF.reset(token)
            except ValueError:
                pass  # closed instead of run to its end: in somebody else's context
        expiry, self._expiry = self._expiry, None
        if expiry is not None:
            expiry.__exit__(kind, error, traceback)

    def forget(self) -> None:
        """It is over. Earlier errors hold frames that hold this object, so it must not hold them."""
        self._log = None

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return 0.0 if self._started is None else self._loop.time() - self._started

    def has_paid(self, budget: RetryBudget) -> bool:
        """Whether a call that this code is an attempt of has deposited there."""
        return (self.running and self.terms.budget is budget) or super().has_paid(budget)

    def retries_alone(self) -> bool:
        """Whether a call that this code is an attempt of does all the retrying."""
        return (self.running and self.terms.nested == "outer") or super().retries_alone()

    async def attempts(
        self,
        delay: float | None,
        fn: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Attempt until one succeeds. `delay` is the wait after a first one that was made already."""
        while True:
            if delay is not None:
                await asyncio.sleep(delay)
            with self:
                try:
                    result = await fn(*args, **kwargs)
                except Exception as error:
                    delay = self.failed(error)
                    if delay is None:
                        raise
                else:
                    delay = self.judged(result)
                    if delay is None:
                        return result
                    if self.terms.dispose is not None:
                        due = self._loop.time() + delay
                        await dispose_of(result, self.terms.dispose)
                        delay = max(0.0, due - self._loop.time())
                    del result  # not kept while waiting

    def judged(self, result: object) -> float | None:
        """None if this result is to be returned, else the delay before the next attempt."""
        if self.terms.until is None or self.terms.until(result):
            return None
        return self._next(None, self._hint(result), False)

    def failed(self, error: Exception) -> float | None:
        """The delay before the next attempt, or None if the error is to be raised as it is."""
        if self.terms.matches(error):
            return self.delay_after(error)
        if self.number > 1:
            self._give_up(error, StopReason.NOT_RETRYABLE)
        return None

    def delay_after(self, error: Exception) -> float | None:
        """As `failed`, after an error that is known to be one to retry."""
        within, nested = self._retried_within(error), self.terms.nested
        if within is None:
            return self._next(error, *self._asked_by(error))
        if nested == "inner":
            self._tell_end(error, StopReason.NESTED)  # the error keeps the history that it has
            return None
        if nested == "warn" and self.number > 1 and within.attempts[-1].number > 1:
            self._warn_of(within)
        delay = self._next(error, *self._asked_by(error))
        if delay is not None:
            unmark(error)
        return delay

    def _retried_within(self, error: Exception) -> History | None:
        """What a retry further in, during this attempt, left on the error.

        The same object may be raised again and again, and by several tasks: what is older than this
        attempt says nothing, nor what another task left there that makes the same call.
        """
        found = history_of(error)
        if found is None or self._began is None or found.moment < self._began:
            return None
        if found.site is self.site and found.task != id(current_task(self._loop)):
            return None
        return found

    def _asked_by(self, error: Exception) -> tuple[float | None, bool]:
        """The wait that an error asks for, and whether it is a refusal; of a group, the most of any."""
        if isinstance(error, ExceptionGroup):
            asked = [self._asked_by(leaf) for leaf in error.exceptions]
            if any(refused and hint is None for hint, refused in asked):
                return None, True
            hints = [hint for hint, _ in asked if hint is not None]
            return max(hints, default=None), any(refused for _, refused in asked)
        if isinstance(error, Rejected):
            return error.retry_after, True
        return self._hint(error), False

    def _hint(self, outcome: object) -> float | None:
        reader = self.terms.hint
        hint = None if reader is None else reader(outcome)
        return hint if hint is not None and hint > 0 else None

    def _next(self, error: Exception | None, hint: float | None, refused: bool) -> float | None:
        terms, now = self.terms, self._loop.time()
        test = rehearsal(self._loop)
        if self.outer is not None and self.outer.retries_alone():
            verdict: float | StopReason = StopReason.NESTED
        elif self._swallowed_a_cancel(error):  # at least do not go on
            late = self._until is not None and now >= self._until
            verdict = StopReason.DEADLINE if late else StopReason.CANCELLED
        elif test is not None and self.number >= test.attempts:
            verdict = StopReason.ATTEMPTS
        else:
            verdict = terms.plan.decide(
                self.number,
                now,
                entropy().random(),
                previous=self._previous,
                hint=hint,
                refused=refused,
                until=self._until,
                pay=None if terms.budget is None else terms.budget.withdraw,
            )
        if isinstance(verdict, StopReason):
            self._give_up(error, verdict)
            return None
        if test is not None:
            verdict = 0.0
        self._noted(error, now, verdict)
        if terms.listeners:
            terms.listeners.tell(RetryScheduled(terms.name, now, self.number, verdict, error))
        self.number += 1
        self._previous = verdict
        self._waited += verdict
        return verdict

    def _swallowed_a_cancel(self, error: BaseException | None) -> bool:
        """Whether the task is being cancelled, although the call went on."""
        task = current_task(self._loop)
        if task is None or not task.cancelling():
            return False
        if COUNT_IS_RIGHT:
            return True
        return task.cancelling() > self._cancels if error is None else _comes_of_a_cancel(error)

    def _noted(self, error: BaseException | None, now: float, delay: float | None) -> deque[Attempt]:
        if self._log is None:
            self._log, self._first_end = deque(maxlen=KEPT), now
        self._log.append(Attempt(self.number, error, now - self._first_end, delay))
        return self._log

    def _give_up(self, error: BaseException | None, reason: StopReason) -> None:
        terms = self.terms
        if error is not None and terms.plan.attempts > 1:
            log = tuple(self._noted(None, self._loop.time(), None))  # the last error carries it
            text = note(terms.name, log, self._waited, reason)
            mark(error, History(log, reason, text, self.site, id(current_task(self._loop))))
        self._tell_end(error, reason)

    def _tell_end(self, error: BaseException | None, reason: StopReason) -> None:
        terms = self.terms
        if terms.listeners:
            terms.listeners.tell(RetryGaveUp(terms.name, self._loop.time(), self.number, reason, error))

    def _timed_out(self) -> TimedOut:
        limit = self.terms.deadline or 0.0
        cut = f"{self.terms.name}: attempt {self.number} was cut off by"
        error = (
            TimedOut(f"{cut} the deadline of {limit:g} s")
            if self._started is not None and self._until == self._started + limit
            else DeadlineExceeded(f"{cut} the ambient deadline")
        )
        self._give_up(error, StopReason.TIMED_OUT)
        return error

    def _warn_of(self, within: History) -> None:
        site = getattr(within.site, "__qualname__", None) or repr(within.site)
        warnings.warn(
            f"{self.terms.name}: an error was already retried further in, at {site}, with "
            f"{within.attempts[-1].number} attempts; retries multiply. Remove one, or say who retries with "
            "nested='inner' or 'outer' (or 'both')",
            PipelineWarning,
            stacklevel=2,
        )


def _comes_of_a_cancel(error: BaseException) -> bool:
    """Whether a cancellation was being handled when this was raised, or something that led to it."""
    to_see, seen = [error], set[int]()
    while to_see:
        link = to_see.pop()
        if isinstance(link, asyncio.CancelledError):
            return True
        if id(link) in seen or isinstance(link, TimeoutError):  # a timeout's cancel is its own
            continue
        seen.add(id(link))
        to_see += [cause for cause in (link.__cause__, link.__context__) if cause is not None]
    return False
