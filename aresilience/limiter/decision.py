"""What a limiter answers, and the error and events that it has."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aresilience.errors import Rejected
from aresilience.events import Event
from aresilience.limiter.rate import MICROS
from aresilience.limiter.store import Ask, Grant

__all__ = ["Decision", "NearLimit", "RateLimited", "decision_of"]


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


def decision_of(ask: Ask, grant: Grant, allowed: bool, *, degraded: bool = False) -> Decision:
    """The decision for the part of an ask that has the least left."""
    if len(grant.views) == 1:
        tightest, (remaining, reset) = ask[0][0].algorithm, grant.views[0]
    else:
        shares = [
            (view[0] / part[0].algorithm.capacity, place)
            for place, (part, view) in enumerate(zip(ask, grant.views, strict=True))
        ]
        place = min(shares)[1]
        tightest, (remaining, reset) = ask[place][0].algorithm, grant.views[place]
    wait = 0.0 if allowed else max(1, grant.at - grant.now) / MICROS
    return Decision(allowed, tightest.capacity, remaining, wait, reset / MICROS, degraded)
