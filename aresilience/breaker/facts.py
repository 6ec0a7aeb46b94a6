"""What a circuit breaker tells: its refusal, its event, its snapshot; and what it hands out, a permit."""

from __future__ import annotations

from dataclasses import dataclass

from aresilience.breaker.machine import BreakerState, Probe
from aresilience.errors import Rejected
from aresilience.events import Event

__all__ = ["BreakerChanged", "CircuitOpen", "Permit", "Snapshot", "without_traceback"]


class CircuitOpen(Rejected):
    """The circuit is open (or isolated, or half-open with all its probes on their way).

    `retry_after`: seconds until the next probe may pass; None while isolated. `last_failure`: a copy,
    without its traceback, of the error that opened the circuit, if it was an error.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        last_failure: Exception | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.last_failure = last_failure


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """The state went from `old` to `new`; when open, for `open_for` seconds."""

    old: BreakerState
    new: BreakerState
    open_for: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a breaker at one moment. Rates are None until enough calls are known."""

    name: str
    state: BreakerState
    circuit: BreakerState
    """The state below the modes DISABLED and SHADOW."""
    calls: int
    failures: int
    slow: int
    probes: int
    retry_after: float | None
    rounds: int
    """How often it opened without a healthy period between."""
    last_failure: Exception | None


@dataclass(slots=True)
class Permit:
    """The right to make one call, from `admit` to `record`; good for one result."""

    generation: int
    token: int
    began: float
    probe: Probe | None = None


def without_traceback(error: Exception) -> Exception:
    """A copy to keep: the error itself would keep every frame of a failed request alive."""
    try:
        copy = type(error).__new__(type(error), *error.args)
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 - whatever its constructor does, the call has its own error
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy
