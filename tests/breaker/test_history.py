"""Random histories at boundary times, against a small book-keeping model, and chaos in shuffled loops.

The model keeps a book of eras (one per state) and of the calls that began in each, and works every answer
out of the book anew; the package keeps counters, rings and buckets.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aresilience import Backoff, BreakerChanged, BreakerState, CircuitBreaker, CircuitOpen, Window
from aresilience.breaker.machine import Circuit, Probe, Refusal, Rules
from aresilience.testing import Recorder, run_virtual

OPEN_TIMES, LEASE, SLOW, CAP, TOTAL, TO_CLOSE = (10.0, 20.0, 40.0), 4.0, 3.0, 2, 3, 2


@dataclass(eq=False)
class Era:
    """A state from its beginning on."""

    kind: str
    since: float
    fresh: bool = False
    open_for: float = 0.0
    began: list[float | None] = field(default_factory=list)
    """When each call of the era began; None once it has ended."""
    results: list[tuple[float, bool, bool]] = field(default_factory=list)
    """(began, failed, slow), in the order of arrival."""


Verdict = Callable[[list[tuple[float, bool, bool]], float], bool]


def in_a_row(results: list[tuple[float, bool, bool]], _: float) -> bool:
    """The last three failed."""
    return len(results) >= 3 and all(failed for _, failed, _ in results[-3:])


def too_many(results: list[tuple[float, bool, bool]]) -> bool:
    """Of at least three, half failed or all were slow."""
    n = len(results)
    return n >= 3 and (2 * sum(f for _, f, _ in results) >= n or all(s for _, _, s in results))


VARIANTS: dict[str, tuple[dict[str, Any], Verdict]] = {
    "streak": ({"failure_threshold": 3}, in_a_row),
    "calls": (
        {"window": Window.calls(5), "minimum_calls": 3, "slow_call_duration": SLOW},
        lambda results, now: too_many(results[-5:]),
    ),
    "time": (
        {"window": Window.seconds(10), "minimum_calls": 3, "slow_call_duration": SLOW},
        lambda results, now: too_many([r for r in results if r[0] // 1 > now // 1 - 10]),
    ),
}


class Model:
    """What a breaker should do, from the book."""

    def __init__(self, verdict: Verdict, slow: float) -> None:
        self.verdict, self.slow = verdict, slow
        self.book = [Era("closed", 0.0, fresh=True)]

    def turn(self, kind: str, now: float, *, fresh: bool = False) -> None:
        open_for = self.next_open_time(now) if kind == "open" else 0.0
        self.book.append(Era(kind, now, fresh, open_for))

    def next_open_time(self, ends: float) -> float:
        """By how many openings there were since the last healthy period."""
        rounds, eras = 0, list(self.book)
        while eras:
            era = eras.pop()
            last = next((e.open_for for e in reversed(eras) if e.kind == "open"), 0.0)
            if era.kind == "closed" and (era.fresh or ends - era.since >= last):
                break
            rounds, ends = rounds + (era.kind == "open"), era.since
        return OPEN_TIMES[min(rounds, 2)]

    def settle(self, now: float) -> Era:
        """The era as of now: a lease that ran out ended the half-open one."""
        era = self.book[-1]
        ends = [t + LEASE for t in era.began if t is not None]
        if era.kind == "half-open" and ends and min(ends) <= now:
            self.turn("open", min(ends))
        return self.book[-1]

    def begin(self, now: float) -> tuple[Era, int] | float | None:
        """The call's place in the book, or when to come back."""
        era = self.settle(now)
        if era.kind == "isolated":
            return None
        if era.kind == "open":
            if now < era.since + era.open_for:
                return era.since + era.open_for - now
            self.turn("half-open", now)
            era = self.book[-1]
        running = [t for t in era.began if t is not None]
        if era.kind == "half-open" and (len(running) == CAP or len(running) + len(era.results) == TOTAL):
            return min(running) + LEASE - now
        era.began.append(now)
        return era, len(era.began) - 1

    def end(self, era: Era, number: int, now: float, failed: bool | None) -> None:
        """The call's result, None if it is ignored."""
        if era.kind == "half-open":
            self.settle(now)
        began, era.began[number] = era.began[number], None
        assert began is not None
        if era is not self.book[-1] or failed is None:
            return
        slow = now - began > self.slow
        era.results.append((began, failed, slow))
        bad = self.verdict(era.results, now) if era.kind == "closed" else failed or slow
        if bad:
            self.turn("open", now)
        elif era.kind == "half-open" and len(era.results) == TO_CLOSE:
            self.turn("closed", now)

    def shows(self, now: float) -> tuple[str, int]:
        """The state and the number of probes that can be seen."""
        era = self.book[-1]
        over = era.kind == "open" and now >= era.since + era.open_for
        probes = sum(t is not None for t in era.began) if era.kind == "half-open" else 0
        return "half-open" if over else era.kind, probes


