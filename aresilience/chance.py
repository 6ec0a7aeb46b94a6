"""The seam for chance and identity: random numbers and tokens come from the running loop.

A loop that carries an `entropy` of its own (the virtual loop of `aresilience.testing` does, seeded)
decides; on every other loop it is the operating system's. Nothing is global, nothing is patched.
"""

from __future__ import annotations

import asyncio
import random
import secrets

__all__ = ["Entropy", "SeededEntropy", "entropy"]


class Entropy:
    """Chance from the system: differs in every process, forked children included."""

    __slots__ = ()

    def random(self) -> float:
        """A number u with 0 ≤ u < 1."""
        return random.random()  # reseeded by the interpreter in a forked child

    def token(self) -> str:
        """128 bits that nobody can guess, as 32 hexadecimal digits."""
        return secrets.token_hex(16)


class SeededEntropy(Entropy):
    """The same seed, the same numbers and tokens: for tests and simulations."""

    __slots__ = ("_random",)

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        return self._random.random()

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


_SYSTEM = Entropy()


def entropy() -> Entropy:
    """The running loop's source of chance."""
    found = getattr(asyncio.get_running_loop(), "entropy", _SYSTEM)
    return found if isinstance(found, Entropy) else _SYSTEM
