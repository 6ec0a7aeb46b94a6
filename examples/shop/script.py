"""The bad day as data: what the inventory service suffers from, and when."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

__all__ = [
    "CRASH",
    "DAY",
    "KILL",
    "LENGTH",
    "NEWCOMER",
    "OUTAGE",
    "RECOVERY",
    "REPLACED",
    "Fate",
    "Ill",
    "Phase",
    "fate",
    "phase_at",
    "span",
]


class Ill(enum.Enum):
    """What can go wrong with one call."""

    BUSY = "503"
    BUSY_FOR_A_SECOND = "503 with Retry-After: 1"
    CRASH = "500"
    CUT_OFF = "half an answer, then the connection closes"
    HANG = "no answer at all"


@dataclass(frozen=True, slots=True)
class Phase:
    """Some seconds of one kind of trouble.

    `latency` goes from the first number to the second, by the same factor each second; `ills` gives
    the share of calls that each ill befalls.
    """

    name: str
    seconds: float
    latency: tuple[float, float] = (0.02, 0.02)
    ills: Mapping[Ill, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one call: it takes `latency` seconds, and then it is well or ill."""

    latency: float
    ill: Ill | None


OUTAGE = "outage"
RECOVERY = "recovery"

DAY = (
    Phase("calm", 4.0),
    Phase("flaky", 3.0, ills={Ill.BUSY: 0.20, Ill.BUSY_FOR_A_SECOND: 0.05}),
    Phase("slow", 4.0, latency=(0.04, 1.5)),
    Phase("respite", 3.0),
    Phase(OUTAGE, 7.0, ills={Ill.HANG: 0.4, Ill.CUT_OFF: 0.3, Ill.CRASH: 0.3}),
    Phase(RECOVERY, 5.0),
)
_ENDS = tuple(accumulate(phase.seconds for phase in DAY))
LENGTH = _ENDS[-1]
NEWCOMER, REPLACED = 1.5, 2.8
"""Seconds of the day at which one more inventory is started, and another is killed,"""
KILL = 12.6
"""at which the worker is killed that keeps the books,"""
CRASH = 17.3
"""and at which, on Redis, one of the processes is killed that take orders."""


def span(name: str) -> tuple[float, float]:
    """When the phase of this name begins and ends, in seconds of the day."""
    for phase, end in zip(DAY, _ENDS, strict=True):
        if phase.name == name:
            return end - phase.seconds, end
    raise ValueError(f"no phase is called {name!r}")


def phase_at(t: float) -> tuple[Phase, float]:
    """The phase at second `t`, and how much of it has passed, from 0 to 1."""
    for phase, end in zip(DAY, _ENDS, strict=True):
        if t < end:
            return phase, max(0.0, 1 - (end - t) / phase.seconds)
    return DAY[-1], 1.0


def fate(phase: Phase, passed: float, nth: int, seed: int) -> Fate:
    """What becomes of the `nth` call of a phase: the same for every copy of the service."""
    chance = random.Random(f"{seed} {phase.name} {nth}")
    first, last = phase.latency
    latency = first * (last / first) ** passed * chance.uniform(0.8, 1.2)
    ills = list(phase.ills)
    shares = [phase.ills[ill] for ill in ills]
    (ill,) = chance.choices([None, *ills], [1 - sum(shares), *shares])
    return Fate(latency, ill)
