"""What a journal holds: entries, each with a name of its own, so that one written twice is there once."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["ENDED", "OPEN", "WAITING", "Did", "Entry", "SagaState", "StepState"]


class SagaState(enum.Enum):
    """Where a saga is."""

    RUNNING = "running"
    """Going forward."""
    COMPENSATING = "compensating"
    """Being undone."""
    DONE = "done"
    """All of it has happened."""
    COMPENSATED = "compensated"
    """None of it has: what had happened was undone."""
    STUCK = "stuck"
    """A compensation could not be done; a person has to resume, retry, skip or force it."""
    PARKED = "parked"
    """It cannot go on as it is (outcome unknown, poison, another version); a person has to decide."""
    FORCED = "forced"
    """A person ended it as it was."""


OPEN = frozenset({SagaState.RUNNING, SagaState.COMPENSATING})
"""Somebody works on it, or will."""
WAITING = frozenset({SagaState.STUCK, SagaState.PARKED})
"""For a person."""
ENDED = frozenset({SagaState.DONE, SagaState.COMPENSATED, SagaState.FORCED})


class StepState(enum.Enum):
    """Where a step is."""

    PENDING = "pending"
    STARTED = "started"
    """The intent is written: it may have happened."""
    DONE = "done"
    FAILED = "failed"
    """It said that it did not happen."""
    UNKNOWN = "unknown"
    """Nobody tries to find out any more whether it happened."""
    UNDOING = "undoing"
    UNDONE = "undone"
    STUCK = "stuck"
    """Its compensation could not be done."""
    SKIPPED = "skipped"
    """A person says that it is as good as done, or as undone."""


class Did(enum.Enum):
    """Kinds of entries."""

    START = "start"
    DROP = "drop"
    """Started on paper, never in fact."""
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ABORT = "abort"
    TURN = "turn"
    """From here on it is undone."""
    UNDO = "undo"
    UNDONE = "undone"
    STUCK = "stuck"
    PARK = "park"
    END = "end"
    RECOVER = "recover"
    RETRY = "retry"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact. `number`: the attempt, or what else makes `name` unlike any other's; `at`: microseconds of the
    store's clock, and `seq` its place, both given by the store."""

    did: Did
    step: str = ""
    number: int = 0
    payload: bytes = b""
    at: int = 0
    seq: int = 0

    @property
    def name(self) -> str:
        """What it is kept under: the same fact has the same name."""
        return f"{self.did.value}:{self.number}:{self.step}"

    @classmethod
    def read(cls, name: str, payload: bytes, at: int, seq: int) -> Entry:
        """The entry that was kept under `name`. Raises `ValueError` if it is none of ours."""
        did, number, step = name.split(":", 2)
        return cls(Did(did), step, int(number), payload, at, seq)

    @property
    def text(self) -> str:
        """A payload that is for people."""
        return self.payload.decode("utf-8", "replace")
