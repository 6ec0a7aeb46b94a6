"""RateLimitMiddleware: limits at the door, on several levels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeAlias

from aresilience.asgi.answers import Answers, Told, answers_for
from aresilience.asgi.fields import Level, tightest_name
from aresilience.asgi.keys import settled
from aresilience.asgi.limit import Limit
from aresilience.asgi.passage import passage
from aresilience.asgi.types import ASGIApp, Message, Receive, Scope, Send
from aresilience.errors import BackendError
from aresilience.limiter import Decision, RateLimited, acquire_all

__all__ = ["RateLimitMiddleware"]

_Ask: TypeAlias = tuple[Limit, str, int]
_LISTS = 2  # the fields of the draft come first
_log = logging.getLogger("aresilience")


class RateLimitMiddleware:
    """Charges each request to every limit that is meant for it, all or none, and answers 429 if one refuses.

        RateLimitMiddleware(app, limits=[
            Limit(gateway, key="", advertise=False),                   # all requests together
            Limit(per_client, key=ClientIP(trusted_hops=1)),
            Limit(logins, key=ClientIP(trusted_hops=1), paths=["/login"], methods=["POST"]),
            Limit(per_user, key=lambda scope: scope["user"].id),       # inside the authentication
        ])

    Nobody waits here: waiting requests are what an overloaded service has too many of. A limiter charges a
    request once for a key, however often its limit is met, in a mounted application, say.

    - `headers`: tell of the limits on responses that were admitted too, not only on refusals.
    - `legacy_headers`: "RateLimit" or "X-RateLimit", to tell of them by those names too.
    - `websockets`: opening one is a request, and refused before it is accepted.
    - `default_retry_after`, `max_retry_after`: as for `RejectedMiddleware`.

    When a limiter's backend fails, its `on_store_error` decides; under "raise" the answer is 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Iterable[Limit],
        headers: bool = True,
        legacy_headers: str | None = None,
        websockets: bool = True,
        default_retry_after: float | timedelta = 1.0,
        max_retry_after: float | timedelta = 86_400.0,
    ) -> None:
        self._answers = Answers(
            "RateLimitMiddleware",
            default_retry_after=default_retry_after,
            max_retry_after=max_retry_after,
            legacy_headers=legacy_headers,
        )
        self.app = app
        self.limits = _checked(limits)
        self._names = _distinct(self.limits)
        self._headers = headers
        self._types = ("http", "websocket") if websockets else ("http",)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in self._types:
            await self.app(scope, receive, send)
            return
        charged = passage(scope).charged
        asked: dict[tuple[int, str], tuple[Limit, str, int]] = {}
        for limit in self.limits:
            if limit.includes(scope):
                key = limit.key(scope)
                if not isinstance(key, str):
                    key = await settled(key)
                    if key is None:
                        continue
                mark = (id(limit.limiter), key)
                if mark not in charged and mark not in asked:
                    asked[mark] = (limit, key, limit.cost(scope))
        if not asked:
            await self.app(scope, receive, send)
            return
        asks = list(asked.values())
        try:
            decisions = await _acquire(asks)
        except RateLimited as refusal:
            answers = answers_for(scope, self._answers)
            await answers(refusal, scope, receive, send, self._told(refusal, asks))
            return
        except BackendError as error:
            _log.warning("a rate limit could not be asked: %s", type(error).__name__)
            await answers_for(scope, self._answers)(error, scope, receive, send)
            return
        charged.update(asked)
        levels = self._levels(asks, decisions) if self._headers else ()
        await self.app(scope, receive, self._telling(send, levels) if levels else send)

    def _levels(self, asks: Sequence[_Ask], decisions: Sequence[Decision]) -> list[Level]:
        """What clients may know of."""
        return [
            Level(self._names[limit], limit.limiter, decision)
            for (limit, _, _), decision in zip(asks, decisions, strict=True)
            if limit.advertise
        ]

    def _told(self, refusal: RateLimited, asks: Sequence[_Ask]) -> Told:
        """What the refusal of one of our limits may tell of it."""
        assert refusal.decision is not None, "a limiter refuses with its decision"
        refused = next(ask for ask in asks if ask[0].limiter is refusal.limiter)
        levels = self._levels([refused], [refusal.decision])
        return Told([tightest_name(level) for level in levels], self._answers.fields(levels))

    def _telling(self, send: Send, levels: Sequence[Level]) -> Send:
        """A `send` that adds the header fields when the response starts."""

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                fields = [
                    (name.encode("ascii"), value.encode("ascii"))
                    for name, value in self._answers.fields(levels)
                ]
                if len(fields) > _LISTS:  # those are lists, on any number of lines; the old names are not
                    present = {bytes(name).lower() for name, _ in headers}
                    fields[_LISTS:] = [field for field in fields[_LISTS:] if field[0] not in present]
                message = {**message, "headers": headers + fields}
            await send(message)

        return telling

    def __repr__(self) -> str:
        return f"<RateLimitMiddleware {', '.join(map(repr, self.limits))}>"


async def _acquire(asks: Sequence[_Ask]) -> Sequence[Decision]:
    """The decisions of all, or the `RateLimited` of one."""
    if len(asks) > 1:
        return await acquire_all(*((limit.limiter, key, cost) for limit, key, cost in asks))
    limit, key, cost = asks[0]
    decision = await limit.limiter.try_acquire(key, cost)
    if not decision:
        raise RateLimited(
            f"rate limit {limit.limiter.name!r}",
            retry_after=decision.retry_after,
            decision=decision,
            limiter=limit.limiter,
        )
    return (decision,)


def _checked(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    where = "RateLimitMiddleware: limits"
    if not isinstance(limits, Iterable):
        raise TypeError(f"{where} must be a list of Limit, got {limits!r}")
    found = tuple(limits)
    for limit in found:
        if not isinstance(limit, Limit):
            raise TypeError(f"{where} must be a list of Limit, got {limit!r}: write Limit(limiter, key=…)")
    if not found:
        raise ValueError(f"{where} must not be empty")
    return found


def _distinct(limits: Sequence[Limit]) -> dict[Limit, str]:
    """A name for each: header fields tell them apart by it."""
    names: dict[Limit, str] = {}
    for limit in limits:
        name, number = limit.name, 2
        while name in names.values():
            name, number = f"{limit.name}-{number}", number + 1
        names[limit] = name
    return names
