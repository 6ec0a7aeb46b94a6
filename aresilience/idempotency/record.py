"""What is known of one key: who works on it, until when, and what came of it.

                     claim                        complete
    (absent) ──────────────────▶ RUNNING ──────────────────────▶ DONE, FAILED, LOST ──(ttl)──▶ (absent)
        ▲                        │  ▲  │
        │      release           │  │  │ the lease runs out, or `abandon`
        └────────────────────────┘  │  ▼
                                    └─ ABANDONED ──(kept as long as a result)──▶ (absent)
                          claim, if it may take over: a new token, a higher fence, one more attempt

The order of checks: the fingerprint first, then what is done, then what is in flight. Every step after the
claim is made by a token, which one claim has: a stale owner's changes nothing. All steps can be repeated:
the second time they find what the first one did. LOST is done, and the answer could not be kept.

Where the record is gone (its server lost it), a completion is kept all the same: the work was done.

Times are microseconds of the store's clock. A fence is the time of the claim, or one more than the last: it
rises for as long as the clock does, even where a record was forgotten between two claims.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

__all__ = [
    "Answer",
    "Ask",
    "Ending",
    "Record",
    "RecordState",
    "Standing",
    "Work",
    "claim",
    "renew",
    "same",
    "settle",
    "view",
]


class RecordState(enum.Enum):
    """What a key's record says. The values are what stores keep."""

    RUNNING = "R"
    """Somebody works on it, and has a lease."""
    DONE = "D"
    FAILED = "F"
    """Done, with a failure that is an answer."""
    LOST = "L"
    """Done, but the answer could not be kept."""
    ABANDONED = "A"
    """Somebody worked on it, and whether it was done is unknown. Kept as RUNNING with a lease that is over."""


class Answer(enum.IntEnum):
    """What a claim found. The values are what scripts return."""

    ABSENT = 0
    CLAIMED = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    LOST = 5
    ABANDONED = 6
    REUSED = 7
    """The key is that of other work: the fingerprints differ."""


class Ending(enum.Enum):
    """How work ends. The values are what scripts are told."""

    DONE = "D"
    FAILED = "F"
    LOST = "L"
    RELEASED = "0"
    """Nothing is kept: the next one runs."""
    ABANDONED = "A"
    """Nobody knows whether it was done, or how far."""
    UNDONE = "U"
    """The claim itself is taken back: its body never ran. What it took over is abandoned, as before."""

    @property
    def kept(self) -> bool:
        """Whether a record of it stays."""
        return self in (Ending.DONE, Ending.FAILED, Ending.LOST)


@dataclass(frozen=True, slots=True)
class Record:
    """`until` is the end of the lease (0: given up), of `lease` microseconds; `expires` that of the record."""

    state: RecordState
    fingerprint: str
    token: str
    fence: int
    attempt: int
    began: int
    lease: int
    until: int
    expires: int
    value: bytes = b""
    waited: bool = False
    """Somebody waits to be told of its end."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish to work: `token` is new, and belongs to this wish alone."""

    token: str
    fingerprint: str
    lease: int
    keep: int
    """How long the record outlives its lease."""
    takeover: bool
    """Work on what was abandoned, or only be told of it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The answer to an `Ask`. `left`: microseconds of the lease, or of the record if it is done."""

    answer: Answer
    fence: int = 0
    attempt: int = 0
    age: int = 0
    """Microseconds since the work began."""
    left: int = 0
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Work:
    """What its owner knows of a record: enough to write it anew."""

    token: str
    fingerprint: str
    fence: int
    attempt: int


ABSENT = Standing(Answer.ABSENT)


def same(one: str, other: str) -> bool:
    """Whether two fingerprints may be of the same work: equal, or made by different versions of the algorithm.

    A fingerprint is its version, a colon and a digest; without one it is empty.
    """
    if one == other:
        return True
    return bool(one and other) and one.partition(":")[0] != other.partition(":")[0]


