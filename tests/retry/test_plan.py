"""The machine: after a failed attempt, wait how long, or stop why?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience import Backoff, StopReason
from aresilience.retry.plan import Plan

PLAN = Plan(attempts=3, backoff=Backoff.sequence(1, 2, jitter="full"), max_hint=60.0)

NOTHING: dict[str, Any] = {
    "u": 0.5,
    "previous": None,
    "hint": None,
    "refused": False,
    "until": None,
    "pay": None,
}


def never(now: float) -> bool:
    """A budget that is used up."""
    return False


def always(now: float) -> bool:
    """A budget that is not."""
    return True


@pytest.mark.parametrize(
    ("number", "now", "given", "verdict"),
    [
        # The schedule, with chance as an argument.
        (1, 0.0, {}, 0.5),
        (2, 0.0, {}, 1.0),
        (2, 0.0, {"u": 0.0}, 0.0),
        # Attempts are calls in total.
        (3, 0.0, {}, StopReason.ATTEMPTS),
        (4, 0.0, {}, StopReason.ATTEMPTS),
        # A hint is a lower bound of the own delay, and capped.
        (1, 0.0, {"hint": 0.4}, 0.5),
        (1, 0.0, {"hint": 0.6}, 0.6),
        (1, 0.0, {"hint": 60.0}, 60.0),
        (1, 0.0, {"hint": 61.0}, 60.0),
        (1, 0.0, {"hint": math.inf}, 60.0),
        # After a refusal it is exact, and there must be one that is not too long.
        (1, 0.0, {"hint": 0.1, "refused": True}, 0.1),
        (1, 0.0, {"hint": 0.0, "refused": True}, 0.0),
        (1, 0.0, {"hint": 60.0, "refused": True}, 60.0),
        (1, 0.0, {"hint": math.nextafter(60, 61), "refused": True}, StopReason.REFUSED),
        (1, 0.0, {"hint": None, "refused": True}, StopReason.REFUSED),
        (1, 0.0, {"hint": -1.0, "refused": True}, StopReason.REFUSED),
        (1, 0.0, {"hint": math.nan, "refused": True}, StopReason.REFUSED),
        (1, 0.0, {"hint": math.inf, "refused": True}, StopReason.REFUSED),
        # No wait that would end at the deadline or after it.
        (1, 9.0, {"until": 9.5}, StopReason.DEADLINE),
        (1, 9.0, {"until": math.nextafter(9.5, 10)}, 0.5),
        (1, 9.0, {"until": 9.6, "hint": 0.6}, StopReason.DEADLINE),
        (1, 9.0, {"until": 9.5, "hint": 0.5, "refused": True}, StopReason.DEADLINE),
        (1, 9.0, {"until": 8.0, "u": 0.0}, StopReason.DEADLINE),
        (1, 9.0, {"until": 9.0, "u": 0.0}, StopReason.DEADLINE),
        # The budget is asked last.
        (1, 0.0, {"pay": always}, 0.5),
        (1, 0.0, {"pay": never}, StopReason.BUDGET),
        (3, 0.0, {"pay": never}, StopReason.ATTEMPTS),
        (1, 0.0, {"pay": never, "until": 0.1}, StopReason.DEADLINE),
        (1, 0.0, {"pay": never, "refused": True}, StopReason.REFUSED),
    ],
)
def test_the_verdict(number: int, now: float, given: dict[str, Any], verdict: float | StopReason) -> None:
    """Attempts first, then the wait and whether it fits, then who pays for it."""
    assert PLAN.decide(number, now, **NOTHING | given) == verdict


def test_only_an_attempt_that_is_made_is_paid_for() -> None:
    """Whatever else stops the retrying leaves the budget alone."""
    asked: list[float] = []

    def pay(now: float) -> bool:
        asked.append(now)
        return True

    for row in ({"until": 0.1}, {"refused": True}):
        PLAN.decide(1, 7.0, **NOTHING | row | {"pay": pay})
    PLAN.decide(3, 7.0, **NOTHING | {"pay": pay})
    assert asked == []
    PLAN.decide(2, 7.0, **NOTHING | {"pay": pay})
    assert asked == [7.0]


def test_infinite_attempts_never_run_out() -> None:
    """With attempts=inf the number is no reason to stop."""
    assert Plan(math.inf, Backoff.constant(1), 60.0).decide(10**9, 0.0, **NOTHING) == 1


def test_decorrelated_jitter_looks_at_the_delay_before() -> None:
    """The plan hands the previous delay to the back-off."""
    plan = Plan(9, Backoff.exponential(initial=1, jitter="decorrelated"), 60.0)
    assert plan.decide(1, 0.0, **NOTHING) == 2.0
    assert plan.decide(2, 0.0, **NOTHING | {"previous": 3.0}) == 5.0


@given(
    number=st.integers(1, 4),
    now=st.sampled_from([0.0, 1.0, 1e9]),
    u=st.floats(0, 1, exclude_max=True),
    hint=st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 60.0])),
    refused=st.booleans(),
    until=st.one_of(st.none(), st.floats(-1, 3e9)),
)
def test_every_wait_is_usable(
    number: int, now: float, u: float, hint: float | None, refused: bool, until: float | None
) -> None:
    """Whatever the other side says, a wait is from 0 to the cap and ends before the deadline."""
    verdict = PLAN.decide(number, now, u, previous=None, hint=hint, refused=refused, until=until, pay=None)
    if not isinstance(verdict, StopReason):
        assert 0 <= verdict <= PLAN.max_hint
        assert until is None or now + verdict < until
