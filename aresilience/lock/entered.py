"""The bodies inside a lock: which lease an `async with` that ends has to release."""

from __future__ import annotations

import asyncio
from typing import Any

from aresilience.lock.lease import Lease

__all__ = ["Entered"]


class Entered:
    """The leases that were entered through one object, by task, the innermost last."""

    __slots__ = ("_leases",)

    def __init__(self) -> None:
        self._leases: dict[asyncio.Task[Any], list[Lease]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._leases.values()))

    async def enter(self, lease: Lease) -> Lease:
        """The current task's body begins under it."""
        task = asyncio.current_task()
        assert task is not None
        await lease.__aenter__()
        self._leases.setdefault(task, []).append(lease)
        return lease

    def leave(self) -> Lease:
        """The one whose body has ended: the current task's innermost.

        A generator that is thrown away, or a fixture, ends in another task than it began in: then it is that
        of a task that has ended, or the only one.
        """
        task = asyncio.current_task()
        assert task is not None
        if task not in self._leases:
            over = [other for other in self._leases if other.done()]
            if not over and len(self._leases) != 1:
                raise RuntimeError(
                    f"this body began in another task, and {len(self._leases)} tasks are inside: which lease "
                    "is its own cannot be told; write 'lease = await ….acquire()' and 'async with lease:' there"
                )
            task = over[0] if over else next(iter(self._leases))
        leases = self._leases[task]
        lease = leases.pop()
        if not leases:
            del self._leases[task]
        return lease
