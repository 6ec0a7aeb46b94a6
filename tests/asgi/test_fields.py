"""Header fields: how much, and how long."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.asgi.fields import Level, limit_fields, whole_seconds
from aresilience.limiter import Decision, RateLimiter

DAY = 86_400.0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, 5),
        (math.nan, 5),
        (math.inf, 86_400),
        (-math.inf, 1),
        (-3, 1),
        (0, 1),
        (0.0, 1),
        (5e-324, 1),
        (0.999, 1),
        (1, 1),
        (1.0000001, 2),
        (59.2, 60),
        (86_400, 86_400),
        (86_400.1, 86_400),
        (10**400, 86_400),
        (True, 5),
        ("60", 5),
    ],
)
def test_t13_retry_after_is_whole_seconds(seconds: object, told: int) -> None:
    """T13: Retry-After never 0, never nan, integer seconds rounded up, capped."""
    assert told == whole_seconds(seconds, otherwise=5, most=DAY)


@given(st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=3)))
def test_t13_whatever_a_refusal_says(seconds: object) -> None:
    """T13: for every value there is, the header is a whole number from 1 to the most."""
    told = whole_seconds(seconds, otherwise=0.5, most=DAY)
    assert type(told) is int
    assert 1 <= told <= DAY


def level(rate: str, *decision: object, name: str = "api") -> Level:
    """A level whose limiter decided so."""
    return Level(name, RateLimiter(rate), Decision(*decision))  # type: ignore[arg-type]


def test_the_fields_of_the_draft() -> None:
    """RateLimit-Policy has q and w, RateLimit has r and t, for each limit an item."""
    levels = [
        level("100/min", True, 100, 50, 0.0, 29.1, name="burst"),
        level("1000/day", True, 1000, 999, 0.0, 86.4, name="daily"),
    ]
    assert limit_fields(levels, most=DAY, legacy=None) == [
        ("ratelimit-policy", '"burst";q=100;w=60, "daily";q=1000;w=86400'),
        ("ratelimit", '"burst";r=50;t=30, "daily";r=999;t=87'),
    ]


def test_no_limit_no_fields() -> None:
    """A list of a structured field may not be empty: then there is no field."""
    assert limit_fields([], most=DAY, legacy="RateLimit") == []


def test_after_a_refusal_the_window_is_the_wait() -> None:
    """Retry-After may not point earlier than the end of t: both are the wait, rounded the same way."""
    refused = level("100/min", False, 100, 3, 0.6, 59.0)
    assert limit_fields([refused], most=DAY, legacy=None)[1] == ("ratelimit", '"api";r=3;t=1')


def test_no_window_where_no_wait_would_help() -> None:
    """What costs more than the limit holds is refused for ever: no t; the old reset says when it is full."""
    refused = level("100/min", False, 100, 100, None, 0.0)
    fields = dict(limit_fields([refused], most=DAY, legacy="RateLimit"))
    assert fields["ratelimit"] == '"api";r=100'
    assert fields["ratelimit-reset"] == "1"


def test_the_old_names_tell_of_the_tightest_limit() -> None:
    """They have room for one only: the one with the smallest share left."""
    levels = [
        level("100/min", True, 100, 50, 0.0, 30.0),
        level("10/s", True, 10, 1, 0.0, 0.9),
    ]
    fields = limit_fields(levels, most=DAY, legacy="X-RateLimit")
    assert fields[2:] == [
        ("x-ratelimit-limit", "10"),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset", "1"),
    ]


def test_several_rates_of_one_limiter_are_several_policies() -> None:
    """Each rate is named after its window, and RateLimit tells of the one that the decision is about."""
    fields = limit_fields([level("10/s; 100/min", True, 100, 42, 0.0, 34.8)], most=DAY, legacy=None)
    assert fields[0][1] == '"api-1s";q=10;w=1, "api-60s";q=100;w=60'
    assert fields[1][1] == '"api-60s";r=42;t=35'


def test_numbers_that_belong_to_no_rate_are_told_of_the_first() -> None:
    """In degraded mode a limiter counts with a share of its limit: the name is one of its policies still."""
    fields = limit_fields([level("10/s; 100/min", True, 5, 4, 0.0, 0.1)], most=DAY, legacy=None)
    assert fields[1][1] == '"api-1s";r=4;t=1'


def test_a_live_change_of_the_rate_is_told() -> None:
    """set_rate shows in the next response."""
    changing = level("10/s", True, 10, 9, 0.0, 0.1)
    assert limit_fields([changing], most=DAY, legacy=None)[0][1] == '"api";q=10;w=1'
    assert changing.limiter is not None
    asyncio.run(changing.limiter.set_rate("50/min"))
    assert limit_fields([changing], most=DAY, legacy=None)[0][1] == '"api";q=50;w=60'


def test_numbers_stay_within_what_the_fields_allow() -> None:
    """Nothing negative, nothing beyond fifteen digits, no window that is not whole seconds."""
    most = Decision(True, 2**60, 2**60, 0.0, math.inf)
    assert limit_fields([Level("x", None, most)], most=DAY, legacy=None) == [
        ("ratelimit-policy", '"x";q=999999999999999'),
        ("ratelimit", '"x";r=999999999999999;t=86400'),
    ]
    least = limit_fields([level("100/s", True, 100, -3, 0.0, -1.0)], most=DAY, legacy=None)
    assert least[1][1] == '"api";r=0;t=0'


@given(st.text(max_size=20))
def test_v8_names_cannot_leave_their_quotes(name: str) -> None:
    """V8, A9: whatever a limiter is called, the field is one line of printable ASCII, one quoted string."""
    fields = limit_fields([level("5/s", True, 5, 4, 0.0, 0.2, name=name)], most=DAY, legacy=None)
    for _, value in fields:
        assert re.fullmatch(r'"(?:[ !#-\[\]-~]|\\["\\])*";[qr]=\d+;[wt]=\d+', value)
