"""The counting machines, driven directly: rows of (time, began, result, opens, what is seen)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from math import nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aresilience import Window
from aresilience.breaker.window import CallCounts, Counts, Rates, StreakCounts, TimeCounts

Seen = tuple[int, int, int]
Row = tuple[float, float, str, bool, Seen]
ANY = Rates(1.0, 1.0, 10**9)
"""Rates that open nothing."""


def enter(counts: Counts, began: float, now: float, *, failed: bool, slow: bool) -> bool:
    """Count a call as a breaker does: a good one in the known span only raises `passed`."""
    if failed or slow:
        return counts.add(began, now, failed=failed, slow=slow)
    if counts.since <= began and now < counts.until:
        counts.passed += 1
        return False
    return counts.good(began, now)


def play(counts: Counts, rows: Sequence[Row]) -> None:
    """Add each row's result (ok, failed, slow, both), begun and ended at its times, and compare."""
    for now, began, result, opens, seen in rows:
        failed, slow = result in ("failed", "both"), result in ("slow", "both")
        answer = enter(counts, began, now, failed=failed, slow=slow)
        assert (now, result, answer, counts.seen(now)) == (now, result, opens, seen)


def add(counts: Counts, results: str, now: float = 0.0) -> list[bool]:
    """Add results, a letter each: `.` ok, `F` failed, `S` slow, `B` both."""
    return [enter(counts, now, now, failed=r in "FB", slow=r in "SB") for r in results]


@pytest.mark.parametrize(
    ("threshold", "results", "opens_at"),
    [
        (1, "F", 0),
        (1, "..F", 2),
        (3, "FFF", 2),
        (3, "FF.FF.FF", None),
        (3, "FF.FFF", 5),
    ],
)
def test_a_streak_opens_on_failures_in_a_row(threshold: int, results: str, opens_at: int | None) -> None:
    """N failures with nothing between them open; one success starts over."""
    counts = StreakCounts(threshold)
    answers = add(counts, results)
    assert answers == [place == opens_at for place in range(len(results))]
    counts.clear()
    assert counts.seen(0) == (0, 0, 0)


@pytest.mark.parametrize("counts", [CallCounts(10_000, ANY), TimeCounts(30.0, ANY)], ids=["calls", "time"])
def test_both_windows_count_the_same(counts: Counts) -> None:
    """Calls, failures and slow calls are counted; a call can be both failed and slow."""
    add(counts, "..FSB")
    assert counts.seen(0) == (5, 2, 2)
    counts.clear()
    assert counts.seen(0) == (0, 0, 0)


@pytest.mark.parametrize("of_time", [False, True], ids=["calls", "time"])
@pytest.mark.parametrize("share", [0.01, 0.07, 0.29, 0.5, 0.57, 0.99, 1.0])
@pytest.mark.parametrize("letter", ["F", "S"])
def test_a_rate_is_exact(share: float, letter: str, of_time: bool) -> None:
    """A rate of n % opens at n of 100 calls, not at n − 1: compared by ≥, whatever floats make of it."""
    rates = Rates(share, 1.0, 100) if letter == "F" else Rates(1.0, share, 100)
    counts: Counts = TimeCounts(30.0, rates) if of_time else CallCounts(100, rates)
    n = round(share * 100)
    assert add(counts, letter * (n - 1) + "." * (101 - n))[-1] is False
    counts.clear()
    assert add(counts, letter * n + "." * (100 - n)) == [False] * 99 + [True]


@given(calls=st.integers(1, 1000), data=st.data())
@settings(deadline=None, max_examples=50)
def test_every_rate_that_is_a_share_of_whole_calls_is_exact(calls: int, data: st.DataObject) -> None:
    """k of n calls reach the rate k / n, and one fewer does not."""
    failures = data.draw(st.integers(1, calls))
    rates = Rates(failures / calls, 1.0, calls)
    assert rates.exceeded(calls, failures, 0)
    assert not rates.exceeded(calls, failures - 1, 0)


@pytest.mark.parametrize("of_time", [False, True], ids=["calls", "time"])
def test_nothing_is_judged_below_the_minimum(of_time: bool) -> None:
    """Failures alone open nothing until enough calls are known; then a success may be what opens."""
    rates = Rates(0.5, 1.0, 4)
    for results, answers in [
        ("FFF", [False] * 3),
        ("FFFF", [False] * 3 + [True]),
        ("FF..", [False] * 3 + [True]),
        ("F...", [False] * 4),
    ]:
        counts: Counts = TimeCounts(30.0, rates) if of_time else CallCounts(100, rates)
        assert add(counts, results) == answers


def test_a_window_without_failures_opens_nothing() -> None:
    """No failure is never too many, however small the rate."""
    rates = Rates(1e-12, 1e-12, 1)
    assert not any(add(CallCounts(10, rates), "." * 25))
    assert not any(add(TimeCounts(10.0, rates), "." * 25))


