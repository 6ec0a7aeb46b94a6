"""One call of an instance: from the choice to the end, of which nothing is lost on any exit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType
from typing import Any

from aresilience.errors import Rejected
from aresilience.outcome import Outcome
from aresilience.registry.balance import Node
from aresilience.registry.chooser import Chooser
from aresilience.registry.outliers import Breaker
from aresilience.registry.record import Instance

__all__ = ["Pick"]


class Pick:
    """One choice, and the call that it is for. Good for one use."""

    __slots__ = (
        "_avoid",
        "_began",
        "_breaker",
        "_failed",
        "_key",
        "_node",
        "_permit",
        "_probe",
        "_released",
        "_service",
    )

    def __init__(self, service: Chooser, key: str | None, avoid: Collection[str]) -> None:
        self._service = service
        self._key = key
        self._avoid = avoid
        self._node: Node | None = None
        self._breaker: Breaker | None = None
        self._permit: Any = None
        self._failed: str | None = None
        self._probe = self._released = False
        self._began = 0.0

    def failed(self, why: str = "it answered with a failure") -> None:
        """The call counts as a failure, although it raises nothing: an answer of 503, say."""
        self._failed = why

    async def __aenter__(self) -> Instance:
        if self._node is not None:
            raise RuntimeError("a pick is entered once: write a new pick(...) for each call")
        service = self._service
        if not service.is_known():
            await service.known()
        refused: tuple[str, ...] = ()
        while True:
            node, probe = service.choose(self._key, self._avoid, refused)
            breaker = service.breaker(node)
            if breaker is None:
                break
            try:
                self._permit = await breaker.admit()
            except Rejected:
                service.refused(node)
                refused = (*refused, node.instance.id)
                continue
            except BaseException:
                service.recorded(node, Outcome.IGNORED, probe)
                raise
            self._breaker = breaker
            break
        self._node, self._probe = node, probe
        self._began = service.began(node)
        return node.instance

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self._breaker is None and self._failed is None and self._node is not None:
            self._service.ended(self._node, self._began, Outcome.SUCCESS, self._probe, False)
            self.release()
            return
        try:
            await self.settle(error)
        finally:
            self.release()

    async def settle(self, error: BaseException | None = None) -> None:
        """Record how the call ended, and leave it in flight until `release`: for an answer whose body is still
        on its way. Leaving the block does both."""
        node, service, breaker = self._node, self._service, self._breaker
        assert node is not None
        outcome = Outcome.IGNORED  # if the predicate raises
        try:
            outcome = service.outcome(error)
            if self._failed is not None and error is None:
                outcome = Outcome.FAILURE
        finally:
            service.ended(node, self._began, outcome, self._probe, breaker is not None)
            if breaker is not None:
                try:
                    await breaker.record(self._permit, self._told(outcome, error))
                finally:
                    service.recorded(node, outcome, self._probe)

    def release(self) -> None:
        """The call is not in flight any more. Once is enough."""
        if self._node is not None and not self._released:
            self._released = True
            self._node.in_flight -= 1

    def _told(self, outcome: Outcome, error: BaseException | None) -> BaseException | None:
        """What a breaker is to hear."""
        if outcome is Outcome.SUCCESS:
            return None
        if error is not None:
            return error
        if outcome is Outcome.FAILURE:
            return InstanceFailed(f"{self._service.service}: {self._failed}")
        return asyncio.CancelledError()


class InstanceFailed(Exception):
    """What a breaker is told of a call that raised nothing and failed all the same."""
