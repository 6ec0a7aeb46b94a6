"""BulkheadMiddleware: so many requests at once."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta

from aresilience.asgi.answers import Answers, answers_for
from aresilience.asgi.leaving import ClientLeft, Queueing
from aresilience.asgi.passage import passage
from aresilience.asgi.routes import Routes
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.bulkhead import Bulkhead
from aresilience.errors import Rejected

__all__ = ["BulkheadMiddleware"]


class BulkheadMiddleware:
    """Lets as many requests in at once as the bulkhead has permits, and answers 503 to those that it refuses.

    A permit is held until the application has ended, its background tasks included. A client that leaves does
    not free it: servers neither cancel the application then nor fail what it sends. Who leaves while still in
    the bulkhead's queue gives up the place there.

    - `methods`, `paths`, `exempt`: which requests, as for `Limit`; by default all. Exempt the health check.
    - `websockets`: off by default: a websocket holds its permit for as long as it is open.
    - `default_retry_after`: the seconds that are told to those who are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        bulkhead: Bulkhead,
        methods: Collection[str] | None = None,
        paths: Collection[str] | None = None,
        exempt: Collection[str] = (),
        websockets: bool = False,
        default_retry_after: float | timedelta = 1.0,
    ) -> None:
        if not isinstance(bulkhead, Bulkhead):
            raise TypeError(f"BulkheadMiddleware: bulkhead must be an ar.Bulkhead, got {bulkhead!r}")
        self._routes = Routes("BulkheadMiddleware", methods=methods, paths=paths, exempt=exempt)
        self._types = ("http", "websocket") if websockets else ("http",)
        self._answers = Answers("BulkheadMiddleware", default_retry_after=default_retry_after)
        self.app = app
        self.bulkhead = bulkhead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in self._types or not self._routes.include(scope):
            await self.app(scope, receive, send)
            return
        inside = passage(scope).bulkheads
        mark = id(self.bulkhead)
        if mark in inside:  # mounted twice: it has its permit
            await self.app(scope, receive, send)
            return
        queueing = Queueing(scope, receive)
        try:
            try:
                await queueing.wait(self.bulkhead.__aenter__())
            except ClientLeft as left:
                with suppress(OSError):  # for nobody, but those between us and the server want an answer
                    await self._answers(left, scope, receive, send)
                return
            except Rejected as refusal:
                await answers_for(scope, self._answers)(refusal, scope, queueing.receive, send)
                return
            inside.add(mark)
            try:
                await self.app(scope, queueing.receive, send)
            finally:
                inside.discard(mark)
                await self.bulkhead.__aexit__(None, None, None)
        finally:
            await queueing.close()

    def __repr__(self) -> str:
        return f"<BulkheadMiddleware {self.bulkhead!r}>"
