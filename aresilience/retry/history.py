"""What is known of the attempts of one call, carried by the error that ended it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Attempt", "History", "StopReason", "history_of", "mark", "retry_history", "unmark"]

_NOTE = "aresilience: "


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
    """All attempts of a call, why they ended, and who made them."""

    attempts: tuple[Attempt, ...]
    reason: StopReason
    site: object


def retry_history(error: BaseException) -> tuple[Attempt, ...]:
    """The attempts behind an error that a `Retry` gave up on; empty for any other error."""
    history = history_of(error)
    return () if history is None else history.attempts


def history_of(error: BaseException) -> History | None:
    found = getattr(error, "__aresilience_retry__", None)
    return found if isinstance(found, History) else None


def mark(error: BaseException, history: History, name: str) -> None:
    """Put the history on the error, and a note that people see below its traceback."""
    unmark(error)
    error.__dict__["__aresilience_retry__"] = history
    attempts = history.attempts
    waited = sum(a.delay or 0.0 for a in attempts)
    tries = "1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
    earlier = [_short(a.error) for a in attempts[:-1]]
    before = f", after {', '.join(earlier)}" if earlier else ""
    error.add_note(
        f"{_NOTE}{name} gave up after {tries} and {waited:.3g} s of waiting{before}: {history.reason.value}"
    )


def unmark(error: BaseException) -> None:
    """Take off what an earlier call put on the same exception object."""
    if error.__dict__.pop("__aresilience_retry__", None) is not None:
        notes = getattr(error, "__notes__", [])
        notes[:] = [n for n in notes if not (isinstance(n, str) and n.startswith(_NOTE))]


def _short(error: BaseException | None) -> str:
    return "a rejected result" if error is None else f"{type(error).__name__}({str(error)[:80]!r})"
