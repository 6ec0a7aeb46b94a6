"""Metrics for OpenTelemetry: a listener. (The extra: `aresilience[opentelemetry]`.)

    policies.listen(OpenTelemetryListener())

| instrument                  | kind      | unit    | attributes                                        |
|-----------------------------|-----------|---------|---------------------------------------------------|
| `aresilience.policy.events` | counter   | {event} | policy name, event name, and what is said of it   |
| `aresilience.retry.delay`   | histogram | s       | policy name                                       |

What is said of an event is only what has few values: states, reasons, flags. Never a key of a user's.
"""

from __future__ import annotations

import enum
from dataclasses import fields

from opentelemetry.metrics import Meter, get_meter

from aresilience.events import Event
from aresilience.retry import RetryScheduled

__all__ = ["OpenTelemetryListener", "attributes_of"]

_FEW_VALUES = ("answer",)


class OpenTelemetryListener:
    """Counts every event. `meter` is a meter of your own; by default the global provider's."""

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or get_meter("aresilience")
        self._events = meter.create_counter(
            "aresilience.policy.events", unit="{event}", description="What policies did"
        )
        self._delays = meter.create_histogram(
            "aresilience.retry.delay", unit="s", description="Waits before another attempt"
        )

    def __call__(self, event: Event) -> None:
        self._events.add(1, attributes_of(event))
        if isinstance(event, RetryScheduled):
            self._delays.record(event.delay, {"aresilience.policy.name": event.policy})


def attributes_of(event: Event) -> dict[str, str | bool]:
    """The attributes of an event: its policy, its name, and those of its fields that have few values."""
    found: dict[str, str | bool] = {
        "aresilience.policy.name": event.policy,
        "aresilience.event.name": type(event).__name__,
    }
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, enum.Enum):
            found[f"aresilience.{field.name}"] = str(value.value)
        elif isinstance(value, bool) or field.name in _FEW_VALUES:
            found[f"aresilience.{field.name}"] = value
    return found
