"""Rates: "100/s", "1000/min; 20000/h"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aresilience import arguments

__all__ = ["MICROS", "Rate", "parse_rates"]

MICROS = 1_000_000
_UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_UNITS |= {"d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800}
_FORM = re.compile(r"(\d+)\s*(?:/|per)\s*(\d+)?\s*([a-z]+?)s?", re.IGNORECASE)
_ALLOWED = "like '100/s', '20/10s', '1000/min' or '1000/min; 20000/h'"
_MOST = 2**40


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` tokens in each `period` (microseconds)."""

    limit: int
    period: int

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return self.period / MICROS

    def __str__(self) -> str:
        return f"{self.limit}/{self.seconds:g}s"


def parse_rates(where: str, text: str) -> tuple[Rate, ...]:
    """The rates of a string, separated by semicolons. Raises `ValueError` with what is allowed."""
    arguments.text(where, text)
    return tuple(_parse(where, part.strip(), text) for part in text.split(";"))


def _parse(where: str, part: str, text: str) -> Rate:
    found = _FORM.fullmatch(part)
    unit = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{where} must be {_ALLOWED}, got {text!r}")
    limit, many = int(found[1]), int(found[2] or 1)
    if not 1 <= limit <= _MOST or not 1 <= many <= _MOST // unit // MICROS:
        raise ValueError(f"{where}: the numbers must be at least 1, and at most {_MOST}, got {text!r}")
    return Rate(limit, many * unit * MICROS)
