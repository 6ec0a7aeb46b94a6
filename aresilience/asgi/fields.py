"""Header fields that say how much, and how long.

`RateLimit-Policy: "burst";q=100;w=60` and `RateLimit: "burst";r=50;t=30` are those of
draft-ietf-httpapi-ratelimit-headers-11: structured fields (RFC 9651), q the quota of w seconds, r what is
left, t the seconds for which it has to last. After a refusal t is the wait that Retry-After says too.
`RateLimit-Limit`, `-Remaining` and `-Reset` (and the same with `X-`) are the names from before; the reset is
in seconds from now. They can tell of one limit only: the one with the least left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from aresilience.limiter import Decision, RateLimiter
from aresilience.limiter.rate import Rate

__all__ = ["LEGACY", "Fields", "Level", "limit_fields", "tightest_name", "whole_seconds"]

Fields = list[tuple[str, str]]
LEGACY = ("RateLimit", "X-RateLimit")
_MOST = 999_999_999_999_999  # the largest integer of a structured field


@dataclass(frozen=True, slots=True)
class Level:
    """One limit that a request met, by the name it is advertised with, and what it decided."""

    name: str
    limiter: RateLimiter | None
    decision: Decision


def whole_seconds(seconds: object, *, otherwise: float, most: float) -> int:
    """Seconds as a header has them: whole, rounded up, at least 1, at most `most`.

    `otherwise` is for what is no number: None, NaN.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
        seconds = otherwise
    # Compared as they are: an int may be too large for a float.
    return math.ceil(max(1, min(seconds, most)))


def limit_fields(levels: Sequence[Level], *, most: float, legacy: str | None) -> Fields:
    """The fields for what the levels decided; none for no level."""
    if not levels:
        return []
    policies = ", ".join([_policy(level) for level in levels])
    limits = ", ".join([_limit(level, most) for level in levels])
    fields = [("ratelimit-policy", policies), ("ratelimit", limits)]
    if legacy is not None:
        tightest = min(levels, key=_share).decision
        prefix = legacy.lower()
        fields += [
            (f"{prefix}-limit", str(tightest.limit)),
            (f"{prefix}-remaining", str(max(0, tightest.remaining))),
            (f"{prefix}-reset", str(_window(tightest, most))),
        ]
    return fields


def tightest_name(level: Level) -> str:
    """The name of the policy that the decision's numbers are about."""
    if level.limiter is None:
        return level.name
    rates = level.limiter.rates
    if len(rates) > 1:
        for rate, most in rates:
            if most == level.decision.limit:
                return _name(level.name, rate)
        return _name(level.name, rates[0][0])
    return level.name


def _name(name: str, rate: Rate) -> str:
    """The name of one policy of several."""
    return f"{name}-{rate.seconds:g}s"


def _policy(level: Level) -> str:
    if level.limiter is None:
        return f"{_quoted(level.name)};q={min(_MOST, level.decision.limit)}"
    return _policies(level.name, level.limiter.rates)


@lru_cache(1024)
def _policies(name: str, rates: tuple[tuple[Rate, int], ...]) -> str:
    """One for each rate of a limiter."""
    policies = []
    for rate, _ in rates:
        quoted = _quoted(name if len(rates) == 1 else _name(name, rate))
        window = f";w={rate.seconds:.0f}" if rate.seconds.is_integer() else ""
        policies.append(f"{quoted};q={min(_MOST, rate.limit)}{window}")
    return ", ".join(policies)


def _limit(level: Level, most: float) -> str:
    decision = level.decision
    left = min(_MOST, max(0, decision.remaining))
    window = "" if decision.retry_after is None else f";t={_window(decision, most)}"
    return f"{_quoted(tightest_name(level))};r={left}{window}"


def _window(decision: Decision, most: float) -> int:
    """Seconds for which what is left has to last; without a wait that would help, until all is back."""
    if decision.allowed:
        return math.ceil(max(0.0, min(decision.reset_after, most)))
    return whole_seconds(decision.retry_after, otherwise=decision.reset_after, most=most)


def _share(level: Level) -> float:
    return level.decision.remaining / max(1, level.decision.limit)


@lru_cache(1024)
def _quoted(name: str) -> str:
    """A string of a structured field: printable ASCII, in quotes."""
    safe = "".join(char if " " <= char <= "~" else "?" for char in name)
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
