"""What a limiter answers, and the error and events that it has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aresilience.errors import Rejected
from aresilience.events import Event
from aresilience.limiter.rate import MICROS
from aresilience.limiter.store import Ask, Grant

__all__ = ["Decision", "NearLimit", "RateLimited", "decision", "decision_of"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one ask; true if it was allowed. Times are seconds.

    - `limit`: the most tokens at once, of the rate that is tightest now; `remaining`: how many are left;
    - `retry_after`: after how long the same ask would be allowed; 0 if it was, None if it never will be;
    - `reset_after`: until all tokens are back;
    - `degraded`: the store did not answer, and this is what `on_store_error` says;
    - `shadowed`: it would have been refused, but for shadow mode.
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after: float | None
    reset_after: float
    degraded: bool = False
    shadowed: bool = False

    def __bool__(self) -> bool:
        return self.allowed


class RateLimited(Rejected):
    """The limit does not allow it now. `retry_after` is None if it never will (it costs more than the
    limit holds); `decision` has the rest."""

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        decision: Decision | None = None,
        limiter: object = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.decision = decision
        self.limiter = limiter


@dataclass(frozen=True, slots=True)
class NearLimit(Event):
    """A grant took a key over the share of its limit that `near_limit` says."""

    level = logging.WARNING

    remaining: int
    limit: int


class _Draft:
    """A `Decision` while it is made: to fill in a frozen one takes four times as long."""

    __slots__ = Decision.__slots__

    def __init__(
        self,
        allowed: bool,
        limit: int,
        remaining: int,
        retry_after: float,
        reset_after: float,
        degraded: bool,
    ) -> None:
        self.allowed = allowed
        self.limit = limit
        self.remaining = remaining
        self.retry_after = retry_after
        self.reset_after = reset_after
        self.degraded = degraded
        self.shadowed = False


def decision(
    allowed: bool, limit: int, remaining: int, wait: float, reset: float, degraded: bool = False
) -> Decision:
    """A `Decision`, in less time."""
    draft = _Draft(allowed, limit, remaining, wait, reset, degraded)
    draft.__class__ = Decision  # type: ignore[assignment]
    return draft  # type: ignore[return-value]


def decision_of(ask: Ask, grant: Grant, allowed: bool, *, degraded: bool = False) -> Decision:
    """The decision for the part of an ask that has the least left."""
    _, now, at, views = grant
    place = 0
    if len(views) > 1:
        place = min(
            (view[0] / part[0].algorithm.capacity, place)
            for place, (part, view) in enumerate(zip(ask, views, strict=True))
        )[1]
    remaining, reset = views[place]
    wait = 0.0 if allowed else max(1, at - now) / MICROS
    return decision(allowed, ask[place][0].algorithm.capacity, remaining, wait, reset / MICROS, degraded)
