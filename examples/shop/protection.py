"""What stands at the shop's door, and between it and its inventory: the whole of the protection is here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import httpx
from starlette.middleware import Middleware

import aresilience as ar
from aresilience.asgi import Header, Limit, RateLimitMiddleware, RejectedMiddleware
from aresilience.integrations.httpx import ResilientTransport

__all__ = [
    "AT_ONCE",
    "PER_MINUTE",
    "REPLICAS",
    "Journal",
    "LastKnown",
    "Stock",
    "door",
    "finding",
    "inventory_pipeline",
]

PER_MINUTE, AT_ONCE = 40, 10
"""What a user may ask for. A token takes 1.5 s, so that a Retry-After rounded down would be found out."""
REPLICAS = 2
"""Processes of a shop that has its state on Redis."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What the inventory says of one product. Degraded: it said so some time ago."""

    sku: str
    left: int
    cents: int
    degraded: bool = False


class LastKnown:
    """The last good answer for each product: what to say when there is no better one."""

    def __init__(self) -> None:
        self._stocks: dict[str, Stock] = {}

    def keep(self, stock: Stock) -> None:
        self._stocks[stock.sku] = stock

    def recall(self, error: Exception, sku: str) -> Stock:
        if sku not in self._stocks:
            raise error
        return replace(self._stocks[sku], degraded=True)


def _server_error(error: Exception) -> bool:
    """A 404 is an answer, and asking again will not change it; a 503 is not."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error


_SICK = (httpx.TransportError, TimeoutError, _server_error)


def door(backend: ar.Backend, journal: Journal) -> list[Middleware]:
    """At the door, from outside to inside: refusals become 429 or 503 with Retry-After, and two limits.

    Whom a request is for says X-User, which is to be believed only because the gateway in front of a shop
    writes it, whatever the client sent; who comes around the gateway is known by address.
    """
    common = ar.RateLimiter(
        "200/s", name="shop", local_share=1 / REPLICAS, backend=backend, listeners=[journal]
    )
    per_user = ar.RateLimiter(
        f"{PER_MINUTE}/min",
        burst=AT_ONCE,
        name="per-user",
        local_share=1 / REPLICAS,  # of each process, while Redis is away
        backend=backend,
        listeners=[journal],
    )
    limits = [
        Limit(common, key="", paths=["/products/*"], advertise=False),
        Limit(per_user, key=Header("x-user"), paths=["/products/*"]),
    ]
    return [Middleware(RejectedMiddleware, timeouts=True), Middleware(RateLimitMiddleware, limits=limits)]


def finding(registry: ar.ServiceRegistry) -> ResilientTransport:
    """Which inventory is asked: one that is likely to answer; after a broken connection another one, at once.

    Everything else is for the pipeline to repeat, when it sees fit.
    """
    return ResilientTransport(
        registry,
        attempts=2,
        backoff=ar.Backoff.constant(0.005),
        retry_statuses=(),
        budget=ar.RetryBudget(ratio=0.1, floor=2.0, window=3.0),
    )


def inventory_pipeline(last_known: LastKnown, backend: ar.Backend) -> ar.Pipeline:
    """Calls of the inventory: answered within 0.7 s, by it or from memory."""
    return ar.Pipeline.standard(
        fallback=ar.Fallback(last_known.recall, on=(*_SICK, ar.Rejected)),
        bulkhead=ar.Bulkhead(40, name="inventory"),
        deadline=ar.Timeout(0.7, name="inventory in all"),
        retry=ar.Retry(
            on=_SICK,
            attempts=3,
            backoff=ar.Backoff.exponential(initial=0.05, maximum=0.2),
            budget=ar.RetryBudget(ratio=0.3, floor=2.0, window=3.0),
            nested="both",  # the one further in goes elsewhere, this one waits
            name="inventory",
        ),
        breaker=ar.CircuitBreaker(
            "inventory",
            failure_on=_SICK,
            failure_rate=0.7,
            window=ar.Window.seconds(0.8),
            minimum_calls=12,
            recovery_timeout=1.0,
            probe_timeout=1.0,
            backend=backend,
        ),
        attempt_timeout=ar.Timeout(0.3, name="inventory attempt"),
    )


@dataclass(slots=True)
class Journal:
    """Listens to the policies: what they did, to be read when the day is over."""

    states: list[tuple[float, str]] = field(default_factory=list)
    """When the breaker changed, and to which state."""
    retries: int = 0
    degraded: dict[str, int] = field(default_factory=dict)
    """How often which error was answered from memory."""
    alone: int = 0
    """How often it went on without Redis."""

    def __call__(self, event: ar.Event) -> None:
        match event:
            case ar.BreakerChanged():
                self.states.append((event.at, event.new.value))
            case ar.RetryScheduled():
                self.retries += 1
            case ar.FallbackUsed():
                why = type(event.error).__name__
                self.degraded[why] = self.degraded.get(why, 0) + 1
            case ar.StoreDegraded():
                self.alone += 1
