"""Rehearsal: on an event loop that carries one, retries do not wait, and end sooner.

It is on the loop, as chance and time are, so that nothing is global and nothing is patched;
`aresilience.testing.quick_retries` puts it there.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

__all__ = ["Rehearsal", "rehearsal"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """At most so many attempts, whatever a policy allows."""

    attempts: float = math.inf


def rehearsal(loop: asyncio.AbstractEventLoop) -> Rehearsal | None:
    """The one that `loop` carries."""
    found = getattr(loop, "rehearsal", None)
    return found if isinstance(found, Rehearsal) else None
