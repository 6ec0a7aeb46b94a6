"""A circuit shared by processes, on Redis.

The machine runs here, on a copy of the last known state; what it decides is put in place if nobody else was
quicker (compare and set, fenced by a version), and decided anew on their state otherwise. No trip for a call
through a closed circuit, none to refuse through an open one. News comes over the wake-ups; a periodic read
is the truth.

| when Redis                      | trip, admit, record, isolate, reset                                    |
|---------------------------------|------------------------------------------------------------------------|
| fails, in any of the three ways | happen in this process alone, within the deadline; `StoreDegraded`     |
| may have done it or not         | the same; what was sent is kept, so that both come to the same end     |
| has lost the key                | the state of whoever writes next goes on, with its generation          |
| holds something else in the key | happen in this process alone until that is gone; `StoreDegraded`       |
| is back                         | the newest generation holds for all; probes that ended give up their   |
|                                 | place there, whoever puts an old copy in its place                     |

A verb has one deadline, in line behind others and over all its tries. A caller that is cancelled leaves its
verb to finish, and a probe that nobody wants is given back.

Versions and generations are the server's time in microseconds, or one more than the last, so none comes
again when the key is gone. A closed circuit needs none: its key is gone an hour after it closed (or after as
long as it was open, which decides how much longer it opens next). Who finds no key and has looked within that
hour knows that it was lost, and puts his state back; who has not takes it as closed. What was isolated by hand
is not taken as closed so easily: its key, and that of the closed circuit after `reset`, stay for seven days.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakMethod, WeakValueDictionary

from aresilience.backend.redis import RedisBackend, Script
from aresilience.breaker.machine import BreakerState, Circuit, Probe, Refusal, Rules
from aresilience.chance import entropy
from aresilience.clock import LoopClock
from aresilience.errors import BackendError, CorruptState, NotSent, OutcomeUnknown

__all__ = ["RedisBreakerStore"]

R = TypeVar("R")

_SCRIPT = Script.beside("aresilience.breaker", "breaker.lua")
_KEPT = 7 * 86_400.0
"""Seconds that a circuit is kept after its last change,"""
_CLOSED_KEPT = 3_600.0
"""and a closed one, at least: no key means closed, for who has not looked for so long."""
_REMEMBERED = 100
"""Probes that have ended, at most."""
_GRACE = 0.01
"""So that the backend's own error, which says more, comes before ours."""
_TRIES = 16
_CHANNEL = "breaker"


