"""Retry-After: what the other side says about when to come back."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aresilience as ar
from aresilience.clock import wall
from aresilience.retry.hint import parse_retry_after

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:51:37 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("0", None),
        ("0.0", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("", None),
        ("soon", None),
        ("120s", None),
        ("120, 60", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("0x10", None),
        ("9" * 400, math.inf),
    ],
)
def test_seconds(value: str, seconds: float | None) -> None:
    """A number of seconds, with decimals if need be; anything else that is no date is no hint."""
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (LATER, DATE, 120.0),
        ("Sunday, 06-Nov-94 08:51:37 GMT", DATE, 120.0),  # RFC 850
        ("Sun Nov  6 08:51:37 1994", DATE, 120.0),  # asctime
        ("Sun, 06 Nov 1994 09:51:37 +0100", DATE, 120.0),
        ("Sun, 06 Nov 1994 08:51:37 -0000", DATE, 120.0),
        (DATE, DATE, None),  # now
        (DATE, LATER, None),  # past
        ("Fri, 31 Dec 9999 23:59:59 GMT", DATE, 253402300799.0 - 784111777.0),
        ("Sun, 99 Nov 1994 08:51:37 GMT", DATE, None),
        ("Sun, 06 Nov 1994 08:51:37 +9999", DATE, None),
    ],
)
def test_a_date_counts_from_the_responses_own(value: str, date: str, seconds: float | None) -> None:
    """An HTTP date, in each of the three forms, minus the response's Date: no two clocks are compared."""
    assert parse_retry_after(value, date) == seconds


@pytest.mark.parametrize("date", [None, "yesterday", ""])
def test_a_date_without_a_usable_date_counts_from_this_clock(date: str | None) -> None:
    """Where the response does not say when it was sent, this machine's clock must do."""
    soon = format_datetime(wall() + timedelta(seconds=90), usegmt=True)
    seconds = parse_retry_after(soon, date)
    assert seconds is not None
    assert 60 < seconds <= 90
    past = format_datetime(wall() - timedelta(seconds=90), usegmt=True)
    assert parse_retry_after(past, date) is None


fields = st.one_of(st.sampled_from(["Sun,", "Nov", "GMT", "-", ":", "+9999", "0000"]), st.text(max_size=5))
numbers = st.integers(-1, 99999).map(str)


@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(st.one_of(fields, numbers), min_size=3, max_size=7).map(" ".join),
        st.datetimes().map(lambda d: format_datetime(d.replace(tzinfo=UTC))),
    )
)
def test_garbage_never_raises(value: str) -> None:
    """Whatever a header says, the answer is None or a number greater than 0."""
    for date in (None, DATE, value):
        seconds = parse_retry_after(value, date)
        assert seconds is None or seconds > 0


def with_headers(**headers: str) -> SimpleNamespace:
    """A response or an error with these headers, their names in the usual spelling."""
    return SimpleNamespace(headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("outcome", "hint"),
    [
        (ar.Rejected("no", retry_after=3), 3.0),
        (SimpleNamespace(retry_after=2), 2.0),
        (SimpleNamespace(retry_after=0.5), 0.5),
        (SimpleNamespace(retry_after=0), None),
        (SimpleNamespace(retry_after=-1), None),
        (SimpleNamespace(retry_after=math.nan), None),
        (SimpleNamespace(retry_after=math.inf), math.inf),
        (SimpleNamespace(retry_after=10**400), math.inf),
        (SimpleNamespace(retry_after=True), None),
        (SimpleNamespace(retry_after="2"), None),
        (SimpleNamespace(retry_after=None, headers={"Retry-After": "2"}), 2.0),
        (with_headers(Retry_After="7"), 7.0),
        (with_headers(retry_after="7"), 7.0),
        (with_headers(Retry_After=LATER, Date=DATE), 120.0),
        (with_headers(retry_after=LATER, date=DATE), 120.0),
        (SimpleNamespace(response=with_headers(Retry_After="9")), 9.0),
        (SimpleNamespace(headers=None, response=with_headers(Retry_After="9")), 9.0),
        (SimpleNamespace(headers={}, response=None), None),
        (SimpleNamespace(headers={"Retry-After": b"9"}), None),
        (SimpleNamespace(headers=["Retry-After"]), None),
        (SimpleNamespace(response={"Retry-After": "9"}), None),
        (ValueError("no hint"), None),
        (None, None),
        (b"a body", None),
    ],
)
def test_where_the_hint_is_looked_for(outcome: object, hint: float | None) -> None:
    """In `retry_after`, in the headers of the outcome, and of its response."""
    assert ar.retry_after_hint(outcome) == hint


