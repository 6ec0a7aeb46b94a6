"""What a definition tells its listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aresilience.errors import BackendError
from aresilience.events import Listener, Listeners, StoreDegraded
from aresilience.saga.facts import SagaChanged, SagaNeedsHelp
from aresilience.saga.record import WAITING, SagaState

__all__ = ["Telling"]


class Telling:
    """The part of `Saga` that is heard."""

    name: str
    listeners: Listeners

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` every event; the function returned ends it."""
        self.listeners.add(listener)
        return lambda: self.listeners.remove(listener)

    def tell_change(
        self, old: SagaState | None, new: SagaState, step: str = "", error: BaseException | None = None
    ) -> None:
        """An event."""
        kind = SagaNeedsHelp if new in WAITING else SagaChanged
        self.tell(lambda at: kind(self.name, at, old, new, step, type(error).__name__ if error else ""))

    def tell_degraded(self, error: BackendError) -> None:
        """An event."""
        self.tell(lambda at: StoreDegraded(self.name, at, error, "the same write is tried again"))

    def tell(self, make: Callable[[float], Any]) -> None:
        """Make an event, if somebody listens."""
        if self.listeners:
            self.listeners.tell(make(asyncio.get_running_loop().time()))
