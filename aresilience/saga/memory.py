"""Journals in this process: atomic because nothing awaits between reading and writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from aresilience.backend.leases import Confirmation, Keeper
from aresilience.clock import LoopClock
from aresilience.errors import BackendError, CorruptState, Refused
from aresilience.saga.record import ENDED, OPEN, WAITING, Did, Entry, SagaState
from aresilience.saga.store import Claim, Found, HasClaim, Head, Told, Wake, Write

__all__ = ["MemorySagaStore"]


class _Journal:
    __slots__ = (
        "abort", "began", "entries", "fence", "handed", "head", "kept", "lease", "length", "recoveries",
        "state", "token",
    )  # fmt: skip

    def __init__(self, head: Head, token: str, now: int) -> None:
        self.head = head
        self.token = token
        self.began = now
        self.entries: dict[str, Entry] = {}
        self.state = SagaState.RUNNING
        self.fence = 0
        self.lease = 0
        self.length = 0
        self.recoveries = 0
        self.handed = False
        self.abort: str | None = None
        self.kept = 0

    def add(self, entries: Sequence[Entry], now: int) -> None:
        for entry in entries:
            if entry.name not in self.entries:
                self.length += 1
                self.entries[entry.name] = replace(entry, at=now, seq=self.length)

    def found(self, now: int) -> Found:
        return Found(
            self.head,
            self.state,
            tuple(self.entries.values()),
            self.began,
            now,
            self.length,
            max(0, self.lease - now) if self.state in OPEN else 0,
            self.recoveries,
        )


class MemorySagaStore:
    """A dict of journals. `max_open` bounds those that are open; of the ended at most `KEPT` stay."""

    KEPT = 10_000

    def __init__(self, keeper: Keeper, max_open: int = 1_000_000) -> None:
        self.keeper = keeper
        self._max = max_open
        self._clock = LoopClock()
        self._open: dict[str, _Journal] = {}
        self._waiting: dict[str, _Journal] = {}
        self._ended: dict[str, _Journal] = {}
        self._watchers: dict[str, list[Wake]] = {}
        self._last_fence = 0

    async def begin(self, head: Head, entries: Sequence[Entry], token: str, ttl: int) -> Claim | Found:
        sent, now = self.keeper.now(), self._now()
        journal = self._journal(head.id)
        if journal is not None and journal.token != token:
            return journal.found(now)
        if journal is None:
            if len(self._open) >= self._max:
                raise Refused(f"this process keeps at most {self._max} open sagas")
            journal = self._open[head.id] = _Journal(head, token, now)
            journal.fence, journal.lease = self._fence(now), now + ttl
            journal.add(entries, now)
        return Claim(journal.fence, token, sent, journal.found(now))

    async def append(self, write: Write) -> Told | None:
        now = self._now()
        journal = self._journal(write.id)
        if journal is None:
            raise CorruptState("the journal of an open saga is gone")
        if journal.fence != write.fence:
            return None
        if journal.length < write.after:
            return Told(None, journal.length, behind=True)
        journal.add(write.entries, now)
        if write.progress:
            journal.recoveries = 0
        self._move(journal, write.state, now, write.keep)
        return Told(journal.abort, journal.length)

    async def claim(self, id: str, version: int, token: str, ttl: int) -> Claim | None:
        sent, now = self.keeper.now(), self._now()
        journal = self._open.get(id)
        if journal is None or journal.lease > now or journal.head.version > version:
            return None
        journal.fence, journal.lease, journal.token = self._fence(now), now + ttl, token
        journal.recoveries += not journal.handed
        journal.handed = False
        journal.add([Entry(Did.RECOVER, number=journal.fence)], now)
        return Claim(journal.fence, token, sent, journal.found(now))

    async def due(self, limit: int, skip: int = 0) -> Sequence[str]:
        now = self._now()
        found = [(journal.lease, id_) for id_, journal in self._open.items() if journal.lease <= now]
        return [id_ for _, id_ in sorted(found)[skip : skip + limit]]

    async def load(self, id: str) -> Found | None:
        journal = self._journal(id)
        return None if journal is None else journal.found(self._now())

    async def change(
        self, id: str, length: int, entries: Sequence[Entry], state: SagaState, keep: int
    ) -> bool:
        now = self._now()
        journal = self._journal(id)
        if journal is None or journal.length != length:
            return False
        journal.fence, journal.lease, journal.handed = self._fence(now), 0, True
        journal.token = ""
        journal.recoveries = 0
        journal.add(entries, now)
        self._move(journal, state, now, keep)
        self._tell(id, claimable=state in OPEN)
        return True

    async def abort(self, id: str, reason: str) -> bool:
        journal = self._journal(id)
        if journal is None or journal.state is not SagaState.RUNNING:
            return False
        if journal.abort is None:
            journal.abort = reason
            journal.add([Entry(Did.ABORT, payload=reason.encode("utf-8", "replace"))], self._now())
            self._tell(id)
        return True

    async def ids(self, states: Sequence[SagaState]) -> AsyncIterator[str]:
        for where in (self._open, self._waiting, self._ended):
            for id_ in list(where):
                journal = self._journal(id_)
                if journal is not None and journal.state in states:
                    yield id_

    async def renew(self, leases: Sequence[HasClaim]) -> Sequence[Confirmation | BackendError | None]:
        sent, now = self.keeper.now(), self._now()
        answers: list[Confirmation | BackendError | None] = []
        for lease in leases:
            journal = self._open.get(lease.id)
            ours = journal is not None and journal.fence == lease.fence
            if journal is not None and ours:
                journal.lease = now + round(lease.ttl * 1e6)
            answers.append(Confirmation(sent) if ours else None)
        return answers

    def hand_over_later(self, id: str, token: str) -> None:
        journal = self._open.get(id)
        if journal is not None and journal.token == token:
            journal.lease, journal.handed = 0, True
            self._tell(id, claimable=True)

    def watch(self, id: str, wake: Wake) -> Callable[[], None]:
        self._watchers.setdefault(id, []).append(wake)

        def end() -> None:
            wakes = self._watchers.get(id, [])
            if wake in wakes:
                wakes.remove(wake)
            if not wakes:
                self._watchers.pop(id, None)

        return end

    def _now(self) -> int:
        """Microseconds, from 1 on: 0 means never."""
        return round(self._clock.read() * 1e6) + 1

    def _fence(self, now: int) -> int:
        self._last_fence = max(self._last_fence + 1, now)
        return self._last_fence

    def _journal(self, id: str) -> _Journal | None:
        found = self._open.get(id) or self._waiting.get(id)
        if found is None:
            found = self._ended.get(id)
            if found is not None and found.kept <= self._now():
                del self._ended[id]
                return None
        return found

    def _move(self, journal: _Journal, state: SagaState, now: int, keep: int) -> None:
        if state is journal.state:
            return
        id_ = journal.head.id
        for where in (self._open, self._waiting, self._ended):
            where.pop(id_, None)
        journal.state = state
        if state in OPEN:
            self._open[id_] = journal
            return
        journal.lease = 0
        if state in WAITING:
            self._waiting[id_] = journal
        else:
            journal.kept = now + keep
            self._ended[id_] = journal
            self._forget(now)
        self._tell(id_)

    def _forget(self, now: int) -> None:
        """What has ended long ago; and the oldest, where there are too many."""
        while self._ended:
            id_ = next(iter(self._ended))
            if self._ended[id_].kept > now and len(self._ended) <= min(self._max, self.KEPT):
                break
            del self._ended[id_]

    def _tell(self, id: str, *, claimable: bool = False) -> None:
        for name in (id, "") if claimable else (id,):
            for wake in list(self._watchers.get(name, ())):
                wake()


assert frozenset(SagaState) == OPEN | WAITING | ENDED