def test_slow_calls_have_a_rate_of_their_own() -> None:
    """Slow successes open by their rate, failures by theirs; the two are not added up."""
    rates = Rates(0.5, 0.75, 4)
    assert add(CallCounts(4, rates), "SSS.")[-1] is True
    assert add(CallCounts(4, rates), "SS..")[-1] is False
    assert add(CallCounts(4, rates), "FSS.")[-1] is False
    assert add(CallCounts(4, rates), "FF..")[-1] is True


def test_a_window_of_calls_wraps_around() -> None:
    """The newest call pushes out the oldest one, what it was included."""
    counts = CallCounts(4, Rates(0.5, 0.5, 4))
    play(
        counts,
        [
            (0, 0, "failed", False, (1, 1, 0)),
            (0, 0, "ok", False, (2, 1, 0)),
            (0, 0, "ok", False, (3, 1, 0)),
            (0, 0, "ok", False, (4, 1, 0)),
            (0, 0, "slow", False, (4, 0, 1)),  # pushes out the failure
            (0, 0, "failed", False, (4, 1, 1)),
            (0, 0, "failed", True, (4, 2, 1)),
            (0, 0, "ok", True, (4, 2, 1)),
            (0, 0, "ok", True, (4, 2, 0)),  # pushes out the slow one: still 2 of 4 failed
            (0, 0, "ok", False, (4, 1, 0)),
            (0, 0, "ok", False, (4, 0, 0)),
            (0, 0, "ok", False, (4, 0, 0)),
        ],
    )


@given(size=st.integers(1, 7), results=st.text(alphabet=".FSB", max_size=40))
@settings(deadline=None, max_examples=100)
def test_a_window_of_calls_is_the_last_calls(size: int, results: str) -> None:
    """What is counted is always the last `size` letters."""
    counts = CallCounts(size, ANY)
    for k, letter in enumerate(results, 1):
        add(counts, letter)
        last = results[max(0, k - size) : k]
        known = len(last), sum(r in "FB" for r in last), sum(r in "SB" for r in last)
        assert counts.seen(None) == known


KINDS: dict[str, Callable[[], Counts]] = {
    "streak": lambda: StreakCounts(3),
    "calls": lambda: CallCounts(5, Rates(0.5, 0.7, 3)),
    "time": lambda: TimeCounts(10.0, Rates(0.5, 0.7, 3)),
}
MOMENTS = st.sampled_from([0.0, 0.0, 0.5, 1.0, nextafter(1.0, 0), 3.0, 10.0, 11.0, -2.0, -40.0])


@pytest.mark.parametrize("kind", KINDS)
@given(
    steps=st.lists(
        st.tuples(MOMENTS, st.sampled_from([0.0, 0.5, 2.0, 12.0]), st.sampled_from(".....FSB")), max_size=60
    )
)
@settings(deadline=None, max_examples=200)
def test_the_cheap_way_counts_like_the_long_one(kind: str, steps: list[tuple[float, float, str]]) -> None:
    """Raising `passed` where that is enough gives the same answers and the same counts as adding every call."""
    cheap, long = KINDS[kind](), KINDS[kind]()
    now = 50.0
    for gap, took, letter in steps:
        now += gap
        failed, slow = letter in "FB", letter in "SB"
        answers = (
            enter(cheap, now - took, now, failed=failed, slow=slow),
            long.add(now - took, now, failed=failed, slow=slow),
        )
        assert answers[0] == answers[1]
        assert cheap.seen(None) == long.seen(None)
        if answers[1]:  # the circuit opens, and begins anew
            cheap.clear()
            long.clear()


def test_a_window_of_time_rolls_by_tenths() -> None:
    """A call counts for ten ticks, the one in which it began included, and then no more."""
    last = nextafter(10.0, 0)
    play(
        TimeCounts(10.0, Rates(0.5, 1.0, 2)),
        [
            (0.0, 0.0, "failed", False, (1, 1, 0)),
            (last, last, "failed", True, (2, 2, 0)),  # still within ten ticks of 0.0
            (10.0, 10.0, "ok", True, (2, 1, 0)),  # the first has gone
            (18.0, 18.0, "ok", False, (3, 1, 0)),
            (19.0, 19.0, "ok", False, (3, 0, 0)),  # the second has gone
            (1000.0, 1000.0, "failed", False, (1, 1, 0)),  # all have gone
        ],
    )


def test_a_result_is_credited_to_where_its_call_began() -> None:
    """A call that took long leaves the window with the calls that began with it, not after."""
    play(
        TimeCounts(10.0, ANY),
        [
            (8.0, 0.0, "failed", False, (1, 1, 0)),
            (9.0, 9.0, "ok", False, (2, 1, 0)),
            (10.0, 10.0, "ok", False, (2, 0, 0)),  # the one that began at 0 has gone
            (15.0, 5.0, "failed", False, (2, 0, 0)),  # began too long ago to count at all
            (15.0, 6.0, "failed", False, (3, 1, 0)),  # just not too long
            (16.0, 16.0, "ok", False, (3, 0, 0)),
        ],
    )


