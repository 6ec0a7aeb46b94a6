"""What a saga tells: its errors, its events, and what people see of one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from aresilience import arguments
from aresilience.errors import AresilienceError
from aresilience.events import Event
from aresilience.outcome import Outcome
from aresilience.saga.record import Entry, SagaState, StepState

__all__ = [
    "Fail",
    "RetryStep",
    "SagaAborted",
    "SagaChanged",
    "SagaFailed",
    "SagaInterrupted",
    "SagaMismatch",
    "SagaNeedsHelp",
    "SagaParked",
    "SagaRecord",
    "SagaStuck",
    "SagaTakenOver",
    "StepFailed",
    "StepRecord",
]


class Fail(AresilienceError):
    """Raised by a step: it did not happen, and never will. The saga is undone; nothing retries this."""

    outcome = Outcome.IGNORED


class RetryStep(AresilienceError):
    """Raised by a step: not yet. It is called again in `after` seconds, for as long as it says so."""

    outcome = Outcome.IGNORED

    def __init__(self, message: str = "", *, after: float = 1.0) -> None:
        super().__init__(message or f"again in {after:g} s")
        self.after = arguments.duration("RetryStep: after", after)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a saga. `tries` and `undo_tries` count the attempts that the journal knows of."""

    name: str
    state: StepState
    tries: int
    undo_tries: int
    error: str


class SagaFailed(AresilienceError):
    """None of it has happened: what had was undone. `cause` is the error that began it, as far as it is known
    here (from another process: its text); `steps` says what became of each step."""

    def __init__(
        self,
        message: str,
        *,
        id: str,
        cause: BaseException | None = None,
        steps: tuple[StepRecord, ...] = (),
    ) -> None:
        super().__init__(message)
        self.id = id
        self.cause = cause
        self.steps = steps


class SagaStuck(AresilienceError):
    """A compensation could not be done. What remains to be undone is kept, in `remaining`; see
    `Saga.resume`, `retry`, `skip`, `force`. `errors`: the text of what went wrong, by step."""

    def __init__(
        self,
        message: str,
        *,
        id: str,
        cause: BaseException | None = None,
        steps: tuple[StepRecord, ...] = (),
        remaining: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.id = id
        self.cause = cause
        self.steps = steps
        self.remaining = remaining

    @property
    def errors(self) -> Mapping[str, str]:
        """The last error of each step that had one."""
        return {step.name: step.error for step in self.steps if step.error}


class SagaParked(SagaStuck):
    """It cannot go on as it is, and nothing was undone: a person has to decide. The message says why."""


class SagaInterrupted(AresilienceError):
    """This process has stopped working on it, at a point from which another goes on."""


class SagaAborted(AresilienceError):
    """The cause of a saga that was undone because somebody, or its deadline, said so."""


class StepFailed(AresilienceError):
    """The cause of a saga that failed in another process: the text of the error of its step."""


class SagaMismatch(AresilienceError):
    """There is a saga under this id already, and it is another one: it was started with another input."""


@dataclass(frozen=True, slots=True)
class SagaRecord:
    """A saga as its journal has it. `timeline`: all that is written, in order; times of `timeline` are
    microseconds of the store's clock. `age`: seconds since it began; `owned`: some process works on it."""

    id: str
    version: int
    state: SagaState
    steps: tuple[StepRecord, ...]
    remaining: tuple[str, ...]
    """What is still to be undone, in order, once it is being undone."""
    cause: str
    abort: str | None
    recoveries: int
    age: float
    owned: bool
    timeline: tuple[Entry, ...]

    def step(self, name: str) -> StepRecord:
        """One of the steps. Raises `KeyError` if there is none of that name."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class SagaChanged(Event):
    """A saga went from one state to another, at (for compensating, stuck, parked) the step named. The level is
    ERROR where a person is needed."""

    old: SagaState | None
    new: SagaState
    step: str = ""
    error: str = ""
    """The type of the error that is the reason."""


@dataclass(frozen=True, slots=True)
class SagaNeedsHelp(SagaChanged):
    """It is stuck or parked."""

    level = logging.ERROR


@dataclass(frozen=True, slots=True)
class SagaTakenOver(Event):
    """A worker goes on with a saga whose owner died, or handed it over; for the `recoveries`-th time without
    getting any further."""

    level = logging.WARNING

    recoveries: int
