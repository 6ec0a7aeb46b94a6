"""What locks tell: their errors and their events."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aresilience.errors import AresilienceError, Rejected
from aresilience.events import Event

__all__ = ["LeaseGranted", "LeaseLost", "LeaseReleased", "LockLost", "LockTimeout", "StaleFence"]


class LockTimeout(Rejected):
    """Somebody else had it for as long as we were to wait.

    `retry_after`: seconds after which what is held now ends, unless it is renewed; None where nobody knows.
    `owner`: what the holder says of itself, "" where that is not known.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, owner: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        self.owner = owner


class LockLost(AresilienceError):
    """What was held is not ours any more, or may not be: it could not be confirmed in time, was taken by force,
    or was lost by the store. Somebody else may hold it by now.

    `fence` is the number under which we had it.
    """

    def __init__(self, message: str = "", *, fence: int = 0) -> None:
        super().__init__(message)
        self.fence = fence


class StaleFence(AresilienceError):
    """A write came with a fence lower than one that the resource has seen: its lock had been lost.

    `fence` is the one that came, `seen` the highest so far, or None where the resource does not tell.
    """

    def __init__(self, message: str = "", *, fence: int = 0, seen: int | None = None) -> None:
        super().__init__(message)
        self.fence = fence
        self.seen = seen


@dataclass(frozen=True, slots=True)
class LeaseGranted(Event):
    """It is held, under `fence`, after `waited` seconds."""

    level = logging.DEBUG

    fence: int
    waited: float


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """It was given back after `held` seconds."""

    level = logging.DEBUG

    fence: int
    held: float


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """It was lost after `held` seconds: `why`."""

    level = logging.WARNING

    fence: int
    held: float
    why: str
