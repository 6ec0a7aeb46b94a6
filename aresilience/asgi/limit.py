"""Limit: one level of a `RateLimitMiddleware`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aresilience import arguments
from aresilience.asgi.keys import Key, Value, checked_key
from aresilience.asgi.routes import Routes
from aresilience.asgi.types import Scope
from aresilience.limiter import RateLimiter

__all__ = ["Limit"]


class Limit:
    """A limiter, and which requests it limits by which key.

    - `key`: requests with the same key share the limit. `ClientIP()`, `Header("x-api-key")`, a function of the
      scope (`lambda scope: scope["user"].id`, plain or async; None: not limited), or a text for all alike.
    - `methods`: every one but HEAD and OPTIONS, unless said; `["*"]` for those too. A websocket counts as GET.
    - `paths`, `exempt`: "/login", "/api/*", "/users/*/orders", as the routes of the application that the
      middleware is added to have them; every path by default.
    - `cost`: tokens for a request, or a plain function of the scope.
    - `name`: what it is called in header fields, by default as the limiter is.
    - `advertise`: whether clients are told of it in header fields. Not for what all share: it would show each
      what the others do.
    """

    __slots__ = ("_cost", "_key", "_routes", "advertise", "limiter", "name")

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        key: Key,
        methods: Collection[str] | None = None,
        paths: Collection[str] | None = None,
        exempt: Collection[str] = (),
        cost: int | Callable[[Scope], int] = 1,
        name: str | None = None,
        advertise: bool = True,
    ) -> None:
        if not isinstance(limiter, RateLimiter):
            raise TypeError(f"Limit: limiter must be an ar.RateLimiter, got {limiter!r}")
        self.limiter = limiter
        self._key = checked_key("Limit: key", key)
        self._routes = Routes(
            "Limit", methods=methods, paths=paths, exempt=exempt, unless=("HEAD", "OPTIONS")
        )
        if callable(cost):
            arguments.plain_function("Limit: cost", cost)
        else:
            arguments.count("Limit: cost", cost)
        self._cost = cost
        self.name = limiter.name if name is None else arguments.text("Limit: name", name)
        if not all(" " <= char <= "~" for char in self.name):
            raise ValueError(f"Limit: name goes into headers, so it must be printable ASCII, got {name!r}")
        self.advertise = advertise

    def includes(self, scope: Scope) -> bool:
        """Whether this limit is for a request, by method and path."""
        return self._routes.include(scope)

    def key(self, scope: Scope) -> Value | Awaitable[Value]:
        """The key of a request, as the key function returns it."""
        return self._key if isinstance(self._key, str) else self._key(scope)

    def cost(self, scope: Scope) -> int:
        """The tokens for a request."""
        return self._cost if isinstance(self._cost, int) else self._cost(scope)

    def __repr__(self) -> str:
        return f"<Limit {self.name!r} by {self._key!r}>"
