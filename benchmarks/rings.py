"""Many tasks that do the same in turn, round and round: a crowd that stays as large as it is.

Each turn is one turn of the event loop, however many stand by, so that the price of a turn can be compared
between crowds of different sizes. Between slices everybody stands still.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import thread_time_ns
from typing import Any

__all__ = ["CallRing", "ManualQueue", "PatientRing", "QueueRing", "Ring"]

_Future = asyncio.Future[None]
_Body = Callable[[], Awaitable[None]]


class Ring(ABC):
    """The crowd. `run` is a slice: so many turns."""

    def __init__(self, members: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = 1
        self._halted: _Future = self._loop.create_future()
        self._stopping = False
        self._members = members
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Everybody takes their place."""
        self._tasks = [asyncio.create_task(self._member()) for _ in range(self._members)]
        await self._halted

    async def run(self, turns: int) -> int:
        """Nanoseconds for so many turns."""
        self._left, self._halted = turns, self._loop.create_future()
        began = thread_time_ns()
        self._go_on()
        await self._halted
        return thread_time_ns() - began

    async def close(self) -> None:
        """Everybody goes home."""
        self._stopping = True
        self._send_home()
        await asyncio.gather(*self._tasks)

    @abstractmethod
    async def _member(self) -> None: ...

    @abstractmethod
    def _go_on(self) -> None: ...

    @abstractmethod
    def _send_home(self) -> None: ...


class QueueRing(Ring):
    """One is inside and `waiting` wait. A turn is: leave, hand over, and queue again at the end."""

    def __init__(self, guard: AbstractAsyncContextManager[Any], waiting: int) -> None:
        super().__init__(waiting + 1)
        self._guard = guard
        self._resumed: _Future = self._loop.create_future()

    async def _member(self) -> None:
        while not self._stopping:
            async with self._guard:
                self._left -= 1
                if self._left <= 0 and not self._stopping:
                    # Not at once: at the start the others have yet to queue, in this turn of the loop.
                    self._loop.call_soon(self._halted.set_result, None)
                    await self._resumed

    def _go_on(self) -> None:
        resumed, self._resumed = self._resumed, self._loop.create_future()
        resumed.set_result(None)

    def _send_home(self) -> None:
        self._go_on()  # they let each other through


class CallRing(Ring):
    """`others` calls are running beside the one that has its turn. A turn is: a call ends, one begins."""

    def __init__(self, wrap: Callable[[_Body], Callable[[], Any]], others: int) -> None:
        super().__init__(others + 1)
        self._call = wrap(self._body)
        self._inside: deque[_Future] = deque()

    async def _member(self) -> None:
        while not self._stopping:
            await self._call()

    async def _body(self) -> None:
        mine: _Future = self._loop.create_future()
        self._inside.append(mine)
        if len(self._inside) == self._members:  # as ever, once all have come
            self._left -= 1
            if self._left > 0:
                self._go_on()
            else:
                self._halted.set_result(None)
        await mine

    def _go_on(self) -> None:
        self._inside.popleft().set_result(None)

    def _send_home(self) -> None:
        while self._inside:
            self._go_on()


class PatientRing(Ring):
    """So many wait for a time of their own. A turn is: the first one's comes, and it waits anew, as the last.

    Time goes on for as long as its loop runs: it must have one to itself, and a virtual one.
    """

    def __init__(self, wait: Callable[[], Awaitable[object]], waiting: int) -> None:
        super().__init__(waiting)
        self._wait = wait

    async def _member(self) -> None:
        while not self._stopping:
            await self._wait()
            self._left -= 1
            if self._left == 0:
                self._halted.set_result(None)

    def _go_on(self) -> None: ...

    def _send_home(self) -> None: ...


class ManualQueue:
    """The least that a queue for one permit can do: the control."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[_Future] = deque()

    async def __aenter__(self) -> None:
        if self._taken:
            mine: _Future = asyncio.get_running_loop().create_future()
            self._waiting.append(mine)
            await mine
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._taken = False
