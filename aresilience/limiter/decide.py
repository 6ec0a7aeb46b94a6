"""The machine over the machines: one decision over several parts, all or none."""

from __future__ import annotations

from aresilience.limiter.algorithm import State
from aresilience.limiter.store import Ask, Grant

__all__ = ["decide"]


def decide(ask: Ask, states: list[State], now: int, max_wait: int) -> tuple[Grant, list[State] | None]:
    """The grant for an ask, and the new states if there are any.

    A part's earliest time may depend on when it is asked (a window that rolls), so the latest of all is
    asked again until all agree; each round only moves forward, and a few suffice.
    """
    machines = [(meter.algorithm, cost) for meter, _, cost in ask]
    at = now
    while True:
        latest = at
        for (machine, cost), state in zip(machines, states, strict=True):
            latest = max(latest, machine.earliest(state, at, cost))
        if latest == at:
            break
        at = latest
    allowed = at - now <= max_wait
    after = states
    if allowed:
        after = [
            machine.take(state, at, cost) if cost else state
            for (machine, cost), state in zip(machines, states, strict=True)
        ]
    views = tuple(machine.view(state, now) for (machine, _), state in zip(machines, after, strict=True))
    return Grant(allowed, now, at, views), after if allowed else None
