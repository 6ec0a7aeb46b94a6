"""Refusals that are remembered: while a key is surely over its limit, nobody need be asked."""

from __future__ import annotations

from aresilience.clock import LoopClock

__all__ = ["DenyCache"]

_MOST = 10_000


class DenyCache:
    """Until when a key is refused so many tokens, by this process's clock."""

    __slots__ = ("_clock", "_until")

    def __init__(self) -> None:
        self._clock = LoopClock()
        self._until: dict[tuple[str, int], float] = {}

    def add(self, key: str, cost: int, seconds: float) -> None:
        """It was refused, for so many seconds."""
        if len(self._until) >= _MOST:
            self._until.clear()
        self._until[key, cost] = self._clock.read() + seconds

    def left(self, key: str, cost: int) -> float | None:
        """For how many seconds it is still refused; None if that is not known."""
        until = self._until.get((key, cost))
        if until is None:
            return None
        left = until - self._clock.read()
        if left > 0:
            return left
        del self._until[key, cost]
        return None

    def clear(self) -> None:
        """The rate was changed."""
        self._until.clear()
