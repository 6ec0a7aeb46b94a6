"""The root errors. The leaves (`CircuitOpen`, `BulkheadFull`, …) live with their pattern."""

from __future__ import annotations

from typing import ClassVar

from aresilience.outcome import Outcome

__all__ = [
    "AresilienceError",
    "BackendError",
    "ConfigurationError",
    "CorruptState",
    "DeadlineExceeded",
    "NotSent",
    "OutcomeUnknown",
    "PipelineWarning",
    "Refused",
    "Rejected",
    "TimedOut",
]


class AresilienceError(Exception):
    """The root of every error that this package raises of its own accord."""

    outcome: ClassVar[Outcome] = Outcome.FAILURE
    """How other policies count this error: a fact that travels on the failure, so that policies
    need not know of each other."""


class Rejected(AresilienceError):
    """The call was not made: a policy refused it. Neutral for every other policy.

    `retry_after` is the number of seconds after which asking again makes sense, or None where
    nobody can know.
    """

    outcome = Outcome.IGNORED

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TimedOut(AresilienceError, TimeoutError):
    """A time limit of ours ran out and what ran was cancelled.

    A `TimeoutError` raised inside the call stays itself, so that the two can be told apart.
    """


class DeadlineExceeded(TimedOut):
    """The ambient deadline ran out (see `aresilience.deadline`).

    Neutral for a circuit breaker: how little time the caller had left says nothing of the callee.
    """

    outcome = Outcome.IGNORED


class BackendError(AresilienceError):
    """The store behind a primitive failed. Which of the three kinds decides what may be done next."""


class NotSent(BackendError):
    """Nothing happened: the request never left. Safe to send again."""


class Refused(BackendError):
    """The server said no, so nothing happened."""


class ConfigurationError(Refused):
    """The server will never say yes: wrong credentials, missing rights, a version that is too old."""


class CorruptState(Refused):
    """A key of ours holds something that we did not write."""


class OutcomeUnknown(BackendError):
    """It may have happened: the request left, and no answer came. Never sent again by itself."""


class PipelineWarning(UserWarning):
    """A combination of policies that cannot be meant."""
