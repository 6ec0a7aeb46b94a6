"""The circuit's machine, driven directly: rows of (time, event, answer, state after it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nextafter
from typing import Any

import pytest

from aresilience import Backoff
from aresilience.breaker.machine import BreakerState, Circuit, Probe, Refusal, Rules

CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    BreakerState.CLOSED,
    BreakerState.OPEN,
    BreakerState.HALF_OPEN,
    BreakerState.ISOLATED,
)
Row = tuple[float, str, object, BreakerState]


def rules(**changes: Any) -> Rules:
    """Open for 30 s, one probe at once, two successes close, a probe has 5 s."""
    usual = Rules(Backoff.constant(30.0), 1, None, 2, 5.0)
    return replace(usual, **changes)


def before(t: float) -> float:
    """The last moment before t."""
    return nextafter(t, 0)


def play(circuit: Circuit, rows: Sequence[Row], u: float = 0.0) -> None:
    """Do each row's event at its time and compare what it answers and the state that it leaves.

    `call a` asks for a place and names the probe, if it is one; `ok a`, `fail a`, `drop a` end it.
    `trip` is fenced by the present generation, `trip late` by the one before it.
    """
    probes: dict[str, Probe] = {}
    for now, event, answer, state in rows:
        what, _, name = event.partition(" ")
        seen: object = None
        if what == "call":
            granted = circuit.admit(now, u)
            if isinstance(granted, Probe):
                probes[name], seen = granted, "probe"
            else:
                seen = granted.retry_after if isinstance(granted, Refusal) else "passes"
                seen = "for ever" if seen is None else seen
        elif what == "trip":
            seen = circuit.trip(circuit.generation - (name == "late"), now, u)
        elif what in ("isolate", "reset"):
            getattr(circuit, what)(now)
        else:
            circuit.record(probes[name], now, u, {"ok": True, "fail": False, "drop": None}[what])
        assert (now, event, seen, circuit.state) == (now, event, answer, state)


STORIES: dict[str, tuple[dict[str, Any], list[Row]]] = {
    "a closed circuit lets everything pass": (
        {},
        [(0, "call", "passes", CLOSED), (1e9, "call", "passes", CLOSED)],
    ),
    "open until exactly the open time is over": (
        {},
        [
            (100, "trip", True, OPEN),
            (100, "call", 30.0, OPEN),
            (129, "call", 1.0, OPEN),
            (before(130), "call", 130 - before(130), OPEN),
            (130, "call a", "probe", HALF_OPEN),
        ],
    ),
    "an open time that is long over is over once": (
        {},
        [(0, "trip", True, OPEN), (1e6, "call a", "probe", HALF_OPEN)],
    ),
    "two successes close, one after the other": (
        {},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (31, "ok a", None, HALF_OPEN),
            (31, "call b", "probe", HALF_OPEN),
            (32, "ok b", None, CLOSED),
            (32, "call", "passes", CLOSED),
        ],
    ),
    "one failure reopens, whatever went before": (
        {"success_threshold": 3},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (31, "ok a", None, HALF_OPEN),
            (31, "call b", "probe", HALF_OPEN),
            (32, "fail b", None, OPEN),
            (before(62), "call", 62 - before(62), OPEN),
            (62, "call c", "probe", HALF_OPEN),
            (62, "ok c", None, HALF_OPEN),
            (62, "call d", "probe", HALF_OPEN),
            (62, "ok d", None, HALF_OPEN),
            (62, "call e", "probe", HALF_OPEN),
            (62, "ok e", None, CLOSED),
        ],
    ),
    "as many probes at once as may be, and the refused one waits for a lease at most": (
        {"half_open_max_calls": 2},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (31, "call b", "probe", HALF_OPEN),
            (32, "call", 3.0, HALF_OPEN),
            (33, "ok a", None, HALF_OPEN),
            (33, "call c", "probe", HALF_OPEN),
            (33, "call", 3.0, HALF_OPEN),
        ],
    ),
    "as many probes in a round as may be": (
        {"half_open_max_calls": 10, "half_open_total": 3, "success_threshold": 3},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (30, "call b", "probe", HALF_OPEN),
            (30, "ok a", None, HALF_OPEN),
            (30, "call c", "probe", HALF_OPEN),
            (30, "call", 5.0, HALF_OPEN),
            (31, "ok b", None, HALF_OPEN),
            (31, "call", 4.0, HALF_OPEN),
            (32, "ok c", None, CLOSED),
        ],
    ),
    "a probe that counts neither way gives its place back, of the round's total too": (
        {"half_open_total": 2},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (30, "call", 5.0, HALF_OPEN),
            (31, "drop a", None, HALF_OPEN),
            (31, "call b", "probe", HALF_OPEN),
            (31, "drop b", None, HALF_OPEN),
            (31, "call c", "probe", HALF_OPEN),
            (31, "ok c", None, HALF_OPEN),
            (31, "call d", "probe", HALF_OPEN),
            (31, "ok d", None, CLOSED),
        ],
    ),
    "a probe ends once": (
        {},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (31, "ok a", None, HALF_OPEN),
            (31, "ok a", None, HALF_OPEN),
            (31, "fail a", None, HALF_OPEN),
        ],
    ),
    "a probe has its lease, and has failed at the end of it": (
        {},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (before(35), "call", 35 - before(35), HALF_OPEN),
            (35, "call", 30.0, OPEN),
            (before(65), "call", 65 - before(65), OPEN),
            (65, "call b", "probe", HALF_OPEN),
        ],
    ),
    "an answer within the lease counts": (
        {"success_threshold": 1},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (before(35), "ok a", None, CLOSED),
        ],
    ),
    "an answer after the lease is late, even if nobody asked in between": (
        {"success_threshold": 1},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (40, "ok a", None, OPEN),
            (before(65), "call", 65 - before(65), OPEN),
            (65, "call b", "probe", HALF_OPEN),
        ],
    ),
    "a hung probe that nobody asked about for long: its failure and the open time are both past": (
        {},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (1000, "call b", "probe", HALF_OPEN),
            (1001, "ok a", None, HALF_OPEN),
            (1001, "call", 4.0, HALF_OPEN),
        ],
    ),
    "the first lease to run out decides": (
        {"half_open_max_calls": 2},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (33, "call b", "probe", HALF_OPEN),
            (36, "ok b", None, OPEN),
            (36, "call", 29.0, OPEN),
        ],
    ),
    "a hung probe of round one does not decide round two": (
        {"success_threshold": 1},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (36, "call", 29.0, OPEN),
            (65, "call b", "probe", HALF_OPEN),
            (66, "ok a", None, HALF_OPEN),
            (66, "fail a", None, HALF_OPEN),
            (66, "drop a", None, HALF_OPEN),
            (66, "call", 4.0, HALF_OPEN),
            (67, "ok b", None, CLOSED),
            (67, "fail a", None, CLOSED),
        ],
    ),
    "a verdict about an earlier generation opens nothing": (
        {"success_threshold": 1},
        [
            (0, "trip late", False, CLOSED),
            (1, "trip", True, OPEN),
            (2, "trip", False, OPEN),
            (31, "call a", "probe", HALF_OPEN),
            (31, "trip", False, HALF_OPEN),
            (32, "ok a", None, CLOSED),
            (33, "trip late", False, CLOSED),
            (33, "trip", True, OPEN),
        ],
    ),
    "isolated: nobody passes, nothing changes it, until reset": (
        {},
        [
            (0, "isolate", None, ISOLATED),
            (1e9, "call", "for ever", ISOLATED),
            (1e9, "trip", False, ISOLATED),
            (1e9, "isolate", None, ISOLATED),
            (1e9, "reset", None, CLOSED),
            (1e9, "call", "passes", CLOSED),
        ],
    ),
    "isolated and reset under way: the probes are nobody's": (
        {"success_threshold": 1},
        [
            (0, "trip", True, OPEN),
            (30, "call a", "probe", HALF_OPEN),
            (31, "isolate", None, ISOLATED),
            (31, "ok a", None, ISOLATED),
            (32, "reset", None, CLOSED),
            (32, "fail a", None, CLOSED),
            (40, "trip", True, OPEN),
            (70, "call b", "probe", HALF_OPEN),
            (70, "fail a", None, HALF_OPEN),
            (71, "reset", None, CLOSED),
            (72, "fail b", None, CLOSED),
        ],
    ),
    "a clock that goes back lengthens no open time": (
        {},
        [
            (1e6, "trip", True, OPEN),
            (1e6 - 10, "call", 30.0, OPEN),
            (1e6 + 19, "call", 1.0, OPEN),
            (1e6 + 20, "call a", "probe", HALF_OPEN),
        ],
    ),
    "another loop, whose time starts at 0 again: open": (
        {},
        [
            (1e6, "trip", True, OPEN),
            (0, "call", 30.0, OPEN),
            (before(30), "call", 30 - before(30), OPEN),
            (30, "call a", "probe", HALF_OPEN),
        ],
    ),
    "another loop, whose time starts at 0 again: a probe that will never answer": (
        {},
        [
            (1e6, "trip", True, OPEN),
            (1e6 + 30, "call a", "probe", HALF_OPEN),
            (0, "call", 5.0, HALF_OPEN),
            (before(5), "call", 5 - before(5), HALF_OPEN),
            (5, "call", 30.0, OPEN),
            (35, "call b", "probe", HALF_OPEN),
        ],
    ),
    "a clock that goes back lengthens no lease": (
        {},
        [
            (0, "trip", True, OPEN),
            (100, "call a", "probe", HALF_OPEN),
            (98, "call", 5.0, HALF_OPEN),
            (before(103), "call", 103 - before(103), HALF_OPEN),
            (103, "call", 30.0, OPEN),
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_the_machine_does_as_its_rows_say(story: str) -> None:
    """Each story of the circuit, event by event, with exact times."""
    changes, rows = STORIES[story]
    play(Circuit(rules(**changes)), rows)


def test_every_change_is_a_new_generation() -> None:
    """The generation rises by one with each change of state and with nothing else."""
    generations = []
    rows: list[Row] = [
        (0, "trip", True, OPEN),
        (10, "call", 20.0, OPEN),
        (30, "call a", "probe", HALF_OPEN),
        (30, "ok a", None, HALF_OPEN),
        (30, "call b", "probe", HALF_OPEN),
        (31, "ok b", None, CLOSED),
        (32, "isolate", None, ISOLATED),
        (33, "reset", None, CLOSED),
    ]
    for number in range(len(rows)):
        circuit = Circuit(rules())
        play(circuit, rows[: number + 1])
        generations.append(circuit.generation)
    assert generations == [1, 1, 2, 2, 2, 3, 4, 5]


def test_a_probe_is_known_by_its_generation() -> None:
    """A probe's number may come again, in a process that decided alone; its generation tells them apart."""
    circuit = Circuit(rules())
    circuit.trip(0, 0, 0.0)
    probe = circuit.admit(30, 0.0)
    assert isinstance(probe, Probe)
    for generation in (probe.generation - 1, probe.generation + 1):
        circuit.record(Probe(probe.id, generation), 31, 0.0, False)
        assert (circuit.state, circuit.probes) == (HALF_OPEN, 1)
    circuit.record(probe, 31, 0.0, False)
    assert (circuit.state, circuit.probes) == (OPEN, 0)


