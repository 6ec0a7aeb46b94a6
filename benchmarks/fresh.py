"""Measuring in a process that has done nothing else.

Where objects and code happen to lie in memory makes a call some ten per cent faster or slower, for as long
as the process lives. Many rounds in one process do not show that; some rounds in each of several do.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol, runtime_checkable

from benchmarks.harness import Settings

__all__ = ["Sampled", "in_fresh_process"]


@runtime_checkable
class Sampled(Protocol):
    """A benchmark with work for fresh processes."""

    @property
    def name(self) -> str:
        """By which the process finds it."""

    def sample(self, part: int, settings: Settings) -> Any:
        """Do one part of it, there."""


def in_fresh_process(name: str, part: int, settings: Settings) -> Any:
    """What `sample(part, settings)` of the benchmark of this name returns, there."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(_sample, name, part, settings).result()


def _sample(name: str, part: int, settings: Settings) -> Any:
    from benchmarks.catalogue import SAMPLED  # not above: those that it lists import this module

    return SAMPLED[name].sample(part, settings)
