"""Policies around policies: how many calls are made, how many are run, and what each policy counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, ParamSpec, TypeVar

import pytest

import aresilience as ar
from aresilience.testing import Recorder

P = ParamSpec("P")
T = TypeVar("T")

CLOSED, OPEN, HALF_OPEN = ar.BreakerState.CLOSED, ar.BreakerState.OPEN, ar.BreakerState.HALF_OPEN
EVERY_SECOND = ar.Backoff.constant(1.0)


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def ending(awaitable: Awaitable[object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error)


class Service:
    """Runs calls: each takes its time, then answers, or raises, what is next; the last row repeats."""

    def __init__(self, *rows: tuple[float, object]) -> None:
        self.rows = list(rows)
        self.runs: list[float] = []

    async def __call__(self) -> object:
        takes, answer = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        self.runs.append(now())
        await asyncio.sleep(takes)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Limiter(ar.Policy):
    """Refuses calls for as long as it is told to."""

    layer = ar.Layer.LIMIT
    refusal = ar.Rejected

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__()
        self.full = True
        self.retry_after = retry_after

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            if self.full:
                raise ar.Rejected("too many", retry_after=self.retry_after)
            return await fn(*args, **kwargs)

        return limited


def down() -> Service:
    """A service that fails each call at once."""
    return Service((0.0, OSError("down")))


def hung() -> Service:
    """A service that never answers."""
    return Service((1e9, "never"))


# Retry and breaker


async def test_y3_every_attempt_counts_and_an_open_circuit_ends_the_retrying() -> None:
    """Retry outside breaker: each try counts, an open circuit is not retried."""
    breaker = ar.CircuitBreaker(failure_threshold=3)
    service = down()
    call = ar.Pipeline(ar.Retry(on=OSError, attempts=10, backoff=EVERY_SECOND), breaker).wrap(service)
    assert await ending(call()) is ar.CircuitOpen
    assert (service.runs, now(), breaker.state) == ([0.0, 1.0, 2.0], 3.0, OPEN)
    assert await ending(call()) is ar.CircuitOpen
    assert (len(service.runs), now()) == (3, 3.0)


@pytest.mark.parametrize("on", [Exception, lambda error: True, (OSError, Exception)])
async def test_no_general_wish_to_retry_includes_an_open_circuit(on: Any) -> None:
    """`on=Exception` or a predicate does not retry `CircuitOpen`: only its name would."""
    breaker = ar.CircuitBreaker(failure_threshold=1)
    service = down()
    retry = ar.Retry(on=on, attempts=10, backoff=EVERY_SECOND)
    assert await ending(ar.Pipeline(retry, breaker).call(service)) is ar.CircuitOpen
    assert (service.runs, now()) == ([0.0], 1.0)


@pytest.mark.parametrize(
    ("attempts", "threshold", "fails", "expected", "runs", "state"),
    [
        (3, 5, 2, "up", 3, CLOSED),
        (3, 5, 9, OSError, 3, CLOSED),
        (5, 3, 9, ar.CircuitOpen, 3, OPEN),
        (3, 3, 9, OSError, 3, OPEN),
        (1, 1, 9, OSError, 1, OPEN),
        (4, 2, 1, "up", 2, CLOSED),
    ],
)
async def test_calls_made_and_calls_run(
    attempts: int, threshold: int, fails: int, expected: object, runs: int, state: ar.BreakerState
) -> None:
    """One call made of retry × breaker × timeout: its answer, and how often the function was run."""
    service = Service(*[(0.0, OSError())] * fails, (0.0, "up"))
    breaker = ar.CircuitBreaker(failure_threshold=threshold)
    pipeline = ar.Pipeline(
        ar.Timeout(100.0),
        ar.Retry(on=OSError, attempts=attempts, backoff=EVERY_SECOND),
        breaker,
        ar.Timeout(1.0),
    )
    assert await ending(pipeline.call(service)) == expected
    assert (len(service.runs), breaker.state) == (runs, state)


# Time limits


async def test_a_hang_is_a_failure_of_an_attempt() -> None:
    """An attempt's timeout inside the breaker is counted by it, and retried."""
    breaker = ar.CircuitBreaker(failure_threshold=3)
    service = hung()
    retry = ar.Retry(on=ar.TimedOut, attempts=10, backoff=EVERY_SECOND)
    pipeline = ar.Pipeline(ar.Timeout(100.0), retry, breaker, ar.Timeout(2.0))
    assert await ending(pipeline.call(service)) is ar.CircuitOpen
    assert (service.runs, now(), breaker.state) == ([0.0, 3.0, 6.0], 9.0, OPEN)


