"""A saga that is being asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aresilience.backend.leases import Kept
from aresilience.chance import entropy
from aresilience.saga.facts import SagaInterrupted
from aresilience.saga.store import SagaStore

__all__ = ["Wanted"]

T = TypeVar("T")


class Wanted(Kept):
    """From when `begin` or `claim` is asked until it is answered: if the backend is closed between, the saga is
    handed over, behind the question, instead of being nobody's until its lease ends."""

    __slots__ = ("closed", "fence", "id", "store", "token")

    def __init__(self, store: SagaStore, id: str, ttl: float) -> None:
        super().__init__(store, ttl)
        self.store = store
        self.id = id
        self.fence = 0
        self.token = entropy().token()
        self.closed = False

    async def ask(self, verb: Callable[[str], Awaitable[T]]) -> T:
        """What `verb(token)` answers. Raises `SagaInterrupted` if the backend was closed meanwhile."""
        keeper = self.store.keeper
        keeper.keep(self, keeper.now())
        try:
            answer = await verb(self.token)
        finally:
            keeper.drop(self)
        if self.closed:
            raise SagaInterrupted("the backend was closed")
        return answer

    def on_lost(self, why: str) -> None:
        """The question takes longer than a lease: whatever the answer is, it is late."""

    def on_close(self) -> None:
        self.closed = True
        self.store.hand_over_later(self.id, self.token)
