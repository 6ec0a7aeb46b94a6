"""What grows: breakers by the key and by hand, tasks in a queue, calls in a timeout."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from time import thread_time_ns
from typing import Any, TypeAlias, TypeVar

import aresilience as ar
from benchmarks.growth import Growth, Subject
from benchmarks.harness import SEED, Slice
from benchmarks.rings import CallRing, ManualQueue, QueueRing, Ring

__all__ = ["GROWTH"]

T = TypeVar("T")
_Call: TypeAlias = Callable[..., Awaitable[object]]

_LIMIT = 1.3
_IN_USE = 10
_LONG = 3600.0


async def _answer(*_: object) -> int:
    return 1


# Which of many are used: all of them, as no cache likes it, or a few


def _all(things: list[T]) -> list[T]:
    return random.Random(SEED).sample(things, len(things))


def _few(things: list[T]) -> list[T]:
    return random.Random(SEED).sample(things, min(_IN_USE, len(things)))


def _by_key(call: _Call, keys: list[str]) -> Slice:
    endless = itertools.cycle(keys)  # each slice goes on where the last one ended

    async def run(times: int) -> int:
        began = thread_time_ns()
        for key in itertools.islice(endless, times):
            await call(key)
        return thread_time_ns() - began

    return run


def _one_by_one(calls: list[_Call]) -> Slice:
    endless = itertools.cycle(calls)

    async def run(times: int) -> int:
        began = thread_time_ns()
        for call in itertools.islice(endless, times):
            await call()
        return thread_time_ns() - began

    return run


def _keys(size: int) -> list[str]:
    return [f"tenant-{number}" for number in range(size)]


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
    call = ar.CircuitBreakers(key=lambda key: key, max_keys=size)(_answer)
    keys = _keys(size)
    for key in keys:
        await call(key)
    return _by_key(call, of(keys))


async def _in_dict(size: int, _: AsyncExitStack) -> Slice:
    table = {key: _Plain() for key in _keys(size)}

    async def call(key: str) -> object:
        plain = table[key]
        return await _answer(key) if plain.closed and plain.inner.spotless else None

    return _by_key(call, _all(list(table)))


async def _in_lru(size: int, _: AsyncExitStack) -> Slice:
    table = OrderedDict((key, _Plain()) for key in _keys(size))

    async def call(key: str) -> object:
        plain = table[key]
        table.move_to_end(key)
        return await _answer(key) if plain.closed and plain.inner.spotless else None

    return _by_key(call, _all(list(table)))


async def _breakers(size: int, _: AsyncExitStack, *, of: Callable[[list[_Call]], list[_Call]]) -> Slice:
    return _one_by_one(of([ar.CircuitBreaker(name)(_answer) for name in _keys(size)]))


async def _closures(size: int, _: AsyncExitStack) -> Slice:
    def wrapped(fn: _Call) -> _Call:
        plain = _Plain()

        async def call(*args: Any, **kwargs: Any) -> object:
            return await fn(*args, **kwargs) if plain.closed and plain.inner.spotless else None

        return call

    return _one_by_one(_all([wrapped(_answer) for _ in range(size)]))


# Rings


async def _started(ring: Ring, stack: AsyncExitStack) -> Slice:
    await ring.start()
    stack.push_async_callback(ring.close)
    return ring.run


async def _waiting(size: int, stack: AsyncExitStack, *, behind: Callable[[int], Any]) -> Slice:
    return await _started(QueueRing(behind(size), size), stack)


async def _running(size: int, stack: AsyncExitStack, *, inside: Callable[[_Call], _Call]) -> Slice:
    return await _started(CallRing(inside, size), stack)


def _bulkhead(waiting: int) -> ar.Bulkhead:
    return ar.Bulkhead(1, max_waiting=waiting)


def _impatient(waiting: int) -> ar.Bulkhead:
    return ar.Bulkhead(1, max_waiting=waiting, max_wait=_LONG)


def _in_asyncio_timeout(fn: _Call) -> _Call:
    async def call() -> object:
        async with asyncio.timeout(_LONG):
            return await fn()

    return call


def _in_wrapper(fn: _Call) -> _Call:
    async def call(*args: Any, **kwargs: Any) -> object:
        return await fn(*args, **kwargs)

    return call


_HOT, _RANDOM = "ten in use", "all in random order"
_DICT, _LRU = f"control: a dict, {_RANDOM}", f"control: an OrderedDict, {_RANDOM}"
_CLOSURES, _FUTURES, _WRAPPER = f"control: closures, {_RANDOM}", "control: futures", "control: a wrapper"

GROWTH = (
    Growth(
        "growth-keyed-breakers",
        "Growth: a call through CircuitBreakers with 1 to 100,000 keys",
        (
            Subject(_HOT, partial(_keyed, of=_few), _LIMIT),
            Subject(_RANDOM, partial(_keyed, of=_all), _LIMIT, _LRU),
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
            Subject(_HOT, partial(_breakers, of=_few), _LIMIT),
            Subject(_RANDOM, partial(_breakers, of=_all), _LIMIT, _CLOSURES),
            Subject(_CLOSURES, _closures),
        ),
        ("The control: as many plain wrappers, each of which looks into a plain object of its own.",),
    ),
    Growth(
        "growth-bulkhead",
        "Growth: a wait and a hand-over in a Bulkhead with 1 to 100,000 waiting tasks",
        (
            Subject("Bulkhead", partial(_waiting, behind=_bulkhead), _LIMIT, _FUTURES),
            Subject("Bulkhead, max_wait", partial(_waiting, behind=_impatient), _LIMIT, _FUTURES),
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
            Subject("Timeout", partial(_running, inside=ar.Timeout(_LONG)), _LIMIT, _WRAPPER),
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
