"""When the other side says how long to wait: Retry-After, as RFC 9110 §10.2.3 has it."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from aresilience.clock import wall

__all__ = ["parse_retry_after", "retry_after_hint"]

_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)


def retry_after_hint(outcome: object) -> float | None:
    """The wait that an error or a result asks for, in seconds, or None.

    Looks for a number in `outcome.retry_after`, then for a Retry-After header in `outcome.headers` and
    `outcome.response.headers`: where httpx, aiohttp and requests keep them.
    """
    number = getattr(outcome, "retry_after", None)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return _usable(number)
    for holder in (outcome, getattr(outcome, "response", None)):
        headers = getattr(holder, "headers", None)
        get = getattr(headers, "get", None)
        if not callable(get):
            continue
        value = get("Retry-After") or get("retry-after")
        if isinstance(value, str):
            date = get("Date") or get("date")
            return parse_retry_after(value, date if isinstance(date, str) else None)
    return None


def parse_retry_after(value: str, date: str | None = None) -> float | None:
    """Seconds from a Retry-After value: a number, or an HTTP date.

    A date counts from the response's own Date, so that no two clocks are compared; without one, from
    this machine's clock. None for what is in the past, or cannot be read.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return _usable(float(value))
    until = _http_date(value)
    if until is None:
        return None
    since = _http_date(date) if date is not None else None
    return _usable((until - (since or wall())).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _usable(seconds: float) -> float | None:
    if not seconds > 0:  # not a number is not greater either
        return None
    try:
        return float(seconds)
    except OverflowError:  # a whole number beyond all floats
        return math.inf
