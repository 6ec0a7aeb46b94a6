"""Taking claims and ending them: the part of the shell that talks with the store.

What happens at each of its awaits, if

- the caller is cancelled: while it claims, what it may have taken is taken back, by its token; while it waits,
  it leaves; while it ends a claim, that goes on;
- the process dies: before the claim, nothing happened; after it, the lease runs out and the next one is told
  that the outcome is unknown; after the completion, the answer is there;
- the answer of the store is lost: a claim is taken back, by its token; an ending is told again, by its token,
  for as long as two leases;
- the claim was taken over meanwhile: the ending is refused, and the caller hears `ClaimLost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aresilience.backend import Backend
from aresilience.chance import entropy
from aresilience.deadline import time_remaining
from aresilience.errors import BackendError, OutcomeUnknown
from aresilience.events import CallRejected, Event, StoreDegraded
from aresilience.idempotency.facts import Abandoned, AnswerNotKept, ClaimTakenOver, InFlight, KeyReused
from aresilience.idempotency.record import Answer, Ask, Ending, Standing, Work
from aresilience.idempotency.results import LocalResults
from aresilience.idempotency.store import IdempotencyStore, Lease, Watch

__all__ = ["Claims", "Held", "Rules"]

_SHORTEST = 0.001
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0
_LEAST_RETRY = 0.05


@dataclass(frozen=True, slots=True)
class Rules:
    """What a user of idempotency chose, in seconds."""

    name: str
    ttl: float
    lease: float
    waits: bool
    wait: float
    takeover: bool
    runs_without_store: bool


class Held:
    """A claim that is ours. `lease` is None where the store failed and the call runs all the same."""

    __slots__ = ("begun", "id", "insists", "knows", "lease", "told", "work")

    def __init__(self, ident: str, work: Work, lease: Lease | None, *, insists: bool = True) -> None:
        self.id = ident
        self.work = work
        self.lease = lease
        self.insists = insists
        """Whether the store may know of it, and is to be told its end until it has heard."""
        self.knows = work.attempt == 1
        """Whether no earlier attempt is left of which nobody knows what became."""
        self.begun = False
        self.told = False
        """Whether its end has been told to the store, or is being told."""


class Claims:
    """Claims on one store."""

    __slots__ = ("_backend", "_rules", "_store", "_tell", "results")

    def __init__(
        self,
        rules: Rules,
        backend: Backend,
        store: IdempotencyStore,
        results: LocalResults,
        tell: Callable[[Callable[[str, float], Event]], None],
    ) -> None:
        self._rules = rules
        self._backend = backend
        self._store = store
        self._tell = tell
        self.results = results

    async def enter(self, ident: str, fingerprint: str, outer: frozenset[str]) -> Held | Standing:
        """A claim, or what is there instead of one: the standing of what is done.

        `outer` are the ids of the claims inside which this one is wanted. Raises `InFlight`, `KeyReused`,
        `Abandoned` and, if the policy is to raise, `BackendError`.
        """
        known = self.results.find(ident, fingerprint)
        if known is not None:
            return known
        store, watch, ends = self._store, None, 0.0
        seen = store.watches.seen(ident)
        try:
            while True:
                ask = self._ask(fingerprint)
                sent, asked = self._backend.keeper.now(), self.results.asks()
                try:
                    standing = await store.claim(ident, ask)
                except (asyncio.CancelledError, GeneratorExit):
                    self._take_back(self._unheld(ident, ask), at_once=True)
                    raise
                except BackendError as error:
                    return self._without_store(ident, ask, error, another=watch is not None)
                if standing.answer is Answer.CLAIMED:
                    return self._taken(ident, ask, standing, sent)
                self._refused(standing)
                if standing.answer is not Answer.RUNNING:
                    self.results.add(ident, fingerprint, asked, standing)
                    return standing
                ends = ends or self._patience()
                left = ends - asyncio.get_running_loop().time()
                if left <= 0 or not self._rules.waits:
                    raise self._in_flight(standing)
                if ident in outer:
                    raise RuntimeError("an idempotent call waits for itself: a call around it has its key")
                if watch is None:
                    watch = store.watches.begin(ident)
                await _news(watch, seen, min(left, standing.left / 1e6))
                seen = watch.pulses
        finally:
            if watch is not None:
                store.watches.end(ident)

    async def leave(self, held: Held, ending: Ending, value: bytes = b"") -> bool:
        """End a claim, whatever the store says to it now. False if it was somebody else's by then."""
        held.told = True
        if ending is Ending.RELEASED and not held.knows:
            # What became of the attempt before this one is as unknown as it was. Where we do not know which
            # attempt this is, the store does.
            ending = Ending.ABANDONED if held.work.attempt else Ending.UNDONE
        try:
            asked = self.results.asks()
            counts = await self._settle(held, ending, value)
        except asyncio.CancelledError:
            raise  # it is told again
        except BackendError as error:
            told = "tries again" if held.insists else "unprotected"
            self._degraded(error, told)
            if held.insists:
                self.aside(self._insist(held, ending, value))
            return True
        except BaseException:
            self._dropped(held)
            raise
        self._dropped(held)
        if counts and ending.kept:
            left = round(self._rules.ttl * 1e6)
            answer = Answer[ending.name]
            kept = Standing(answer, held.work.fence, held.work.attempt, 0, left, value)
            self.results.add(held.id, held.work.fingerprint, asked, kept)
        return counts or held.lease is None

    def let_go(self, held: Held) -> None:
        """Renew no more what nobody will end: the next one finds it abandoned when its lease is over."""
        if not held.told:
            self._dropped(held)

    def aside(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have something done for which nobody can wait; closing the backend does, for a moment."""
        self._backend.finish(work, within=self._backend.deadline)

    async def look(self, ident: str) -> Standing:
        """How it stands."""
        return await self._store.look(ident)

    async def forget(self, ident: str) -> bool:
        """Remove the record."""
        self.results.drop(ident)
        try:
            return await self._store.forget(ident)
        finally:
            self.results.drop(ident)  # what was answered meanwhile

    async def opened(self) -> list[tuple[str, Standing]]:
        """What is running or abandoned."""
        ids = await self._store.open_ids()
        standings = await asyncio.gather(*(self._store.look(ident) for ident in ids))
        found = zip(ids, standings, strict=True)
        return [(ident, s) for ident, s in found if s.answer in (Answer.RUNNING, Answer.ABANDONED)]

    def _ask(self, fingerprint: str) -> Ask:
        rules = self._rules
        lease, keep = round(rules.lease * 1e6), round(rules.ttl * 1e6)
        return Ask(entropy().token(), fingerprint, lease, keep, rules.takeover)

    def _taken(self, ident: str, ask: Ask, standing: Standing, sent: float) -> Held:
        lease = Lease(self._store, ident, ask.token, self._rules.lease, ask.keep)
        self._backend.keeper.keep(lease, sent)
        if standing.attempt > 1:
            self._tell(lambda name, at: ClaimTakenOver(name, at, standing.attempt))
        return Held(ident, Work(ask.token, ask.fingerprint, standing.fence, standing.attempt), lease)

    def _refused(self, standing: Standing) -> None:
        """Raise if there is nothing to wait for, and no answer."""
        name = self._rules.name
        if standing.answer is Answer.REUSED:
            raise KeyReused(f"{name}: the key was used for something else")
        if standing.answer is Answer.ABANDONED:
            raise Abandoned(
                f"{name}: a call with this key began, and nobody knows whether it was done",
                attempt=standing.attempt,
            )

    def _patience(self) -> float:
        """When the wait for another call ends."""
        remaining = time_remaining()
        wait = self._rules.wait if remaining is None else min(self._rules.wait, remaining)
        return asyncio.get_running_loop().time() + wait

    def _in_flight(self, standing: Standing) -> InFlight:
        retry_after = max(_LEAST_RETRY, min(standing.age, standing.left) / 1e6)
        self._tell(lambda name, at: CallRejected(name, at, retry_after))
        return InFlight(
            f"{self._rules.name}: another call with this key is at work; try again in {retry_after:.3g} s",
            retry_after=retry_after,
        )

    def _without_store(self, ident: str, ask: Ask, error: BackendError, *, another: bool) -> Held:
        """The claim failed, or may have. Where another one is known to be at work nothing runs unprotected."""
        unknown = isinstance(error, OutcomeUnknown)
        held = self._unheld(ident, ask, insists=unknown)
        if self._rules.runs_without_store and not another:
            self._degraded(error, "ran unprotected")
            return held
        self._degraded(error, "raised")
        if unknown:
            self._take_back(held, at_once=False)
        raise error

    @staticmethod
    def _unheld(ident: str, ask: Ask, *, insists: bool = True) -> Held:
        return Held(ident, Work(ask.token, ask.fingerprint, 0, 0), None, insists=insists)

    def _take_back(self, held: Held, *, at_once: bool) -> None:
        """A claim of which nobody knows whether it was granted, and which nobody wants any more."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # a coroutine that is collected, whose loop is gone
        self.aside(self._insist(held, Ending.UNDONE, b"", pause=0.0 if at_once else _FIRST_PAUSE))

    async def _settle(self, held: Held, ending: Ending, value: bytes) -> bool:
        ttl = round(self._rules.ttl * 1e6)
        return await self._store.settle(held.id, held.work, ending, value, ttl)

    async def _insist(self, held: Held, ending: Ending, value: bytes, pause: float = _FIRST_PAUSE) -> None:
        """Tell the store again what it may have missed, until it answers, or two leases have passed."""
        loop = asyncio.get_running_loop()
        gives_up = loop.time() + 2 * self._rules.lease
        try:
            while True:
                await asyncio.sleep(pause * (0.5 + entropy().random()))
                try:
                    await self._settle(held, ending, value)
                    return
                except BackendError as error:
                    if loop.time() >= gives_up:
                        self._gave_up(ending, error)
                        return
                pause = min(max(_FIRST_PAUSE, 2 * pause), _LAST_PAUSE)
        finally:
            self._dropped(held)

    def _gave_up(self, ending: Ending, error: BackendError) -> None:
        if ending.kept:
            self._tell(lambda name, at: AnswerNotKept(name, at, error))

    def _dropped(self, held: Held) -> None:
        if held.lease is not None:
            self._backend.keeper.drop(held.lease)

    def _degraded(self, error: BackendError, answer: str) -> None:
        self._tell(lambda name, at: StoreDegraded(name, at, error, answer))


async def _news(watch: Watch, seen: int, seconds: float) -> None:
    await watch.wait(seen, max(_SHORTEST, seconds))
