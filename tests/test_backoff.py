"""Backoff: the n-th delay as a function of n, of chance and of the delay before."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aresilience as ar
from aresilience.backoff import Jitter

exponential, linear, constant, sequence = (
    ar.Backoff.exponential,
    ar.Backoff.linear,
    ar.Backoff.constant,
    ar.Backoff.sequence,
)
ALMOST_ONE = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (exponential(jitter=None), [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]),
        (exponential(initial=1, multiplier=3, maximum=20, jitter=None), [1, 3, 9, 20, 20]),
        (exponential(initial=1, multiplier=2, maximum=8, jitter=None), [1, 2, 4, 8, 8]),  # the cap exactly
        (exponential(initial=5, multiplier=1, maximum=9, jitter=None), [5, 5, 5]),
        (exponential(initial=10, maximum=10, jitter=None), [10, 10]),
        (linear(initial=1, increment=2, maximum=6, jitter=None), [1, 3, 5, 6, 6]),
        (constant(1.5), [1.5, 1.5, 1.5]),
        (constant(0), [0, 0]),
        (sequence(0, 1, 5), [0, 1, 5, 5, 5]),
        (sequence(3, 1), [3, 1, 1]),
        (sequence(timedelta(minutes=1), 0.5), [60, 0.5]),
        (exponential(initial=timedelta(seconds=1), maximum=timedelta(minutes=1), jitter=None), [1, 2, 4]),
    ],
    ids=repr,
)
def test_the_schedule_before_jitter(backoff: ar.Backoff, delays: list[float]) -> None:
    """Without jitter the delay after n = 1, 2, … failures is the schedule's, capped."""
    assert [backoff.delay(n, 0.7) for n in range(1, len(delays) + 1)] == delays


@pytest.mark.parametrize(
    ("jitter", "n", "u", "previous", "delay"),
    [
        # full: u · min(cap, base · 2^(n − 1))
        ("full", 1, 0.0, None, 0.0),
        ("full", 1, 0.5, None, 0.5),
        ("full", 3, 0.25, None, 1.0),
        ("full", 9, 0.5, None, 5.0),  # the cap comes first, then the jitter
        # equal: h/2 + u · h/2
        ("equal", 1, 0.0, None, 0.5),
        ("equal", 1, 0.5, None, 0.75),
        ("equal", 9, 0.5, None, 7.5),
        # decorrelated: min(cap, base + u · (3 · previous − base)), whatever n
        ("decorrelated", 1, 0.0, None, 1.0),
        ("decorrelated", 1, 0.5, None, 2.0),
        ("decorrelated", 7, 0.5, 2.0, 3.5),
        ("decorrelated", 2, 0.75, 8.0, 10.0),
        ("decorrelated", 2, 1.0, 0.0, 1.0),  # after no delay at all it is the base again
    ],
)
def test_jitter(jitter: Jitter, n: int, u: float, previous: float | None, delay: float) -> None:
    """Each jitter is its formula, with chance as the number u."""
    backoff = exponential(initial=1, multiplier=2, maximum=10, jitter=jitter)
    assert backoff.delay(n, u, previous) == delay


def test_full_jitter_is_the_default() -> None:
    """Whoever says nothing gets full jitter from 0.1 to 10 s, the widest spread of callers."""
    assert exponential().delay(1, 0.5) == 0.05
    assert repr(exponential()) == repr(
        exponential(initial=0.1, multiplier=2.0, maximum=10.0, jitter="full")
    )


def test_jitter_does_not_fade_at_the_cap() -> None:
    """At the cap the delays still spread over all of it (stamina adds at most a second, then cuts it off)."""
    backoff = exponential(initial=0.1, maximum=10)
    assert [backoff.delay(50, u) for u in (0.0, 0.25, 0.5, ALMOST_ONE)] == [0, 2.5, 5, 10 * ALMOST_ONE]


times = st.one_of(
    st.sampled_from([5e-324, 1e-300, 1e-9, 0.1, 1.0, 1e300, 1.7e308]),
    st.floats(min_value=5e-324, max_value=1.7e308),
)


@given(
    first=times,
    second=times,
    multiplier=st.one_of(st.sampled_from([1.0, math.nextafter(1, 2), 2.0, 1e308]), st.floats(1, 1e308)),
    n=st.one_of(st.integers(1, 5), st.sampled_from([1023, 1024, 1025, 1026, 10**6, 10**30])),
    u=st.sampled_from([0.0, 0.5, ALMOST_ONE]),
    previous=st.one_of(st.none(), times),
    jitter=st.sampled_from(["full", "equal", "decorrelated", None]),
)
def test_a_delay_is_a_number_from_0_to_the_cap(
    first: float,
    second: float,
    multiplier: float,
    n: int,
    u: float,
    previous: float | None,
    jitter: Jitter,
) -> None:
    """No n, however late, and no factor makes a delay negative, NaN, over the cap, or an OverflowError."""
    initial, maximum = sorted((first, second))
    grown = exponential(initial=initial, multiplier=multiplier, maximum=maximum, jitter=jitter)
    added = linear(initial=initial, increment=first, maximum=maximum, jitter=jitter)
    for backoff in (grown, added):
        assert 0 <= backoff.delay(n, u, previous) <= backoff.maximum == maximum


