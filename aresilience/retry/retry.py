"""The shell of retry: runs the attempts that the plan allows."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.backoff import Backoff
from aresilience.budget import RetryBudget
from aresilience.chance import entropy
from aresilience.deadline import Expiry, ambient
from aresilience.dispose import Dispose, dispose_of
from aresilience.errors import PipelineWarning, Rejected, TimedOut
from aresilience.events import Event, Listener
from aresilience.outcome import ErrorMatcher, ErrorSpec
from aresilience.policy import Layer, Policy
from aresilience.retry.hint import retry_after_hint
from aresilience.retry.history import Attempt, History, StopReason, history_of, mark, unmark
from aresilience.retry.plan import Plan

__all__ = ["Retry", "RetryAttempt", "RetryGaveUp", "RetryScheduled"]

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


class Retry(Policy):
    """Calls again after a failure, with back-off.

    - `on`: which errors: types, predicates, or a tuple of both. Required.
    - `attempts`: calls in total; 1 means no retry. `math.inf` needs a deadline or a budget.
    - `backoff`: a `Backoff`, from 0.1 s to 10 s with full jitter by default.
    - `deadline`: seconds for all attempts and waits together. It cancels the attempt that runs past it
      (`TimedOut`), and no wait that would overrun it is begun: the last error is raised at once.
    - `until`: a predicate on the result; a result for which it is false counts as a failure. When the
      attempts are used up, the last result is returned.
    - `dispose`: gets each rejected result before the next attempt; may be a coroutine function.
    - `budget`: a `RetryBudget`, to be shared with others.
    - `retry_after`: reads the wait that an error or a result asks for; None to disregard it.
      `max_retry_after` caps it, in seconds.
    - `groups`: an ExceptionGroup is retried if `"all"` of its leaves match, or `"any"`.
    - `nested`: if a retry is found inside this one: `"warn"`; or only the `"inner"` one retries, or only
      this `"outer"` one; or `"both"`, knowingly.
    """

    __slots__ = (
        "_budget",
        "_deadline",
        "_dispose",
        "_hint",
        "_matches",
        "_nested",
        "_plan",
        "_until",
    )

    layer = Layer.RETRY

    def __init__(
        self,
        *,
        on: ErrorSpec,
        attempts: float = 3,
        backoff: Backoff | None = None,
        deadline: float | timedelta | None = None,
        until: Callable[[Any], object] | None = None,
        dispose: Dispose | None = None,
        budget: RetryBudget | None = None,
        retry_after: Callable[[object], float | None] | None = retry_after_hint,
        max_retry_after: float | timedelta = 60.0,
        groups: Literal["all", "any"] = "all",
        nested: Literal["warn", "inner", "outer", "both"] = "warn",
        name: str | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        if on == () and until is None:
            raise ValueError("Retry: on must name at least one error, got (), and there is no until=")
        self._matches = ErrorMatcher("Retry: on", on, groups=groups)
        self._deadline = None if deadline is None else arguments.duration("Retry: deadline", deadline)
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"Retry: budget must be a RetryBudget or None, got {budget!r}")
        self._budget = budget
        if attempts != math.inf:
            arguments.count("Retry: attempts", attempts)  # type: ignore[arg-type]
        elif deadline is None and budget is None:
            raise ValueError("Retry: attempts=inf needs a deadline or a budget that ends it, got neither")
        if backoff is not None and not isinstance(backoff, Backoff):
            raise TypeError(
                f"Retry: backoff must be a Backoff, got {backoff!r}; "
                "write Backoff.constant(1.0) for one second"
            )
        hint_cap = arguments.duration("Retry: max_retry_after", max_retry_after)
        self._plan = Plan(attempts, backoff or Backoff.exponential(), hint_cap)
        self._until = None if until is None else arguments.plain_function("Retry: until", until)
        if dispose is not None:
            if not callable(dispose):
                raise TypeError(f"Retry: dispose must be a function or None, got {dispose!r}")
            if until is None:
                raise ValueError("Retry: dispose needs until=, which says what to give up")
        self._dispose = dispose
        if retry_after is not None:
            arguments.plain_function("Retry: retry_after", retry_after)
        self._hint = retry_after
        arguments.choice("Retry: nested", nested, ("warn", "inner", "outer", "both"))
        self._nested: str = nested

    @property
    def budgeted(self) -> bool:
        """Whether a budget bounds the extra load."""
        return self._budget is not None

    def retries(self, refusal: type[Rejected]) -> bool:
        """Whether `on` names this kind of refusal."""
        return self._matches.names(refusal)

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        if self._needs_state():

            async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
                run = _Run(self, fn)
                with run:
                    return await run.attempts(None, fn, *args, **kwargs)

            return retried

        async def retried_if_it_fails(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                if not self._matches(error):
                    raise
                failure = error
            # Outside the except block, or every later error would get this one as its context.
            return await _Run(self, fn).attempts(failure, fn, *args, **kwargs)

        return retried_if_it_fails

    def _needs_state(self) -> bool:
        """Whether a call that succeeds at once has something to do or to undo as well."""
        return (
            self._deadline is not None
            or self._until is not None
            or self._budget is not None
            or self._nested == "outer"
        )

    def __aiter__(self) -> AsyncIterator[RetryAttempt]:
        """Attempts, with fresh state for each loop: `async for attempt in retry: async with attempt:`"""
        if self._until is not None:
            raise TypeError("Retry: until= judges results, and a block has none; use @retry or retry.call")
        return _Attempts(_Run(self, self))

    def __repr__(self) -> str:
        limit = "" if self._deadline is None else f" within {self._deadline:g} s"
        return f"<Retry {self.name!r} {self._plan.attempts} attempts{limit}, {self._plan.backoff!r}>"


class _Run:
    """The attempts of one call: everything that must not live on the shared policy."""

    __slots__ = (
        "_ended",
        "_expiry",
        "_first_end",
        "_log",
        "_loop",
        "_nested_in_another",
        "_outer",
        "_previous",
        "number",
        "retry",
        "site",
        "started",
        "until",
    )

    def __init__(self, retry: Retry, site: object) -> None:
        self.retry = retry
        self.site = site
        self.number = 1
        self._loop = asyncio.get_running_loop()
        self._log: list[Attempt] = []
        self._first_end: float | None = None
        self._previous: float | None = None
        self._nested_in_another = _RETRIED_FURTHER_OUT.get()
        self._outer = False
        self._expiry: Expiry | None = None
        self.until = ambient()
        self.started: float | None = None

    def begin(self) -> None:
        """The first attempt starts now: deposit in the budget, fix the deadline."""
        now = self.started = self._loop.time()
        if self.retry._budget is not None:
            self.retry._budget.deposit(now)
        if self.retry._deadline is not None:
            mine = now + self.retry._deadline
            self.until = mine if self.until is None else min(mine, self.until)

    def __enter__(self) -> None:
        """Within: the total deadline holds, and retries further in are told that they are nested."""
        if self.started is None:
            self.begin()
        if self.retry._deadline is not None and self.until is not None:
            self._expiry = Expiry(self.until, self._timed_out).__enter__()
        if self.retry._nested == "outer":
            _RETRIED_FURTHER_OUT.set(True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.retry._nested == "outer":
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
                    await dispose_of(result, self.retry._dispose)
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
        if self.retry._until is None or self.retry._until(result):
            return None
        return self._next(None, self._hint(result), refused=False)

    def failed(self, error: Exception) -> float | None:
        """The delay before the next attempt, or None if the error is to be raised as it is."""
        retry = self.retry
        if not retry._matches(error):
            if self.number > 1:
                self._give_up(error, StopReason.NOT_RETRYABLE)
            return None
        inner = history_of(error)
        if inner is not None and (inner.site is self.site or self.number > 1):
            inner = None  # the same exception object as in an earlier call or attempt
        if inner is not None:
            if retry._nested == "inner":
                return None
            if retry._nested == "warn":
                self._warn_of(inner)
        refused = isinstance(error, Rejected)
        hint = error.retry_after if isinstance(error, Rejected) else self._hint(error)
        return self._next(error, hint, refused=refused)

    def _next(self, error: Exception | None, hint: float | None, *, refused: bool) -> float | None:
        retry, now = self.retry, self._loop.time()
        if self._nested_in_another:
            verdict: float | StopReason = StopReason.NESTED
        elif (task := asyncio.current_task()) is not None and task.cancelling():
            verdict = StopReason.CANCELLED  # the call swallowed it: at least do not go on
        else:
            verdict = retry._plan.decide(
                self.number,
                now,
                entropy().random(),
                previous=self._previous,
                hint=hint,
                refused=refused,
                until=self.until,
                pay=None if retry._budget is None else retry._budget.withdraw,
            )
        if isinstance(verdict, StopReason):
            self._give_up(error, verdict)
            return None
        self._note(error, now, verdict)
        if retry._listeners:
            retry._listeners.tell(RetryScheduled(retry.name, now, self.number, verdict, error))
        self.number += 1
        self._previous = verdict
        return verdict

    def _note(self, error: BaseException | None, now: float, delay: float | None) -> None:
        if self._first_end is None:
            self._first_end = now
        self._log.append(Attempt(self.number, error, now - self._first_end, delay))

    def _give_up(self, error: BaseException | None, reason: StopReason) -> None:
        retry, now = self.retry, self._loop.time()
        self._note(None, now, None)  # the last error carries the history; it is not in it
        if error is not None:
            if retry._plan.attempts == 1:
                unmark(error)
            else:
                mark(error, History(tuple(self._log), reason, self.site), retry.name)
        if retry._listeners:
            retry._listeners.tell(RetryGaveUp(retry.name, now, self.number, reason, error))

    def _hint(self, outcome: object) -> float | None:
        reader = self.retry._hint
        hint = None if reader is None else reader(outcome)
        return hint if hint is not None and hint > 0 else None

    def _timed_out(self) -> TimedOut:
        name, limit = self.retry.name, self.retry._deadline
        error = TimedOut(f"{name}: attempt {self.number} was cut off by the deadline of {limit:g} s")
        self._give_up(error, StopReason.TIMED_OUT)
        return error

    def _warn_of(self, inner: History) -> None:
        site = getattr(inner.site, "__qualname__", None) or repr(inner.site)
        warnings.warn(
            f"{self.retry.name}: an error was already retried further in, at {site}, "
            f"{len(inner.attempts)} times; retries multiply. Remove one, or say who retries with "
            "nested='inner' or 'outer' (or 'both')",
            PipelineWarning,
            stacklevel=2,
        )


class _Attempts:
    """The iterator of one `async for`."""

    __slots__ = ("_current", "_run")

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._current: RetryAttempt | None = None

    def __aiter__(self) -> _Attempts:
        return self

    async def __anext__(self) -> RetryAttempt:
        last = self._current
        if last is None:
            self._run.begin()
        elif not last._entered:
            raise RuntimeError("Retry: each attempt must be entered: async with attempt: …")
        elif last._delay is None:
            raise StopAsyncIteration
        else:
            await asyncio.sleep(last._delay)
        self._current = RetryAttempt(self._run)
        return self._current


class RetryAttempt:
    """One attempt of the iterator form: `async with attempt:` around the code to repeat."""

    __slots__ = ("_delay", "_entered", "_run", "number")

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._entered = False
        self._delay: float | None = None
        self.number = run.number
        """1 for the first attempt."""

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        started = self._run.started
        return 0.0 if started is None else self._run._loop.time() - started

    async def __aenter__(self) -> RetryAttempt:
        self._entered = True
        self._run.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._run.__exit__(kind, error, traceback)
        if isinstance(error, Exception):
            self._delay = self._run.failed(error)
        return self._delay is not None
