"""Where journals live: a few atomic verbs.

The contract:

- Each verb happens at once or not at all. All times are the store's own clock, in microseconds.
- A saga is owned by whoever has its `fence`, for as long as its lease lasts and, after that, until somebody
  claims it. `append` is checked against the fence: an owner who was taken over from writes nothing.
- An owner says how long the journal was when it last heard: one that is shorter is not written to.
- The same entry (by its name) is kept once, so a verb that was asked twice has one effect: `begin` knows its
  asker by the token, `append` its entries by their names, `change` the journal by its length.
- `claim` gives an open saga whose lease has ended, or was handed over, to exactly one asker.
- While a saga is open its journal stays. If it is gone all the same, `append`, `claim`, and the `begin` of
  another under its id, raise `CorruptState`: nothing ever begins from the start.
- Of what has ended the journal is kept for the retention that the last write said.
- Failures are the three kinds of `BackendError`. A verb that is cancelled may have happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aresilience.backend.leases import Confirmation, Keeper
from aresilience.errors import BackendError
from aresilience.saga.record import Entry, SagaState

__all__ = ["Claim", "Found", "Head", "SagaStore", "Told", "Wake", "Write"]

Wake = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Head:
    """What a journal begins with. `deadline`: microseconds for the forward part, 0 for none."""

    id: str
    version: int
    fingerprint: str
    input: bytes
    deadline: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A journal as it is. `began`, `now`: the store's time; `length`: how much has been written to it;
    `leased`: microseconds for which it has an owner."""

    head: Head
    state: SagaState
    entries: tuple[Entry, ...]
    began: int
    now: int
    length: int
    leased: int
    recoveries: int


@dataclass(frozen=True, slots=True)
class Claim:
    """It is ours: `fence` says so on every write, and `token` when it is handed over; `sent` is the keeper's
    clock when the request left."""

    fence: int
    token: str
    sent: float
    found: Found


@dataclass(frozen=True, slots=True)
class Write:
    """What an owner adds. `keep`: microseconds for which what has ended is kept."""

    id: str
    fence: int
    entries: Sequence[Entry]
    state: SagaState
    keep: int
    progress: bool = False
    """It got further, so its recoveries are counted anew."""
    after: int = 0
    """The journal was at least so long when the owner last heard."""


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to a write: the reason if somebody asked to abort, and how long the journal is now. `behind`:
    it has lost what was confirmed (a failover, a restart), and nothing was written: write all of it again."""

    abort: str | None
    length: int
    behind: bool = False


class SagaStore(Protocol):
    """The journals of one definition."""

    keeper: Keeper

    def begin(self, head: Head, entries: Sequence[Entry], token: str, ttl: int) -> Awaitable[Claim | Found]:
        """Begin a saga, owned; or what is there under its id already."""

    def append(self, write: Write) -> Awaitable[Told | None]:
        """Add to it; None: somebody else owns it, and nothing was written."""

    def claim(self, id: str, version: int, token: str, ttl: int) -> Awaitable[Claim | None]:
        """Own it, as `token`, if nobody does, it is open, and it is of at most this version."""

    def due(self, limit: int, skip: int = 0) -> Awaitable[Sequence[str]]:
        """Ids of sagas that nobody owns, the oldest first."""

    def load(self, id: str) -> Awaitable[Found | None]:
        """What is there."""

    def change(
        self, id: str, length: int, entries: Sequence[Entry], state: SagaState, keep: int
    ) -> Awaitable[bool]:
        """Add to it as a person: whoever owns it does not any more. False if its length is another by now."""

    def abort(self, id: str, reason: str) -> Awaitable[bool]:
        """Ask its owner, now or later, to go back. False if it is not running."""

    def ids(self, states: Sequence[SagaState]) -> AsyncIterator[str]:
        """Ids of sagas that are, or were lately, in one of these states."""

    async def renew(self, leases: Sequence[HasClaim]) -> Sequence[Confirmation | BackendError | None]:
        """For the keeper."""

    def hand_over_later(self, id: str, token: str) -> None:
        """Give it up, if `token` owns it (by then, where that was asked before), without waiting for an answer:
        another may claim it at once."""

    def watch(self, id: str, wake: Wake) -> Callable[[], None]:
        """Have `wake` called when it may have changed; "": when any may be claimed. Returns what ends that."""


class HasClaim(Protocol):
    """What is renewed."""

    id: str
    fence: int
    ttl: float
