"""Metrics for Prometheus: a listener. (The extra: `aresilience[prometheus]`.)

    policies.listen(PrometheusListener())

| metric                       | kind    | labels                                     |
|------------------------------|---------|--------------------------------------------|
| `aresilience_events_total`   | counter | policy, event                              |
| `aresilience_rejected_total` | counter | policy, shadow                             |
| `aresilience_breaker_state`  | gauge   | policy, state; 1 for the state that it has |

Labels are names of policies, never keys of users.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from aresilience.breaker import BreakerChanged
from aresilience.events import CallRejected, Event

__all__ = ["PrometheusListener"]


class PrometheusListener:
    """Counts events, in `registry` or in the default one. One for each registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._events = Counter(
            "aresilience_events", "What policies did", ["policy", "event"], registry=registry
        )
        self._rejected = Counter(
            "aresilience_rejected", "Calls that were refused", ["policy", "shadow"], registry=registry
        )
        self._states = Gauge(
            "aresilience_breaker_state",
            "1 for the state of a breaker",
            ["policy", "state"],
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        self._events.labels(event.policy, type(event).__name__).inc()
        if isinstance(event, CallRejected):
            self._rejected.labels(event.policy, str(event.shadow).lower()).inc()
        elif isinstance(event, BreakerChanged):
            self._states.labels(event.policy, event.old.value).set(0)
            self._states.labels(event.policy, event.new.value).set(1)
