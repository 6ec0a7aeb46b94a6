"""What idempotency tells: its errors, its events, and what is known of a key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aresilience.errors import AresilienceError, Rejected
from aresilience.events import Event
from aresilience.idempotency.record import RecordState
from aresilience.outcome import Outcome

__all__ = [
    "Abandoned",
    "AnswerLost",
    "AnswerNotKept",
    "CallReplayed",
    "ClaimLost",
    "ClaimTakenOver",
    "FinishedAlone",
    "InFlight",
    "KeyReused",
    "KeyState",
]


class InFlight(Rejected):
    """Another call with this key is at work.

    `retry_after`: as long as it has been at work already, and at most what is left of its lease.
    """


class KeyReused(AresilienceError):
    """The key was used for other work: the fingerprints differ. Nothing was run; the caller has a mistake."""

    outcome = Outcome.IGNORED


class Abandoned(AresilienceError):
    """A call with this key began, and whether it was done is unknown: its owner died, or gave up.

    `attempt` counts the calls that began. Somebody has to find out; then `evict` the key.
    """

    outcome = Outcome.IGNORED

    def __init__(self, message: str = "", *, attempt: int = 1) -> None:
        super().__init__(message)
        self.attempt = attempt


class AnswerLost(AresilienceError):
    """The call with this key was done, but its answer could not be kept. It is not run again."""

    outcome = Outcome.IGNORED


class ClaimLost(AresilienceError):
    """The claim is somebody else's by now, or may be: this call's own result was not kept."""


@dataclass(frozen=True, slots=True)
class CallReplayed(Event):
    """A call was answered with the result of an earlier one; `failed` if that is a failure."""

    failed: bool
    waited: float
    """Seconds that it waited for the other to be done."""


@dataclass(frozen=True, slots=True)
class ClaimTakenOver(Event):
    """A call runs the work of an owner who was lost: it is the `attempt`th."""

    level = logging.WARNING

    attempt: int


@dataclass(frozen=True, slots=True)
class AnswerNotKept(Event):
    """The work was done, and its answer not kept: later calls will not get it."""

    level = logging.ERROR

    error: Exception


@dataclass(frozen=True, slots=True)
class FinishedAlone(Event):
    """A call whose caller was cancelled ended; `error` is what it raised, if it did."""

    error: BaseException | None


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of a key. `id` is a digest of it, which stands in its place."""

    id: str
    state: RecordState
    fence: int
    attempt: int
    age: float
    """Seconds since the work began."""
    expires_in: float
    """Seconds: of a result, until it is forgotten; of what is running, until its lease ends."""
    _read: Callable[[], Any] = field(repr=False, compare=False)

    @property
    def result(self) -> Any:
        """The result; raises the failure that was stored, and `AnswerLost` or `InFlight` if there is none."""
        return self._read()
