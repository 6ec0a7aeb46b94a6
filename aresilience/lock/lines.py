"""The local queue: of all tasks of a process that want one name, one asks the store.

    enter ──▶ (nobody has the turn) ──▶ the turn ──▶ ask the store, wait, hold ──▶ leave ──▶ the next in line
       └────▶ (somebody has it)  ──▶ stand in line, first come, first served

A turn goes from hand to hand without the store. After `_IN_A_ROW` of them whoever leaves lets the store tell
the other processes first, so that one busy process does not keep a name to itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["Lines"]

_IN_A_ROW = 16


class _Line:
    """Those who wait for a turn, and how many turns were passed on without a break."""

    __slots__ = ("in_a_row", "waiters")

    def __init__(self) -> None:
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.in_a_row = 0


class Lines:
    """The lines of a backend, by key; a line is there while somebody has its turn."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def waiting(self, key: Hashable) -> int:
        """How many stand in line."""
        line = self._lines.get(key)
        return 0 if line is None else len(line.waiters)

    def enter(self, key: Hashable) -> bool:
        """Take the turn, if nobody has it."""
        if key in self._lines:
            return False
        self._lines[key] = _Line()
        return True

    def taken(self, key: Hashable) -> bool:
        """Whether somebody has the turn."""
        return key in self._lines

    async def stand(self, key: Hashable, until: float | None) -> bool:
        """Wait for the turn that somebody else has; False if it did not come in time."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        waiters = self._lines[key].waiters
        waiters[turn] = None
        timer = None if until is None else loop.call_at(until, _give_up, turn)
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None and turn.result():
                self.leave(key)  # the turn and the cancel came together
            raise
        finally:
            waiters.pop(turn, None)
            if timer is not None:
                timer.cancel()

    def is_long(self, key: Hashable) -> bool:
        """Whether the turn went from hand to hand so often that others should have a chance first."""
        line = self._lines.get(key)
        if line is None or not line.waiters or line.in_a_row < _IN_A_ROW:
            return False
        line.in_a_row = 0
        return True

    def leave(self, key: Hashable) -> None:
        """Pass the turn on."""
        line = self._lines.get(key)
        if line is None:
            return
        while line.waiters:
            turn, _ = line.waiters.popitem(last=False)
            # A loop that was stopped and closed leaves waiters behind that nothing can wake.
            if not turn.done() and not turn.get_loop().is_closed():
                line.in_a_row += 1
                turn.set_result(True)
                return
        del self._lines[key]

    def fail_all(self, error: Exception) -> None:
        """Tell all in all lines."""
        for key in self._lines:
            self.fail(key, error)

    def fail(self, key: Hashable, error: Exception) -> None:
        """Tell all who stand in line what whoever asked for them was told."""
        line = self._lines.get(key)
        for turn in list(line.waiters) if line is not None else ():
            if not turn.done() and not turn.get_loop().is_closed():
                turn.set_exception(type(error)(*error.args))
            assert line is not None
            line.waiters.pop(turn, None)


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
