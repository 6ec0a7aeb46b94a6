"""Running sagas: beginning one, going on with one, working on those that nobody owns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from aresilience import arguments
from aresilience.backend import MemoryBackend
from aresilience.chance import entropy
from aresilience.errors import BackendError, OutcomeUnknown
from aresilience.saga.conductor import Conductor
from aresilience.saga.definition import Definition
from aresilience.saga.facts import SagaMismatch, SagaRecord
from aresilience.saga.handle import SagaHandle, SagaResult, record_of
from aresilience.saga.machine import Course
from aresilience.saga.record import Did, Entry, SagaState
from aresilience.saga.store import Claim, Found, Head, SagaStore
from aresilience.saga.stores import store_on
from aresilience.saga.taking import take
from aresilience.saga.wanted import Wanted
from aresilience.saga.worker import SagaWorker

__all__ = ["Running"]

_BEGIN_TRIES = 3
_LONGEST_ID = 1_000


class Running(Definition):
    """The part of `Saga` that runs them."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.running: dict[str, Conductor] = {}
        """Those that this process works on."""

    async def run(self, input: Any, *, id: str | None = None) -> SagaResult:
        """Start it and wait for its end. With an `id` that was used before: wait for that one.

        Raises `SagaFailed` (undone), `SagaStuck`, `SagaParked`, `NotStorable` before the first step, and what
        `start` raises.
        """
        id, packed = self._checked_id(id), self.packed_input(input)
        begun: asyncio.Task[Found | None] | None = None
        try:
            if id in self.running:
                return await self._attached(id, self.running[id].packed, packed).result()
            begun = self.store.keeper.aside(self._begin(id, input, packed))
            return await (await self._begun(begun, id, packed)).result()
        except asyncio.CancelledError:
            if self.on_cancel == "abort":
                self.store.keeper.aside(self._abort_later(id, begun))
            raise

    async def start(self, input: Any, *, id: str | None = None) -> SagaHandle:
        """Write it down, and go on with it in the background. The `id` is yours (an order's, say), or random.

        A saga of this id that is there already is not started again. Raises `SagaMismatch` if that has another
        input, `NotStorable` if the input cannot be kept, `TypeError` if no result of some step ever could, a
        `BackendError` if it could not be begun (or, `OutcomeUnknown`, may have been: start it again).
        """
        id, packed = self._checked_id(id), self.packed_input(input)
        if id in self.running:
            return self._attached(id, self.running[id].packed, packed)
        return await self._begun(self.store.keeper.aside(self._begin(id, input, packed)), id, packed)

    def attach(self, id: str) -> SagaHandle:
        """The handle of a saga that was started before, perhaps elsewhere."""
        return SagaHandle(self, id)

    def worker(self, *, concurrency: int = 100, every: float | timedelta | None = None) -> SagaWorker:
        """Takes over sagas whose owner died, within `async with`.

        `concurrency`: how many at a time. It looks `every` so many seconds (by default a third of the
        lease), and when it hears that one was handed over. Leaving it hands over those that it works on.
        """
        seconds = self.lease / 3 if every is None else arguments.duration("Saga.worker: every", every)
        return SagaWorker(self, arguments.count("Saga.worker: concurrency", concurrency), seconds)

    async def get(self, id: str) -> SagaRecord | None:
        """A saga as it is, with the timeline of its steps; None if there is none, or not any more.

        Raises a `BackendError`.
        """
        found = await self.store.load(id)
        return None if found is None else record_of(self, found)

    async def abort(self, id: str, reason: str = "aborted") -> bool:
        """Have a saga undone: what runs of it ends, nothing new begins, and then it goes back.

        False if it is being undone, or has ended, or (for one that has a pivot) it is too late, as far as is
        known here. Whoever waits for its result learns what became of it. Raises a `BackendError`,
        `LookupError` if there is none, `ValueError` if it is parked and its version is not known here.
        """
        arguments.text("Saga.abort: reason", reason)
        found = await self._found(id)
        if found.state is SagaState.PARKED:
            payload = reason.encode("utf-8", "replace")
            trial = self._course(found)
            trial.apply(Entry(Did.RETRY))
            if trial.past_pivot:
                return False
            return await self._change(
                id,
                [Entry(Did.ABORT, payload=payload), Entry(Did.RETRY, "", found.length)],
                SagaState.PARKED,
            )
        definition = self.definition_of(found.head)
        if definition is not None and Course(definition.plan, found.entries).past_pivot:
            return False
        if not await self.store.abort(id, reason):
            return False
        run = self.running.get(id)
        if run is not None:
            run.abort(reason)
        return True

    # For the other rooms of this folder.

    @property
    def store(self) -> SagaStore:
        """Where its journals are."""
        backend = MemoryBackend.of_this_loop() if self._backend is None else self._backend
        return store_on(backend, self.name)

    async def adopt(self, id: str) -> bool:
        """Go on with a saga that nobody owns. False if somebody does by now."""
        if id in self.running:
            return True
        claim = await self.claimed(id)
        if claim is None:
            return False
        take(self, claim)
        return True

    async def claimed(self, id: str) -> Claim | None:
        """Own a saga, if nobody does."""
        store, ttl = self.store, round(self.lease * 1e6)
        wanted = Wanted(store, id, self.lease)
        return await wanted.ask(lambda token: store.claim(id, self.plan.version, token, ttl))

    def _checked_id(self, id: str | None) -> str:
        id = entropy().token() if id is None else arguments.text("Saga: id", id)
        if len(id) > _LONGEST_ID:
            raise ValueError(f"Saga: id must have at most {_LONGEST_ID} characters, got {len(id)}")
        return id

    async def _begun(self, work: asyncio.Task[Found | None], id: str, packed: bytes) -> SagaHandle:
        await asyncio.wait([work])  # it goes on if we are cancelled
        found = work.result()
        return SagaHandle(self, id) if found is None else self._attached(id, found.head.input, packed)

    def _attached(self, id: str, there: bytes, packed: bytes) -> SagaHandle:
        if there and there != packed:
            raise SagaMismatch(f"saga {self.name!r}: one of this id was started with another input")
        return SagaHandle(self, id)

    async def _begin(self, id: str, input: Any, packed: bytes) -> Found | None:
        """Begin it here; or what is there. Without an input (no codec keeps one as nothing) it begins as
        undone: so that it cannot be begun any more."""
        deadline = 0 if self.deadline is None else round(self.deadline * 1e6)
        head = Head(id, self.plan.version, self.plan.fingerprint, packed, deadline)
        store, ttl = self.store, round(self.lease * 1e6)
        first = Course(self.plan).next(0).start if packed else ()
        starts = [Entry(Did.START, step, 1) for step in first]
        if not packed:
            starts.append(Entry(Did.TURN, "", 1, b"undone before it began"))

        async def begin(token: str) -> Claim | Found:
            for _ in range(_BEGIN_TRIES - 1):
                with contextlib.suppress(OutcomeUnknown):  # the token makes it safe to ask again
                    return await store.begin(head, starts, token, ttl)
            return await store.begin(head, starts, token, ttl)

        claim = await Wanted(store, id, self.lease).ask(begin)
        if isinstance(claim, Found):
            return claim
        run = Conductor(self, self, store, input, claim, first)
        self.tell_change(None, SagaState.RUNNING)
        self.conduct(run)
        return None

    def conduct(self, run: Conductor) -> None:
        """Run it aside."""
        self.running[run.id] = run
        self.store.keeper.aside(self._conducted(run))

    async def _conducted(self, run: Conductor) -> None:
        try:
            await run.conduct()
        finally:
            if self.running.get(run.id) is run:
                del self.running[run.id]

    async def _abort_later(self, id: str, begun: asyncio.Task[Found | None] | None) -> None:
        if begun is not None:
            await asyncio.wait([begun])
        if id not in self.running:
            return  # it never began, or others work on it
        try:
            await self.abort(id, "the caller was cancelled")
        except BackendError as error:
            self.tell_degraded(error)

    async def _change(self, id: str, entries: Sequence[Entry], *states: SagaState) -> bool:
        """Add what a person said, and go on with it here, unless another worker is quicker."""
        found = await self._found(id)
        if found.state not in states:
            return False
        course = self._course(found)
        for entry in entries:
            course.apply(entry)
        if not await self.store.change(id, found.length, entries, course.state, 0):
            return False
        self.tell_change(found.state, course.state)
        await self.adopt(id)
        return True

    async def _found(self, id: str) -> Found:
        found = await self.store.load(arguments.text("Saga: id", id))
        if found is None:
            raise LookupError(f"saga {self.name!r}: there is none of this id, or not any more")
        return found

    def _course(self, found: Found) -> Course:
        return Course(self._known(found).plan, found.entries)

    def _known(self, found: Found) -> Definition:
        definition = self.definition_of(found.head)
        if definition is None:
            raise ValueError(
                f"saga {self.name!r}: version {found.head.version} ({found.head.fingerprint}) is not known "
                "here: register it, Saga(…, older=[…])"
            )
        return definition