class RedisBreakerStore:
    """One named circuit on a Redis backend.

    `changed` and `degraded` are bound methods, called for as long as their object lives.
    """

    def __init__(
        self,
        backend: RedisBackend,
        name: tuple[str, ...],
        rules: Rules,
        clock: LoopClock,
        *,
        changed: Callable[[], None],
        degraded: Callable[[BackendError], None],
    ) -> None:
        self.circuit = Circuit(rules)
        self._rules = rules
        self._backend = backend
        self._clock = clock
        self._watchers = WeakMethod(changed), WeakMethod(degraded)
        self.key = backend.key("breaker", *name)
        self._version = 0
        self._known = 0  # the generation that Redis has
        self._offset: float | None = None  # the server's time less ours, in seconds
        self._met = 0.0  # when it last answered
        self._ended: dict[Probe, bool | None] = {}  # probes of this generation that have ended here
        self._untold = False  # whether Redis may not know of one of them
        self._turn = asyncio.Lock()
        backend.shared("breaker", "news", lambda: _News(backend)).add(self)

    def _changed(self) -> None:
        changed = self._watchers[0]()
        if changed is not None:
            changed()

    def _degraded(self, error: BackendError) -> None:
        degraded = self._watchers[1]()
        if degraded is not None:
            degraded(error)

    def look(self) -> None:
        """There is news: read it."""
        self._backend.spawn(self._read())

    def differs(self, value: bytes | None) -> bool:
        """Whether a value of the server is not the one that we know."""
        if self.circuit.generation > self._known or self._untold:
            return True
        if value is None:  # a closed circuit needs no key
            return self.circuit.state is not BreakerState.CLOSED
        version = value.partition(b"|")[0]
        return version.isdigit() and int(version) != self._version

    async def trip(self, generation: int) -> bool:
        return await self._kept(self._decide(lambda c, now, u: c.trip(generation, now, u)))

    async def admit(self) -> Probe | Refusal | None:
        if self.circuit.state is BreakerState.ISOLATED:
            return Refusal(None)
        if self.circuit.state is BreakerState.OPEN:
            left = self.circuit.open_left(self._clock.read())
            if left > 0:
                return Refusal(left)
        task = self._backend.spawn(self._decide(lambda c, now, u: c.admit(now, u)))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(self._give_back)
            raise
        return task.result()

    async def record(self, probe: Probe, success: bool | None) -> None:
        verb = self._end(probe, success)
        if success is None:
            try:
                self._backend.spawn(verb)  # nobody waits: a coroutine that is being closed could not
            except RuntimeError:  # nor is there a loop any more: the lease will end
                verb.close()
        else:
            await self._kept(verb)

    async def isolate(self) -> None:
        await self._kept(self._decide(lambda c, now, _: c.isolate(now)))

    async def reset(self) -> None:
        await self._kept(self._decide(lambda c, now, _: c.reset(now)))

    async def _kept(self, verb: Coroutine[Any, Any, R]) -> R:
        """Await a verb that goes on if we are cancelled."""
        task = self._backend.spawn(verb)
        await asyncio.wait([task])
        return task.result()

    def _give_back(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None and isinstance(task.result(), Probe):
            self._backend.spawn(self._end(task.result(), None))

    async def _end(self, probe: Probe, success: bool | None) -> None:
        self._ended[probe] = success
        await self._decide(lambda circuit, now, u: None)

    async def _decide(self, step: Callable[[Circuit, float, float], R]) -> R:
        """Let the machine take a step on the newest state, and put the result in place for all.

        Without Redis, in this process alone: the very result that was sent, in case that it arrived.
        """
        until = self._clock.read() + self._backend.deadline
        tried: tuple[Circuit, R] | None = None
        async with self._turn:
            try:
                if self._offset is None or self._untold:
                    await self._exchange(None, until)
                for _ in range(_TRIES):
                    tried = None
                    circuit = self._settled()
                    result = step(circuit, self._clock.read(), entropy().random())
                    if self._packed(circuit) == self._packed(self.circuit):
                        self._untold = False
                        self._changed()  # what was there may have been news
                        return result
                    tried = circuit, result
                    if await self._exchange(circuit, until):
                        return result
                raise CorruptState("a circuit breaker key changes faster than we can follow")
            except BackendError as error:
                self._degraded(error)
                self._version = 0  # whatever is there when it is back: compare generations
                if tried is None:
                    circuit = self._settled()
                    tried = circuit, step(circuit, self._clock.read(), entropy().random())
                self.circuit, result = tried
                self._untold = bool(self._ended)
                self._changed()
                return result

    async def _read(self) -> None:
        """Learn the state that is there; tell what is not known there, as after an outage."""
        until = self._clock.read() + self._backend.deadline
        async with self._turn:
            try:
                await self._exchange(None, until)
                for _ in range(_TRIES):
                    circuit = self._settled()
                    told = circuit.generation <= self._known
                    if told and self._packed(circuit) == self._packed(self.circuit):
                        self._untold = False
                        break
                    if await self._exchange(circuit, until):
                        break
            except BackendError:
                return  # the next verb, or the next look, will tell
            self._changed()

    def _settled(self) -> Circuit:
        """A copy of the newest state that we know, in which what has ended here has ended.

        Also what Redis was told of: the copy of somebody who has not heard of it may have come in its place.
        """
        circuit = self._unpacked(self._packed(self.circuit))
        now = self._clock.read()
        if self._offset is not None:
            circuit.floor = round((now + self._offset) * 1e6)
        for probe in [*self._ended][:-_REMEMBERED]:
            del self._ended[probe]
        for probe, success in [*self._ended.items()]:
            if probe.generation < circuit.generation:
                del self._ended[probe]
            else:
                circuit.record(probe, now, entropy().random(), success)
        return circuit

    async def _exchange(self, circuit: Circuit | None, until: float) -> bool:
        """Put a circuit in place, and take it over; or learn what is there instead. None: only learn."""
        version, value, keep = -1, b"", 1.0
        if circuit is not None:
            version = max(self._version + 1, circuit.floor)
            value = b"%d|%s" % (version, self._packed(circuit))
            keep = max(self._kept_if_closed(), circuit.open_for)
            if circuit.state is not BreakerState.CLOSED:
                keep = _KEPT
        seen = version if circuit is None else self._version
        told = self._backend.channel(_CHANNEL)
        won, now, found = await self._answer((seen, value, int(keep * 1000), told, self.key), until)
        absent = self._clock.read() - self._met
        self._met = self._clock.read()
        self._offset = now / 1e6 - self._met
        if won and circuit is not None:
            self.circuit = circuit
            self._version, self._known = version, circuit.generation
            self._untold = False
            self._changed()
        elif found:
            self._learn(found)
        else:
            self._learn_of_no_key(absent)
        return bool(won)

    async def _answer(self, args: tuple[Any, ...], until: float) -> list[Any]:
        """The script's, or a `BackendError`, by `until`."""
        left = until - self._clock.read()
        if left <= 0:
            raise NotSent("not sent within the deadline: others were first")
        answer = self._backend.run(_SCRIPT, [self.key], args)
        try:
            await asyncio.wait([answer], timeout=left + _GRACE)
            if not answer.done():
                raise OutcomeUnknown("Redis gave no answer within the deadline")
        finally:
            answer.cancel()
        found: list[Any] = answer.result()
        return found

    def _learn(self, value: bytes) -> None:
        version, _, text = value.partition(b"|")
        circuit = self._unpacked(text)
        alone = self.circuit.generation > self._known
        self._version = int(version)
        self._known = circuit.generation
        # A lower one is news too, where the key was lost and written anew, unless we decided alone.
        if circuit.generation >= self.circuit.generation or not alone:
            self.circuit = circuit

    def _learn_of_no_key(self, absent: float) -> None:
        """Nobody has written it yet, it was lost, or it has been closed for long."""
        alone = self.circuit.generation > self._known
        self._version = self._known = 0
        if alone:
            return
        if self.circuit.state is not BreakerState.CLOSED:
            if absent < self._kept_if_closed():
                return  # it was lost: ours goes on
            circuit = self._settled()
            circuit.reset(self._clock.read())
            self.circuit = circuit
        self._known = self.circuit.generation

    def _kept_if_closed(self) -> float:
        """For how long the key stays if the circuit that we know is closed."""
        return _KEPT if self.circuit.state is BreakerState.ISOLATED else _CLOSED_KEPT

    def _packed(self, circuit: Circuit) -> bytes:
        offset = self._offset or 0.0
        facts = circuit.facts()
        facts["changed_at"] = round((facts["changed_at"] + offset) * 1e6)
        facts["probes"] = {k: round((v + offset) * 1e6) for k, v in facts["probes"].items()}
        facts["state"] = facts["state"].value
        return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()

    def _unpacked(self, text: bytes) -> Circuit:
        offset = self._offset or 0.0
        try:
            facts = json.loads(text)
            circuit = Circuit.of(
                self._rules,
                {
                    **{
                        name: int(facts[name])
                        for name in ("generation", "rounds", "last_probe", "successes")
                    },
                    "state": BreakerState(facts["state"]),
                    "open_for": float(facts["open_for"]),
                    "changed_at": int(facts["changed_at"]) / 1e6 - offset,
                    "probes": {int(k): int(v) / 1e6 - offset for k, v in facts["probes"].items()},
                },
            )
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptState(
                f"a circuit breaker key holds something else: {type(error).__name__}"
            ) from None
        return circuit


class _News:
    """The circuits of a backend that somebody here still uses, and who of them there is news for."""

    _CHUNK = 500

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self._stores: WeakValueDictionary[bytes, RedisBreakerStore] = WeakValueDictionary()
        backend.when_open(lambda: backend.listen(_CHANNEL, self._hear, self._look_at_all))

    def add(self, store: RedisBreakerStore) -> None:
        self._stores[store.key] = store
        if self._backend.is_open:
            store.look()

    def _hear(self, message: bytes) -> None:
        store = self._stores.get(message)
        if store is not None:
            store.look()

    def _look_at_all(self) -> None:
        self._backend.spawn(self._compare())

    async def _compare(self) -> None:
        """Read them all, many at a time, and look closer where something has changed."""
        by_slot: dict[int, list[bytes]] = {}
        for key in list(self._stores):
            by_slot.setdefault(self._backend.slot(key), []).append(key)
        for keys in by_slot.values():
            for start in range(0, len(keys), self._CHUNK):
                some = keys[start : start + self._CHUNK]
                try:
                    values = await self._backend.command("MGET", *some, key=some[0])
                except BackendError:
                    return
                for key, value in zip(some, values, strict=True):
                    store = self._stores.get(key)
                    if store is not None and store.differs(value):
                        store.look()
