"""Hedge: when a second call starts, who wins, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.testing import Recorder, run_virtual

EPSILON = 1e-6
NEVER = 1e9


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
    """Answers its n-th call as the n-th row says: after how long, and with what (an error is raised)."""

    def __init__(self, *rows: tuple[float, object]) -> None:
        self.rows = rows
        self.started: list[float] = []
        self.ended: list[tuple[int, str, float]] = []

    async def __call__(self) -> object:
        n = len(self.started)
        self.started.append(now())
        takes, answer = self.rows[n]
        how = "cancelled"
        try:
            await asyncio.sleep(takes)
            how = "done"
        finally:
            self.ended.append((n, how, now()))
        if isinstance(answer, BaseException):
            raise answer
        return answer


# When a hedge starts, and who wins


@pytest.mark.parametrize(
    ("rows", "expected", "at", "started"),
    [
        # in time: no hedge
        ([(1 - EPSILON, "a")], "a", 1 - EPSILON, [0.0]),
        # late: the hedge starts at exactly the delay; whoever answers first wins
        ([(1 + EPSILON, "a"), (5.0, "b")], "a", 1 + EPSILON, [0.0, 1.0]),
        ([(NEVER, "a"), (0.5, "b")], "b", 1.5, [0.0, 1.0]),
        # the third call starts one delay after the second
        ([(NEVER, "a"), (NEVER, "b"), (0.5, "c")], "c", 2.5, [0.0, 1.0, 2.0]),
        ([(3.0, "a"), (1.5, "b"), (5.0, "c")], "b", 2.5, [0.0, 1.0, 2.0]),
        # never more than max_hedges
        ([(10.0, "a"), (20.0, "b"), (30.0, "c")], "a", 10.0, [0.0, 1.0, 2.0]),
        # a failure before the hedge is the answer
        ([(0.5, ValueError())], ValueError, 0.5, [0.0]),
        # a failure after it is not, while another call may still succeed
        ([(1.2, ValueError()), (0.9, "b")], "b", 1.9, [0.0, 1.0]),
        ([(1.9, "a"), (0.2, ValueError())], "a", 1.9, [0.0, 1.0]),
        # if all fail it is the first call's error, whichever came last
        ([(1.5, ValueError()), (0.9, KeyError()), (0.0, OSError())], ValueError, 1.9, [0.0, 1.0]),
        ([(1.9, ValueError()), (0.5, KeyError())], ValueError, 1.9, [0.0, 1.0]),
    ],
)
async def test_the_first_success_wins(
    rows: list[tuple[float, object]], expected: object, at: float, started: list[float]
) -> None:
    """Rows of (takes, answers): the answer, when it comes, and when calls were started."""
    service = Service(*rows)
    assert await ending(ar.Hedge(delay=1.0, max_hedges=2).call(service)) == expected
    assert (now(), service.started) == (at, started)
    assert [end for end in service.ended if end[1] == "cancelled"] == [
        (n, "cancelled", at)
        for n in range(len(started))
        if n not in {e[0] for e in service.ended if e[1] == "done"}
    ]


async def test_a_delay_of_zero_starts_all_at_once() -> None:
    """With delay=0 the calls run in parallel from the start; one that answers at once needs no second."""
    service = Service((3.0, "a"), (2.0, "b"), (1.0, "c"))
    assert await ar.Hedge(delay=0, max_hedges=2).call(service) == "c"
    assert service.started == [0.0, 0.0, 0.0]

    async def at_once() -> str:
        calls.append(now())
        return "a"

    calls: list[float] = []
    assert await ar.Hedge(delay=0, max_hedges=2).call(at_once) == "a"
    assert calls == [1.0]


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_refusal_starts_no_further_hedge(refused: int) -> None:
    """When an inner policy refuses one of the calls, those that run are waited for, and no more start."""
    rows: list[tuple[float, object]] = [(4.0, "a"), (3.5, "b"), (0.0, "c")]
    rows[refused] = (1.5 - refused, ar.Rejected("full"))
    service = Service(*rows)
    assert await ar.Hedge(delay=1.0, max_hedges=2).call(service) == ("b" if refused == 0 else "a")
    assert service.started == [0.0, 1.0]


async def test_a_refused_first_call_is_refused() -> None:
    """A refusal before the hedge is raised as it is, with its retry_after."""
    service = Service((0.0, ar.Rejected("full", retry_after=3.0)))
    with pytest.raises(ar.Rejected, match="full") as caught:
        await ar.Hedge(delay=1.0).call(service)
    assert (caught.value.retry_after, service.started) == (3.0, [0.0])


async def test_the_error_of_the_first_call_notes_the_others() -> None:
    """If all fail, the first call's own error object is raised, each hedge's noted on it, once."""
    error = ValueError("first")
    for _ in range(2):  # the same exception object, raised again
        service = Service((3.0, error), (0.5, KeyError("second")), (0.5, asyncio.CancelledError()))
        with pytest.raises(ValueError, match="first") as caught:
            await ar.Hedge(delay=1.0, max_hedges=2).call(service)
        assert caught.value is error
    assert error.__notes__ == [
        "aresilience: hedge 1 failed too: KeyError('second')",
        "aresilience: hedge 2 failed too: CancelledError()",
    ]


async def test_a_call_that_cancels_itself_is_cancelled() -> None:
    """A CancelledError that comes out of the only call comes out of the hedge."""
    assert await ending(ar.Hedge(delay=1.0).call(Service((0.5, asyncio.CancelledError())))) is (
        asyncio.CancelledError
    )


async def test_it_tells_who_started_and_who_won() -> None:
    """`HedgeStarted` for each hedge, `HedgeWon` if one of them answers first."""
    recorder = Recorder()
    hedge = ar.Hedge(delay=1.0, max_hedges=2, name="stock", listeners=[recorder])
    await hedge.call(Service((0.5, "a")))
    assert recorder.events == []
    await hedge.call(Service((1.5, "a"), (5.0, "b")))
    assert recorder.events == [ar.HedgeStarted("stock", 1.5, 1, 1.0)]
    recorder.clear()
    await hedge.call(Service((9.0, "a"), (9.0, "b"), (0.5, "c")))
    assert recorder.events == [
        ar.HedgeStarted("stock", 3.0, 1, 1.0),
        ar.HedgeStarted("stock", 4.0, 2, 1.0),
        ar.HedgeWon("stock", 4.5, 2),
    ]
    assert repr(hedge) == "<Hedge 'stock' after 1 s, at most 2>"


async def test_each_call_has_a_copy_of_the_context() -> None:
    """A call sees the caller's context variables, and what it sets stays its own."""
    variable: ContextVar[str] = ContextVar("variable", default="default")

    async def call() -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    variable.set("the caller's")
    assert await ar.Hedge(delay=0.0).call(call) == "the caller's"
    assert variable.get() == "the caller's"


