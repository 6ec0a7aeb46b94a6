"""DeadlineMiddleware: how long the caller will wait, as a deadline for everything below."""

from __future__ import annotations

import logging
import math
import re
from datetime import timedelta

from aresilience import arguments
from aresilience.asgi.answers import Answers
from aresilience.asgi.causes import refusal_in
from aresilience.asgi.names import header_name
from aresilience.asgi.started import Started
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.deadline import deadline, time_remaining
from aresilience.errors import AresilienceError, DeadlineExceeded

__all__ = ["DeadlineMiddleware", "deadline_headers"]

_HEADER = "X-Request-Timeout"
_SECONDS = re.compile(rb"[ \t]*(\d{1,9}(?:\.\d{1,9})?)[ \t]*")
_log = logging.getLogger("aresilience")


class DeadlineMiddleware:
    """Gives each HTTP request a deadline, which `ar.time_remaining()` tells and every policy below keeps.

    - `header`: the header in which the caller says how many seconds it will wait: "2", "0.35". Anything else in
      it is ignored; of several the shortest counts. None: callers are not asked.
    - `default`: for requests without that header; `maximum`: the most that a caller can ask for, which also
      holds for those that do not ask and have no default.

    When it passes before the response has started, the application is cancelled and the answer is 504; a
    request that comes with 0 is not begun. Once the response has started, it is broken off, and
    `DeadlineExceeded` passes. Work that ignores its cancellation, in a thread for example, is waited for.

    Take the header from callers that you know: anyone else can have work cancelled halfway with it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header: str | None = _HEADER,
        maximum: float | timedelta | None = None,
        default: float | timedelta | None = None,
    ) -> None:
        where = "DeadlineMiddleware"
        self._header = None if header is None else header_name(f"{where}: header", header).encode("ascii")
        self._maximum = None if maximum is None else arguments.duration(f"{where}: maximum", maximum)
        self._default = None if default is None else arguments.duration(f"{where}: default", default)
        if self._default is not None and self._maximum is not None and self._default > self._maximum:
            raise ValueError(f"{where}: default must be at most the maximum {maximum!r}, got {default!r}")
        if header is None and maximum is None and default is None:
            raise ValueError(f"{where} without header, maximum and default would do nothing")
        self._answers = Answers(where)
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._seconds(scope) if scope["type"] == "http" else None
        if seconds is None:
            await self.app(scope, receive, send)
            return
        started = Started(send)
        passed: AresilienceError | None = None
        if seconds > 0 and time_remaining() != 0:
            try:
                with deadline(seconds):
                    await self.app(scope, receive, started)
                return
            except (DeadlineExceeded, ExceptionGroup) as error:
                passed = refusal_in(error, (DeadlineExceeded,))
                if started.started or passed is None:
                    raise
                _log.debug("answered 504", exc_info=error)
        passed = passed or DeadlineExceeded("the deadline had passed before the request came")
        await self._answers(passed, scope, receive, send)

    def _seconds(self, scope: Scope) -> float | None:
        """The limit for this request; None if there is none."""
        asked = [
            float(found[1])
            for name, value in scope["headers"]
            if name == self._header and (found := _SECONDS.fullmatch(value))
        ]
        seconds = min(asked) if asked else self._default
        if seconds is None or self._maximum is None:
            return self._maximum if seconds is None else seconds
        return min(seconds, self._maximum)

    def __repr__(self) -> str:
        header = None if self._header is None else self._header.decode("ascii")
        return f"<DeadlineMiddleware header={header!r} default={self._default} maximum={self._maximum}>"


def deadline_headers(header: str = _HEADER) -> dict[str, str]:
    """The header that passes the ambient deadline on to the service that is called next.

    `httpx.get(url, headers=deadline_headers())`: seconds left, rounded down to the millisecond. Empty where
    there is no deadline.
    """
    left = time_remaining()
    if left is None:
        return {}
    header_name("deadline_headers: header", header)
    return {header: f"{math.floor(left * 1000) / 1000:.3f}"}
