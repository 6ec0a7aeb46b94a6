"""Open times, leases and rounds of the circuit's machine: schedules, chance, health."""

from __future__ import annotations

from dataclasses import replace
from math import nextafter
from typing import Any

import pytest

from aresilience import Backoff
from aresilience.breaker.machine import BreakerState, Circuit, Probe, Refusal, Rules

CLOSED = BreakerState.CLOSED


def rules(**changes: Any) -> Rules:
    """Open for 30 s, one probe at once, two successes close, a probe has 5 s."""
    usual = Rules(Backoff.constant(30.0), 1, None, 2, 5.0)
    return replace(usual, **changes)


def before(t: float) -> float:
    """The last moment before t."""
    return nextafter(t, 0)


def opened(circuit: Circuit, now: float, u: float = 0.0) -> float:
    """Open a closed circuit, or fail a probe of one whose open time is over; the new open time."""
    if circuit.state is CLOSED:
        assert circuit.trip(circuit.generation, now, u)
    else:
        probe = circuit.admit(now, u)
        assert isinstance(probe, Probe)
        circuit.record(probe, now, u, False)
    return circuit.open_for


def closed(circuit: Circuit, now: float) -> None:
    """Close a circuit whose open time is over."""
    while circuit.state is not CLOSED:
        probe = circuit.admit(now, 0.0)
        assert isinstance(probe, Probe)
        circuit.record(probe, now, 0.0, True)


def test_open_times_grow_by_the_schedule() -> None:
    """Each failed recovery opens for the schedule's next delay, up to its maximum."""
    circuit = Circuit(rules(open_time=Backoff.exponential(initial=1, multiplier=2, maximum=5, jitter=None)))
    now, seen = 0.0, []
    for _ in range(5):
        seen.append(opened(circuit, now))
        now += seen[-1]
    assert seen == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert circuit.rounds == 5


@pytest.mark.parametrize(("u", "open_for"), [(0.0, 0.0), (0.25, 7.5), (0.75, 22.5)])
def test_open_times_can_be_jittered(u: float, open_for: float) -> None:
    """Chance is an argument: full jitter opens for u times the delay, by trip, failure and lease alike."""
    circuit = Circuit(rules(open_time=Backoff.constant(30.0, jitter="full")))
    assert opened(circuit, 0, u) == open_for
    assert opened(circuit, 100, u) == open_for
    assert isinstance(circuit.admit(200, 0.5), Probe)
    answer = circuit.admit(205, u)
    assert circuit.open_for == open_for
    assert answer == Refusal(open_for) if u else isinstance(answer, Probe)


def test_decorrelated_jitter_sees_the_last_open_time() -> None:
    """The decorrelated schedule grows from the open time before, and from its beginning after health."""
    schedule = Backoff.exponential(initial=1, maximum=100, jitter="decorrelated")
    circuit = Circuit(rules(open_time=schedule, success_threshold=1))
    assert opened(circuit, 0, 0.5) == 2.0  # 1 + 0.5 · (3 · 1 − 1)
    assert opened(circuit, 10, 0.5) == 3.5  # 1 + 0.5 · (3 · 2 − 1)
    closed(circuit, 20)
    assert opened(circuit, 1000, 0.5) == 2.0


@pytest.mark.parametrize(
    ("closed_for", "open_for"),
    [(0.0, 4.0), (before(10 + 2.0) - 10, 4.0), (2.0, 1.0), (3600.0, 1.0)],
)
def test_rounds_are_forgotten_after_a_healthy_period(closed_for: float, open_for: float) -> None:
    """Only a closed period of at least the last open time starts the schedule anew."""
    circuit = Circuit(
        rules(open_time=Backoff.exponential(initial=1, multiplier=2, maximum=60, jitter=None))
    )
    opened(circuit, 0)
    assert opened(circuit, 1) == 2.0
    closed(circuit, 10)
    assert opened(circuit, 10 + closed_for) == open_for


def test_rounds_are_forgotten_by_reset_and_by_a_clock_that_went_back() -> None:
    """By hand, or where nobody knows how long it was healthy, the schedule starts anew."""
    schedule = Backoff.exponential(initial=1, multiplier=2, maximum=60, jitter=None)
    for forget in (lambda c: c.reset(10), lambda c: closed(c, 1e6)):
        circuit = Circuit(rules(open_time=schedule))
        opened(circuit, 0)
        assert opened(circuit, 1) == 2.0
        forget(circuit)
        assert opened(circuit, 10) == 1.0
        assert circuit.rounds == 1


@pytest.mark.parametrize(
    ("probe_timeout", "open_for", "lease"), [(None, 45.0, 45.0), (5.0, 45.0, 5.0), (None, 0.0, 30.0)]
)
def test_a_lease_is_as_long_as_the_open_time_unless_said(
    probe_timeout: float | None, open_for: float, lease: float
) -> None:
    """A probe gets `probe_timeout`; by default as long as the circuit was open, at least half a minute."""
    assert rules(probe_timeout=probe_timeout).lease(open_for) == lease
