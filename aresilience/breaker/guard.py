"""One call through a breaker, as a block."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from aresilience.breaker.facts import Permit
from aresilience.breaker.judge import NO_RESULT

if TYPE_CHECKING:
    from aresilience.breaker.breaker import CircuitBreaker

__all__ = ["Guard"]


class Guard:
    """One call through a breaker, as a block. Set `result` to let `failure_if` judge it."""

    __slots__ = ("_breaker", "_entered", "_permit", "result")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._entered = False
        self._permit: Permit | None = None
        self.result: object = NO_RESULT

    async def __aenter__(self) -> Guard:
        if self._entered:  # by another task too: a second permit would push out the first
            raise RuntimeError("a guard is for one call: write breaker.guard() each time")
        self._entered = True
        self._permit = await self._breaker.admit()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._breaker.record(self._permit, error, self.result)