@given(
    initial=st.sampled_from([0.001, 0.1, 1.0, 3.0]),
    multiplier=st.sampled_from([1.0, 1.5, 2.0, 10.0]),
    times_over=st.sampled_from([1.0, 1.9, 2.0, 4.0, 1000.0]),
    n=st.integers(1, 40),
)
def test_the_exponential_grows_step_by_step(
    initial: float, multiplier: float, times_over: float, n: int
) -> None:
    """The n-th delay is what n − 1 multiplications give, stopped at the cap."""
    maximum = initial * times_over
    stepped = initial
    for _ in range(n - 1):
        stepped = min(maximum, stepped * multiplier)
    backoff = exponential(initial=initial, multiplier=multiplier, maximum=maximum, jitter=None)
    assert backoff.delay(n, 0.0) == pytest.approx(stepped, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: exponential(initial=0),
            "Backoff.exponential: initial must be a number of seconds greater than 0, got 0",
        ),
        (
            lambda: exponential(initial=-1),
            "Backoff.exponential: initial must be a number of seconds greater than 0, got -1",
        ),
        (
            lambda: exponential(initial=math.nan),
            "Backoff.exponential: initial must be a number of seconds greater than 0 and finite, got nan",
        ),
        (
            lambda: exponential(maximum=math.inf),
            "Backoff.exponential: maximum must be a number of seconds greater than 0 and finite, got inf",
        ),
        (
            lambda: exponential(initial=20),
            "Backoff.exponential: maximum must be at least initial (20), got 10.0",
        ),
        (
            lambda: exponential(multiplier=0.5),
            "Backoff.exponential: multiplier must be at least 1, got 0.5",
        ),
        (
            lambda: exponential(jitter="some"),  # type: ignore[arg-type]
            "jitter must be 'full', 'equal', 'decorrelated' or None, got 'some'",
        ),
        (
            lambda: linear(increment=0),
            "Backoff.linear: increment must be a number of seconds greater than 0, got 0",
        ),
        (
            lambda: linear(initial=5, maximum=1),
            "Backoff.linear: maximum must be at least initial (5), got 1",
        ),
        (
            lambda: constant(-0.1),
            "Backoff.constant: delay must be a number of seconds of at least 0, got -0.1",
        ),
        (
            lambda: constant(1, jitter="decorrelated"),
            "Backoff.constant: jitter must be 'full', 'equal' or None, got 'decorrelated', which makes a "
            "schedule of its own; write Backoff.exponential(jitter='decorrelated')",
        ),
        (lambda: sequence(), "Backoff.sequence needs at least one delay, got none"),
        (
            lambda: sequence(1, -2),
            "Backoff.sequence: delay must be a number of seconds of at least 0, got -2",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(make: Any, message: str) -> None:
    """A wrong value raises ValueError when the schedule is made, and the message says what is allowed."""
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["1", None, True, [1]])
def test_a_delay_is_a_number_or_a_timedelta(value: Any) -> None:
    """Anything else raises TypeError and is named."""
    with pytest.raises(TypeError, match=r"got .*\((str|NoneType|bool|list)\)"):
        constant(value)


@pytest.mark.parametrize(
    ("backoff", "text"),
    [
        (
            exponential(initial=0.5, maximum=60),
            "Backoff.exponential(initial=0.5, multiplier=2, maximum=60, jitter='full')",
        ),
        (
            linear(jitter="equal"),
            "Backoff.linear(initial=0.1, increment=0.1, maximum=10, jitter='equal')",
        ),
        (constant(2), "Backoff.constant(2, jitter=None)"),
        (sequence(0, 0.5, 10, jitter="full"), "Backoff.sequence(0, 0.5, 10, jitter='full')"),
    ],
)
def test_the_repr_is_what_to_write(backoff: ar.Backoff, text: str) -> None:
    """A schedule shows itself as the call that makes it."""
    assert repr(backoff) == text
    assert repr(eval(text, {"Backoff": ar.Backoff})) == text


@pytest.mark.parametrize(
    ("backoff", "maximum"), [(exponential(maximum=7), 7), (constant(3), 3), (sequence(1, 9, 2), 9)]
)
def test_the_longest_delay_is_known(backoff: ar.Backoff, maximum: float) -> None:
    """`maximum` is the longest delay that can come."""
    assert backoff.maximum == maximum
