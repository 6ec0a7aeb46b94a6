"""How a refusal is answered: which status, which headers, or a degraded response instead."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from aresilience import arguments
from aresilience.asgi.fields import LEGACY, Fields, Level, limit_fields, tightest_name, whole_seconds
from aresilience.asgi.passage import passage
from aresilience.asgi.problem import Problem, problem_body
from aresilience.asgi.started import Started
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.errors import AresilienceError, BackendError, Rejected, TimedOut
from aresilience.idempotency import Abandoned, AnswerLost, ClaimLost, InFlight, KeyReused
from aresilience.limiter import RateLimited, RateLimiter

__all__ = ["Answers", "Degrade", "Statuses", "Told", "answers_for", "as_problem"]

Degrade: TypeAlias = Callable[[Scope, AresilienceError], Awaitable[ASGIApp | None] | ASGIApp | None]
"""Chooses the application that answers in place of the refusal, or None."""
Statuses: TypeAlias = Mapping[type[AresilienceError], int]

_TOO_MANY = 429
_STATUSES: Statuses = {
    RateLimited: _TOO_MANY,
    InFlight: 409,
    Rejected: 503,
    BackendError: 503,
    TimedOut: 504,
    KeyReused: 422,
    Abandoned: 409,
    AnswerLost: 409,
    ClaimLost: 409,
}
_DETAILS: dict[type[AresilienceError], str] = {
    InFlight: "A request with this idempotency key is being worked on.",
    KeyReused: "This idempotency key was used for another request.",
    Abandoned: "A request with this idempotency key was begun, and whether it was done is not known.",
    AnswerLost: "The request with this idempotency key was done; its response was not kept.",
    ClaimLost: "Another request with this idempotency key took over.",
}
"""What a client has to know besides the status."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a refusal by a limit tells of it: the names of the policies that refused, and header fields."""

    names: Sequence[str] = ()
    fields: Sequence[tuple[str, str]] = ()


class Answers:
    """The options of answering, checked once; `where` names the middleware in complaints."""

    __slots__ = ("_degrade", "_legacy", "_most", "_otherwise", "_statuses", "_undegraded")

    def __init__(
        self,
        where: str,
        *,
        statuses: Statuses | None = None,
        default_retry_after: float | timedelta = 1.0,
        max_retry_after: float | timedelta = 86_400.0,
        legacy_headers: str | None = None,
        degrade: Degrade | None = None,
    ) -> None:
        self._statuses = {**_STATUSES, **_checked(f"{where}: statuses", statuses or {})}
        self._otherwise = arguments.duration(f"{where}: default_retry_after", default_retry_after)
        most = arguments.duration(f"{where}: max_retry_after", max_retry_after)
        if most < 1:
            raise ValueError(f"{where}: max_retry_after must be at least 1, got {max_retry_after!r}")
        self._most = float(int(most))
        if legacy_headers is not None:
            arguments.choice(f"{where}: legacy_headers", legacy_headers, LEGACY)
        self._legacy = legacy_headers
        if degrade is not None and not callable(degrade):
            raise TypeError(f"{where}: degrade must be a function of scope and error, got {degrade!r}")
        self._degrade = degrade
        self._undegraded = self
        if degrade is not None:
            self._undegraded = Answers(
                where,
                statuses=statuses,
                default_retry_after=default_retry_after,
                max_retry_after=max_retry_after,
                legacy_headers=legacy_headers,
            )

    async def __call__(
        self, error: AresilienceError, scope: Scope, receive: Receive, send: Send, told: Told | None = None
    ) -> None:
        """Answer a request whose response has not started. `told` is for limits of a middleware's own."""
        if self._degrade is not None and scope["type"] == "http":
            passage(scope).answers = self._undegraded  # a refusal on the degraded way is the end of it
            started = Started(send)
            try:
                app = self._degrade(scope, error)
                if inspect.isawaitable(app):
                    app = await app
                if app is not None:
                    await app(scope, receive, started)
                    return
            except Rejected:
                if started.started:
                    raise
        await self.problem(error, told)(scope, receive, send)

    def problem(self, error: AresilienceError, told: Told | None = None) -> Problem:
        """The fixed response for an error."""
        status = _TOO_MANY
        if told is None:
            status = next((self._statuses[t] for t in type(error).__mro__ if t in self._statuses), 500)
            told = self._told_by(error) if status == _TOO_MANY else Told()
        detail = next((_DETAILS[t] for t in type(error).__mro__ if t in _DETAILS), "")
        body = problem_body(status, told.names, detail)
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
        ]
        if isinstance(error, Rejected | BackendError):
            wait = getattr(error, "retry_after", None)
            seconds = whole_seconds(wait, otherwise=self._otherwise, most=self._most)
            headers.append(("retry-after", str(seconds)))
        return Problem(status, (*headers, *told.fields), body)

    def fields(self, levels: Sequence[Level]) -> Fields:
        """The header fields that tell of limits."""
        return limit_fields(levels, most=self._most, legacy=self._legacy)

    def _told_by(self, error: AresilienceError) -> Told:
        """What a refusal by a limit of the application's says of that limit."""
        if not isinstance(error, RateLimited) or error.decision is None:
            return Told()
        limiter = error.limiter if isinstance(error.limiter, RateLimiter) else None
        level = Level("limit" if limiter is None else limiter.name, limiter, error.decision)
        return Told((tightest_name(level),), self.fields((level,)))


def answers_for(scope: Scope, own: Answers) -> Answers:
    """How to answer this request: as a `RejectedMiddleware` outside says, or else in one's own way."""
    return passage(scope).answers or own


def _checked(where: str, statuses: Statuses) -> Statuses:
    for kind, status in statuses.items():
        if not isinstance(kind, type) or not issubclass(kind, AresilienceError):
            raise TypeError(f"{where} must map error types of aresilience to statuses, got {kind!r}")
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"{where} must be from 400 to 599, got {status!r} for {kind.__name__}")
    return statuses


_PLAIN = Answers("as_problem")


def as_problem(error: AresilienceError) -> Problem:
    """The response for a refusal, for the exception handler of a framework that turns every error into a
    response before a middleware sees it."""
    return _PLAIN.problem(error)