async def test_a_breaker_inside_ignores_the_losers() -> None:
    """Losers are no failures for a breaker inside, and give back the probes that they took."""
    breaker = ar.CircuitBreaker(failure_threshold=1, recovery_timeout=10.0, half_open_max_calls=2)
    pipeline = ar.Pipeline(ar.Hedge(delay=1.0), breaker)
    await pipeline.call(Service((9.0, "a"), (0.5, "b")))
    assert (breaker.state, breaker.snapshot().failures) == (ar.BreakerState.CLOSED, 0)
    await ending(breaker.call(Service((0.0, ValueError()))))
    await asyncio.sleep(10.0)
    assert await pipeline.call(Service((9.0, "a"), (0.5, "b"))) == "b"
    assert (breaker.state, breaker.snapshot().probes) == (ar.BreakerState.HALF_OPEN, 0)


async def test_an_open_circuit_inside_is_not_hedged() -> None:
    """`CircuitOpen` comes at once, and nothing is called."""
    breaker = ar.CircuitBreaker()
    await breaker.isolate()
    service = Service()
    assert await ending(ar.Pipeline(ar.Hedge(delay=0.0), breaker).call(service)) is ar.CircuitOpen
    assert (service.started, now()) == ([], 0.0)


# The budget


def test_hedges_are_paid_for_by_the_budget() -> None:
    """Under a slow service hedges are at most ratio · calls + floor · window, and none is cut short."""
    hedge = ar.Hedge(delay=0.001, budget=ar.RetryBudget(ratio=0.1, floor=0.2, window=10.0))
    started = 0

    async def slow() -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(0.002)

    async def main() -> None:
        for _ in range(100):
            await hedge.call(slow)

    run_virtual(main())
    assert started == 100 + 10 + 2
    assert hedge.budgeted


async def test_a_call_that_gets_no_hedge_from_the_budget_asks_once() -> None:
    """A call whose hedge was not paid for goes on without one, also when there is budget again."""
    budget = ar.RetryBudget(ratio=1e-9, floor=1.0, window=1.0)  # one extra call a second
    service = Service((5.0, "a"), (0.0, "b"))
    asyncio.get_running_loop().call_at(0.95, budget.withdraw, 0.95)
    assert await ar.Hedge(delay=1.0, budget=budget).call(service) == "a"
    assert budget.withdraw(now())
    assert service.started == [0.0]


