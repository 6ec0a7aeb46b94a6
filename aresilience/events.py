"""Facts for people and metrics: frozen events, told to listeners.

A listener is a plain function of one event. It is called in order, after the fact, while no state is
half changed; what it raises is logged and harms nobody; it cannot be a coroutine function, so it
cannot make a call wait. Without listeners no event is built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

from aresilience import arguments

__all__ = ["CallRejected", "Event", "Listener", "Listeners", "LoggingListener", "StoreDegraded"]

_log = logging.getLogger("aresilience")


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `policy` is the policy's name, `at` the loop's time in seconds."""

    level: ClassVar[int] = logging.INFO

    policy: str
    at: float


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A policy refused a call, or (`shadow`) would have refused it."""

    level = logging.WARNING

    retry_after: float | None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class StoreDegraded(Event):
    """The shared store failed with `error`, and the policy goes on as `answer` says. A limiter tells it once in
    an outage, a breaker for each decision that it makes alone."""

    level = logging.WARNING

    error: Exception
    answer: str


Listener: TypeAlias = Callable[[Event], object]


class Listeners:
    """Those who are told. Several policies may share one."""

    __slots__ = ("_pending", "_telling", "each")

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self.each: tuple[Listener, ...] = ()
        """Empty if nobody listens: the cheapest way to ask."""
        self._pending: list[Event] = []  # a deque would cost every idle breaker 700 bytes
        self._telling = False
        for listener in listeners:
            self.add(listener)

    def __bool__(self) -> bool:
        return bool(self.each)

    def add(self, listener: Listener) -> None:
        if not callable(listener):
            raise TypeError(f"a listener must be a function of one event, got {listener!r}")
        if arguments.answers_later(listener):
            raise TypeError(
                f"a listener must be a plain function, got the coroutine function {listener!r}: "
                "put the event on a queue and await elsewhere"
            )
        self.each = (*self.each, listener)

    def remove(self, listener: Listener) -> None:
        kept = list(self.each)
        if listener in kept:
            kept.remove(listener)
        self.each = tuple(kept)

    def tell(self, event: Event) -> None:
        """Call every listener. What a listener causes is told after, so that all see one order."""
        self._pending.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._pending:
                fact = self._pending.pop(0)
                for listener in self.each:
                    try:
                        listener(fact)
                    except Exception:  # noqa: BLE001 - logged
                        _log.exception("a listener failed on %s", type(fact).__name__)
        finally:
            self._telling = False


class LoggingListener:
    """Writes each event to a logger, its fields in the record's `aresilience` attribute.

    Errors are shown by type and message, the message escaped, so that nothing that a caller sent can
    forge a line.
    """

    def __init__(self, logger: logging.Logger = _log) -> None:
        self._logger = logger

    def __call__(self, event: Event) -> None:
        if not self._logger.isEnabledFor(event.level):
            return
        facts = {field.name: getattr(event, field.name) for field in fields(event)}
        shown = " ".join(
            f"{name}={_escaped(value)}" for name, value in facts.items() if name not in ("policy", "at")
        )
        self._logger.log(
            event.level,
            "%s %r %s",
            type(event).__name__,
            event.policy,
            shown,
            extra={"aresilience": {"event": type(event).__name__, **facts}},
        )


def _escaped(value: object) -> str:
    if isinstance(value, BaseException):  # whose own repr may have line breaks
        return f"{type(value).__name__}({str(value)!r})"
    return repr(value)
