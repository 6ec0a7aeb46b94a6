"""The four machines, driven directly: rows of (time, cost, when it is granted)."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aresilience.limiter.algorithm import Algorithm, State
from aresilience.limiter.fixed_window import FixedWindow
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.rate import MICROS, Rate
from aresilience.limiter.sliding_log import SlidingLog
from aresilience.limiter.sliding_window import SlidingWindow

S = MICROS


def run(machine: Algorithm, rows: list[tuple[int, int, int]]) -> None:
    """Each row: at this time, so many tokens are granted at that time; all grants are taken."""
    state: State = None
    for now, cost, at in rows:
        assert at == machine.earliest(state, now, cost), (now, cost)
        state = machine.take(state, at, cost)


def test_gcra_is_a_bucket_that_refills_steadily() -> None:
    """Ten a second and a burst of three: three at once, then one each tenth of a second."""
    tenth = S // 10
    run(
        Gcra(Rate(10, S), burst=3),
        [
            (0, 1, 0),
            (0, 1, 0),
            (0, 1, 0),
            (0, 1, tenth),
            (0, 1, 2 * tenth),
            (5 * tenth - 1, 1, 5 * tenth - 1),
            (5 * tenth - 1, 2, 5 * tenth),
            (100 * tenth, 3, 100 * tenth),
            (100 * tenth, 3, 103 * tenth),
        ],
    )


def test_gcra_keeps_rates_that_do_not_divide_the_second() -> None:
    """Three a second are three a second, for ever: rests of a microsecond are kept, not rounded away."""
    machine = Gcra(Rate(3, S), burst=1)
    state: State = None
    now = 0
    for n in range(30_000):
        now = machine.earliest(state, now, 1)
        assert now == math.ceil(Fraction(n * S, 3))
        state = machine.take(state, now, 1)


def test_fixed_windows_begin_with_the_clock() -> None:
    """Two a second: two in each second of the clock; what does not fit waits for the next."""
    run(
        FixedWindow(Rate(2, S)),
        [
            (0, 1, 0),
            (S - 1, 1, S - 1),
            (S - 1, 1, S),
            (S - 1, 2, 2 * S),
            (5 * S, 2, 5 * S),
            (5 * S, 1, 6 * S),
        ],
    )


def test_t11_a_fixed_window_allows_twice_its_limit_around_an_edge() -> None:
    """T11: window edge double burst: the bound is 2 · limit in less than a period, and no more."""
    machine = FixedWindow(Rate(10, S))
    state: State = None
    grants = []
    for now in (S - 1, S, S + 1):
        while machine.earliest(state, now, 1) == now:
            state = machine.take(state, now, 1)
            grants.append(now)
    assert len(grants) == 20


def test_the_sliding_window_weighs_the_one_before() -> None:
    """Ten a second, all used: half way through the next second five of them still count."""
    machine = SlidingWindow(Rate(10, S))
    state = machine.take(None, 0, 10)
    assert machine.view(state, S) == (0, S)
    assert machine.view(state, S + S // 2)[0] == 5
    run_on = [(S, 1, S + S // 10), (S + S // 2, 4, S + S // 2), (S + S // 2, 1, S + 6 * S // 10)]
    for now, cost, at in run_on:
        assert at == machine.earliest(state, now, cost)
        state = machine.take(state, at, cost)


def test_the_sliding_log_is_exact() -> None:
    """Two a second: a token is back exactly a second after it was taken."""
    run(
        SlidingLog(Rate(2, S)),
        [(0, 1, 0), (300, 1, 300), (400, 1, S), (400, 1, S + 300), (S + 300, 2, 2 * S + 300)],
    )


MACHINES = [
    Gcra(Rate(5, S), burst=5),
    Gcra(Rate(7, 3 * S), burst=2),
    FixedWindow(Rate(5, S)),
    SlidingWindow(Rate(5, S)),
    SlidingLog(Rate(5, S)),
]
TIMES = st.lists(
    st.one_of(
        st.sampled_from([0, 1, S // 5 - 1, S // 5, S // 5 + 1, S - 1, S, S + 1]), st.integers(0, 3 * S)
    ),
    max_size=60,
)


def bound(machine: Algorithm, window: int) -> int:
    """The most that may be granted in any closed window of so many microseconds."""
    rate = machine.rate
    if isinstance(machine, Gcra):
        return machine.capacity + rate.limit * (window + 1) // rate.period
    if isinstance(machine, SlidingLog):
        return rate.limit * (1 + window // rate.period)
    return rate.limit * (2 + window // rate.period)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
@given(gaps=TIMES, costs=st.lists(st.integers(1, 2), min_size=60, max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_window_holds_more_than_the_bound(machine: Algorithm, gaps: list[int], costs: list[int]) -> None:
    """Whatever the times, any window contains at most its bound; a grant is never before it was asked."""
    state: State = None
    now = 0
    grants: list[tuple[int, int]] = []
    for gap, cost in zip(gaps, costs, strict=False):
        now += gap
        at = machine.earliest(state, now, cost)
        assert at >= now
        if at == now:
            state = machine.take(state, at, cost)
            grants.append((at, cost))
    for first, (start, _) in enumerate(grants):
        total = 0
        for at, cost in grants[first:]:
            total += cost
            assert total <= bound(machine, at - start)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
@given(gaps=TIMES)
@settings(max_examples=60, deadline=None)
def test_what_the_view_says_is_so(machine: Algorithm, gaps: list[int]) -> None:
    """As many tokens as the view says are granted at once, one more is not; when it says full, all are."""
    state: State = None
    now = 0
    for gap in gaps:
        now += gap
        left, full = machine.view(state, now)
        if left:
            assert machine.earliest(state, now, left) == now
        if left < machine.capacity:
            assert machine.earliest(state, now, left + 1) > now
        assert machine.view(state, now + full) == (machine.capacity, 0)
        if machine.earliest(state, now, 1) == now:
            state = machine.take(state, now, 1)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
@given(gaps=TIMES)
@settings(max_examples=60, deadline=None)
def test_reservations_come_in_order(machine: Algorithm, gaps: list[int]) -> None:
    """Who asks later is granted later, however small: nobody overtakes a big waiter."""
    state: State = None
    now = last = 0
    for place, gap in enumerate(gaps[:20]):
        now += gap // 10
        at = machine.earliest(state, now, 1 + place % 2)
        assert at >= last or at >= now
        assert at >= last
        last = at
        state = machine.take(state, at, 1 + place % 2)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
def test_giving_back_at_once_is_as_if_nothing_was_taken(machine: Algorithm) -> None:
    """A grant that is returned in the same moment leaves what was there before."""
    before = machine.take(None, 10 * S, 1)
    after = machine.give_back(machine.take(before, 10 * S, 1), 10 * S, 1, 10 * S)
    assert machine.view(before, 10 * S) == machine.view(after, 10 * S)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: type(machine).__name__)
def test_giving_back_late_is_no_gift(machine: Algorithm) -> None:
    """What is returned when it has come back by itself adds nothing: no key ever holds more than its limit."""
    state = machine.take(None, 0, 2)
    later = machine.give_back(state, 20 * S, 2, 0)
    assert machine.view(later, 20 * S) == (machine.capacity, 0)


def test_a_cancelled_reservation_leaves_those_behind_it_where_they_are() -> None:
    """Those who reserved later keep their times; only what nobody holds comes back (golang/go#69419)."""
    machine = Gcra(Rate(1, S), burst=1)
    state: State = None
    grants = []
    for _ in range(3):
        at = machine.earliest(state, 0, 1)
        state = machine.take(state, at, 1)
        grants.append(at)
    assert grants == [0, S, 2 * S]
    state = machine.give_back(state, 0, 1, S)  # the middle one: its slot lies between two others
    assert machine.earliest(state, 0, 1) == 3 * S
    state = machine.give_back(state, 0, 1, 2 * S)  # the last one
    assert machine.earliest(state, 0, 1) == 2 * S
