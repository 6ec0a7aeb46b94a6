"""Running the work of a claim, and ending the claim by how the work ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from aresilience.backend import Backend
from aresilience.backend.backend import to_the_end
from aresilience.codecs import Codec, pack, unpack
from aresilience.errors import OutcomeUnknown
from aresilience.events import Event
from aresilience.idempotency.claim import CURRENT, Claim, reset
from aresilience.idempotency.claims import Claims, Held
from aresilience.idempotency.facts import AnswerLost, AnswerNotKept, ClaimLost, FinishedAlone
from aresilience.idempotency.failures import Failures
from aresilience.idempotency.record import Answer, Ending, Standing
from aresilience.outcome import ErrorMatcher

__all__ = ["Performer", "Reconcile"]

T = TypeVar("T")
Reconcile: TypeAlias = Callable[[Claim[Any]], Awaitable[None]]
"""Finds out what became of work whose owner was lost, by its `claim.key` or a `claim.downstream_key`:
`claim.complete(result)` if it was done; nothing if it is to be run (again); raise if that is not known yet."""


class Performer:
    """The work of one claim at a time, by the policies of one `Idempotency`."""

    __slots__ = (
        "_claims",
        "_failures",
        "_max_bytes",
        "_name",
        "_reconcile",
        "_releases",
        "_tell",
        "_unknown",
    )

    def __init__(
        self,
        name: str,
        claims: Claims,
        *,
        failures: Failures,
        unknown: ErrorMatcher,
        releases: bool,
        reconcile: Reconcile | None,
        max_bytes: int,
        tell: Callable[[Callable[[str, float], Event]], None],
    ) -> None:
        self._name = name
        self._claims = claims
        self._failures = failures
        self._unknown = unknown
        self._releases = releases
        self._reconcile = reconcile
        self._max_bytes = max_bytes
        self._tell = tell

    async def perform(
        self, claim: Claim[Any], held: Held, call: Callable[[], Awaitable[T]], codec: Codec[T]
    ) -> T:
        """Run the work, once, and keep what came of it; the work itself may have said how it ended."""
        held.begun = True
        outer = CURRENT.set(claim)
        try:
            try:
                if await self.reconciled(claim, held):
                    result: T = claim.given
                else:
                    result = await call()
            except BaseException as error:
                await self.leave_by(held, claim, codec, error)
                raise
            finally:
                reset(outer)
            if claim.ending is None:
                claim.complete(result)
            await self.leave_with(held, *self.said(claim, codec))
            return result
        finally:
            self._claims.let_go(held)

    async def reconciled(self, claim: Claim[Any], held: Held) -> bool:
        """Whether work that was taken over turns out to be done: then the claim has its result."""
        if self._reconcile is None or held.work.attempt <= 1:
            return False
        claim.found_out = False
        await self._reconcile(claim)
        if claim.ending is Ending.DONE:
            return True
        if claim.ending is not None:
            claim.ending = None
            raise RuntimeError(
                "a reconcile function calls claim.complete(result), returns for the work to be run, or raises"
            )
        claim.found_out = held.knows = True
        return False

    async def leave_with(self, held: Held, ending: Ending, value: bytes) -> None:
        """End a claim, whoever is cancelled meanwhile. Raises `ClaimLost` if somebody took it over."""
        if not await self._surely(held, ending, value):
            raise ClaimLost(f"{self._name}: another call took this one over, and this result was not kept")

    async def leave_by(
        self, held: Held, claim: Claim[Any], codec: Codec[Any], error: BaseException
    ) -> None:
        """End a claim after an error, which stays the one that is raised: as the work said before that it ends,
        else by the error, unless nobody found out what became of an earlier attempt."""
        if claim.ending is not None:
            ending, value = self.said(claim, codec)
        else:
            ending, value = self._judged(error) if claim.found_out else (Ending.ABANDONED, b"")
        if isinstance(error, GeneratorExit):
            self.leave_aside(held, ending, value)
            return
        try:
            counts = await self._surely(held, ending, value)
        except Exception as failed:  # noqa: BLE001 - the backend was closed, say
            error.add_note(f"{self._name}: the claim could not be ended: {failed}")
            return
        if not counts and ending.kept:
            error.add_note(f"{self._name}: another call took this one over; what came of it was not kept")

    def leave_aside(self, held: Held, ending: Ending, value: bytes) -> None:
        """End a claim in a coroutine that is being closed, which can await nothing."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # the loop is gone, and with it whoever renewed the lease
        self._claims.aside(self._claims.leave(held, ending, value))

    def said(self, claim: Claim[Any], codec: Codec[Any]) -> tuple[Ending, bytes]:
        """How a claim is to end, and what is kept of its result: if it cannot be, only that it was done."""
        ending = claim.ending or Ending.ABANDONED
        if ending is not Ending.DONE:
            return ending, b""
        try:
            return ending, pack(codec, claim.given, max_bytes=self._max_bytes)
        except Exception as error:  # noqa: BLE001 - a codec may have a mistake, the work was done
            return Ending.LOST, self._not_kept(error)

    def answer(self, standing: Standing, codec: Codec[Any]) -> Any:
        """The result or, to be raised, the failure that a record has."""
        if standing.answer is Answer.DONE:
            return unpack(codec, standing.value)
        if standing.answer is Answer.FAILED:
            return self._failures.unpack(standing.value)
        return AnswerLost(f"{self._name}: the call with this key was done, but its answer was not kept")

    async def alone(self, backend: Backend, held: Held, work: Coroutine[Any, Any, T], within: float) -> T:
        """Await work that goes on if we are cancelled. Raises `OutcomeUnknown` if the backend is closed before
        it is done."""
        task = backend.finish(work, within=within)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(_: asyncio.Task[T]) -> None:
            if not done.done():
                done.set_result(None)
            if not held.begun:  # cancelled before its first step: the claim is taken back
                self.leave_aside(held, Ending.UNDONE, b"")

        task.add_done_callback(ended)
        try:
            await done
        except BaseException:
            task.add_done_callback(self._finished_alone)
            raise
        if task.cancelled() and task.cancelling():  # not by us, nor by the work itself
            raise OutcomeUnknown(
                f"{self._name}: the backend was closed while this was at work; whether it was done is unknown"
                if held.begun
                else f"{self._name}: the backend was closed before the call began"
            )
        return task.result()

    def _finished_alone(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        self._tell(lambda name, at: FinishedAlone(name, at, error))

    def _judged(self, error: BaseException) -> tuple[Ending, bytes]:
        if isinstance(error, asyncio.CancelledError):
            return (Ending.RELEASED if self._releases else Ending.ABANDONED), b""
        if not isinstance(error, Exception):
            return Ending.ABANDONED, b""
        if error in self._failures:
            try:
                return Ending.FAILED, self._failures.pack(error, self._max_bytes)
            except Exception as reason:  # noqa: BLE001
                return Ending.LOST, self._not_kept(reason)
        try:
            unknown = self._unknown(error)
        except Exception as mistake:  # noqa: BLE001
            unknown = True
            error.add_note(f"{self._name}: unknown_errors raised {mistake!r}; taken for unknown")
        return (Ending.ABANDONED if unknown else Ending.RELEASED), b""

    def _not_kept(self, error: Exception) -> bytes:
        self._tell(lambda name, at: AnswerNotKept(name, at, error))
        return b""

    async def _surely(self, held: Held, ending: Ending, value: bytes) -> bool:
        """`leave`, done to its end also if we are cancelled, and then said so."""
        try:
            return await self._claims.leave(held, ending, value)
        except asyncio.CancelledError:
            # Told again, if it was told: by its token it counts once.
            await to_the_end(_left(self._claims, held, ending, value))
            raise


async def _left(claims: Claims, held: Held, ending: Ending, value: bytes) -> None:
    await claims.leave(held, ending, value)
