"""A circuit shared by processes, on Redis.

The machine runs here, on a copy of the last known state; what it decides is put in place if nobody else was
quicker (compare and set, fenced by a version), and decided anew on their state otherwise. No trip for a call
through a closed circuit, none to refuse through an open one. News comes over the wake-ups; a periodic read
is the truth.

| when Redis                         | trip, admit, record, isolate, reset                             |
|------------------------------------|------------------------------------------------------------------|
| fails, in any of the three ways    | happen in this process alone, and `StoreDegraded` is told         |
| has lost the key                   | the state of whoever writes next goes on, with its generation    |
| is back                            | the higher generation holds, for all                             |

A caller that is cancelled leaves its verb to finish, and a probe that nobody wants is given back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

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
        name: str,
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
        self._key = backend.key("breaker", name)
        self._version = 0
        self._offset: float | None = None  # the server's time less ours, in seconds
        self._turn = asyncio.Lock()
        backend.when_open(self._attach)

    def _attach(self) -> Callable[[], None]:
        self._offset = None
        return self._backend.listen(_CHANNEL, self._hear, self._look)

    def _hear(self, message: bytes) -> None:
        if message == self._key:
            self._look()

    def _look(self) -> None:
        self._backend.spawn(self._read())

    async def trip(self, generation: int) -> bool:
        return await self._kept(self._decide(lambda c, now, u: c.trip(generation, now, u)))

    async def admit(self) -> Probe | Refusal | None:
        task = self._backend.spawn(self._decide(lambda c, now, u: c.admit(now, u)))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(self._give_back)
            raise
        return task.result()

    async def record(self, probe: Probe, success: bool | None) -> None:
        await self._kept(self._decide(lambda c, now, u: c.record(probe, now, u, success)))

    async def isolate(self) -> None:
        await self._kept(self._decide(lambda c, now, _: c.isolate(now)))

    async def reset(self) -> None:
        await self._kept(self._decide(lambda c, now, _: c.reset(now)))

    async def _kept(self, verb: Any) -> Any:
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
            value = b"%d|%s" % (self._version + 1, after)
            if await self._exchange(self._version, value):
                self.circuit = circuit
                self._changed()
                return result
        raise CorruptState("a circuit breaker key changes faster than we can follow")

    async def _read(self) -> None:
        async with self._turn:
            try:
                await self._exchange(-1, b"0|")
            except BackendError:
                return  # the next verb, or the next look, will tell
            self._changed()

    async def _exchange(self, version: int, value: bytes) -> bool:
        """Put a value in place, or learn what is there instead."""
        told = self._backend.channel(_CHANNEL)
        args = (version, value, _KEPT_MS, told, self._key)
        won, now, found = await self._backend.run(_SCRIPT, [self._key], args)
        self._offset = now / 1e6 - self._clock.read()
        if won:
            self._version += 1
        elif found:
            self._learn(found)
        else:
            self._version = 0  # it was lost: ours goes on
        return bool(won)

    def _learn(self, value: bytes) -> None:
        version, _, text = value.partition(b"|")
        circuit = self._unpacked(text)
        self._version = int(version)
        if circuit.generation >= self.circuit.generation:
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
            facts["probes"] = {k: v / 1e6 - offset for k, v in facts["probes"].items()}
            return Circuit.of(self._rules, facts)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(f"a circuit breaker key holds something else: {type(error).__name__}") from None
