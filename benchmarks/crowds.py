"""What grows: breakers by the key and by hand, tasks in a queue, calls in a timeout."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aresilience as ar
from benchmarks.growth import Growth, Subject
from benchmarks.harness import Slice
from benchmarks.rings import CallRing, ManualQueue, QueueRing, Ring
from benchmarks.uses import HOT, LIMIT, RANDOM, Use, all_of, answer, by_key, few_of, keys_of, one_by_one

__all__ = ["GROWTH"]

_LONG = 3600.0


class _Inner:
    __slots__ = ("spotless",)

    def __init__(self) -> None:
        self.spotless = True


class _Plain:
    """An object as small as may be that holds another one, for the controls."""

    __slots__ = ("closed", "inner")

    def __init__(self) -> None:
        self.closed = True
        self.inner = _Inner()


async def _keyed(size: int, _: AsyncExitStack, *, of: Callable[[list[str]], list[str]]) -> Slice:
    call = ar.CircuitBreakers(key=lambda key: key, max_keys=size)(answer)
    keys = keys_of(size)
    for key in keys:
        await call(key)
    return by_key(call, of(keys))


async def _in_dict(size: int, _: AsyncExitStack) -> Slice:
    table = {key: _Plain() for key in keys_of(size)}

    async def call(key: str) -> object:
        plain = table[key]
        return await answer(key) if plain.closed and plain.inner.spotless else None

    return by_key(call, all_of(list(table)))


async def _in_lru(size: int, _: AsyncExitStack) -> Slice:
    table = OrderedDict((key, _Plain()) for key in keys_of(size))

    async def call(key: str) -> object:
        plain = table[key]
        table.move_to_end(key)
        return await answer(key) if plain.closed and plain.inner.spotless else None

    return by_key(call, all_of(list(table)))


async def _breakers(size: int, _: AsyncExitStack, *, of: Callable[[list[Use]], list[Use]]) -> Slice:
    return one_by_one(of([ar.CircuitBreaker(name)(answer) for name in keys_of(size)]))


async def _closures(size: int, _: AsyncExitStack) -> Slice:
    def wrapped(fn: Use) -> Use:
        plain = _Plain()

        async def call(*args: Any, **kwargs: Any) -> object:
            return await fn(*args, **kwargs) if plain.closed and plain.inner.spotless else None

        return call

    return one_by_one(all_of([wrapped(answer) for _ in range(size)]))


# Rings


async def _started(ring: Ring, stack: AsyncExitStack) -> Slice:
    await ring.start()
    stack.push_async_callback(ring.close)
    return ring.run


async def _waiting(size: int, stack: AsyncExitStack, *, behind: Callable[[int], Any]) -> Slice:
    return await _started(QueueRing(behind(size), size), stack)


async def _running(size: int, stack: AsyncExitStack, *, inside: Callable[[Use], Use]) -> Slice:
    return await _started(CallRing(inside, size), stack)


def _bulkhead(waiting: int) -> ar.Bulkhead:
    return ar.Bulkhead(1, max_waiting=waiting)


def _impatient(waiting: int) -> ar.Bulkhead:
    return ar.Bulkhead(1, max_waiting=waiting, max_wait=_LONG)


def _in_asyncio_timeout(fn: Use) -> Use:
    async def call() -> object:
        async with asyncio.timeout(_LONG):
            return await fn()

    return call


def _in_wrapper(fn: Use) -> Use:
    async def call(*args: Any, **kwargs: Any) -> object:
        return await fn(*args, **kwargs)

    return call


_DICT, _LRU = f"control: a dict, {RANDOM}", f"control: an OrderedDict, {RANDOM}"
_CLOSURES, _FUTURES, _WRAPPER = f"control: closures, {RANDOM}", "control: futures", "control: a wrapper"

GROWTH = (
    Growth(
        "growth-keyed-breakers",
        "Growth: a call through CircuitBreakers with 1 to 100,000 keys",
        (
            Subject(HOT, partial(_keyed, of=few_of), LIMIT),
            Subject(RANDOM, partial(_keyed, of=all_of), LIMIT, _LRU),
            Subject(_DICT, _in_dict),
            Subject(_LRU, _in_lru),
        ),
        (
            "The controls look up a plain object and look into it; the OrderedDict is kept in order of "
            "use, as CircuitBreakers keeps its breakers.",
        ),
    ),
    Growth(
        "growth-breakers",
        "Growth: calls of 1 to 100,000 functions, each with a CircuitBreaker",
        (
            Subject(HOT, partial(_breakers, of=few_of), LIMIT),
            Subject(RANDOM, partial(_breakers, of=all_of), LIMIT, _CLOSURES),
            Subject(_CLOSURES, _closures),
        ),
        ("The control: as many plain wrappers, each of which looks into a plain object of its own.",),
    ),
    Growth(
        "growth-bulkhead",
        "Growth: a wait and a hand-over in a Bulkhead with 1 to 100,000 waiting tasks",
        (
            Subject("Bulkhead", partial(_waiting, behind=_bulkhead), LIMIT, _FUTURES),
            Subject("Bulkhead, max_wait", partial(_waiting, behind=_impatient), LIMIT, _FUTURES),
            Subject("asyncio.Semaphore", partial(_waiting, behind=lambda _: asyncio.Semaphore(1))),
            Subject(_FUTURES, partial(_waiting, behind=lambda _: ManualQueue())),
        ),
        (
            "One task is inside. A turn: it leaves, the next one enters, and it queues again at the end. "
            "The control is a deque of futures, and no care for what goes wrong. A turn of the event loop is "
            "in all of them: what the policy itself costs is the difference to the control.",
        ),
    ),
    Growth(
        "growth-timeout",
        "Growth: a call in a Timeout beside 1 to 100,000 that are running",
        (
            Subject("Timeout", partial(_running, inside=ar.Timeout(_LONG)), LIMIT, _WRAPPER),
            Subject("asyncio.timeout", partial(_running, inside=_in_asyncio_timeout)),
            Subject(_WRAPPER, partial(_running, inside=_in_wrapper)),
        ),
        (
            "All are in one Timeout. A turn: the longest running call ends, and its task begins another. A "
            "turn of the event loop is in all of them: what the policy itself costs is the difference to the "
            "control.",
        ),
    ),
)
