"""RejectedMiddleware: the refusals of every policy, as responses."""

from __future__ import annotations

import logging
from datetime import timedelta

from aresilience.asgi.answers import Answers, Degrade, Statuses
from aresilience.asgi.causes import refusal_in
from aresilience.asgi.passage import passage
from aresilience.asgi.started import Started
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.errors import AresilienceError, Rejected, TimedOut

__all__ = ["RejectedMiddleware"]

_log = logging.getLogger("aresilience")


class RejectedMiddleware:
    """Answers a `Rejected` that leaves the application before its response has started.

    429 for `RateLimited` and 503 for every other refusal, as `application/problem+json` with `Retry-After`.
    Refusals inside an `ExceptionGroup` are found, if there is nothing else in it. Once the response has started
    the error passes, and so does every other error. A websocket is refused before it is accepted.

    - `timeouts`: also answer `TimedOut` and `DeadlineExceeded`, with 504. Off by default: a call that was made
      and took too long is a failure, which error reporting wants to see, where a refusal is business as usual.
    - `statuses`: other statuses, by type of error; an error of ours that is no refusal is then answered too.
      `{RateLimited: 503}` where the limit is that of a service behind, and no fault of who called here.
    - `default_retry_after`: seconds for refusals that do not say when to come back; `max_retry_after`: the
      most that is ever told, a day.
    - `legacy_headers`: "RateLimit" or "X-RateLimit", to tell of limits by those names too.
    - `degrade`: `async def degrade(scope, error)` returns an ASGI application that answers instead (from a
      cache, perhaps), or None. The request's body may have been read by then.

    The other middlewares inside it answer their refusals by its options.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        timeouts: bool = False,
        statuses: Statuses | None = None,
        default_retry_after: float | timedelta = 1.0,
        max_retry_after: float | timedelta = 86_400.0,
        legacy_headers: str | None = None,
        degrade: Degrade | None = None,
    ) -> None:
        self._answers = Answers(
            "RejectedMiddleware",
            statuses=statuses,
            default_retry_after=default_retry_after,
            max_retry_after=max_retry_after,
            legacy_headers=legacy_headers,
            degrade=degrade,
        )
        self.app = app
        self._kinds: tuple[type[AresilienceError], ...] = (Rejected, *(statuses or ()))
        if timeouts:
            self._kinds += (TimedOut,)
        self._caught: tuple[type[Exception], ...] = (*self._kinds, ExceptionGroup)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        passed = passage(scope)
        outer, passed.answers = passed.answers, self._answers
        started = Started(send)
        try:
            await self.app(scope, receive, started)
        except self._caught as error:
            refusal = refusal_in(error, self._kinds)
            if started.started or refusal is None:
                raise
            if isinstance(refusal, TimedOut):
                _log.debug("answered 504", exc_info=error)
            await self._answers(refusal, scope, receive, send)
        finally:
            passed.answers = outer

    def __repr__(self) -> str:
        return f"<RejectedMiddleware for {', '.join(kind.__name__ for kind in self._kinds)}>"
