"""What a step is told: the input, the results before it, and the key under which it does its work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aresilience.saga.record import SagaState

if TYPE_CHECKING:
    from aresilience.saga.handle import SagaResult
    from aresilience.saga.saga import Saga
    from aresilience.saga.steps import Step

__all__ = ["SagaContext", "key_of"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")


def key_of(saga: str, id: str, step: str, *, undo: bool) -> str:
    """The key of a step in one direction: the same on every attempt and in every process."""
    text = "".join(f"{len(part)}:{part}" for part in (saga, id, step))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{digest}-{'undo' if undo else 'do'}"


class SagaContext(Generic[I]):
    """The argument of every step and compensation.

    `input`: what the saga was started with. `idempotency_key`: hand it to whatever the step calls; it is the
    same on every attempt, and another one for the compensation. `attempt`: 1 for the first. `outcome_unknown`:
    this compensates a step of which nobody knows whether it happened; its result is then None.
    """

    __slots__ = (
        "_results", "attempt", "compensating", "id", "idempotency_key", "input", "outcome_unknown", "saga",
        "step",
    )  # fmt: skip

    def __init__(
        self,
        saga: str,
        id: str,
        step: str,
        input: I,
        results: Callable[[str], Any],
        *,
        compensating: bool = False,
        outcome_unknown: bool = False,
    ) -> None:
        self.saga = saga
        self.id = id
        self.step = step
        self.input = input
        self.attempt = 1
        self.compensating = compensating
        self.outcome_unknown = outcome_unknown
        self.idempotency_key = key_of(saga, id, step, undo=compensating)
        self._results = results

    def result(self, step: Step[R]) -> R:
        """What a step before this one returned. Raises `LookupError` if it is not done."""
        return self._results(step.name)  # type: ignore[no-any-return]

    async def run(self, saga: Saga, input: Any) -> SagaResult:
        """Run another saga as (part of) this step: once, however often the step is attempted.

        Raises `SagaFailed` if it was undone, which fails this step, and `SagaStuck`, after which the outcome of
        this step is unknown. Compensate it with `undo`. If this attempt is cancelled it goes on, whatever its
        `on_cancel` says: the next attempt, perhaps elsewhere, waits for it, and the compensation aborts it.
        """
        handle = await saga.start(input, id=self._child(saga))
        return await handle.result()

    async def undo(self, saga: Saga) -> None:
        """Undo, in the compensation of a step, the saga that the step ran; nothing if it did not get so far.

        One that still runs is aborted. Raises `SagaStuck` if it cannot be undone, also because its journal is
        gone: its `retention` must be longer than the saga around it may take.
        """
        await saga.undo(self._child(saga), missing_ok=self.outcome_unknown)

    def _child(self, saga: Saga) -> str:
        """Of this step of this saga, and of no other: not of a saga of another name under the same id."""
        mine = key_of(self.saga, self.id, self.step, undo=False)
        return key_of(saga.name, mine, "child", undo=False).removesuffix("-do")

    def __repr__(self) -> str:
        way = SagaState.COMPENSATING if self.compensating else SagaState.RUNNING
        return f"<SagaContext {self.saga!r} step {self.step!r} {way.value} attempt {self.attempt}>"
