"""All benchmarks, in the order in which they are run."""

from __future__ import annotations

from benchmarks import (
    crowds,
    fleets,
    idempotency,
    in_process,
    limiters,
    limiters_growth,
    limiters_memory,
    locks,
    locks_many,
    memory,
    over_redis,
    registry,
    sagas,
)
from benchmarks.fresh import Sampled
from benchmarks.harness import Benchmark

__all__ = ["ALL", "SAMPLED"]

ALL: tuple[Benchmark, ...] = (
    *in_process.ROWS,
    *limiters.ROWS,
    *crowds.GROWTH,
    *limiters_growth.GROWTH,
    *memory.COUNTS,
    *limiters_memory.COUNTS,
    *over_redis.ALL,
    *locks.ALL,
    *locks_many.ALL,
    *idempotency.ALL,
    *sagas.ALL,
    *registry.ALL,
    *fleets.ALL,
)

SAMPLED: dict[str, Sampled] = {each.name: each for each in ALL if isinstance(each, Sampled)}
"""Those that ask for fresh processes."""
