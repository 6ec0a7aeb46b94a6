"""Refusals (`Rejected`): retried only where named, and then exactly at their `retry_after`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


class Quota(ar.Rejected):
    """A refusal of somebody's own policy."""


async def times_of(error: Exception, **options: Any) -> tuple[list[float], Exception | None]:
    """When a call that raises `error` first is made, and what came of it."""
    at: list[float] = []

    async def refused_once() -> None:
        at.append(asyncio.get_running_loop().time())
        if len(at) == 1:
            raise error

    options = {"backoff": ar.Backoff.constant(2), "attempts": 3} | options
    try:
        await ar.Retry(**options).call(refused_once)
    except Exception as raised:  # noqa: BLE001 - compared
        return at, raised
    return at, None


@pytest.mark.parametrize(
    "on",
    [
        Exception,
        lambda error: True,
        (ConnectionError, lambda error: isinstance(error, ar.Rejected)),
        ar.CircuitOpen,
    ],
    ids=["Exception", "predicate", "predicate for it", "another refusal"],
)
async def test_a_refusal_that_is_not_named_is_not_retried(on: Any) -> None:
    """Neither Exception nor a predicate, however broad, retries a refusal."""
    error = Quota("no", retry_after=1)
    assert await times_of(error, on=on) == ([0], error)
    assert vars(error) == {"retry_after": 1}


@pytest.mark.parametrize("on", [Quota, ar.Rejected, (ConnectionError, Quota)], ids=str)
@pytest.mark.parametrize("retry_after", [0.0, 0.001, 1, 2.5, 60.0])
async def test_a_refusal_that_is_named_is_retried_exactly_then(on: Any, retry_after: float) -> None:
    """Not earlier, since that is pointless, and not later: no back-off, no jitter."""
    assert await times_of(Quota("no", retry_after=retry_after), on=on) == ([0, retry_after], None)


@pytest.mark.parametrize("retry_after", [None, -1.0, math.nan, math.inf, 60.001, 1e9])
async def test_a_refusal_with_no_usable_wait_ends_the_retrying(retry_after: float | None) -> None:
    """If nobody knows when, or not before `max_retry_after`, the refusal is raised at once."""
    recorder = Recorder()
    error = Quota("no", retry_after=retry_after)
    assert await times_of(error, on=Quota, listeners=[recorder]) == ([0], error)
    assert [told.reason for told in recorder.of(ar.RetryGaveUp)] == [ar.StopReason.REFUSED]
    assert error.__notes__ == [
        "aresilience: Retry gave up after 1 attempt and 0 s of waiting: refused, and the wait it asks for is "
        "unknown or too long"
    ]


async def test_the_cap_is_the_users() -> None:
    """`max_retry_after` says how long a refusal may make a call wait."""
    assert await times_of(Quota(retry_after=3600), on=Quota, max_retry_after=3600) == ([0, 3600], None)
    error = Quota(retry_after=2)
    assert await times_of(error, on=Quota, max_retry_after=1) == ([3600], error)


async def test_a_refusal_is_honoured_where_hints_are_disregarded() -> None:
    """`retry_after=None` is about what servers say; a refusal is a policy's own."""
    assert await times_of(Quota(retry_after=7), on=Quota, retry_after=None) == ([0, 7], None)


@pytest.mark.parametrize(("deadline", "made"), [(5.0, [0]), (5.5, [0, 5])])
async def test_the_wait_must_fit_the_deadline(deadline: float, made: list[float]) -> None:
    """A refusal whose wait would reach the deadline is raised at once."""
    at, _ = await times_of(Quota(retry_after=5), on=Quota, deadline=deadline)
    assert at == made


async def test_the_wait_must_fit_the_budget() -> None:
    """The attempt after a refusal is an extra call like any other."""
    error = Quota(retry_after=5)
    assert await times_of(error, on=Quota, budget=ar.RetryBudget(ratio=0.5, floor=0)) == ([0], error)


Group = Callable[[], ExceptionGroup[Any]]


@pytest.mark.parametrize(
    ("group", "options", "made"),
    [
        (lambda: ExceptionGroup("", [Quota(retry_after=5)]), {"on": Quota}, [0, 5]),
        (lambda: ExceptionGroup("", [Quota(retry_after=5), Quota(retry_after=7)]), {"on": Quota}, [0, 7]),
        (
            lambda: ExceptionGroup("", [Quota(retry_after=5), ExceptionGroup("", [Quota(retry_after=9)])]),
            {"on": Quota},
            [0, 9],
        ),
        (lambda: ExceptionGroup("", [Quota(retry_after=5), Quota()]), {"on": Quota}, [0]),
        (lambda: ExceptionGroup("", [Quota(retry_after=1), OSError()]), {"on": (Quota, OSError)}, [0, 1]),
        (lambda: ExceptionGroup("", [Quota(retry_after=1), OSError()]), {"on": OSError}, [0]),
        (
            lambda: ExceptionGroup("", [Quota(retry_after=5), OSError()]),
            {"on": OSError, "groups": "any"},
            [0, 5],
        ),
        (lambda: ExceptionGroup("", [Quota(), OSError()]), {"on": OSError, "groups": "any"}, [0]),
    ],
)
async def test_a_refusal_in_a_group_sets_the_wait(
    group: Group, options: dict[str, Any], made: list[float]
) -> None:
    """A group with a refusal is not retried before that allows it, and not at all if it never says when."""
    at, _ = await times_of(group(), **options)
    assert at == made


async def test_y3_an_open_circuit_is_not_retried() -> None:
    """Retry outside the breaker: each try counts, an open circuit is not retried."""
    at: list[float] = []

    async def down() -> None:
        at.append(asyncio.get_running_loop().time())
        raise ConnectionError

    retry = ar.Retry(on=Exception, attempts=10, backoff=ar.Backoff.constant(1))
    breaker = ar.CircuitBreaker("payments", failure_threshold=3, recovery_timeout=30)
    with pytest.raises(ar.CircuitOpen) as caught:
        await ar.Pipeline(retry, breaker).call(down)
    assert at == [0, 1, 2]
    assert asyncio.get_running_loop().time() == 3.0
    assert caught.value.retry_after == 29.0
    assert [type(a.error) for a in ar.retry_history(caught.value)] == [ConnectionError] * 3 + [type(None)]


async def test_a_retry_knows_which_refusals_it_names() -> None:
    """A pipeline asks, to warn of a retry on an open circuit."""
    assert ar.Retry(on=(OSError, ar.CircuitOpen)).retries(ar.CircuitOpen)
    assert ar.Retry(on=ar.Rejected).retries(ar.CircuitOpen)
    assert not ar.Retry(on=Exception).retries(ar.CircuitOpen)
