"""Completed results, kept in this process for at most as long as they are in the store."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from aresilience.clock import LoopClock
from aresilience.idempotency.record import Answer, Standing

__all__ = ["Asked", "LocalResults"]

_DONE = (Answer.DONE, Answer.FAILED)


class Asked(NamedTuple):
    """When a question left, by the clock by which results age here, and after how many drops."""

    at: float
    drops: int


class LocalResults:
    """The last `most` results that were met. Only for the fingerprint that they were stored with."""

    __slots__ = ("_clock", "_drops", "_kept", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[str, float, Standing]] = OrderedDict()
        self._clock = LoopClock()
        self._drops = 0

    def find(self, ident: str, fingerprint: str) -> Standing | None:
        """A result that holds still."""
        found = self._kept.get(ident)
        if found is None:
            return None
        known, until, standing = found
        if self._clock.read() >= until:
            del self._kept[ident]
            return None
        if known != fingerprint:
            return None
        self._kept.move_to_end(ident)
        return standing

    def add(self, ident: str, fingerprint: str, asked: Asked, standing: Standing) -> None:
        """Keep what the store answered to a question; nothing if something was dropped since that left."""
        if self._most and standing.answer in _DONE and asked.drops == self._drops:
            self._kept[ident] = (fingerprint, asked.at + standing.left / 1e6, standing)
            self._kept.move_to_end(ident)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def drop(self, ident: str) -> None:
        """Forget one, and what was asked before, whatever the answer."""
        self._drops += 1
        self._kept.pop(ident, None)

    def asks(self) -> Asked:
        """To be called when a question leaves."""
        return Asked(self._clock.read(), self._drops)