class Unavailable(Exception):
    """A 503 as HTTP clients raise it."""

    def __init__(self, **headers: str) -> None:
        super().__init__("503")
        self.response = with_headers(**headers)


Y5 = [
    ("huge", {"Retry_After": "86400"}, 60.0),
    ("beyond every number", {"Retry_After": "9" * 400}, 60.0),
    ("a date far away", {"Retry_After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": DATE}, 60.0),
    ("just the cap", {"Retry_After": "60"}, 60.0),
    ("negative", {"Retry_After": "-30"}, 2.0),
    ("zero", {"Retry_After": "0"}, 2.0),
    ("a date in the past", {"Retry_After": DATE, "Date": LATER}, 2.0),
    ("a date in the past of this clock", {"Retry_After": DATE}, 2.0),
    ("garbage", {"Retry_After": "when it is done"}, 2.0),
    ("none", {}, 2.0),
    ("shorter than the own back-off", {"Retry_After": "1"}, 2.0),
    ("longer than the own back-off", {"Retry_After": "5"}, 5.0),
    ("a date", {"Retry_After": LATER.replace("51:37", "49:47"), "Date": DATE}, 10.0),
]


@pytest.mark.parametrize(("headers", "waited"), [row[1:] for row in Y5], ids=[row[0] for row in Y5])
async def test_y5(headers: dict[str, str], waited: float) -> None:
    """Retry-After huge/negative/date in the past → huge is capped; negative or past = no hint, own back-off.

    (Nobody else handles the date in the past; Polly does not cap what its DelayGenerator says.)
    """
    assert await wait_after(Unavailable(**headers)) == waited


async def wait_after(error: Exception, **options: Any) -> float:
    """The wait between the two attempts of a call that fails once with `error`; 2 s are the back-off."""
    at: list[float] = []

    async def once() -> None:
        at.append(asyncio.get_running_loop().time())
        if len(at) == 1:
            raise error

    await ar.Retry(on=Exception, backoff=ar.Backoff.constant(2), **options).call(once)
    return at[1] - at[0]


@pytest.mark.parametrize(
    ("options", "waited"),
    [
        ({"retry_after": None}, 2.0),
        ({"max_retry_after": 10}, 10.0),
        ({"max_retry_after": timedelta(seconds=20)}, 20.0),
        ({"max_retry_after": 1}, 2.0),  # the cap is for the hint, not for the back-off
        ({"retry_after": lambda error: 3.5}, 3.5),
        ({"retry_after": lambda error: None}, 2.0),
        ({"retry_after": lambda error: math.nan}, 2.0),
        ({"retry_after": lambda error: -1.0}, 2.0),
        ({"retry_after": lambda error: math.inf}, 60.0),
    ],
)
async def test_the_hint_is_the_users_to_choose(options: dict[str, Any], waited: float) -> None:
    """`retry_after` reads the hint, None disregards it, `max_retry_after` caps it."""
    assert await wait_after(Unavailable(Retry_After="30"), **options) == waited


async def test_a_hint_past_the_deadline_ends_the_retrying() -> None:
    """A wait that the other side asks for is subject to the deadline like any other."""
    error = Unavailable(Retry_After="30")
    with pytest.raises(Unavailable) as caught:
        await wait_after(error, deadline=30)
    assert caught.value is error
    assert await wait_after(error, deadline=30.5) == 30


@pytest.mark.parametrize(("groups", "waited"), [("all", 7.0), ("any", 7.0)])
async def test_a_group_asks_for_the_longest_wait_of_its_leaves(groups: str, waited: float) -> None:
    """Of several that failed together none is called before the time that it named."""
    error = ExceptionGroup(
        "several",
        [Unavailable(Retry_After="3"), ExceptionGroup("", [Unavailable(Retry_After="7")]), ValueError()],
    )
    assert await wait_after(error, groups=groups) == waited


def test_a_date_is_read_as_that_date() -> None:
    """The reference of the tests above: RFC 9110's own example is what we take it for."""
    assert datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp() == 784111777
    assert parse_retry_after(DATE, "Thu, 01 Jan 1970 00:00:00 GMT") == 784111777