async def test_outside_the_breaker_a_hang_counts_nowhere() -> None:
    """The attempt's timeout outside: the breaker sees cancels only, which is why that order is warned of."""
    breaker = ar.CircuitBreaker(failure_threshold=1)
    service = hung()
    retry = ar.Retry(on=ar.TimedOut, attempts=3, backoff=EVERY_SECOND)
    with pytest.warns(ar.PipelineWarning, match="put the attempt's timeout inside the breaker"):
        pipeline = ar.Pipeline(retry, ar.Timeout(2.0), breaker)
    assert await ending(pipeline.call(service)) is ar.TimedOut
    assert (len(service.runs), breaker.state) == (3, CLOSED)


@pytest.mark.parametrize(
    ("total", "runs", "at"),
    [
        (5.0, [0.0, 3.0], 3.0),  # the wait for the third would end at 6
        (6.0, [0.0, 3.0], 3.0),  # or at the very moment when time is up
        (6.5, [0.0, 3.0, 6.0], 6.0),
    ],
)
async def test_a_total_limit_stops_the_waits_early(total: float, runs: list[float], at: float) -> None:
    """A wait that would overrun the total is not begun: the last error is raised at once."""
    service = down()
    retry = ar.Retry(on=OSError, attempts=10, backoff=ar.Backoff.constant(3.0))
    assert await ending(ar.Pipeline(ar.Timeout(total), retry).call(service)) is OSError
    assert (service.runs, now()) == (runs, at)


async def test_a_total_limit_cuts_an_attempt_off() -> None:
    """When the total runs out during an attempt, it is the total that timed out, and nothing is retried."""
    service = hung()
    pipeline = ar.Pipeline(
        ar.Timeout(5.0, name="total"),
        ar.Retry(on=ar.TimedOut, attempts=10, backoff=ar.Backoff.constant(0)),
        ar.Timeout(2.0, name="attempt"),
    )
    with pytest.raises(ar.TimedOut, match=r"^total: no answer within 5 s"):
        await pipeline.call(service)
    assert (service.runs, now()) == ([0.0, 2.0, 4.0], 5.0)


async def test_a_caller_s_deadline_says_nothing_of_the_service() -> None:
    """What an ambient deadline cuts short is no failure for a breaker; its own limit is one."""
    breaker = ar.CircuitBreaker(failure_threshold=1)
    call = ar.Pipeline(breaker, ar.Timeout(2.0)).wrap(hung())
    with ar.deadline(1.0):
        child = asyncio.create_task(ending(call()))
    assert await child is ar.DeadlineExceeded
    assert breaker.state is CLOSED
    assert await ending(call()) is ar.TimedOut
    assert breaker.state is OPEN


# Refusals on the way


