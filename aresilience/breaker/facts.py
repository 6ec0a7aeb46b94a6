"""What a circuit breaker tells: its refusal, its event, its snapshot; and what it hands out, a permit."""

from __future__ import annotations

from dataclasses import dataclass

from aresilience.breaker.machine import BreakerState, Probe
from aresilience.errors import Rejected
from aresilience.events import Event

__all__ = ["BreakerChanged", "CircuitOpen", "Permit", "Snapshot", "without_traceback"]


class CircuitOpen(Rejected):
    """The circuit is open (or isolated, or half-open with all its probes on their way).

    `retry_after`: seconds after which asking again makes sense: the open time is over then, or the lease
    of a probe that has not ended before; None while isolated. `last_failure`, also its `__cause__`: a
    copy, without its traceback, of the error that opened the circuit, if it was an error.
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
    """The state of a breaker at one moment.

    `calls`, `failures`, `slow` are what is counted of the closed circuit; failures in a row have no
    `calls`. `retry_after`: seconds of open time left; None unless open.
    """

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
    began: float
    probe: Probe | None = None


def without_traceback(error: Exception, depth: int = 4) -> Exception:
    """A copy to keep: the error itself would keep every frame of a failed request alive.

    So would the errors that it carries, a group its leaves, a client's error the `OSError` in its
    arguments: they are copied too, `depth` levels of them. What cannot be copied becomes a `RuntimeError`
    with its type and text.
    """

    def kept(value: object) -> object:
        if isinstance(value, Exception):
            return without_traceback(value, depth - 1)
        return [kept(item) for item in value] if type(value) is list else value

    text = "?"
    try:
        text = str(error)
        if depth > 0:
            carried: tuple[object, ...] = error.args
            if isinstance(error, ExceptionGroup):
                carried = error.message, list(error.exceptions)
            args = tuple(map(kept, carried))
            copy = type(error).__new__(type(error), *args)
            copy.args = args
            copy.__dict__.update({name: kept(value) for name, value in error.__dict__.items()})
            if str(copy) == text:  # not so where its constructor would have been needed
                return copy
    except Exception:  # noqa: BLE001 - whatever its constructor does, the call has its own error
        text = f"{text} (not copied)"
    return RuntimeError(f"{type(error).__name__}: {text}")
