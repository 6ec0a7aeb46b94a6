"""What a rate limiter costs a call that it admits, alone and as the first of five: the rows, as data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Call, ok
from benchmarks.in_process import ASYNCIO_TIMEOUT, INTERLOCK_THREE, window_breaker
from benchmarks.row import Contestant, Overhead, Row, Under, ours

__all__ = ["ROWS"]

_PLENTY = 10**9
"""Tokens at once: more than any row takes."""
_KEY = "k"


def _limiter(ar: Any) -> Any:
    return ar.RateLimiter("1000000/s", burst=_PLENTY)


def _after(admit: Callable[[], Awaitable[object]]) -> Call:
    """By hand, for those that have no decorator, or a slower one."""

    async def call() -> object:
        await admit()
        return await ok()

    return call


def _limits(strategy: str) -> Callable[[Any], Call]:
    def make(limits: Any) -> Call:
        counted = getattr(limits.aio.strategies, strategy)(limits.aio.storage.MemoryStorage())
        limit = limits.RateLimitItemPerSecond(_PLENTY)

        async def call() -> object:
            await counted.hit(limit, _KEY)
            return await ok()

        return call

    return make


def _throttled(m: Any) -> Call:
    quota = m.rate_limiter.per_sec(_PLENTY, burst=_PLENTY)
    return _after(m.Throttled(key=_KEY, using="gcra", quota=quota, store=m.store.MemoryStore()).limit)


def _pyrate(m: Any) -> Call:
    limiter = m.Limiter(m.Rate(_PLENTY, m.Duration.SECOND))

    async def call() -> object:
        limiter.try_acquire(_KEY, blocking=False)  # in this process: it answers at once
        return await ok()

    return call


_BY_HAND = "try_acquire"

LIMITER = Row(
    "limiter",
    "Rate limiter, one key",
    (
        ours(lambda ar: _limiter(ar)(ok)),
        ours(lambda ar: _after(_limiter(ar).try_acquire), _BY_HAND),
        Contestant(
            "aiolimiter", lambda m: _after(m.AsyncLimiter(_PLENTY, 1).acquire), "aiolimiter", "aiolimiter"
        ),
        Contestant("nopanic", lambda m: m.rate_limit(_PLENTY, per=1)(ok), "nopanic", "nopanic"),
        Contestant("limits, fixed window", _limits("FixedWindowRateLimiter"), "limits", "limits"),
        Contestant("limits, moving window", _limits("MovingWindowRateLimiter"), "limits", "limits"),
        Contestant("throttled-py, gcra", _throttled, "throttled.asyncio", "throttled-py"),
        Contestant("pyrate-limiter", _pyrate, "pyrate_limiter", "pyrate-limiter"),
    ),
    (Overhead(limit=2.5),),
    (
        "Each call is admitted. nopanic and the first of ours decorate; the others are awaited by hand in a "
        "coroutine that then awaits the work, so they are spared the wrapper's `*args, **kwargs`.",
    ),
)

PIPELINE = Row(
    "pipeline-five",
    "Pipeline of five: limiter, bulkhead, retry, breaker, timeout",
    (
        ours(
            lambda ar: ar.Pipeline(
                _limiter(ar),
                ar.Bulkhead(10),
                ar.Retry(on=ValueError),
                window_breaker(ar, ar.Window.calls(100)),
                ar.Timeout(5),
            )(ok)
        ),
        ASYNCIO_TIMEOUT,
        Contestant(
            "nopanic",
            lambda m: m.compose(
                m.rate_limit(_PLENTY, per=1),
                m.bulkhead(10),
                m.retry(attempts=3, on=ValueError),
                m.circuit_breaker(window=30.0, slow_call_duration=1.0),
                m.timeout(5),
            )(ok),
            "nopanic",
            "nopanic",
        ),
        INTERLOCK_THREE,
    ),
    (Under(peer="asyncio.timeout"), Under(peer="nopanic", times=6)),
    ("The breakers are those of the row with a window; asyncio.timeout is that one alone.",),
)

ROWS = (LIMITER, PIPELINE)
