"""All benchmarks, in the order in which they are run."""

from __future__ import annotations

from benchmarks.crowds import GROWTH
from benchmarks.growth import Growth
from benchmarks.harness import Benchmark
from benchmarks.in_process import ROWS
from benchmarks.memory import COUNTS
from benchmarks.row import Row

__all__ = ["ALL", "SAMPLED"]

ALL: tuple[Benchmark, ...] = (*ROWS, *GROWTH, *COUNTS)

SAMPLED: dict[str, Row | Growth] = {each.name: each for each in (*ROWS, *GROWTH)}
"""Those that ask for fresh processes."""
