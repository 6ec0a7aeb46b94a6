"""Giving up a result: called once, awaited for at most five seconds, never in the way."""

from __future__ import annotations

import asyncio
import logging

import pytest

import aresilience as ar
from aresilience.dispose import dispose_of


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def test_without_a_function_nothing_happens() -> None:
    """A result that nobody knows how to give up is left to the garbage collector."""
    await dispose_of("result", None)
    assert now() == 0.0


@pytest.mark.parametrize(
    ("takes", "closed", "at", "logged"),
    [
        (0.0, True, 0.0, 0),
        (5.0 - 1e-6, True, 5.0 - 1e-6, 0),
        (5.0, False, 5.0, 1),
        (3600.0, False, 5.0, 1),
    ],
)
async def test_it_has_five_seconds(
    takes: float, closed: bool, at: float, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A disposal of five seconds or more is cancelled, and that is logged, not raised."""
    given_up: list[object] = []

    async def close(result: object) -> None:
        await asyncio.sleep(takes)
        given_up.append(result)

    with caplog.at_level(logging.WARNING, "aresilience"):
        await dispose_of("result", close)
    assert given_up == (["result"] if closed else [])
    assert (now(), len(caplog.records)) == (at, logged)


async def test_its_errors_are_logged_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What a disposal raises, at once or later, goes to the log of `aresilience`."""

    def close(result: object) -> None:
        raise ValueError("cannot close")

    async def close_later(result: object) -> None:
        raise ValueError("cannot close later")

    with caplog.at_level(logging.WARNING, "aresilience"):
        await dispose_of("result", close)
        await dispose_of("result", close_later)
    assert [record.name for record in caplog.records] == ["aresilience", "aresilience"]
    assert "ValueError: cannot close\n" in caplog.text
    assert "ValueError: cannot close later" in caplog.text


async def test_a_cancel_passes() -> None:
    """A cancel during a disposal is not swallowed."""
    disposal = asyncio.create_task(dispose_of("result", lambda _: asyncio.sleep(3.0)))
    await asyncio.sleep(1.0)
    disposal.cancel()
    await asyncio.wait([disposal])
    assert disposal.cancelled()


async def test_the_ambient_deadline_does_not_count() -> None:
    """Under a deadline that is nearer, or has passed, policies inside a disposal still have their time."""
    seen: list[float | None] = []

    async def close(result: object) -> None:
        seen.append(ar.time_remaining())
        seen.append(await ar.Timeout(3.0).call(left_after, 1.0))

    async def left_after(seconds: float) -> float | None:
        await asyncio.sleep(seconds)
        return ar.time_remaining()

    async def late() -> float | None:
        await asyncio.sleep(2.0)
        await dispose_of("result", close)
        return ar.time_remaining()

    with ar.deadline(1.0):
        task = asyncio.create_task(late())
    assert await task == 0.0  # and afterwards it is as it was
    assert seen == [5.0, 2.0]