class Ignored(Exception):
    """Ignored by the breaker."""


ENDS: dict[str, BaseException | None] = {"ok": None, "fail": ConnectionError(), "ignore": Ignored()}


class Running:
    """A call through a breaker that ends when told, by one of three ways of use."""

    def __init__(self, breaker: CircuitBreaker, way: int) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future((self.decorated, self.guarded, self.admitted)[way](breaker))

    async def wait(self) -> None:
        await self.end

    async def decorated(self, breaker: CircuitBreaker) -> None:
        await breaker.call(self.wait)

    async def guarded(self, breaker: CircuitBreaker) -> None:
        async with breaker.guard():
            await self.end

    async def admitted(self, breaker: CircuitBreaker) -> None:
        permit, error = await breaker.admit(), None
        try:
            await self.end
        except BaseException as caught:  # noqa: BLE001 - recorded
            error = caught
        await breaker.record(permit, error)

    async def finish(self, how: str) -> None:
        error = ENDS.get(how)
        if how == "cancel":
            self.task.cancel()
        elif error is None:
            self.end.set_result(None)
        else:
            self.end.set_exception(error)
        await asyncio.gather(self.task, return_exceptions=True)


TIMES = [0.0, 0.125, 1.0, 3.0, 3.875, 4.0, 5.0, 9.0, 10.0, 11.0, 20.0, 40.0]
WAIT = st.tuples(st.just("wait"), st.sampled_from(TIMES))
BEGIN = st.tuples(st.sampled_from(["begin", "recover"]), st.integers(0, 2))
END = st.tuples(
    st.just("end"), st.integers(0, 5), st.sampled_from(["ok", "ok", "fail", "fail", "ignore", "cancel"])
)
BY_HAND = st.tuples(st.sampled_from(["isolate", "reset", "reset"]))
STEPS = st.one_of(*[WAIT] * 4, *[BEGIN] * 4, *[END] * 4, BY_HAND)
FAILURES = [step for _ in range(3) for step in (("begin", 0), ("end", 0, "fail"))]
"""What opens each of the breakers, so that most histories get further than the first state."""


async def replay(variant: str, steps: list[tuple[Any, ...]]) -> None:
    """Do the steps with the breaker and with the model, and compare after each."""
    options, verdict = VARIANTS[variant]
    breaker = CircuitBreaker(
        recovery_timeout=Backoff.sequence(*OPEN_TIMES),
        half_open_max_calls=CAP,
        half_open_total=TOTAL,
        success_threshold=TO_CLOSE,
        probe_timeout=LEASE,
        ignore=Ignored,
        **options,
    )
    recorder, model = Recorder(), Model(verdict, options.get("slow_call_duration", 1e9))
    breaker.listen(recorder)
    loop, running = asyncio.get_running_loop(), list[tuple[Running, tuple[Era, int]]]()
    for what, *more in steps:
        if what == "wait":
            await asyncio.sleep(more[0])
            continue  # a lease that ran out shows when somebody asks
        if what == "recover":
            await asyncio.sleep(breaker.snapshot().retry_after or 0)
        if what in ("begin", "recover"):
            call, place = Running(breaker, more[0]), model.begin(loop.time())
            await asyncio.sleep(0)
            if isinstance(place, tuple):
                assert not call.task.done()
                running.append((call, place))
            else:
                refusal = call.task.exception()
                assert isinstance(refusal, CircuitOpen)
                assert refusal.retry_after == place
        elif what == "end":
            if running:
                call, place = running.pop(more[0] % len(running))
                await call.finish(more[1])
                failed = {"ok": False, "fail": True}.get(more[1])
                model.end(*place, loop.time(), failed)
        else:
            await getattr(breaker, what)()
            kind = {"isolate": "isolated", "reset": "closed"}[what]
            model.turn(kind, loop.time(), fresh=True)
        seen = breaker.snapshot()
        assert (seen.circuit.value, seen.probes) == model.shows(loop.time())
    assert all(before.new is after.old for before, after in pairwise(recorder.of(BreakerChanged)))
    for call, _ in running:
        await call.finish("cancel")
    await recovers(breaker)


