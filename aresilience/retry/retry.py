"""The shell of retry: runs the attempts that the plan allows."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.backoff import Backoff
from aresilience.budget import RetryBudget
from aresilience.dispose import Dispose
from aresilience.errors import Rejected
from aresilience.events import Listener
from aresilience.outcome import ErrorMatcher, ErrorSpec
from aresilience.policy import Layer, Policy
from aresilience.retry.attempts import Attempts, RetryAttempt
from aresilience.retry.hint import retry_after_hint
from aresilience.retry.plan import Plan
from aresilience.retry.run import Run, Terms

__all__ = ["Retry"]

P = ParamSpec("P")
T = TypeVar("T")


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
      `max_retry_after` caps it, in seconds. A refusal (`Rejected`) that asks for more is not retried.
    - `groups`: an ExceptionGroup is retried if `"all"` of its leaves match, or `"any"`.
    - `nested`: if a retry is found inside this one: `"warn"`, when both have retried; or only the
      `"inner"` one retries, or only this `"outer"` one; or `"both"`, knowingly.
    """

    __slots__ = ("_terms",)

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
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"Retry: budget must be a RetryBudget or None, got {budget!r}")
        if attempts != math.inf:
            arguments.count("Retry: attempts", attempts)  # type: ignore[arg-type]
        elif deadline is None and budget is None:
            raise ValueError("Retry: attempts=inf needs a deadline or a budget that ends it, got neither")
        if backoff is not None and not isinstance(backoff, Backoff):
            raise TypeError(
                f"Retry: backoff must be a Backoff, got {backoff!r}; "
                "write Backoff.constant(1.0) for one second"
            )
        if until is not None:
            arguments.plain_function("Retry: until", until)
        if dispose is not None:
            if not callable(dispose):
                raise TypeError(f"Retry: dispose must be a function or None, got {dispose!r}")
            if until is None:
                raise ValueError("Retry: dispose needs until=, which says what to give up")
        if retry_after is not None:
            arguments.plain_function("Retry: retry_after", retry_after)
        arguments.choice("Retry: nested", nested, ("warn", "inner", "outer", "both"))
        self._terms = Terms(
            name=self.name,
            listeners=self._listeners,
            plan=Plan(
                attempts,
                backoff or Backoff.exponential(),
                arguments.duration("Retry: max_retry_after", max_retry_after),
            ),
            matches=ErrorMatcher("Retry: on", on, groups=groups),
            deadline=None if deadline is None else arguments.duration("Retry: deadline", deadline),
            until=until,
            dispose=dispose,
            budget=budget,
            hint=retry_after,
            nested=nested,
            seen_within=nested == "outer" or budget is not None,
        )

    @property
    def budgeted(self) -> bool:
        """Whether a budget bounds the extra load."""
        return self._terms.budget is not None

    def retries(self, refusal: type[Rejected]) -> bool:
        """Whether `on` names this kind of refusal."""
        return self._terms.matches.names(refusal)

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        terms, matches = self._terms, self._terms.matches
        if self._needs_state():

            async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
                run = Run(terms, fn)
                try:
                    return await run.attempts(None, fn, *args, **kwargs)
                finally:
                    run.forget()

            return retried

        async def retried_if_it_fails(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                if not matches(error):
                    raise
                run = Run(terms, fn)
                delay = run.delay_after(error)
                if delay is None:
                    raise
            # Outside the except block, or every later error would get this one as its context.
            try:
                return await run.attempts(delay, fn, *args, **kwargs)
            finally:
                run.forget()

        return retried_if_it_fails

    def _needs_state(self) -> bool:
        """Whether something must be known or done before the first attempt."""
        t = self._terms
        return (
            t.deadline is not None
            or t.until is not None
            or t.seen_within
            or t.nested == "inner"  # to tell what a retry further in did during this attempt
        )

    def __aiter__(self) -> AsyncIterator[RetryAttempt]:
        """Attempts, with fresh state for each loop: `async for attempt in retry: async with attempt:`"""
        if self._terms.until is not None:
            raise TypeError("Retry: until= judges results, and a block has none; use @retry or retry.call")
        return Attempts(Run(self._terms, self))

    def __repr__(self) -> str:
        t = self._terms
        limit = "" if t.deadline is None else f" within {t.deadline:g} s"
        return f"<Retry {self.name!r} {t.plan.attempts} attempts{limit}, {t.plan.backoff!r}>"
