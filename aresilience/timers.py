"""Many deadlines, all equally far away, for the price of one timer.

Deadlines of one length expire in the order in which they were set, so a dict, which keeps that order,
is the whole priority queue: starting and stopping one is an insertion and a deletion, and the loop
is asked for a single timer, however many run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from aresilience.clock import reader

__all__ = ["EqualTimers"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class EqualTimers(Generic[K, T]):
    """Calls `expire(key, item)` for every item that was started `seconds` ago and not stopped since."""

    __slots__ = ("_expire", "armed", "entries", "loop", "now", "seconds")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[K, T], object]
    ) -> None:
        self.loop = loop
        self.now = reader(loop)
        self.seconds = seconds
        self._expire = expire
        self.entries: dict[K, tuple[float, T]] = {}
        """What runs, soonest first: key to (when, item). `Timeout` enters here itself, to save a call."""
        self.armed = False

    def start(self, key: K, item: T) -> None:
        """Start a timer; the key, which must be new, stops it."""
        when = self.now() + self.seconds
        self.entries[key] = (when, item)
        if not self.armed:
            self.arm(when)

    def stop(self, key: K) -> bool:
        """Stop a timer. False if it had expired, or was stopped before."""
        return self.entries.pop(key, None) is not None

    def arm(self, when: float) -> None:
        """Have the loop call back at the end of the timer that ends first."""
        self.armed = True
        self.loop.call_at(when, self._tick)

    def _tick(self) -> None:
        now = self.now()
        self.armed = False
        due: list[tuple[K, T]] = []
        for key, (when, item) in self.entries.items():
            if when > now:
                self.arm(when)
                break
            due.append((key, item))
        for key, item in due:
            del self.entries[key]
            self._expire(key, item)
