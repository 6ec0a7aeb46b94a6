"""What every backend is: something that is entered once, and a name for its keys."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from aresilience import arguments
from aresilience.backend.leases import Keeper

__all__ = ["Backend", "to_the_end"]

B = TypeVar("B", bound="Backend")
T = TypeVar("T")
_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")


class Backend(ABC):
    """Where state lives. An async context manager; it may be made before there is an event loop."""

    def __init__(self, *, prefix: str, deadline: float | timedelta) -> None:
        kind = type(self).__name__
        if not _PREFIX.fullmatch(arguments.text(f"{kind}: prefix", prefix)):
            raise ValueError(
                f"{kind}: prefix must be 1 to 64 letters, digits or _ . : / -, got {prefix[:80]!r}"
            )
        self.prefix = prefix
        self.deadline = arguments.duration(f"{kind}: deadline", deadline)
        self._entered = False
        self._shared: dict[tuple[str, str], Any] = {}
        self._local: dict[str, Any] = {}
        self._finishing: dict[asyncio.Task[Any], float] = {}
        self.keeper = Keeper()
        """Renews what this process holds on this backend."""

    def shared(self, kind: str, name: str, make: Callable[[], T]) -> T:
        """The store of that kind and name on this backend, made when it is first asked for."""
        found: T | None = self._shared.get((kind, name))
        if found is None:
            found = self._shared[kind, name] = make()
        return found

    def local(self, kind: str, make: Callable[[], T], *, until: Callable[[T], bool]) -> T:
        """What this process keeps beside the stores, until `until` says no, or the backend is closed."""
        found: T | None = self._local.get(kind)
        if found is None or until(found):
            found = self._local[kind] = make()
        return found

    def finish(self, work: Coroutine[Any, Any, T], *, within: float) -> asyncio.Task[T]:
        """Have something done to its end, whoever is cancelled meanwhile. Closing the backend waits for it, for
        `within` seconds, and then cancels it; while it cleans up the backend still works."""
        task = asyncio.get_running_loop().create_task(work)
        self._finishing[task] = within
        task.add_done_callback(lambda done: self._finishing.pop(done, None))
        return task

    async def __aenter__(self: B) -> B:
        if self._entered:
            raise RuntimeError(f"{self!r} is open already: a backend is entered once at a time")
        self._entered = True
        try:
            await self._open()
        except BaseException:
            self._entered = False
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._finishing:
                await to_the_end(self._finish())
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            await self.keeper.close(self.deadline)  # while there is still a way to give it back
        finally:
            try:
                await self._close()
                await self.keeper.settled(self.deadline)
            finally:
                self._entered = self.keeper.closing = False
                self._local.clear()

    async def _finish(self) -> None:
        loop = asyncio.get_running_loop()
        ours = {task: within for task, within in self._finishing.items() if task.get_loop() is loop}
        if ours:
            await asyncio.wait(ours, timeout=max(ours.values()))
        late = {task for task in self._finishing if task.get_loop() is loop}
        if late:
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=4 * self.deadline)
            begun = {task for task in self._finishing if task.get_loop() is loop} - late
            if begun:  # what those began when they were cancelled
                await asyncio.wait(begun, timeout=self.deadline)

    @abstractmethod
    async def ping(self) -> float:
        """Seconds of a round trip. Raises a `BackendError`."""

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def _close(self) -> None: ...

    @abstractmethod
    def _state(self) -> str: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state()} {'open' if self._entered else 'closed'}>"


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do what is bounded by itself to its end, however often we are cancelled meanwhile, and then say so."""
    import anyio  # takes longer than all else here, and is needed only when something closes

    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # a cancelled scope would cancel each of our awaits
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
