"""Writes to the journal of one saga, for its owner, until it is confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aresilience.backoff import Backoff
from aresilience.chance import entropy
from aresilience.errors import BackendError, CorruptState
from aresilience.saga.record import Entry, SagaState
from aresilience.saga.store import Claim, SagaStore, Told, Write

if TYPE_CHECKING:
    from aresilience.saga.definition import Definition

__all__ = ["Scribe", "Stopped"]

_AGAIN = Backoff.exponential(initial=0.05, maximum=2.0)


class Stopped(Exception):
    """No more is to be written."""


class Scribe:
    """Remembers what it has written since the saga is ours: a store that has lost it (it failed over to a
    replica that was behind, say) is told again. `may_write`: it is still ours; `may_wait`: nobody waits for
    us to stop."""

    __slots__ = ("_claim", "_length", "_may_wait", "_may_write", "_saga", "_store", "_written")

    def __init__(
        self,
        saga: Definition,
        store: SagaStore,
        claim: Claim,
        may_write: Callable[[], bool],
        may_wait: Callable[[], bool],
    ) -> None:
        self._saga = saga
        self._store = store
        self._claim = claim
        self._may_write = may_write
        self._may_wait = may_wait
        self._length = claim.found.length
        self._written: list[Entry] = []

    async def write(self, entries: Sequence[Entry], state: SagaState, progress: bool) -> Told | None:
        """The store's answer; None: it is somebody else's. Raises `Stopped`; `CorruptState` if it is gone."""
        keep = round(self._saga.retention * 1e6)
        id_, fence = self._claim.found.head.id, self._claim.fence
        write = Write(id_, fence, entries, state, keep, progress, self._length)
        tries = 0
        while True:
            if not self._may_write():
                raise Stopped
            try:
                told = await self._store.append(write)
                if told is not None and told.behind:
                    self._length = 0
                    write = replace(write, entries=(*self._written, *entries), after=0)
                    continue
            except CorruptState:
                raise
            except BackendError as error:
                tries += 1
                self._saga.tell_degraded(error)
                if not self._may_wait():
                    raise Stopped from error
                await asyncio.sleep(_AGAIN.delay(tries, entropy().random()))
                continue
            if told is not None:
                self._written += entries
                self._length = max(self._length, told.length)
            return told
