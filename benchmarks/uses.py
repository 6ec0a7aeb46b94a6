"""Calls that use many things in turn: all of them in random order, as no cache likes it, or a few."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from time import thread_time_ns
from typing import TypeAlias, TypeVar

from benchmarks.harness import SEED, Slice

__all__ = ["HOT", "LIMIT", "RANDOM", "Use", "all_of", "answer", "by_key", "few_of", "keys_of", "one_by_one"]

T = TypeVar("T")
Use: TypeAlias = Callable[..., Awaitable[object]]

LIMIT = 1.3
"""How much dearer a call may become when there are many of something."""
HOT, RANDOM = "ten in use", "all in random order"
_IN_USE = 10


async def answer(*_: object) -> int:
    """The work, whatever the key."""
    return 1


def keys_of(size: int) -> list[str]:
    """So many keys."""
    return [f"tenant-{number}" for number in range(size)]


def all_of(things: list[T]) -> list[T]:
    """All, in random order."""
    return random.Random(SEED).sample(things, len(things))


def few_of(things: list[T]) -> list[T]:
    """Ten, at random."""
    return random.Random(SEED).sample(things, min(_IN_USE, len(things)))


def by_key(call: Use, keys: list[str]) -> Slice:
    """Slices of calls with one key after the other."""
    endless = itertools.cycle(keys)  # each slice goes on where the last one ended

    async def run(times: int) -> int:
        began = thread_time_ns()
        for key in itertools.islice(endless, times):
            await call(key)
        return thread_time_ns() - began

    return run


def one_by_one(calls: list[Use]) -> Slice:
    """Slices of one call after the other."""
    endless = itertools.cycle(calls)

    async def run(times: int) -> int:
        began = thread_time_ns()
        for call in itertools.islice(endless, times):
            await call()
        return thread_time_ns() - began

    return run
