"""The seam for time: the event loop is the clock.

In the process `loop.time()` rules, so that a loop with virtual time (`aresilience.testing`) needs no
patching. The wall clock is read in one place, to understand a date that a server sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

__all__ = ["LoopClock", "lease_reader", "reader", "wall"]


def reader(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The cheapest function that reads `loop`'s clock."""
    if getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time:
        return time.monotonic  # what it would call: half the price
    return loop.time


def lease_reader(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The function that reads the age of leases on `loop`: its own clock, or one that runs through a suspend.

    A machine that sleeps stops the monotonic clock, and not the server's: where the platform has
    CLOCK_BOOTTIME that is read instead. A loop with a clock of its own (virtual time) keeps it.
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None or abs(loop.time() - time.monotonic()) > 1.0:
        return loop.time
    return partial(time.clock_gettime, boot)


def wall() -> datetime:
    """The wall clock, in UTC. For what people or HTTP headers wrote, never for arithmetic of ours."""
    return datetime.now(UTC)


def _no_loop_yet() -> bool:
    return False


class LoopClock:
    """The running loop's clock, for objects that outlive a loop.

    Asking for the running loop costs more than reading the clock on CPython 3.11, so the last one is
    kept for as long as it runs. Where two threads run a loop each, both are the monotonic clock.
    """

    __slots__ = ("is_running", "is_stock", "nanos", "now")

    def __init__(self) -> None:
        self.is_running: Callable[[], bool] = _no_loop_yet
        """Whether the loop of the last `read` still runs: then `now` is right."""
        self.now: Callable[[], float] = time.monotonic
        """The clock of the loop of the last `read`, in seconds,"""
        self.nanos: Callable[[], int] = time.monotonic_ns
        """and in nanoseconds."""
        self.is_stock = True
        """Whether it is asyncio's own: `time.monotonic`."""

    def read(self) -> float:
        """Seconds on the running loop's clock. Without one: `RuntimeError`."""
        if not self.is_running():
            loop = asyncio.get_running_loop()
            self.is_running, self.now = loop.is_running, reader(loop)
            self.is_stock = self.now is time.monotonic
            self.nanos = time.monotonic_ns if self.is_stock else lambda: round(loop.time() * 1e9)
        return self.now()

    def last(self) -> float:
        """The same; where no loop runs, by the clock of the last `read`.

        For what a coroutine gives back when it is closed, because its loop is gone.
        """
        try:
            return self.read()
        except RuntimeError:
            return self.now()
