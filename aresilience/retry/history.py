"""What is known of the attempts of one call, carried by the error that ended it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

__all__ = [
    "KEPT",
    "Attempt",
    "History",
    "StopReason",
    "history_of",
    "mark",
    "retry_history",
    "tick",
    "unmark",
]

KEPT = 100
"""Attempts that are remembered: a call that is repeated for days must not fill the memory,"""
_SHOWN = 5
"""and errors before the last that the note names."""

tick = count().__next__
"""Numbers moments, to tell which of two came first; no two are equal, as times can be."""


class StopReason(enum.Enum):
    """Why there was no further attempt."""

    ATTEMPTS = "no attempts left"
    DEADLINE = "the next one would start past the deadline"
    BUDGET = "the retry budget is used up"
    NOT_RETRYABLE = "the error is not one to retry"
    REFUSED = "refused, and the wait it asks for is unknown or too long"
    NESTED = "a retry further out, or further in, does the retrying"
    CANCELLED = "the task is being cancelled"
    TIMED_OUT = "the deadline cancelled the attempt"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that failed.

    - `error`: its error; None if its result was rejected, and for the last one, whose error carries
      this history;
    - `ended`: when, in seconds after the first attempt ended;
    - `delay`: the wait that followed, in seconds; None after the last.
    """

    number: int
    error: BaseException | None
    ended: float
    delay: float | None


@dataclass(frozen=True, slots=True)
class History:
    """The attempts of a call, why they ended, and who made them: `site`, in the task of id `task`."""

    attempts: tuple[Attempt, ...]
    reason: StopReason
    note: str
    site: object
    task: int
    moment: int = field(default_factory=tick)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy in another process is None: what was called, and earlier errors, need not pickle."""
        return type(None), ()


def retry_history(error: BaseException) -> tuple[Attempt, ...]:
    """The attempts behind an error that a `Retry` gave up on, the last 100 of them; empty for any other."""
    history = history_of(error)
    return () if history is None else history.attempts


def history_of(error: BaseException) -> History | None:
    found = getattr(error, "__aresilience_retry__", None)
    return found if isinstance(found, History) else None


def note(name: str, attempts: Sequence[Attempt], waited: float, reason: StopReason) -> str:
    """What people see below the traceback of the last error."""
    made = attempts[-1].number
    named = attempts[-1 - _SHOWN : -1]
    others = made - 1 - len(named)
    earlier = [f"{others} others"] if others else []
    earlier += [_short(attempt.error) for attempt in named]
    tries = "1 attempt" if made == 1 else f"{made} attempts"
    before = f", after {', '.join(earlier)}" if earlier else ""
    return (
        f"aresilience: {name} gave up after {tries} and {waited:.3g} s of waiting{before}: {reason.value}"
    )


def mark(error: BaseException, history: History) -> None:
    """Put the history and its note on the error."""
    unmark(error)
    # Not by setattr and add_note, which a frozen dataclass refuses.
    error.__dict__["__aresilience_retry__"] = history
    error.__dict__.setdefault("__notes__", []).append(history.note)


def unmark(error: BaseException) -> None:
    """Take off what an earlier call put on the same exception object."""
    history = error.__dict__.pop("__aresilience_retry__", None)
    notes = getattr(error, "__notes__", [])
    if isinstance(history, History) and history.note in notes:
        notes.remove(history.note)


def _short(error: BaseException | None) -> str:
    if error is None:
        return "a rejected result"
    kind = type(error).__name__
    try:
        return f"{kind}({str(error)[:80]!r})"
    except Exception:  # noqa: BLE001 - a broken __str__ must not take the error's place
        return f"{kind}(?)"
