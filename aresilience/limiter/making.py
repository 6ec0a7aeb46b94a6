"""What a limiter is made of: the machines for its rates, and the store for its backend."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from aresilience import arguments
from aresilience.backend import Backend, MemoryBackend
from aresilience.limiter.algorithm import Algorithm
from aresilience.limiter.fixed_window import FixedWindow
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.leased import LeasedStore
from aresilience.limiter.memory import MemoryLimiterStore
from aresilience.limiter.rate import Rate
from aresilience.limiter.sliding_log import SlidingLog
from aresilience.limiter.sliding_window import SlidingWindow
from aresilience.limiter.store import LimiterStore, Meter

__all__ = ["ALGORITHMS", "AlgorithmName", "leased", "meters_for", "shrunk", "store_on"]

AlgorithmName: TypeAlias = Literal["gcra", "sliding_window", "fixed_window", "sliding_log"]
ALGORITHMS = ("gcra", "sliding_window", "fixed_window", "sliding_log")

_MOST_MICROS = 2**50
_EXACT = 2**52


def meters_for(
    name: str, rates: tuple[Rate, ...], burst: int | None, algorithm: AlgorithmName
) -> tuple[Meter, ...]:
    """A meter for each rate. Its name says by what it counts: the number of a window means nothing where the
    period is another, so a limiter whose period was changed, here or by a new release, counts by itself."""
    if burst is not None:
        arguments.count("RateLimiter: burst", burst)
        if algorithm != "gcra":
            raise ValueError(f"RateLimiter: burst belongs to gcra; {algorithm} holds its limit, no more")
        if len(rates) > 1:
            raise ValueError("RateLimiter: burst needs a single rate; of several, each holds its limit")
    window = algorithm in ("fixed_window", "sliding_window")
    return tuple(
        Meter(f"{name}:{algorithm}:{i}/{rate.period}" if window else f"{name}:{algorithm}:{i}", machine)
        for i, rate in enumerate(rates)
        for machine in [_machine(rate, burst, algorithm)]
    )


def _machine(rate: Rate, burst: int | None, algorithm: AlgorithmName) -> Algorithm:
    if algorithm == "gcra":
        machine = Gcra(rate, rate.limit if burst is None else burst)
        if machine.depth // rate.limit > _MOST_MICROS:
            raise ValueError(
                f"RateLimiter: burst must refill within 35 years, got {machine.capacity} at {rate}"
            )
        return machine
    if algorithm == "fixed_window":
        return FixedWindow(rate)
    if algorithm == "sliding_log":
        return SlidingLog(rate)
    sliding = SlidingWindow(rate)
    if rate.limit * sliding.steps > _EXACT:
        raise ValueError(
            f"RateLimiter: rate must be at most {_EXACT // sliding.steps} for a sliding_window, got {rate}"
        )
    return sliding


def shrunk(algorithm: Algorithm, share: float) -> Algorithm:
    rate = algorithm.rate
    less = Rate(max(1, int(rate.limit * share)), rate.period)
    if isinstance(algorithm, Gcra):
        return Gcra(less, max(1, int(algorithm.capacity * share)))
    return type(algorithm)(less)  # type: ignore[call-arg]


def store_on(backend: Backend | None, max_keys: int) -> LimiterStore:
    if backend is None:
        return MemoryLimiterStore(max_keys)
    if isinstance(backend, MemoryBackend):
        most = min(max_keys, backend.max_keys)
        return backend.shared("limiter", "", lambda: MemoryLimiterStore(most))
    from aresilience.backend.redis import RedisBackend

    if isinstance(backend, RedisBackend):
        from aresilience.limiter.redis import RedisLimiterStore

        redis = backend
        return redis.shared("limiter", "", lambda: RedisLimiterStore(redis))
    raise TypeError(f"RateLimiter: backend must come from ar.connect(…), got {backend!r}")


def leased(
    store: LimiterStore, meters: tuple[Meter, ...], lease: int | None, lease_time: float | timedelta
) -> LimiterStore:
    """The store, or one that takes blocks from it."""
    seconds = arguments.duration("RateLimiter: lease_time", lease_time)
    if lease is None:
        return store
    arguments.count("RateLimiter: lease", lease)
    least = min(meter.algorithm.capacity for meter in meters)
    if lease > least:
        raise ValueError(
            f"RateLimiter: lease must be at most what the limit holds ({least}), got {lease!r}"
        )
    return LeasedStore(store, lease, seconds)
