"""Metrics: what policies did, by name, and nothing that a user sent."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import aresilience as ar
from aresilience.integrations.opentelemetry import OpenTelemetryListener
from aresilience.integrations.prometheus import PrometheusListener


async def fails(user: str) -> None:
    """What is down."""
    raise ConnectionError(user)


async def a_bad_moment(listener: ar.Listener) -> None:
    """A retry that gives up, a circuit that opens, a call that is refused."""
    pipeline = ar.Pipeline(
        ar.Retry(on=ConnectionError, attempts=2, backoff=ar.Backoff.constant(0.5), name="again"),
        ar.CircuitBreaker("payments", failure_threshold=2),
    )
    pipeline.listen(listener)
    with pytest.raises(ConnectionError):
        await pipeline.call(fails, "ann")
    with pytest.raises(ar.CircuitOpen):
        await pipeline.call(fails, "ann")


async def test_opentelemetry_counts_events_by_policy() -> None:
    """One counter for all events, with the states and reasons as attributes; V9: never a user's key."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    await a_bad_moment(OpenTelemetryListener(provider.get_meter("test")))
    data: Any = reader.get_metrics_data()
    metrics = {m.name: m for m in data.resource_metrics[0].scope_metrics[0].metrics}
    counted = {
        tuple(sorted(p.attributes.items())): p.value
        for p in metrics["aresilience.policy.events"].data.data_points
    }
    assert counted == {
        (
            ("aresilience.event.name", "RetryScheduled"),
            ("aresilience.policy.name", "again"),
        ): 1,
        (
            ("aresilience.event.name", "RetryGaveUp"),
            ("aresilience.policy.name", "again"),
            ("aresilience.reason", "no attempts left"),
        ): 1,
        (
            ("aresilience.event.name", "BreakerChanged"),
            ("aresilience.new", "open"),
            ("aresilience.old", "closed"),
            ("aresilience.policy.name", "payments"),
        ): 1,
        (
            ("aresilience.event.name", "CallRejected"),
            ("aresilience.policy.name", "payments"),
            ("aresilience.shadow", False),
        ): 1,
    }
    (delay,) = metrics["aresilience.retry.delay"].data.data_points
    assert delay.sum == 0.5
    provider.shutdown()


async def test_prometheus_counts_events_by_policy() -> None:
    """The same for Prometheus, and the state of each breaker as a gauge."""
    registry = CollectorRegistry()
    await a_bad_moment(PrometheusListener(registry))
    value = registry.get_sample_value
    assert value("aresilience_events_total", {"policy": "again", "event": "RetryGaveUp"}) == 1
    assert value("aresilience_rejected_total", {"policy": "payments", "shadow": "false"}) == 1
    assert value("aresilience_breaker_state", {"policy": "payments", "state": "open"}) == 1
    assert value("aresilience_breaker_state", {"policy": "payments", "state": "closed"}) == 0