def claim(record: Record | None, now: int, ask: Ask) -> tuple[Standing, Record | None]:
    """Answer an ask; the record as it is after that."""
    if record is None or now >= record.expires:
        taken = _taken(now, ask, fence=max(1, now), attempt=1, waited=False)
        return _standing(Answer.CLAIMED, taken, now), taken
    if not same(record.fingerprint, ask.fingerprint):
        return _standing(Answer.REUSED, record, now), record
    if record.state is not RecordState.RUNNING:
        return _standing(Answer[record.state.name], record, now), record
    if record.token == ask.token:  # asked again: the first answer was lost
        until = now + ask.lease
        record = replace(record, lease=ask.lease, until=until, expires=until + ask.keep)
        return _standing(Answer.CLAIMED, record, now), record
    if record.until > now:
        # After a step of the clock no lease is longer than it was made.
        record = replace(record, until=min(record.until, now + record.lease), waited=True)
        return _standing(Answer.RUNNING, record, now), record
    if not ask.takeover:
        return _standing(Answer.ABANDONED, record, now), record
    fence = max(record.fence + 1, now)
    taken = _taken(now, ask, fence=fence, attempt=record.attempt + 1, waited=record.waited)
    return _standing(Answer.CLAIMED, taken, now), taken


def renew(record: Record | None, now: int, token: str, lease: int, keep: int) -> Record | None:
    """The record with a fresh lease; None if it is not this owner's, or was given up."""
    if record is None or now >= record.expires or record.state is not RecordState.RUNNING:
        return None
    if record.token != token or not record.until:
        return None
    return replace(record, lease=lease, until=now + lease, expires=now + lease + keep)


def settle(
    record: Record | None, now: int, work: Work, ending: Ending, value: bytes, ttl: int
) -> tuple[bool, Record | None, bool]:
    """End the work: whether that counts, the record after it, and whether to wake who waits."""
    if record is None or now >= record.expires:
        return True, _done(work, now, now, ending, value, ttl) if ending.kept else None, False
    if record.token != work.token:
        return False, record, False
    if record.state is not RecordState.RUNNING:
        return True, record, False  # told again
    if ending.kept:
        return True, _done(work, now, record.began, ending, value, ttl), record.waited
    if ending is Ending.RELEASED or (ending is Ending.UNDONE and record.attempt == 1):
        return True, None, record.waited
    if not record.until:
        return True, record, False  # told again
    attempt = record.attempt - (ending is Ending.UNDONE)
    return True, replace(record, until=0, attempt=attempt, waited=False), record.waited


def view(record: Record | None, now: int) -> Standing:
    """What there is, for who only looks."""
    if record is None or now >= record.expires:
        return ABSENT
    if record.state is not RecordState.RUNNING:
        return _standing(Answer[record.state.name], record, now)
    return _standing(Answer.RUNNING if record.until > now else Answer.ABANDONED, record, now)


def _taken(now: int, ask: Ask, *, fence: int, attempt: int, waited: bool) -> Record:
    until = now + ask.lease
    return Record(
        RecordState.RUNNING,
        ask.fingerprint,
        ask.token,
        fence,
        attempt,
        now,
        ask.lease,
        until,
        until + ask.keep,
        waited=waited,
    )


def _done(work: Work, now: int, began: int, ending: Ending, value: bytes, ttl: int) -> Record:
    state = RecordState(ending.value)
    return Record(
        state, work.fingerprint, work.token, work.fence, work.attempt, began, 0, 0, now + ttl, value
    )


def _standing(answer: Answer, record: Record, now: int) -> Standing:
    age = max(0, now - record.began)
    if answer is Answer.REUSED:
        return Standing(answer)
    if record.state is RecordState.RUNNING:
        return Standing(answer, record.fence, record.attempt, age, max(0, record.until - now))
    return Standing(answer, record.fence, record.attempt, age, record.expires - now, record.value)