def test_what_can_be_seen_without_asking() -> None:
    """Looking changes nothing: an open circuit whose time is over shows as half-open and stays open."""
    circuit = Circuit(rules())
    circuit.trip(0, 100, 0.0)
    assert [circuit.state_at(t) for t in (100, before(130), 130)] == [OPEN, OPEN, HALF_OPEN]
    assert [circuit.open_left(t) for t in (0, 100, 129, 131)] == [30, 30, 1, -1]
    assert (circuit.state, circuit.probes) == (OPEN, 0)
    circuit.admit(130, 0.0)
    assert (circuit.state_at(1e6), circuit.probes) == (HALF_OPEN, 1)


def test_generations_begin_at_the_floor_and_only_rise() -> None:
    """What a shared store says is the least of the next generation; a floor that lies lower changes nothing."""
    circuit = Circuit(rules())
    generations = []
    for floor in (0, 1000, 500, 1001, 5000):
        circuit.floor = floor
        circuit.isolate(0.0)
        generations.append(circuit.generation)
    assert generations == [1, 1000, 1001, 1002, 5000]


def test_probes_of_circuits_that_know_nothing_of_each_other_differ() -> None:
    """The number of a probe has chance in it: the first of one circuit is not the first of another."""
    probes = set()
    for u in (0.0, 0.25, 0.5, 0.999):
        circuit = Circuit(rules())
        assert circuit.trip(0, 0.0, u)
        probes.add(circuit.admit(1e6, u))
    assert len(probes) == 4