async def test_a_refusal_inside_a_half_open_breaker_is_neutral() -> None:
    """A limiter's refusal below a half-open breaker neither closes nor reopens it, and frees the probe.

    With two outcomes instead of three it closes the circuit (measured on a prototype).
    """
    breaker = ar.CircuitBreaker(failure_threshold=1, recovery_timeout=10.0, success_threshold=1)
    limiter = Limiter()
    service = Service((0.0, OSError()), (0.0, "up"))
    limiter.full = False
    call = ar.Pipeline(breaker, limiter).wrap(service)
    await ending(call())
    await asyncio.sleep(10.0)
    limiter.full = True
    for _ in range(5):
        assert await ending(call()) is ar.Rejected
        assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)
    limiter.full = False
    assert await call() == "up"
    assert breaker.state is CLOSED


async def test_a_full_bulkhead_inside_a_breaker_is_neutral() -> None:
    """Refusals of a bulkhead inside do not open the circuit, nor are they a success that heals it."""
    breaker = ar.CircuitBreaker(failure_threshold=2)
    bulkhead = ar.Bulkhead(1)
    service = down()
    call = ar.Pipeline(breaker, bulkhead).wrap(service)
    await ending(call())
    async with bulkhead:
        for _ in range(10):
            assert await ending(call()) is ar.BulkheadFull
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 1)
    await ending(call())
    assert breaker.state is OPEN


async def test_a_named_refusal_is_retried_not_before_it_says() -> None:
    """A retry that names a refusal waits for exactly its retry_after."""
    limiter = Limiter(retry_after=7.0)
    service = Service((0.0, "up"))
    call = ar.Pipeline(ar.Retry(on=ar.Rejected, backoff=EVERY_SECOND), limiter).wrap(service)
    asyncio.get_running_loop().call_at(5.0, setattr, limiter, "full", False)
    assert await call() == "up"
    assert service.runs == [7.0]


async def test_an_admission_limiter_outside_counts_requests_and_inside_attempts() -> None:
    """A bulkhead around a retry is held through its waits; inside, each attempt queues anew."""
    held: list[list[int]] = []
    for outside in (True, False):
        bulkhead = ar.Bulkhead(1, max_waiting=5)
        retry = ar.Retry(on=OSError, attempts=2, backoff=ar.Backoff.constant(10.0))
        parts = (bulkhead, retry) if outside else (retry, bulkhead)
        calls = [asyncio.create_task(ending(ar.Pipeline(*parts).call(down()))) for _ in range(2)]
        await asyncio.sleep(5.0)
        held.append([bulkhead.running, bulkhead.waiting])
        await asyncio.wait(calls)
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)
    assert held == [[1, 1], [0, 0]]


async def test_the_fallback_answers_when_everything_inside_has_given_up() -> None:
    """Outermost, a fallback answers refusals, limits and exhausted retries, and each is counted inside."""
    recorder = Recorder()
    breaker = ar.CircuitBreaker(failure_threshold=3)
    pipeline = ar.Pipeline(
        ar.Fallback("cached", listeners=[recorder]),
        ar.Retry(on=OSError, attempts=2, backoff=EVERY_SECOND),
        breaker,
    )
    service = down()
    assert [await pipeline.call(service) for _ in range(3)] == ["cached"] * 3
    assert len(service.runs) == 3
    assert [type(event.error) for event in recorder.of(ar.FallbackUsed)] == [
        OSError,
        ar.CircuitOpen,
        ar.CircuitOpen,
    ]


async def test_a_hedge_inside_a_retry_doubles_each_attempt() -> None:
    """Retry × hedge: each attempt may be two runs, and each run has its own attempt timeout."""
    budget = ar.RetryBudget(floor=100.0)
    service = hung()
    pipeline = ar.Pipeline(
        ar.Retry(on=ar.TimedOut, attempts=2, backoff=EVERY_SECOND, budget=budget),
        ar.Hedge(delay=1.0, budget=budget),
        ar.Timeout(3.0),
    )
    with pytest.raises(ar.TimedOut) as caught:
        await pipeline.call(service)
    assert (service.runs, now()) == ([0.0, 1.0, 5.0, 6.0], 9.0)
    assert sum("hedge 1 failed too: TimedOut" in note for note in caught.value.__notes__) == 1


