"""The claim, as the body that works under it sees it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

from aresilience.idempotency.claims import Held
from aresilience.idempotency.facts import ClaimLost
from aresilience.idempotency.fingerprint import Key, derived
from aresilience.idempotency.record import Ending

__all__ = ["CURRENT", "Claim", "current_claim", "ids_around", "reset"]

T = TypeVar("T")


class Claim(Generic[T]):
    """Work that is this call's alone, or (`replayed`) the answer of a call that was done before."""

    __slots__ = ("_answer", "_held", "_name", "_outer", "ending", "found_out", "key", "replayed")

    def __init__(
        self, name: str, held: Held | None, key: Key = "", outer: frozenset[str] = frozenset()
    ) -> None:
        self._name = name
        self._held = held
        self._outer = outer
        self._answer: T | Exception | None = None
        self.key = key
        """The key, as this call was given it; the store knows its digest alone."""
        self.replayed = held is None
        """Whether there is an answer already: then `result` has it, and there is nothing to do."""
        self.ending: Ending | None = None
        """How the body said that it ended, if it did."""
        self.found_out = True
        """False while a reconcile function looks into what became of an earlier attempt."""

    @classmethod
    def answered(cls, name: str, key: Key, answer: Any) -> Claim[Any]:
        """A claim that is done already: with a result, or an error to be raised."""
        claim: Claim[Any] = cls(name, None, key)
        claim._answer = answer
        return claim

    @property
    def result(self) -> T:
        """The answer of the call that was done before; raises the failure, if that was stored."""
        if not self.replayed:
            raise RuntimeError("this claim has no result yet: look at claim.replayed first")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[return-value]

    @property
    def given(self) -> Any:
        """What `complete` was given."""
        return self._answer

    @property
    def fence(self) -> int:
        """Rises with every claim of this key: for a resource that refuses lower ones. 0 without a store."""
        return self._mine().work.fence

    @property
    def attempt(self) -> int:
        """1; more where an earlier owner was lost, and may have done some or all of it. 0 without a store."""
        return self._mine().work.attempt

    @property
    def id(self) -> str:
        """The digest that stands for the key."""
        return self._mine().id

    @property
    def lost(self) -> bool:
        """Whether somebody else may work on it by now."""
        lease = self._mine().lease
        return lease is not None and lease.lost is not None

    def check(self) -> None:
        """Raise `ClaimLost` if somebody else may work on it by now: just before a side effect."""
        lease = self._mine().lease
        if lease is not None and lease.lost is not None:
            raise ClaimLost(f"{self._name}: the claim was lost: {lease.lost}")

    def downstream_key(self, label: str) -> str:
        """The idempotency key to send to another service, 32 hexadecimal digits: the same for every attempt at
        this work, another one for each label, and nothing of the caller's key in it."""
        held = self._mine()
        return derived(self._name, held.id, held.work.fingerprint, label)

    def complete(self, result: T) -> None:
        """The work is done: when the body is left, this is kept, and is the answer of every later call."""
        self._end(Ending.DONE)
        self._answer = result

    def complete_without_answer(self) -> None:
        """The work is done, and its answer is not to be kept: later calls get `AnswerLost`, and run nothing."""
        self._end(Ending.LOST)

    def release(self) -> None:
        """Nothing was done: the next call with this key runs.

        Where this is not the first attempt, and no reconcile function found out about the one before, the next
        call is another attempt: it does what `on_abandoned` says.
        """
        self._end(Ending.RELEASED)

    def abandon(self) -> None:
        """Nobody knows whether it was done: `on_abandoned` decides what the next call does."""
        self._end(Ending.ABANDONED)

    def _end(self, ending: Ending) -> None:
        self._mine()
        if self.ending is not None:
            raise RuntimeError(f"this claim has ended already: {self.ending.name.lower()}")
        self.ending = ending

    def _mine(self) -> Held:
        if self._held is None:
            raise RuntimeError("this call was done before, and nothing of it is left but its result")
        return self._held

    def __repr__(self) -> str:
        if self._held is None:
            return f"<Claim of {self._name!r} replayed>"
        ended = "at work" if self.ending is None else self.ending.name.lower()
        return f"<Claim of {self._name!r} attempt {self.attempt}, {ended}>"


CURRENT: ContextVar[Claim[Any] | None] = ContextVar("aresilience_claim", default=None)


def current_claim() -> Claim[Any]:
    """The claim under which the current call runs: for its fence, attempt and downstream keys.

    Raises `LookupError` outside of an idempotent call.
    """
    claim = CURRENT.get()
    if claim is None:
        raise LookupError("there is no claim: this is not inside a call of ar.Idempotency")
    return claim


def ids_around() -> frozenset[str]:
    """The ids of the claims inside which the current code runs."""
    claim = CURRENT.get()
    return frozenset() if claim is None else claim._outer | {claim.id}


def reset(outer: Token[Claim[Any] | None]) -> None:
    """Take back what was set in `CURRENT`; in a context that is not ours any more there is nothing to."""
    try:  # noqa: SIM105
        CURRENT.reset(outer)
    except ValueError:
        pass
