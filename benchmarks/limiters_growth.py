"""Limiters that grow: keys, and tasks that wait for a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import aresilience as ar
from benchmarks.growth import Growth, Subject
from benchmarks.harness import Slice
from benchmarks.rings import PatientRing
from benchmarks.uses import HOT, LIMIT, RANDOM, Use, all_of, answer, by_key, few_of, keys_of

__all__ = ["GROWTH"]

_SLOW, _DEEP = "1/min", 10**7
"""So slow that no key is ever full again and forgotten, and so deep that all are admitted."""


def _decorated(size: int) -> Use:
    limiter = ar.RateLimiter(_SLOW, burst=_DEEP, key=lambda key: key, max_keys=size)
    return limiter(answer)


def _by_hand(size: int) -> Use:
    return ar.RateLimiter(_SLOW, burst=_DEEP, max_keys=size).try_acquire


async def _keyed(
    size: int, _: AsyncExitStack, *, make: Callable[[int], Use], of: Callable[[list[str]], list[str]]
) -> Slice:
    call, keys = make(size), keys_of(size)
    for key in keys:
        await call(key)
    return by_key(call, of(keys))


def _in_dict(size: int) -> Use:
    table = dict.fromkeys(keys_of(size), 0)

    async def call(key: str) -> object:
        table[key] += 1_000  # an integer of its own for each, as it is with a limiter
        return await answer(key)

    return call


async def _waiting(
    size: int, stack: AsyncExitStack, *, make: Callable[[], Callable[[], Awaitable[object]]]
) -> Slice:
    ring = PatientRing(make(), size)
    await ring.start()
    stack.push_async_callback(ring.close)
    return ring.run


def _acquire() -> Callable[[], Awaitable[object]]:
    return ar.RateLimiter("1/s", burst=1).acquire


def _sleep() -> Callable[[], Awaitable[object]]:
    loop = asyncio.get_running_loop()
    last = loop.time()

    async def wait() -> None:
        nonlocal last
        last += 1.0
        await asyncio.sleep(last - loop.time())

    return wait


_DICT, _SLEEP = f"control: a dict, {RANDOM}", "control: asyncio.sleep"

GROWTH = (
    Growth(
        "growth-limiter-keys",
        "Growth: a call through a RateLimiter with 1 to 100,000 keys",
        (
            Subject(HOT, partial(_keyed, make=_decorated, of=few_of), LIMIT),
            Subject(RANDOM, partial(_keyed, make=_decorated, of=all_of), LIMIT, _DICT),
            Subject(f"try_acquire, {RANDOM}", partial(_keyed, make=_by_hand, of=all_of), LIMIT, _DICT),
            Subject(_DICT, partial(_keyed, make=_in_dict, of=all_of)),
        ),
        ("The control adds to a number in a dict.",),
    ),
    Growth(
        "growth-limiter-waiting",
        "Growth: a wait for a token beside 1 to 100,000 tasks that wait",
        (
            Subject("acquire", partial(_waiting, make=_acquire), LIMIT, _SLEEP, virtual=True),
            Subject(_SLEEP, partial(_waiting, make=_sleep), virtual=True),
        ),
        (
            "On loops with virtual time. A turn: the next token is there, its task gets it and asks for "
            "another. The control sleeps until times that are as far away: a turn of the event loop and a "
            "timer in its heap are in both.",
        ),
    ),
)