def test_looking_later_sees_less_and_changes_nothing() -> None:
    """What is seen is as of now; without a clock, as of the last result."""
    counts = TimeCounts(10.0, ANY)
    assert counts.seen(5.0) == (0, 0, 0)
    add(counts, "F", now=100.0)
    add(counts, ".S", now=105.0)
    seen = [counts.seen(t) for t in (100, 105, 109, 110, 114, 115, 1e9, None, 105)]
    assert seen == [(3, 1, 1)] * 3 + [(2, 0, 1)] * 2 + [(0, 0, 0)] * 2 + [(3, 1, 1)] * 2


def test_a_clock_that_goes_back_a_little_keeps_what_is_known() -> None:
    """After a small step back, results go on being counted, and old ones still leave in time."""
    play(
        TimeCounts(10.0, ANY),
        [
            (100.0, 100.0, "failed", False, (1, 1, 0)),
            (105.0, 105.0, "failed", False, (2, 2, 0)),
            (103.0, 105.0, "ok", False, (3, 2, 0)),  # began before the step
            (103.0, 103.0, "ok", False, (4, 2, 0)),
            (107.0, 107.0, "ok", False, (5, 2, 0)),
            (108.0, 108.0, "ok", False, (5, 1, 0)),  # 3 + 5 to the step, and 5 after: the first is gone
            (112.0, 112.0, "ok", False, (6, 1, 0)),
            (113.0, 113.0, "ok", False, (4, 0, 0)),  # ten after the step: all from before it are
        ],
    )


def test_a_clock_that_starts_again_at_zero_is_followed() -> None:
    """In another loop, which began later, the window goes on counting at once (a module-level breaker)."""
    play(
        TimeCounts(10.0, Rates(0.5, 1.0, 3)),
        [
            (1e6, 1e6, "failed", False, (1, 1, 0)),
            (0.0, 0.0, "failed", False, (2, 2, 0)),
            (9.0, 9.0, "failed", True, (3, 3, 0)),
            (10.0, 10.0, "ok", False, (2, 1, 0)),  # both of the first tick have gone
            (10.0, 1e6, "ok", False, (3, 1, 0)),  # began in the old loop
        ],
    )


Step = tuple[float, float, bool]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0, 0.5, 1, 9, 9.5, 10, 11]), st.sampled_from([0, 1, 9, 10]), st.booleans()
        ),
        max_size=30,
    )
)
@settings(deadline=None, max_examples=100)
def test_a_window_of_time_is_the_calls_of_the_last_ticks(steps: list[Step]) -> None:
    """What is counted is every result whose call began in the last ten ticks, at any time."""
    counts, now = TimeCounts(10.0, ANY), 20.0
    log: list[tuple[float, bool]] = []
    for passed, took, failed in steps:
        now += passed
        log.append((now - took, failed))
        enter(counts, now - took, now, failed=failed, slow=False)
        known = [failed for began, failed in log if began // 1 > now // 1 - 10]
        assert counts.seen(now) == (len(known), sum(known), 0)


@given(times=st.lists(st.sampled_from([0.0, 1.0, 9.0, 10.0, 11.0, 500.0, 1e6]), max_size=30))
@settings(deadline=None, max_examples=100)
def test_a_clock_that_jumps_anywhere_breaks_no_count(times: list[float]) -> None:
    """Forward or back, by any amount: the newest result counts, no count is negative or invented."""
    counts = TimeCounts(10.0, ANY)
    for k, now in enumerate(times, 1):
        add(counts, "B", now)
        calls, failures, slow = counts.seen(now)
        assert 1 <= calls == failures == slow <= k


@pytest.mark.parametrize(
    ("make", "size", "of_time"),
    [
        (lambda: Window.calls(100), 100, False),
        (lambda: Window.seconds(30), 30.0, True),
        (lambda: Window.seconds(timedelta(minutes=1)), 60.0, True),
    ],
)
def test_a_window_says_its_size(make: object, size: float, of_time: bool) -> None:
    """A window is so many calls, or so many seconds, which a timedelta says too."""
    assert callable(make)
    assert make() == Window(size, of_time)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "100", float("nan")])
def test_a_window_of_calls_is_a_whole_number(size: object) -> None:
    """A window of no calls, or of part of one, is refused."""
    with pytest.raises((TypeError, ValueError), match=r"^Window\.calls: size must be a whole number"):
        Window.calls(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, True, "30", float("nan"), float("inf"), timedelta(0)])
def test_a_window_of_time_is_longer_than_nothing(size: object) -> None:
    """A window of no time, or of endless time, is refused."""
    with pytest.raises(
        (TypeError, ValueError), match=r"^Window\.seconds: size must be a number of seconds"
    ):
        Window.seconds(size)  # type: ignore[arg-type]
