"""An event loop with virtual time.

When nothing is ready, the clock jumps to the next timer instead of waiting for it. When there is no timer
either, nothing can ever happen again: `Deadlock`. Real descriptors are polled; while a thread or a socket
of somebody else may still answer, the loop gives it a moment of real time first. It is not for tests that
talk to a real server: bytes on their way in the kernel look like idleness, and timeouts would fire early.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from aresilience.chance import SeededEntropy

__all__ = ["Deadlock", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

_RESOLUTION = 1e-9
_MOMENT = 0.02
"""Real seconds that others get to answer before time jumps,"""
_PATIENCE = 1.0
"""and before a loop without timers is called dead."""


class Deadlock(RuntimeError):
    """Every task waits, and nothing is left that could wake one."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only by jumps.

    With a `seed`, callbacks that are ready at once, and timers that are due at once, run in an order drawn
    from it, and `entropy`, from which this package takes its chance, is seeded by it. Without one the
    order is asyncio's and the seed 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._virtual_now = 0.0
        self._shuffle = None if seed is None else random.Random(seed)
        self.seed = seed
        self.entropy = SeededEntropy(seed or 0)
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = _RESOLUTION

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def advance(self) -> None:
        """Jump to the next timer: exactly there, and however far it is."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        soonest = timers[0].when()
        self._virtual_now = max(self._virtual_now, soonest)
        # asyncio runs what is due before now + resolution, so this sum must be more than now.
        self._clock_resolution = max(_RESOLUTION, math.ulp(self._virtual_now))
        if self._shuffle is not None and sum(t.when() == soonest for t in timers[:3]) > 1:
            chance = self._shuffle.random
            timers.sort(key=lambda timer: (timer.when(), chance()))  # a sorted list is a heap

    def shuffle_ready(self) -> None:
        """Reorder what is ready to run, as the seed says."""
        ready = self._ready  # type: ignore[attr-defined]
        if self._shuffle is not None and len(ready) > 1:
            order = list(ready)
            self._shuffle.shuffle(order)
            ready.clear()
            ready.extend(order)

    def waiting_tasks(self) -> str:
        """Who waits, and where: for the message of `Deadlock`."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda t: t.get_name()):
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "?"
            lines.append(f"  {task.get_name()} waits in {where}")
        return "\n".join(lines) or "  no task at all"


class _JumpingSelector(selectors.BaseSelector):
    """A selector that never waits for longer than others may need to answer."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._threads = threading.active_count()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.shuffle_ready()
        events = self._real.select(0)
        if events or timeout == 0:
            return events
        others = self._others()
        if others:
            events = self._real.select(_PATIENCE if timeout is None else _MOMENT)
            if events:
                return events
        if timeout is None:
            if events := self._real.select(_MOMENT):  # of a thread that was not counted
                return events
            raise Deadlock(f"nothing can happen any more:\n{self._loop.waiting_tasks()}")
        self._loop.advance()
        return []

    def _others(self) -> bool:
        """Whether anything besides this loop's timers could wake it: a thread, a socket."""
        own_pipe = 1
        return len(self._real.get_map()) > own_pipe or threading.active_count() > self._threads

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def run_virtual(main: Coroutine[Any, Any, T], *, seed: int | None = None) -> T:
    """`asyncio.run(main)` on a fresh `VirtualLoop`."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(main)
