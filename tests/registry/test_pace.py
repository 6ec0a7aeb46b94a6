"""Pauses, as rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.registry.pace import BREATH, after_failures, next_look


@pytest.mark.parametrize(
    ("failures", "u", "pause"),
    [
        (1, 0.0, 0.05),
        (1, 1.0, 0.1),
        (2, 1.0, 0.2),
        (5, 1.0, 1.6),
        (6, 0.0, 1.5),
        (6, 1.0, 3.0),
        (10**6, 1.0, 3.0),
    ],
)
def test_pauses_grow_to_the_longest(failures: int, u: float, pause: float) -> None:
    """Twice as long each time, from a tenth of a second; half of it is chance; no number is too large."""
    assert after_failures(failures, 3.0, u) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("soonest", "u", "when"),
    [(None, 0.0, 107.5), (None, 1.0, 112.5), (104.0, 0.0, 104.0), (104.0, 1.0, 104.5), (150.0, 0.5, 110.0)],
)
def test_a_look_is_due_by_the_timer_or_when_somebody_may_be_dead(
    soonest: float | None, u: float, when: float
) -> None:
    """Listed at 100, every 10 s in the mean; somebody's time is over at `soonest`."""
    assert next_look(100.0, 100.0, 10.0, soonest, u) == pytest.approx(when)


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(1e-3, 1e4),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1),
)
def test_a_look_is_never_at_once(
    now: float, listed: float, resync: float, soonest: float | None, u: float
) -> None:
    """Whatever the store says: a breath between two."""
    assert next_look(now, listed, resync, soonest, u) >= now + BREATH
