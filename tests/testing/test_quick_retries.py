"""Retries that do not wait and end soon, for tests."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder, quick_retries


class Upstream:
    """A service that is down."""

    def __init__(self, works_at: float = math.inf) -> None:
        self.calls = 0
        self._works_at = works_at

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls < self._works_at:
            raise ConnectionError(f"down, call {self.calls}")
        return "up"


def retry(**options: Any) -> ar.Retry:
    """Five attempts, a minute apart."""
    return ar.Retry(on=ConnectionError, attempts=5, backoff=ar.Backoff.constant(60.0), **options)


async def by_loop(policy: ar.Retry, upstream: Upstream) -> str:
    """The iterator form."""
    answer = ""
    async for attempt in policy:
        async with attempt:
            answer = await upstream()
    return answer


@pytest.mark.parametrize(
    ("cap", "works_at", "calls"),
    [(None, 9, 5), (1, 9, 1), (2, 9, 2), (7, 9, 5), (None, 3, 3), (2, 2, 2), (2, 3, 2)],
)
@pytest.mark.parametrize("options", [{}, {"deadline": 3600.0}], ids=["plain", "deadline"])
@pytest.mark.parametrize("looped", [False, True])
async def test_no_wait_and_capped_attempts(
    cap: int | None, works_at: int, calls: int, options: dict[str, Any], looped: bool
) -> None:
    """(cap, the call that works, the calls made): without a wait, at most the policy's own attempts."""
    upstream, policy = Upstream(works_at), retry(**options)
    answer: object = None
    with quick_retries(cap):
        try:
            answer = await (by_loop(policy, upstream) if looped else policy.call(upstream))
        except ConnectionError as error:
            answer = error.args[0]
    assert upstream.calls == calls
    assert answer == ("up" if calls == works_at else f"down, call {calls}")
    assert asyncio.get_running_loop().time() == 0.0


async def test_tasks_that_run_elsewhere_are_quick_too() -> None:
    """It holds for the whole loop: a server's tasks, begun before, do not wait either."""
    upstream, begin = Upstream(3), asyncio.Event()

    async def serve() -> str:
        await begin.wait()
        return await retry().call(upstream)

    server = asyncio.create_task(serve())
    with quick_retries():
        begin.set()
        assert await server == "up"
    assert asyncio.get_running_loop().time() == 0.0


async def test_afterwards_all_is_as_before() -> None:
    """Outside of it, and of one inside another, the waits and attempts are the policy's."""
    upstream = Upstream()
    with quick_retries(3):
        with quick_retries(1), pytest.raises(ConnectionError):
            await retry().call(upstream)
        assert upstream.calls == 1
        with pytest.raises(ConnectionError):
            await retry().call(upstream)
        assert upstream.calls == 4
    with pytest.raises(ConnectionError):
        await retry().call(upstream)
    assert upstream.calls == 9
    assert asyncio.get_running_loop().time() == 240.0


async def test_what_would_stop_it_stops_it() -> None:
    """A wait that would overrun the deadline ends it, though nothing waits; the events say what was done."""
    upstream, seen = Upstream(), Recorder()
    with quick_retries(), pytest.raises(ConnectionError):
        await retry(deadline=50.0, listeners=[seen]).call(upstream)
    assert upstream.calls == 1
    assert [event.reason for event in seen.of(ar.RetryGaveUp)] == [ar.StopReason.DEADLINE]
    seen.clear()
    with quick_retries(2), pytest.raises(ConnectionError):
        await retry(listeners=[seen]).call(upstream)
    assert [event.delay for event in seen.of(ar.RetryScheduled)] == [0.0]
    assert [event.reason for event in seen.of(ar.RetryGaveUp)] == [ar.StopReason.ATTEMPTS]


@pytest.mark.quick_retries(attempts=2)
async def test_the_marker_does_the_same_in_virtual_time() -> None:
    """Under the plugin's mark a test need not say more."""
    await quick_by_mark()


@pytest.mark.real_time
@pytest.mark.quick_retries(2)
async def test_the_marker_does_the_same_on_a_real_loop() -> None:
    """Real time would make the same test take a minute."""
    await quick_by_mark()


async def quick_by_mark() -> None:
    """Two attempts, and no wait."""
    upstream = Upstream()
    before = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionError):
        await retry().call(upstream)
    assert upstream.calls == 2
    assert asyncio.get_running_loop().time() - before < 50.0


@pytest.mark.parametrize(("cap", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
async def test_a_cap_is_a_whole_number_of_at_least_one(cap: Any, error: type[Exception]) -> None:
    """Anything else is refused by name."""
    says = "quick_retries: attempts must be a whole number of at least 1"
    with pytest.raises(error, match=says), quick_retries(cap):
        raise AssertionError


def test_it_needs_a_running_loop() -> None:
    """It is the loop that carries it."""
    with pytest.raises(RuntimeError), quick_retries():
        raise AssertionError
