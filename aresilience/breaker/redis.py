"""A circuit shared by processes, on Redis.

The machine runs here, on a copy of the last known state; what it decides is put in place if nobody else was
quicker (compare and set, fenced by a version), and decided anew on their state otherwise. No trip for a call
through a closed circuit, none to refuse through an open one. News comes over the wake-ups; a periodic read
is the truth.

| when Redis                         | trip, admit, record, isolate, reset                               |
|------------------------------------|-------------------------------------------------------------------|
| fails, in any of the three ways    | happen in this process alone, and `StoreDegraded` is told         |
| has lost the key                   | the state of whoever writes next goes on, with its generation     |
| is back                            | of what was decided alone, the higher generation holds, for all   |

A caller that is cancelled leaves its verb to finish, and a probe that nobody wants is given back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aresilience.backend.redis import RedisBackend, Script
from aresilience.breaker.machine import BreakerState, Circuit, Probe, Refusal, Rules
from aresilience.chance import entropy
from aresilience.clock import LoopClock
from aresilience.errors import BackendError, CorruptState

__all__ = ["RedisBreakerStore"]

R = TypeVar("R")

_SCRIPT = Script.beside("aresilience.breaker", "breaker.lua")
_KEPT_MS = 7 * 86_400_000
_TRIES = 16
_CHANNEL = "breaker"


class RedisBreakerStore:
    """One named circuit on a Redis backend."""

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
        self._changed = changed
        self._degraded = degraded
        self.key = backend.key("breaker", *name)
        self._version = 0
        self._known = 0  # the generation that Redis has
        self._offset: float | None = None  # the server's time less ours, in seconds
        self._turn = asyncio.Lock()
        backend.shared("breaker", "news", lambda: _News(backend)).add(self)

    def look(self) -> None:
        """There is news: read it."""
        self._backend.spawn(self._read())

    def differs(self, value: bytes | None) -> bool:
        """Whether a value of the server is not the one that we know."""
        version = 0 if value is None else int(value.partition(b"|")[0] or 0)
        return version != self._version or self.circuit.generation > self._known

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
        verb = self._decide(lambda c, now, u: c.record(probe, now, u, success))
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
            probe = task.result()
            self._backend.spawn(self._decide(lambda c, now, u: c.record(probe, now, u, None)))

    async def _decide(self, step: Callable[[Circuit, float, float], R]) -> R:
        """Let the machine take a step on the newest state, and put the result in place for all."""
        async with self._turn:
            try:
                return await self._decide_for_all(step)
            except BackendError as error:
                self._degraded(error)
                self._version = 0  # whatever is there when it is back: compare generations
                result = step(self.circuit, self._clock.read(), entropy().random())
                self._changed()
                return result

    async def _decide_for_all(self, step: Callable[[Circuit, float, float], R]) -> R:
        if self._offset is None:
            await self._exchange(-1, b"0|")
        for _ in range(_TRIES):
            before = self._packed(self.circuit)
            circuit = self._unpacked(before)
            result = step(circuit, self._clock.read(), entropy().random())
            after = self._packed(circuit)
            if after == before:
                return result
            if await self._exchange(self._version, self._value(circuit)):
                self.circuit = circuit
                self._known = circuit.generation
                self._changed()
                return result
        raise CorruptState("a circuit breaker key changes faster than we can follow")

    async def _read(self) -> None:
        """Learn the state that is there; if ours is newer, as after an outage, put it there."""
        async with self._turn:
            try:
                await self._exchange(-1, b"0|")
                if self.circuit.generation > self._known:
                    await self._exchange(self._version, self._value(self.circuit))
            except BackendError:
                return  # the next verb, or the next look, will tell
            self._changed()

    def _value(self, circuit: Circuit) -> bytes:
        return b"%d|%s" % (self._version + 1, self._packed(circuit))

    async def _exchange(self, version: int, value: bytes) -> bool:
        """Put a value in place, or learn what is there instead."""
        told = self._backend.channel(_CHANNEL)
        args = (version, value, _KEPT_MS, told, self.key)
        won, now, found = await self._backend.run(_SCRIPT, [self.key], args)
        self._offset = now / 1e6 - self._clock.read()
        if won:
            self._version += 1
            self._known = self.circuit.generation
        elif found:
            self._learn(found)
        else:  # nobody has written it yet, or it was lost: ours goes on
            self._version = self._known = 0
        return bool(won)

    def _learn(self, value: bytes) -> None:
        version, _, text = value.partition(b"|")
        circuit = self._unpacked(text)
        alone = self.circuit.generation > self._known
        self._version = int(version)
        self._known = circuit.generation
        # A lower one is news too, where the key was lost and written anew, unless we decided alone.
        if circuit.generation >= self.circuit.generation or not alone:
            self.circuit = circuit

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
            facts["state"] = BreakerState(facts["state"])
            facts["changed_at"] = facts["changed_at"] / 1e6 - offset
            facts["probes"] = {int(k): v / 1e6 - offset for k, v in facts["probes"].items()}
            return Circuit.of(self._rules, facts)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(
                f"a circuit breaker key holds something else: {type(error).__name__}"
            ) from None


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