async def test_a_spent_budget_touches_no_hedge_that_runs() -> None:
    """When the budget is used up while a hedge runs, that hedge goes on (failsafe-go#141 killed it)."""
    budget = ar.RetryBudget(ratio=1e-9, floor=0.1, window=10.0)  # one extra call
    service = Service((NEVER, "a"), (5.0, "b"), (NEVER, "c"))
    call = asyncio.create_task(ar.Hedge(delay=1.0, max_hedges=2, budget=budget).call(service))
    await asyncio.sleep(2.5)
    assert not budget.withdraw(now())
    assert await call == "b"
    assert service.started == [0.0, 1.0]


async def test_retries_and_hedges_share_one_budget() -> None:
    """What a hedge has spent a retry cannot spend again."""
    budget = ar.RetryBudget(ratio=1e-9, floor=0.1, window=10.0)  # one extra call
    recorder = Recorder()
    retry = ar.Retry(
        on=ValueError, attempts=5, backoff=ar.Backoff.constant(0), budget=budget, listeners=[recorder]
    )
    service = Service((2.0, ValueError()), (0.5, ValueError()), (0.0, "never"))
    assert await ending(ar.Pipeline(retry, ar.Hedge(delay=1.0, budget=budget)).call(service)) is ValueError
    assert service.started == [0.0, 1.0]
    assert [event.reason for event in recorder.of(ar.RetryGaveUp)] == [ar.StopReason.BUDGET]


@pytest.mark.parametrize("retry_outside", [True, False])
async def test_a_call_pays_in_once(retry_outside: bool) -> None:
    """However retry and hedge are nested, a call with all its attempts is one first call for their budget."""
    budget = ar.RetryBudget(ratio=0.5, floor=1.0, window=10.0)
    retry = ar.Retry(on=ValueError, attempts=2, backoff=ar.Backoff.constant(0), budget=budget)
    hedge = ar.Hedge(delay=1.0, budget=budget)
    pipeline = ar.Pipeline(*((retry, hedge) if retry_outside else (hedge, retry)))
    service = Service((2.0, ValueError()), (0.5, ValueError()), (0.0, "a"), (0.0, "b"))
    assert await pipeline.call(service) in ("a", "b")
    assert repr(budget).endswith("used by 1 calls>")


async def test_a_task_that_outlives_its_call_pays_for_its_own() -> None:
    """A background task that a hedged call started is no attempt of it once the call is over."""
    budget = ar.RetryBudget(floor=1.0)
    hedge = ar.Hedge(delay=1.0, budget=budget)
    later: list[asyncio.Task[object]] = []

    async def in_the_background() -> None:
        await asyncio.sleep(0.1)
        await hedge.call(asyncio.sleep, 0)

    async def call() -> None:
        await hedge.call(asyncio.sleep, 0)
        later.append(asyncio.create_task(in_the_background()))

    await hedge.call(call)
    assert repr(budget).endswith("used by 1 calls>")
    await later[0]
    assert repr(budget).endswith("used by 2 calls>")


# Any race


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.25, 0.5, 1.5, 2.25, 4.0]), st.sampled_from("orx")),
        min_size=4,
        max_size=4,
    ),
    max_hedges=st.integers(1, 3),
    seed=st.none() | st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_any_race_is_that_of_a_timetable(
    rows: list[tuple[float, str]], max_hedges: int, seed: int | None
) -> None:
    """Against a timetable (o answers, x fails, r refuses): the same winner, time, and calls."""
    answers: dict[str, Callable[[int], object]] = {
        "o": lambda n: n,
        "x": lambda n: ValueError(n),
        "r": lambda n: ar.Rejected(str(n)),
    }

    async def main() -> tuple[object, float, int]:
        service = Service(*((takes, answers[kind](n)) for n, (takes, kind) in enumerate(rows)))
        result = await ending(ar.Hedge(delay=1.0, max_hedges=max_hedges).call(service))
        return result, now(), len(service.started)

    ends = {0: rows[0][0]}  # of the calls that run
    failed: set[int] = set()
    quiet_since, calls, hedging = 0.0, 1, True
    while True:
        first, at = min(ends.items(), key=lambda item: item[1], default=(-1, NEVER))
        hedge_at = quiet_since + 1.0 if hedging and calls <= max_hedges and ends else NEVER
        assume(at != hedge_at or first == -1)  # a draw
        assume(sum(end == at for end in ends.values()) <= 1)
        if first == -1:
            expected: tuple[object, float, int] = (type(answers[rows[0][1]](0)), quiet_since, calls)
            break
        if hedge_at < at:
            ends[calls] = hedge_at + rows[calls][0]
            quiet_since, calls = hedge_at, calls + 1
        elif rows[first][1] == "o":
            expected = (first, at, calls)
            break
        else:
            failed.add(first)
            del ends[first]
            quiet_since, hedging = at, hedging and rows[first][1] != "r"
    assert run_virtual(main(), seed=seed) == expected