async def recovers(breaker: CircuitBreaker) -> None:
    """After the longest lease and the longest open time it closes, whatever went before."""
    if breaker.state is not BreakerState.ISOLATED:
        for _ in range(1 + TO_CLOSE):  # the first one may be what makes old failures too many
            await asyncio.sleep(LEASE + OPEN_TIMES[-1])
            await breaker.call(asyncio.sleep, 0)
        assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().probes == 0


@pytest.mark.parametrize("variant", VARIANTS)
@given(st.lists(STEPS, min_size=12, max_size=40))
@settings(deadline=None, max_examples=80)
def test_every_history_goes_as_the_book_says(variant: str, steps: list[tuple[Any, ...]]) -> None:
    """State, probes and refusals after every step are those of the model, and it always recovers."""
    run_virtual(replay(variant, FAILURES + steps))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, 4.0, 10.0, 1e6]),
            st.sampled_from(["trip", "trip", "admit", "admit", "admit", "ok", "fail", "drop", "reset"]),
            st.integers(0, 3),
            st.sampled_from([0.0, 0.5, 0.999]),
        ),
        min_size=8,
        max_size=40,
    )
)
@settings(deadline=None, max_examples=150)
def test_no_clock_wedges_the_machine(steps: list[tuple[float, str, int, float]]) -> None:
    """Whatever the clock does, generations rise, the cap holds, and no wait is longer than it may be."""
    circuit = Circuit(Rules(Backoff.sequence(10, 40, jitter="full"), CAP, TOTAL, TO_CLOSE, LEASE))
    probes: list[Probe] = []
    for now, what, which, u in steps:
        generation = circuit.generation
        if what == "trip":
            circuit.trip(circuit.generation, now, u)
        elif what == "admit":
            answer = circuit.admit(now, u)
            if isinstance(answer, Probe):
                probes.append(answer)
            elif isinstance(answer, Refusal):
                assert answer.retry_after is not None
                assert 0 < answer.retry_after <= 40
        elif what == "reset":
            circuit.reset(now)
        elif probes:
            success = {"ok": True, "fail": False, "drop": None}[what]
            circuit.record(probes[which % len(probes)], now, u, success)
        assert circuit.generation >= generation
        assert circuit.probes <= CAP
    last = steps[-1][0]
    circuit.admit(last, 0.999)
    assert not isinstance(circuit.admit(last + LEASE + 40, 0.999), Refusal)


def test_fifty_callers_in_chaos() -> None:
    """Fifty callers, any order, any end: never more probes than allowed, only legal changes, and it heals."""

    async def story(seed: int) -> set[tuple[str, str]]:
        chance = random.Random(seed)
        breaker = CircuitBreaker(
            failure_rate=0.5,
            minimum_calls=5,
            recovery_timeout=Backoff.sequence(*OPEN_TIMES),
            half_open_max_calls=CAP,
            success_threshold=TO_CLOSE,
            probe_timeout=LEASE,
        )
        recorder, probing, loop = Recorder(), Counter[int](), asyncio.get_running_loop()
        breaker.listen(recorder)

        async def call() -> None:
            rounds = len(recorder.of(BreakerChanged))
            probe = breaker.snapshot().circuit is BreakerState.HALF_OPEN
            probing[rounds] += probe
            try:
                assert max(probing[rounds], breaker.snapshot().probes) <= CAP, f"seed {seed}"
                await asyncio.sleep(chance.choice(TIMES[:6]))
                if chance.random() < (0.9 if loop.time() % 160 < 50 else 0.05):
                    raise ConnectionError
            finally:
                probing[rounds] -= probe

        async def caller() -> None:
            for _ in range(20):
                await asyncio.sleep(chance.choice(TIMES))
                task = asyncio.ensure_future(breaker.call(call))
                if chance.random() < 0.2:
                    loop.call_later(chance.choice(TIMES[:6]), task.cancel)
                (end,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(end, ConnectionError | CircuitOpen | asyncio.CancelledError | None)

        await asyncio.gather(*(caller() for _ in range(50)))
        changes = [(e.old.value, e.new.value) for e in recorder.of(BreakerChanged)]
        assert all(before[1] == after[0] for before, after in pairwise(changes))
        await recovers(breaker)
        return set(changes)

    assert set().union(*(run_virtual(story(seed), seed=seed) for seed in range(6))) == {
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("half-open", "closed"),
    }