async def test_a_listener_may_use_the_policy_that_tells_it() -> None:
    """A callback that looks at its policy, or calls it again, ends (gobreaker deadlocks, #37), in order."""
    bulkhead = ar.Bulkhead(1, name="full")
    seen: list[tuple[str, int]] = []

    def listener(event: ar.Event) -> None:
        seen.append((repr(bulkhead), len(seen)))
        if len(seen) < 3:
            again = bulkhead.call(down())
            with pytest.raises(ar.BulkheadFull):
                again.send(None)

    bulkhead.listen(listener)
    async with bulkhead:
        assert await ending(bulkhead.call(down())) is ar.BulkheadFull
    assert seen == [("<Bulkhead 'full' 1/1 running, 0/0 waiting>", n) for n in range(3)]


# Whatever ends a call, everything is given back


def everything(
    listeners: list[Recorder] | None = None,
) -> tuple[ar.Pipeline, ar.Bulkhead, ar.CircuitBreaker, ar.Timeout]:
    """A pipeline of all policies, and those of them that hold something."""
    bulkhead = ar.Bulkhead(2, max_waiting=2, max_wait=5.0)
    breaker = ar.CircuitBreaker(failure_threshold=3, recovery_timeout=10.0)
    attempt = ar.Timeout(2.0)
    pipeline = ar.Pipeline.standard(
        fallback=ar.Fallback("instead", on=ar.CircuitOpen),
        limiter=Limiter(),
        bulkhead=bulkhead,
        deadline=ar.Timeout(30.0),
        retry=ar.Retry(on=OSError, backoff=EVERY_SECOND, budget=ar.RetryBudget()),
        hedge=ar.Hedge(delay=1.0),
        breaker=breaker,
        attempt_timeout=attempt,
    )
    pipeline.policies[1].full = False  # type: ignore[attr-defined]
    return pipeline, bulkhead, breaker, attempt


def held(pipeline: tuple[ar.Pipeline, ar.Bulkhead, ar.CircuitBreaker, ar.Timeout]) -> tuple[object, ...]:
    """What a pipeline of `everything` holds."""
    _, bulkhead, breaker, attempt = pipeline
    return bulkhead.running, bulkhead.waiting, breaker.snapshot().probes, repr(attempt)[-12:]


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("half_open", [False, True])
async def test_y10_every_layer_gives_back_what_it_took(error: BaseException, half_open: bool) -> None:
    """Each layer releases its permit when an inner layer raises BaseException, in half-open state too."""
    parts = everything()
    if half_open:
        for _ in range(3):
            await ending(parts[2].call(down()))
        await asyncio.sleep(10.0)
    inside: list[tuple[object, ...]] = []

    async def fail() -> NoReturn:
        inside.append(held(parts))
        raise error

    assert await ending(parts[0].call(fail)) is type(error)
    assert inside == [(1, 0, int(half_open), "1 timed now>")]
    assert held(parts) == (0, 0, 0, "0 timed now>")
    assert ar.time_remaining() is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_whole_pipeline_on_a_bad_day() -> None:
    """Calls that succeed, hang, fail, and are refused go through all policies, and leave nothing held."""
    parts = everything()
    pipeline = parts[0]
    rows = [
        (Service((0.5, "quick")), "quick", 1),
        (Service((9.0, "slow"), (0.5, "hedged")), "hedged", 2),
        (Service((0.0, OSError()), (0.5, "again")), "again", 2),
        (Service((0.0, KeyError())), KeyError, 1),
        (hung(), "instead", 2),  # two failures more: the circuit is open when it is retried
        (down(), "instead", 0),
    ]
    for service, expected, runs in rows:
        assert await ending(pipeline.call(service)) == expected
        assert len(service.runs) == runs
    assert held(parts) == (0, 0, 0, "0 timed now>")
    assert asyncio.all_tasks() == {asyncio.current_task()}
