"""What stands between the shop and its inventory: the whole of the protection is in this file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import httpx

import aresilience as ar

__all__ = ["Journal", "LastKnown", "Stock", "inventory_pipeline"]


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


def inventory_pipeline(last_known: LastKnown) -> ar.Pipeline:
    """Calls of the inventory: answered within 0.8 s, by it or from memory."""
    return ar.Pipeline.standard(
        fallback=ar.Fallback(last_known.recall, on=(*_SICK, ar.Rejected)),
        bulkhead=ar.Bulkhead(40, name="inventory"),
        deadline=ar.Timeout(0.8, name="inventory in all"),
        retry=ar.Retry(
            on=_SICK,
            attempts=3,
            backoff=ar.Backoff.exponential(initial=0.05, maximum=0.2),
            budget=ar.RetryBudget(ratio=0.3, floor=2.0, window=3.0),
            name="inventory",
        ),
        breaker=ar.CircuitBreaker(
            "inventory",
            failure_on=_SICK,
            failure_rate=0.5,
            window=ar.Window.seconds(0.8),
            minimum_calls=20,
            recovery_timeout=1.0,
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

    def __call__(self, event: ar.Event) -> None:
        match event:
            case ar.BreakerChanged():
                self.states.append((event.at, event.new.value))
            case ar.RetryScheduled():
                self.retries += 1
            case ar.FallbackUsed():
                why = type(event.error).__name__
                self.degraded[why] = self.degraded.get(why, 0) + 1
