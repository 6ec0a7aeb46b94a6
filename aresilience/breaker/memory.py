"""A circuit in this process: atomic because nothing awaits between reading and writing."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakMethod

from aresilience.breaker.machine import Circuit, Probe, Refusal, Rules
from aresilience.chance import entropy
from aresilience.clock import LoopClock

__all__ = ["MemoryBreakerStore"]


class MemoryBreakerStore:
    """The machine, and the loop's clock."""

    __slots__ = ("_clock", "_watchers", "circuit")

    def __init__(self, rules: Rules, clock: LoopClock) -> None:
        self.circuit = Circuit(rules)
        self._clock = clock
        self._watchers: list[WeakMethod[Callable[[], None]]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """Call back a bound method after every verb, for as long as its object lives: several breakers of one
        name share a circuit on a MemoryBackend."""
        self._watchers = [watcher for watcher in self._watchers if watcher() is not None]
        self._watchers.append(WeakMethod(changed))

    async def trip(self, generation: int) -> bool:
        tripped = self.circuit.trip(generation, self._clock.read(), entropy().random())
        self._tell()
        return tripped

    async def admit(self) -> Probe | Refusal | None:
        answer = self.circuit.admit(self._clock.read(), entropy().random())
        self._tell()
        return answer

    async def record(self, probe: Probe, success: bool | None) -> None:
        if success is None:  # perhaps there is no loop any more, and nothing to be decided
            self.circuit.record(probe, self._clock.last(), 0.0, None)
        else:
            self.circuit.record(probe, self._clock.read(), entropy().random(), success)
        self._tell()

    async def isolate(self) -> None:
        self.circuit.isolate(self._clock.read())
        self._tell()

    async def reset(self) -> None:
        self.circuit.reset(self._clock.read())
        self._tell()

    def _tell(self) -> None:
        for watcher in self._watchers:
            changed = watcher()
            if changed is not None:
                changed()
