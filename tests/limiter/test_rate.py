"""Rates as people write them."""

from __future__ import annotations

import pytest

from aresilience.limiter.rate import MICROS, Rate, parse_rates


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("100/s", [(100, 1)]),
        ("1 / second", [(1, 1)]),
        ("20/10s", [(20, 10)]),
        ("20 per 10 seconds", [(20, 10)]),
        ("1000/min", [(1000, 60)]),
        ("1000/m", [(1000, 60)]),
        ("5/2hours", [(5, 7200)]),
        ("7/day", [(7, 86_400)]),
        ("1/week", [(1, 604_800)]),
        ("1000/min; 20000/h", [(1000, 60), (20_000, 3600)]),
    ],
)
def test_rates_that_can_be_read(text: str, rates: list[tuple[int, int]]) -> None:
    """A rate is a number of tokens per a number of units; several are separated by semicolons."""
    assert parse_rates("x", text) == tuple(Rate(limit, seconds * MICROS) for limit, seconds in rates)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "100",
        "/s",
        "-1/s",
        "0/s",
        "1/0s",
        "1.5/s",
        "nan/s",
        "inf/s",
        "1/fortnight",
        "1/s;",
        "9" * 30 + "/s",
    ],
)
def test_t1_rates_that_cannot(text: str) -> None:
    """T1: rate 0, negative, nan, inf, int overflow: an error at once, not an endless wait."""
    with pytest.raises(ValueError, match="x"):
        parse_rates("x", text)
