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

    def leave(self, kind: type[BaseException] | None) -> Lease:
        """The one whose body has ended, with an error of `kind`: the current task's innermost.

        A generator that is thrown away, or a fixture, ends in another task than it began in. Then it is that
        of a task that is over, or, of a generator, the only one. A task that lives may still be in its body,
        and nobody else releases what it holds.
        """
        task = asyncio.current_task()
        assert task is not None
        if task not in self._leases:
            over = [other for other in self._leases if other.done()]
            if not over and kind is GeneratorExit and len(self._leases) == 1:
                over = list(self._leases)
            if not over:
                raise RuntimeError(
                    f"this task has not entered it, and {len(self._leases)} that live have: whose body has "
                    "ended cannot be told; where a body ends in another task than it began in, write "
                    "'lease = await ….acquire()' and 'async with lease:'"
                )
            task = over[-1]
        leases = self._leases[task]
        lease = leases.pop()
        if not leases:
            del self._leases[task]
        return lease
