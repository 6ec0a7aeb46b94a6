"""Completed results, kept in this process for at most as long as they are in the store."""

from __future__ import annotations

from collections import OrderedDict

from aresilience.clock import LoopClock
from aresilience.idempotency.record import Answer, Standing

__all__ = ["LocalResults"]

_DONE = (Answer.DONE, Answer.FAILED)


class LocalResults:
    """The last `most` results that were met. Only for the fingerprint that they were stored with."""

    __slots__ = ("_clock", "_kept", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[str, float, Standing]] = OrderedDict()
        self._clock = LoopClock()

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

    def add(self, ident: str, fingerprint: str, sent: float, standing: Standing) -> None:
        """Keep what the store answered to a question that left at `sent`."""
        if self._most and standing.answer in _DONE:
            self._kept[ident] = (fingerprint, sent + standing.left / 1e6, standing)
            self._kept.move_to_end(ident)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def drop(self, ident: str) -> None:
        """Forget one."""
        self._kept.pop(ident, None)

    def now(self) -> float:
        """The clock by which results age here."""
        return self._clock.read()
