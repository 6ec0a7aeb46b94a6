"""The machine that decides: one circuit, told the time and given chance.

             trip                       open time over: the next call is a probe
    CLOSED ───────▶ OPEN ────────────────────────────────▶ HALF_OPEN
      ▲              ▲      a probe fails, or its lease runs out │  │
      │              └───────────────────────────────────────────┘  │
      └────────────────── enough probes succeed ────────────────────┘

    ISOLATED: by hand, until reset. (DISABLED and SHADOW are modes of the shell around this machine.)

Every change of state begins a new generation, and what belongs to an earlier one changes nothing: a
late result, a probe that was given up. A shared store lets generations begin at the server's time (`floor`),
and a probe's number has chance in it, so that neither comes again when the store has lost the circuit.
Open times grow by the rounds of opening that were not separated by a healthy closed period, which is one at
least as long as the last open time.

What happens depends on the times alone, not on who looks when: a lease that ran out is settled, as of its
end, by the next `admit` or `record`. A clock that goes back lengthens nothing: no open time and no lease
then lasts longer, from the new now, than it would if it began there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aresilience.backoff import Backoff

__all__ = ["BreakerState", "Circuit", "Probe", "Refusal", "Rules"]


class BreakerState(enum.Enum):
    """What a circuit breaker does with calls."""

    CLOSED = "closed"
    """Calls pass and are counted."""
    OPEN = "open"
    """Calls are refused."""
    HALF_OPEN = "half-open"
    """A few calls pass, as probes."""
    ISOLATED = "isolated"
    """Calls are refused until `reset`."""
    DISABLED = "disabled"
    """Calls pass and are not counted."""
    SHADOW = "shadow"
    """Calls pass and are counted; what would have been refused is told as an event."""


LEAST_LEASE = 30.0
"""Seconds that a probe has at least, unless `probe_timeout` says otherwise."""
_CHANCE_BITS = 53


@dataclass(frozen=True, slots=True)
class Rules:
    """How a circuit opens, probes and closes."""

    open_time: Backoff
    half_open_max_calls: int
    half_open_total: int | None
    success_threshold: int
    probe_timeout: float | None

    def lease(self, open_for: float) -> float:
        """For how many seconds a probe keeps its place. Unless said, as long as the circuit was open, but long
        enough for a slow answer: a lease shorter than a call would never let the circuit close."""
        return max(open_for, LEAST_LEASE) if self.probe_timeout is None else self.probe_timeout


@dataclass(frozen=True, slots=True)
class Probe:
    """The right to make one call through a half-open circuit."""

    id: int
    generation: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not now. Ask again in `retry_after` seconds: the open time, or a probe's lease, is over then, if
    the probe has not ended before. None: nobody knows when."""

    retry_after: float | None


