"""The machine of pauses: when to try and when to look again; told chance, so that no fleet does it at once."""

from __future__ import annotations

__all__ = ["BREATH", "after_failures", "next_look"]

BREATH = 0.01
"""Seconds between two listings at least, so that a registry in uproar is not asked all the time."""
_FIRST = 0.1
_SWEEP_WITHIN = 0.5


def after_failures(failures: int, longest: float, u: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, the half of it by chance."""
    pause: float = min(longest, _FIRST * 2.0 ** min(failures - 1, 20))
    return pause * (0.5 + u / 2)


def next_look(now: float, listed_at: float, resync: float, soonest: float | None, u: float) -> float:
    """When to list again where all is well: after `resync` seconds, in the mean; or when somebody's time may be
    over (`soonest`), a little later by chance: of many who look, the first sweeps for all."""
    when = listed_at + resync * (0.75 + u / 2)
    if soonest is not None:
        when = min(when, soonest + u * min(_SWEEP_WITHIN, resync / 20))
    return max(when, now + BREATH)
