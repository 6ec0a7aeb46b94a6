"""A limit and its own cancel: told from everybody else's, whatever happened in the body before."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

import aresilience as ar

Body = Callable[[], Awaitable[object]]


async def by_deadline(body: Body) -> None:
    """ar.deadline"""
    with ar.deadline(5.0):
        await body()


async def by_timeout(body: Body) -> None:
    """ar.Timeout"""
    await ar.Timeout(5.0).call(body)


async def by_ambient(body: Body) -> None:
    """ar.Timeout under a nearer deadline"""
    with ar.deadline(5.0):
        await ar.Timeout(60.0).call(body)


async def by_retry(body: Body) -> None:
    """ar.Retry with a deadline"""
    await ar.Retry(on=ConnectionError, deadline=5.0).call(body)


async def by_hedge(body: Body) -> None:
    """ar.Hedge within ar.Timeout"""
    await ar.Pipeline(ar.Timeout(5.0), ar.Hedge(delay=1.0)).call(body)


LIMITS = pytest.mark.parametrize("limited", [by_deadline, by_timeout, by_ambient, by_retry, by_hedge])
Limited = Callable[[Body], Awaitable[None]]


async def fail(after: float) -> None:
    """One that goes wrong."""
    await asyncio.sleep(after)
    raise ConnectionError("down")


async def a_failed_group() -> None:
    """A TaskGroup whose failure is handled; before Python 3.13 it leaves `Task.cancelling()` raised."""
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(0.5))
            group.create_task(asyncio.sleep(60))


async def a_cancelled_child() -> None:
    """A child that somebody cancels: no cancel of ours."""
    child = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_later(0.5, child.cancel)
    try:
        await child
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def nothing() -> None:
    """Nothing at all."""


@LIMITS
@pytest.mark.parametrize("first", [a_failed_group, a_cancelled_child, nothing])
async def test_what_is_late_is_timed_out(limited: Limited, first: Callable[[], Awaitable[None]]) -> None:
    """The expiry ends as TimedOut, at the limit, and the task is not left cancelled."""

    async def body() -> None:
        await first()
        await asyncio.sleep(60)

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    with pytest.raises(ar.TimedOut):
        await limited(body)
    assert loop.time() == 5.0
    assert task is not None
    await asyncio.sleep(1)  # no cancel comes late


@LIMITS
@pytest.mark.parametrize("first", [a_failed_group, nothing])
@pytest.mark.parametrize("cleaning", [0.0, 10.0])
@pytest.mark.parametrize("at", [1.0, 5.0, 6.0])
async def test_a_cancel_by_somebody_else_wins(
    limited: Limited, first: Callable[[], Awaitable[None]], cleaning: float, at: float
) -> None:
    """Before the expiry, together with it, or while the body still cleans up: it ends as cancelled."""

    async def body() -> None:
        await first()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(cleaning)

    task = asyncio.create_task(limited(body))  # type: ignore[arg-type]
    asyncio.get_running_loop().call_at(at, task.cancel)
    await asyncio.wait((task,))
    if at > 5.0 and not cleaning:
        assert isinstance(task.exception(), ar.TimedOut)  # it had ended by then
    else:
        assert task.cancelled()


class Big:
    """What the body had in its hands."""


@contextmanager
def no_collector() -> Iterator[None]:
    """What is not freed by reference counts stays, and is seen."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@LIMITS
async def test_an_expiry_leaves_no_cycle(limited: Limited) -> None:
    """The error of a task that timed out is freed with it, and with all that its frames held."""
    seen: list[weakref.ref[Big]] = []

    async def body() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        await asyncio.sleep(60)

    async def forget() -> None:
        task = asyncio.create_task(limited(body))  # type: ignore[arg-type]
        await asyncio.wait((task,))
        assert isinstance(task.exception(), ar.TimedOut)

    with no_collector():
        await forget()
        assert [big() for big in seen] == [None] * len(seen)