class Circuit:
    """The state of one circuit breaker."""

    __slots__ = (
        "_last_probe",
        "_probes",
        "_rules",
        "_successes",
        "changed_at",
        "floor",
        "generation",
        "open_for",
        "rounds",
        "state",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.state = BreakerState.CLOSED
        self.generation = 0
        self.floor = 0
        """What the next generation is at least."""
        self.changed_at = 0.0
        self.open_for = 0.0
        self.rounds = 0
        self._probes: dict[int, float] | None = None  # made when first needed: most never are
        self._last_probe = 0
        self._successes = 0

    def facts(self) -> dict[str, Any]:
        """Everything that it is, as plain values: what a shared store keeps. `of` is the way back."""
        return {
            "state": self.state,
            "generation": self.generation,
            "changed_at": self.changed_at,
            "open_for": self.open_for,
            "rounds": self.rounds,
            "probes": dict(self._probes or {}),
            "last_probe": self._last_probe,
            "successes": self._successes,
        }

    @classmethod
    def of(cls, rules: Rules, facts: Mapping[str, Any]) -> Circuit:
        """The circuit that `facts` describes. Raises `KeyError` if something is missing."""
        circuit = cls(rules)
        circuit.state = facts["state"]
        circuit.generation = facts["generation"]
        circuit.changed_at = facts["changed_at"]
        circuit.open_for = facts["open_for"]
        circuit.rounds = facts["rounds"]
        circuit._probes = dict(facts["probes"]) or None
        circuit._last_probe = facts["last_probe"]
        circuit._successes = facts["successes"]
        return circuit

    def trip(self, generation: int, now: float, u: float) -> bool:
        """Open a closed circuit, if `generation` is still the one that was judged."""
        if self.state is not BreakerState.CLOSED or generation != self.generation:
            return False
        if not 0 <= now - self.changed_at < self.open_for:
            self.rounds = 0  # it was healthy, or the clock went back and nobody knows
        self._open(now, u)
        return True

    def admit(self, now: float, u: float) -> Probe | Refusal | None:
        """May a call be made? None means: yes, and the circuit is closed."""
        if self.state is BreakerState.CLOSED:
            return None
        if self.state is BreakerState.ISOLATED:
            return Refusal(None)
        self._give_up_probes(now, u)
        if self.state is BreakerState.OPEN:
            self.changed_at = min(self.changed_at, now)
            left = self.open_left(now)
            if left > 0:
                return Refusal(left)
            self._change(BreakerState.HALF_OPEN, now)
        return self._probe(now, u)

    def record(self, probe: Probe, now: float, u: float, success: bool | None) -> None:
        """How a probe ended; None: neither way. A probe of an earlier generation is nobody's."""
        self._give_up_probes(now, u)
        if probe.generation != self.generation or self._probes is None:
            return
        if self._probes.pop(probe.id, None) is None or success is None:
            return
        if not success:
            self._open(now, u)
            return
        self._successes += 1
        if self._successes >= self._rules.success_threshold:
            self._change(BreakerState.CLOSED, now)

    def isolate(self, now: float) -> None:
        """Refuse every call until `reset`."""
        self._change(BreakerState.ISOLATED, now)

    def reset(self, now: float) -> None:
        """Closed, as at the beginning."""
        self._change(BreakerState.CLOSED, now)
        self.rounds = 0
        self.open_for = 0.0

    def state_at(self, now: float) -> BreakerState:
        """The state, with an open time that is over at `now` shown as HALF_OPEN."""
        if self.state is BreakerState.OPEN and self.open_left(now) <= 0:
            return BreakerState.HALF_OPEN
        return self.state

    def open_left(self, now: float) -> float:
        """Seconds until an open circuit lets a probe pass; 0 or less: it does."""
        return min(self.changed_at, now) + self.open_for - now

    @property
    def probes(self) -> int:
        """Probes on their way, those included whose lease ran out since somebody last asked."""
        return len(self._probes or ())

    def _probe(self, now: float, u: float) -> Probe | Refusal:
        rules = self._rules
        if self._probes is None:
            self._probes = {}
        total = rules.half_open_total
        full = len(self._probes) >= rules.half_open_max_calls or (
            total is not None and len(self._probes) + self._successes >= total
        )
        if full:
            return Refusal(min(self._probes.values()) - now)
        self._last_probe += 1
        number = (self._last_probe << _CHANCE_BITS) + int(u * (1 << _CHANCE_BITS))
        self._probes[number] = now + rules.lease(self.open_for)
        return Probe(number, self.generation)

    def _give_up_probes(self, now: float, u: float) -> None:
        """A probe that has not answered in its lease failed at the end of it."""
        if not self._probes:
            return
        first = min(self._probes.values())
        if first <= now:
            self._open(first, u)
            return
        longest = now + self._rules.lease(self.open_for)
        for id_, ends in self._probes.items():
            if ends > longest:  # the clock went back
                self._probes[id_] = longest

    def _open(self, now: float, u: float) -> None:
        self.rounds += 1
        previous = self.open_for if self.rounds > 1 else None
        self.open_for = self._rules.open_time.delay(self.rounds, u, previous)
        self._change(BreakerState.OPEN, now)

    def _change(self, state: BreakerState, now: float) -> None:
        self.state = state
        self.generation = max(self.generation + 1, self.floor)
        self.changed_at = now
        self._probes = None
        self._successes = 0
