"""Where the state of a circuit lives: five atomic verbs, and a view that costs nothing.

The contract:

- A store holds one circuit. Each verb happens at once or not at all, and after it `circuit` is the
  state that the verb found or made.
- The closed path never asks the store: `circuit` is read without awaiting. A store that is shared
  brings news of others by replacing or changing it between verbs, and calls `changed` back, which it is made
  with (a bound method, held weakly); so it does after its verbs. See `stores`.
- `trip` and `record` are fenced by the generation that the caller saw: with an older one they change
  nothing.
- An `admit` that is cancelled gives back what it took; the other verbs, once asked, happen all the same.
- `record` without a result waits for nothing: it is asked by what is being cancelled or closed.
- A store that cannot be reached never refuses a call: it goes on with what this process knows.
"""

from __future__ import annotations

from typing import Protocol

from aresilience.breaker.machine import Circuit, Probe, Refusal

__all__ = ["BreakerStore"]


class BreakerStore(Protocol):
    """One circuit."""

    @property
    def circuit(self) -> Circuit:
        """The state as this process knows it."""

    async def trip(self, generation: int) -> bool:
        """Open the circuit; False if somebody else changed it meanwhile."""

    async def admit(self) -> Probe | Refusal | None:
        """Ask to make a call while the circuit is not known to be closed."""

    async def record(self, probe: Probe, success: bool | None) -> None:
        """Give a probe's place back, with its result or (None) without."""

    async def isolate(self) -> None:
        """Refuse every call until `reset`."""

    async def reset(self) -> None:
        """Close the circuit and forget its past."""
