"""What a policy costs a call that succeeds: the rows, as data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from benchmarks.harness import Call, ok
from benchmarks.row import Contestant, Overhead, Row, Under, ours

__all__ = ["ASYNCIO_TIMEOUT", "INTERLOCK_THREE", "ROWS", "window_breaker"]


def _asyncio_timeout(asyncio: Any) -> Call:
    async def call() -> object:
        async with asyncio.timeout(5):
            return await ok()

    return call


def _anyio_fail_after(anyio: Any) -> Call:
    async def call() -> object:
        with anyio.fail_after(5):
            return await ok()

    return call


def _entered(guard: Any) -> Call:
    async def call() -> object:
        async with guard:
            return await ok()

    return call


def _interlock_breaker(interlock: Any) -> Any:
    return interlock.CircuitBreaker(name="bench", config=interlock.Config(slow_call_duration_threshold=1.0))


def window_breaker(ar: Any, window: Any) -> Any:
    return ar.CircuitBreaker(window=window, failure_rate=0.5, slow_call_duration=1.0)


async def _after_a_failure(ar: Any) -> Call:
    breaker = window_breaker(ar, ar.Window.calls(10_000_000))
    await breaker.record(await breaker.admit(), ValueError())
    call: Call = breaker(ok)
    return call


ASYNCIO_TIMEOUT = Contestant("asyncio.timeout", _asyncio_timeout, "asyncio")

RETRY = Row(
    "retry",
    "Retry",
    (
        ours(lambda ar: ar.Retry(on=ValueError)(ok)),
        Contestant("nopanic", lambda m: m.retry(attempts=3, on=ValueError)(ok), "nopanic", "nopanic"),
        Contestant("hyx", lambda m: m.retry(on=ValueError, attempts=3)(ok), "hyx.retry", "hyx"),
        Contestant(
            "backoff", lambda m: m.on_exception(m.expo, ValueError, max_tries=3)(ok), "backoff", "backoff"
        ),
        Contestant("stamina", lambda m: m.retry(on=ValueError, attempts=3)(ok), "stamina", "stamina"),
        Contestant(
            "tenacity",
            lambda m: m.retry(
                retry=m.retry_if_exception_type(ValueError),
                stop=m.stop_after_attempt(3),
                wait=m.wait_random_exponential(),
            )(ok),
            "tenacity",
            "tenacity",
        ),
    ),
    (Overhead(limit=1.3), Under(peer="nopanic", times=2.5), Under(peer="tenacity", times=100)),
)

BREAKER = Row(
    "breaker-consecutive",
    "Circuit breaker, consecutive failures",
    (
        ours(lambda ar: ar.CircuitBreaker(failure_threshold=5)(ok)),
        Contestant(
            "circuitbreaker",
            lambda m: m.CircuitBreaker(failure_threshold=5)(ok),
            "circuitbreaker",
            "circuitbreaker",
        ),
        Contestant(
            "purgatory", lambda m: m.AsyncCircuitBreakerFactory()("x")(ok), "purgatory", "purgatory"
        ),
        Contestant(
            "aiobreaker",
            lambda m: m.CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=30))(ok),
            "aiobreaker",
            "aiobreaker",
        ),
        Contestant(
            "hyx",
            lambda m: m.consecutive_breaker(
                exceptions=(ValueError,), failure_threshold=5, recovery_time_secs=30, recovery_threshold=3
            )(ok),
            "hyx.circuitbreaker",
            "hyx",
        ),
    ),
    (Overhead(limit=2),),
)

_BLEMISHED = "a failure in the window"
_OF_TIME = "window of 30 s"
_ENTERED = "async with"

WINDOW_BREAKER = Row(
    "breaker-window",
    "Circuit breaker, window and slow calls",
    (
        ours(lambda ar: window_breaker(ar, ar.Window.calls(100))(ok)),
        ours(_after_a_failure, _BLEMISHED),
        ours(lambda ar: window_breaker(ar, ar.Window.seconds(30))(ok), _OF_TIME),
        Contestant(
            "nopanic",
            lambda m: m.circuit_breaker(window=30.0, slow_call_duration=1.0)(ok),
            "nopanic",
            "nopanic",
        ),
        Contestant("interlock", lambda m: _interlock_breaker(m)(ok), "interlock", "interlock-cb"),
    ),
    (
        Overhead(limit=3.5),
        Under(peer="nopanic", times=5),
        Overhead(_BLEMISHED, limit=3.5),
        Under(_BLEMISHED, peer="nopanic", times=5),
        Overhead(_OF_TIME, limit=3.5),
        Under(_OF_TIME, peer="nopanic", times=5),
    ),
    (
        "The first has a window of 100 calls, all of them good; the second has a failure in a window so "
        "large that it stays there. nopanic's window is one of 30 s, interlock's one of 100 calls.",
    ),
)

TIMEOUT = Row(
    "timeout",
    "Timeout",
    (
        ours(lambda ar: ar.Timeout(5)(ok)),
        ASYNCIO_TIMEOUT,
        Contestant("nopanic", lambda m: m.timeout(5)(ok), "nopanic", "nopanic"),
        Contestant(
            "interlock", lambda m: m.Pipeline.builder().timeout(5).build()(ok), "interlock", "interlock-cb"
        ),
        Contestant("anyio.fail_after", _anyio_fail_after, "anyio", "anyio"),
    ),
    (Under(peer="asyncio.timeout", times=4),),
)

BULKHEAD = Row(
    "bulkhead",
    "Bulkhead, with room",
    (
        ours(lambda ar: ar.Bulkhead(10)(ok)),
        ours(lambda ar: _entered(ar.Bulkhead(10)), _ENTERED),
        Contestant("asyncio.Semaphore", lambda m: _entered(m.Semaphore(10)), "asyncio"),
        Contestant("nopanic", lambda m: m.bulkhead(10)(ok), "nopanic", "nopanic"),
        Contestant(
            "interlock",
            lambda m: m.Pipeline.builder().bulkhead(max_concurrent=10).build()(ok),
            "interlock",
            "interlock-cb",
        ),
        Contestant("anyio.CapacityLimiter", lambda m: _entered(m.CapacityLimiter(10)), "anyio", "anyio"),
    ),
    (
        Under(peer="asyncio.Semaphore"),
        Under(_ENTERED, peer="asyncio.Semaphore"),
    ),
)

INTERLOCK_THREE = Contestant(
    "interlock, three: timeout, retry, breaker",
    lambda m: m.Pipeline.builder().timeout(5).retry().circuit_breaker(_interlock_breaker(m)).build()(ok),
    "interlock",
    "interlock-cb",
)

PIPELINE = Row(
    "pipeline-four",
    "Pipeline of four: bulkhead, retry, breaker, timeout",
    (
        ours(
            lambda ar: ar.Pipeline(
                ar.Bulkhead(10),
                ar.Retry(on=ValueError),
                window_breaker(ar, ar.Window.calls(100)),
                ar.Timeout(5),
            )(ok)
        ),
        ours(
            lambda ar: ar.Pipeline(
                ar.Retry(on=ValueError), window_breaker(ar, ar.Window.calls(100)), ar.Timeout(5)
            )(ok),
            "three: retry, breaker, timeout",
        ),
        ASYNCIO_TIMEOUT,
        Contestant(
            "nopanic",
            lambda m: m.compose(
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

ROWS = (RETRY, BREAKER, WINDOW_BREAKER, TIMEOUT, BULKHEAD, PIPELINE)
