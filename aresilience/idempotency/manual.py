"""Claims by hand: `async with idem.claim(key) as claim`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any, Generic, TypeVar

from aresilience.codecs import Codec
from aresilience.idempotency.claim import CURRENT, Claim, ids_around, reset
from aresilience.idempotency.claims import Claims, Held
from aresilience.idempotency.fingerprint import Key
from aresilience.idempotency.performing import Performer
from aresilience.idempotency.record import Ending, Standing

__all__ = ["Claiming"]

T = TypeVar("T")


class Claiming(Generic[T]):
    """An async context manager, to be entered once.

    A body that said how it ends ends so, also if it raises after that. One that raises before is judged as a
    call is. One that is left without a word has made a mistake: nobody knows what it did.
    """

    __slots__ = (
        "_answer",
        "_claim",
        "_claims",
        "_codec",
        "_entered",
        "_fingerprint",
        "_held",
        "_id",
        "_key",
        "_name",
        "_outer",
        "_performer",
    )

    def __init__(
        self,
        name: str,
        claims: Claims,
        performer: Performer,
        key: Key,
        ident: str,
        fingerprint: str,
        codec: Codec[T],
        answer: Callable[[Standing], Any],
    ) -> None:
        self._name = name
        self._claims = claims
        self._performer = performer
        self._id = ident
        self._fingerprint = fingerprint
        self._codec = codec
        self._key = key
        self._answer = answer
        self._entered = False
        self._held: Held | None = None
        self._claim: Claim[T] | None = None
        self._outer: Token[Claim[Any] | None] | None = None

    async def __aenter__(self) -> Claim[T]:
        if self._entered:
            raise RuntimeError("a claim is entered once: write idem.claim(…) each time")
        self._entered = True
        outer = ids_around()
        found = await self._claims.enter(self._id, self._fingerprint, outer)
        if isinstance(found, Standing):
            self._claim = Claim.answered(self._name, self._key, self._answer(found))
            return self._claim
        claim: Claim[T] = Claim(self._name, found, self._key, outer)
        self._outer = CURRENT.set(claim)
        try:
            if not await self._reconciled(found, claim):
                self._claim, self._held = claim, found
                return claim
            reset(self._outer)
            await self._end(found, claim)
        except BaseException:
            self._claims.let_go(found)
            raise
        self._claim = Claim.answered(self._name, self._key, claim.given)
        return self._claim

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        held, claim = self._held, self._claim
        if held is None or claim is None or self._outer is None:
            return
        reset(self._outer)
        try:
            if error is not None:
                await self._performer.leave_by(held, claim, self._codec, error)
            elif claim.ending is not None:
                await self._end(held, claim)
            else:
                await self._left_without_a_word(held)
        finally:
            self._claims.let_go(held)

    async def _reconciled(self, held: Held, claim: Claim[T]) -> bool:
        """Whether it turns out to be done; ended if that cannot be found out."""
        try:
            return await self._performer.reconciled(claim, held)
        except BaseException as error:
            if self._outer is not None:
                reset(self._outer)
            await self._performer.leave_by(held, claim, self._codec, error)
            raise

    async def _left_without_a_word(self, held: Held) -> None:
        await self._performer.leave_with(held, Ending.ABANDONED, b"")
        raise RuntimeError(
            "the body of a claim must say how it ended: claim.complete(result), or claim.release() if nothing "
            "was done"
        )

    async def _end(self, held: Held, claim: Claim[T]) -> None:
        await self._performer.leave_with(held, *self._performer.said(claim, self._codec))
