"""A circuit in this process: atomic because nothing awaits between reading and writing."""

from __future__ import annotations

from aresilience.breaker.machine import Circuit, Probe, Refusal, Rules
from aresilience.chance import entropy
from aresilience.clock import LoopClock

__all__ = ["MemoryBreakerStore"]


class MemoryBreakerStore:
    """The machine, and the loop's clock."""

    __slots__ = ("_clock", "circuit")

    def __init__(self, rules: Rules, clock: LoopClock) -> None:
        self.circuit = Circuit(rules)
        self._clock = clock

    async def trip(self, generation: int) -> bool:
        return self.circuit.trip(generation, self._clock.read(), entropy().random())

    async def admit(self) -> Probe | Refusal | None:
        return self.circuit.admit(self._clock.read(), entropy().random())

    async def record(self, probe: Probe, success: bool | None) -> None:
        self.circuit.record(probe, self._clock.read(), entropy().random(), success)

    async def isolate(self) -> None:
        self.circuit.isolate(self._clock.read())

    async def reset(self) -> None:
        self.circuit.reset(self._clock.read())
