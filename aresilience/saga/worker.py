"""The worker: takes over sagas whose owner died, whether or not anything else happens."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aresilience.backend.backend import to_the_end
from aresilience.chance import entropy
from aresilience.errors import BackendError
from aresilience.saga.facts import SagaInterrupted
from aresilience.saga.taking import take

if TYPE_CHECKING:
    from aresilience.saga.conductor import Conductor
    from aresilience.saga.running import Running

__all__ = ["SagaWorker"]

_log = logging.getLogger("aresilience")

_SOON = 0.1


class SagaWorker:
    """An async context manager; see `Saga.worker`."""

    def __init__(self, saga: Running, concurrency: int, every: float) -> None:
        self._saga = saga
        self._concurrency = concurrency
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._runs: set[Conductor] = set()
        self._taking: set[asyncio.Task[None]] = set()
        self._skip = 0
        self.taken = 0
        """How many it has taken over so far."""

    async def __aenter__(self) -> SagaWorker:
        if self._task is not None:
            raise RuntimeError("a saga worker is entered once: write saga.worker() each time")
        for definition in self._saga.definitions():
            definition.check()
        self._task = asyncio.get_running_loop().create_task(self._work(asyncio.Event()), name="saga worker")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await to_the_end(self._stop())

    async def _stop(self) -> None:
        task = self._task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        if self._taking:
            await asyncio.wait(self._taking)  # a claim is not cut short: what it took would be nobody's
        for run in self._runs:
            run.stop()
        if self._runs:
            await asyncio.wait([run.over for run in self._runs])
        if not task.cancelled():
            task.result()

    async def _work(self, news: asyncio.Event) -> None:
        end_watch = self._saga.store.watch("", news.set)
        try:
            while True:
                news.clear()
                more = False
                try:
                    more = await self._round()
                except BackendError as error:
                    self._saga.tell_degraded(error)
                except SagaInterrupted:
                    return  # the backend was closed around us
                hears = asyncio.get_running_loop().create_task(news.wait())
                waits_for: set[asyncio.Future[Any]] = {hears}
                if len(self._runs) >= self._concurrency:
                    waits_for = {run.over for run in self._runs}
                try:
                    await asyncio.wait(
                        waits_for,
                        timeout=_SOON * entropy().random()
                        if more
                        else self._every * (0.75 + entropy().random() / 2),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    hears.cancel()
        finally:
            end_watch()

    async def _round(self) -> bool:
        """Take over what can be had. True: there may be more, that others are not after, too."""
        saga, store = self._saga, self._saga.store
        self._runs = {run for run in self._runs if not run.over.done()}
        room = self._concurrency - len(self._runs)
        if room <= 0:
            return False
        ids = await store.due(room, self._skip)
        before = self.taken
        self._taking = {store.keeper.aside(self._take(id_)) for id_ in ids if id_ not in saga.running}
        if self._taking:
            await asyncio.wait(self._taking)
            for asked in self._taking:
                self._hear(asked.exception())
        # What is newer than we are stays there, and must not be all that we ever see.
        more = len(ids) == room
        self._skip = self._skip + room if more and self.taken == before else 0
        return more

    def _hear(self, error: BaseException | None) -> None:
        """One that cannot be taken over does not keep us from the others; its lease ends, and it is counted."""
        if isinstance(error, BackendError):
            self._saga.tell_degraded(error)
        elif isinstance(error, Exception) and not isinstance(error, SagaInterrupted):
            _log.error("saga %r: one could not be taken over", self._saga.name, exc_info=error)
        elif error is not None:
            raise error

    async def _take(self, id: str) -> None:
        saga = self._saga
        claim = await saga.claimed(id)
        if claim is None:
            return
        self.taken += 1
        run = take(saga, claim)
        if run is not None:
            self._runs.add(run)

    def __repr__(self) -> str:
        return f"<SagaWorker of {self._saga.name!r}, {len(self._runs)} at work, {self.taken} taken over>"
