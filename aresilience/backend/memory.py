"""State in this process: what every primitive has without a backend, or several share with one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from aresilience import arguments
from aresilience.backend.backend import Backend

__all__ = ["MemoryBackend"]

_OWN = "aresilience_memory"
"""The loop's attribute that holds its own memory."""


class MemoryBackend(Backend):
    """No task, no I/O: what is in it expires lazily. `max_keys` bounds each kind of state.

    Primitives with the same kind and name on the same backend share their state, as they would on Redis.
    """

    def __init__(
        self,
        *,
        max_keys: int = 1_000_000,
        prefix: str = "ar",
        deadline: float | timedelta = 0.25,
    ) -> None:
        super().__init__(prefix=prefix, deadline=deadline)
        self.max_keys = arguments.count("MemoryBackend: max_keys", max_keys)

    @classmethod
    def of_this_loop(cls) -> MemoryBackend:
        """The process's own memory, for what has to be shared by name without a backend: one for each event
        loop, which goes when the loop goes."""
        loop = asyncio.get_running_loop()
        found: MemoryBackend | None = getattr(loop, _OWN, None)
        if found is None:
            found = cls()
            setattr(loop, _OWN, found)
        return found

    async def ping(self) -> float:
        return 0.0

    async def _open(self) -> None: ...

    async def _close(self) -> None: ...

    def _state(self) -> str:
        return f"of at most {self.max_keys} keys"
