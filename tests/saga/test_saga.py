"""Running sagas, in virtual time: outcomes, results, keys, retries, parallel steps, nesting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


@dataclass(frozen=True)
class Order:
    """An input and a result."""

    id: str
    amount: Decimal


class World:
    """What has happened, and what is to go wrong."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.wrong: dict[str, Callable[[ar.SagaContext[Any]], Exception | None]] = {}
        self.seen = Recorder()

    def fails(self, step: str, error: Exception, times: int = 10**9) -> None:
        """So many attempts of a step (or, with a "-", of its compensation) raise this."""
        left = [times]

        def wrong(ctx: ar.SagaContext[Any]) -> Exception | None:
            left[0] -= 1
            return error if left[0] >= 0 else None

        self.wrong[step] = wrong

    def act(self, name: str, ctx: ar.SagaContext[Any]) -> None:
        """Do it, or fail."""
        wrong = self.wrong.get(name)
        error = None if wrong is None else wrong(ctx)
        self.log.append(name if error is None else f"{name}!")
        if error is not None:
            raise error


def trip(world: World, **options: Any) -> ar.Saga:
    """flight and hotel at the same time, then a car; then the payment; then a mail."""
    saga = ar.Saga("trip", listeners=[world.seen], **options)
    takes = {"flight": 2.0, "hotel": 1.0, "car": 1.0}

    def book(name: str, **more: Any) -> ar.Step[Order]:
        @saga.step(name=name, **more)
        async def book(ctx: ar.SagaContext[Order]) -> Order:
            await asyncio.sleep(takes[name])
            world.act(name, ctx)
            return Order(name, ctx.input.amount)

        @book.compensate
        async def cancel(ctx: ar.SagaContext[Order], booked: Order | None) -> None:
            assert (booked is None) is ctx.outcome_unknown
            assert ctx.compensating
            await asyncio.sleep(0.5)
            world.act(f"-{name}", ctx)

        return book

    flight, hotel = book("flight", after=[]), book("hotel", after=[])
    car = book("car", after=[flight, hotel])

    @saga.pivot
    async def pay(ctx: ar.SagaContext[Order]) -> int:
        world.act("pay", ctx)
        assert ctx.result(car) == Order("car", ctx.input.amount)
        return 3

    @saga.retriable
    async def mail(ctx: ar.SagaContext[Order]) -> None:
        world.act("mail", ctx)

    return saga


ORDER = Order("o", Decimal("9.90"))


async def undone(saga: ar.Saga, **options: Any) -> ar.SagaFailed:
    """Run a saga that fails."""
    with pytest.raises(ar.SagaFailed) as caught:
        await saga.run(ORDER, **options)
    return caught.value


async def test_all_of_it() -> None:
    """Every step happens, side by side where the graph allows; the result has each step's."""
    world = World()
    saga = trip(world)
    began = asyncio.get_running_loop().time()
    result = await saga.run(ORDER, id="42")
    assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)
    assert world.log == ["hotel", "flight", "car", "pay", "mail"]
    assert result["id" and saga.steps["pay"]] == 3
    assert result.results["hotel"] == Order("hotel", Decimal("9.90"))
    assert result.last is None
    assert "42" in repr(result)
    states = [event.new for event in world.seen.of(ar.SagaChanged)]
    assert states == [ar.SagaState.RUNNING, ar.SagaState.DONE]


async def test_a_failure_undoes_in_reverse_of_completion() -> None:
    """Fail in the third step: the hotel, which was done first, is undone last."""
    world = World()
    world.fails("car", ar.Fail("no cars"))
    error = await undone(trip(world))
    assert world.log == ["hotel", "flight", "car!", "-flight", "-hotel"]
    assert isinstance(error.cause, ar.Fail)
    assert error.__cause__ is error.cause
    assert {step.name: step.state.value for step in error.steps} == {
        "flight": "undone",
        "hotel": "undone",
        "car": "failed",
        "pay": "pending",
        "mail": "pending",
    }
    changed = world.seen.of(ar.SagaChanged)[1]
    assert (changed.new, changed.step, changed.error) == (ar.SagaState.COMPENSATING, "car", "Fail")


async def test_parallel_siblings_settle_first_and_are_undone() -> None:
    """arrow#3323: the sibling that was still on its way when the other failed is undone too."""
    world = World()
    world.fails("hotel", ar.Fail("full"))
    await undone(trip(world))
    assert world.log == ["hotel!", "flight", "-flight"]


async def test_an_unknown_outcome_is_tried_again_and_then_compensated_itself() -> None:
    """Three attempts with back-off; then the step is undone too, told that nobody knows."""
    world = World()
    world.fails("car", TimeoutError("no answer"))
    error = await undone(trip(world))
    assert world.log == ["hotel", "flight", "car!", "car!", "car!", "-car", "-flight", "-hotel"]
    assert isinstance(error.cause, TimeoutError)
    record = next(step for step in error.steps if step.name == "car")
    assert (record.tries, record.undo_tries, record.error) == (3, 1, "TimeoutError: no answer")


async def test_an_error_that_passes_is_retried_forward() -> None:
    """Infrastructure errors do not unwind: the second attempt works and the saga is done."""
    world = World()
    world.fails("car", ConnectionError("reset"), times=1)
    world.fails("mail", ConnectionError("reset"), times=20)
    await trip(world).run(ORDER)
    assert world.log[-1] == "mail"
    assert world.log.count("mail!") == 20
    assert not [entry for entry in world.log if entry.startswith("-")]


async def test_after_the_pivot_there_is_only_forward() -> None:
    """A retriable step that never works is not compensated, nor does its Fail mean anything: it is parked."""
    world = World()
    world.fails("mail", ar.Fail("no such address"))
    with pytest.raises(ar.SagaParked, match="mail") as caught:
        await trip(world).run(ORDER)
    assert world.log.count("mail!") == 25
    assert caught.value.remaining == ()
    assert "no such address" in caught.value.errors["mail"]
    assert world.seen.of(ar.SagaNeedsHelp)[0].step == "mail"


async def test_a_pivot_that_fails_is_undone_one_that_is_unknown_is_parked() -> None:
    """Fail before it happened: back. Nobody knows, and it has no compensation: a person decides."""
    world = World()
    world.fails("pay", ar.Fail("declined"))
    await undone(trip(world))
    assert world.log[-3:] == ["-car", "-flight", "-hotel"]
    world = World()
    world.fails("pay", TimeoutError())
    with pytest.raises(ar.SagaParked):
        await trip(world).run(ORDER)
    assert world.log[-3:] == ["pay!"] * 3


async def test_a_step_may_ask_to_be_parked() -> None:
    """on_exhausted="park": what must not be unwound for an infrastructure error waits for a person."""
    saga = ar.Saga("s")
    log: list[str] = []

    @saga.step(on_exhausted="park", attempts=2)
    async def fragile(ctx: ar.SagaContext[None]) -> str:
        log.append("fragile")
        if len(log) <= 2:
            raise OSError("down")
        return "up"

    @fragile.compensate
    async def undo(ctx: ar.SagaContext[None], result: str | None) -> None:
        log.append("undo")

    with pytest.raises(ar.SagaParked, match="down"):
        await saga.run(None, id="1")
    assert log == ["fragile"] * 2
    handle = await saga.resume("1")
    assert (await handle.result()).last == "up"


async def test_a_compensation_is_tried_ten_times_and_then_the_saga_is_stuck() -> None:
    """What remains is kept; nothing after it is undone, nothing is forgotten; resume goes on from there."""
    world = World()
    world.fails("car", ar.Fail("none"))
    world.fails("-flight", OSError("down"))
    saga = trip(world)
    with pytest.raises(ar.SagaStuck, match="flight") as caught:
        await saga.run(ORDER, id="1")
    assert not isinstance(caught.value, ar.SagaParked)
    assert world.log.count("-flight!") == 10
    assert "-hotel" not in world.log
    assert caught.value.remaining == ("flight", "hotel")
    assert caught.value.errors["flight"] == "OSError: down"
    assert world.seen.of(ar.SagaNeedsHelp)[0].new is ar.SagaState.STUCK
    world.wrong.clear()
    with pytest.raises(ar.SagaFailed):
        await (await saga.resume("1")).result()
    assert world.log[-2:] == ["-flight", "-hotel"]


async def test_attempts_of_action_and_compensation_are_counted_apart() -> None:
    """MassTransit#4676: attempts of the action do not use up those of the compensation."""
    world = World()
    world.fails("car", OSError("x"))
    world.fails("-car", OSError("y"), times=9)
    error = await undone(trip(world))
    car = next(step for step in error.steps if step.name == "car")
    assert (car.tries, car.undo_tries) == (3, 10)
    assert world.log.count("-car") == 1


async def test_retry_step_waits_as_it_is_told() -> None:
    """RetryStep: not yet. The same attempt again after so many seconds, as often as it says so."""
    saga = ar.Saga("s")
    times: list[tuple[float, int]] = []

    @saga.step(retry=ar.Retry(on=Exception, attempts=3))
    async def poll(ctx: ar.SagaContext[None]) -> str:
        times.append((round(asyncio.get_running_loop().time(), 3), ctx.attempt))
        if len(times) < 6:
            raise ar.RetryStep(after=7.0)
        return "ready"

    assert (await saga.run(None)).last == "ready"
    assert times == [(7.0 * i, 1) for i in range(6)]
    with pytest.raises(ValueError, match="after"):
        ar.RetryStep(after=0)


async def test_a_policy_goes_around_each_attempt() -> None:
    """retry= and timeout= take any policy; attempts= counts in the journal, around them; Fail passes all."""
    saga = ar.Saga("s")
    calls = {"slow": 0, "failing": 0}

    @saga.step(retry=ar.Retry(on=ar.TimedOut, attempts=2), timeout=ar.Timeout(1.0), attempts=3)
    async def slow(ctx: ar.SagaContext[None]) -> None:
        calls["slow"] += 1
        await asyncio.sleep(60 if calls["slow"] < 5 else 0)

    @saga.step(retry=ar.Retry(on=Exception, attempts=9), timeout=1.0)
    async def failing(ctx: ar.SagaContext[None]) -> None:
        calls["failing"] += 1
        raise ar.Fail("no")

    error = await undone_of(saga, None)
    assert calls == {"slow": 5, "failing": 1}
    assert error.steps[0].tries == 3


async def undone_of(saga: ar.Saga, input: Any) -> ar.SagaFailed:
    """Run a saga that fails."""
    with pytest.raises(ar.SagaFailed) as caught:
        await saga.run(input)
    return caught.value


async def test_a_time_limit_makes_the_outcome_unknown() -> None:
    """G7: what timed out may have happened: it is compensated, as unknown."""
    saga, log = ar.Saga("s"), []

    @saga.step(timeout=1.0, attempts=1)
    async def slow(ctx: ar.SagaContext[None]) -> str:
        log.append("happened")
        await asyncio.sleep(5)
        return "never said"

    @slow.compensate
    async def undo(ctx: ar.SagaContext[None], result: str | None) -> None:
        log.append(("undone", result, ctx.outcome_unknown))

    error = await undone_of(saga, None)
    assert isinstance(error.cause, ar.TimedOut)
    assert log == ["happened", ("undone", None, True)]


async def test_keys_are_stable_and_differ_by_saga_step_and_direction() -> None:
    """G4: on every attempt the same key; another one for the compensation, for another saga or step."""
    keys: list[str] = []
    saga = ar.Saga("s")

    @saga.step
    async def one(ctx: ar.SagaContext[int]) -> None:
        keys.append(ctx.idempotency_key)
        assert ctx.attempt == len(keys) or ctx.input > 0

    @one.compensate
    async def no_one(ctx: ar.SagaContext[int], result: None) -> None:
        keys.append(ctx.idempotency_key)

    @saga.step
    async def two(ctx: ar.SagaContext[int]) -> None:
        keys.append(ctx.idempotency_key)
        raise OSError

    for id_ in ("1", "2"):
        with pytest.raises(ar.SagaFailed):
            await saga.run(int(id_), id=id_)
    assert len(keys) == 10
    assert keys[1] == keys[2] == keys[3]
    assert len(set(keys)) == 6


async def test_the_same_id_is_the_same_saga() -> None:
    """Started twice, at once or later, it runs once; with another input it is refused."""
    world = World()
    saga = trip(world)
    results = await asyncio.gather(*(saga.run(ORDER, id="1") for _ in range(5)))
    assert {result.results["pay"] for result in results} == {3}
    assert (await saga.run(ORDER, id="1")).results["car"] == Order("car", ORDER.amount)
    assert world.log.count("pay") == 1
    with pytest.raises(ar.SagaMismatch):
        await saga.run(Order("other", Decimal(1)), id="1")
    world.fails("car", ar.Fail("none"))
    await undone(saga, id="2")
    again = await undone(saga, id="2")
    assert isinstance(again.cause, ar.Fail)
    assert world.log.count("car!") == 1
    with pytest.raises(LookupError):
        await saga.attach("3").result()


async def test_none_is_a_result() -> None:
    """G10: a step that returns None is done, its compensation gets None and is told that it is known."""
    saga, log = ar.Saga("s"), []

    @saga.step
    async def quiet(ctx: ar.SagaContext[None]) -> None:
        return None

    @quiet.compensate
    async def undo(ctx: ar.SagaContext[None], result: None) -> None:
        log.append((result, ctx.outcome_unknown))

    @saga.step
    async def fails(ctx: ar.SagaContext[None]) -> None:
        assert ctx.result(quiet) is None
        with pytest.raises(LookupError):
            ctx.result(fails)
        raise ar.Fail

    await undone_of(saga, None)
    assert log == [(None, False)]


async def test_a_result_that_cannot_be_kept_fails_after_the_effect() -> None:
    """G10: too large, or not of its type: not tried again, but compensated, as it has happened."""
    for value in ("x" * 200, 7):
        saga, log = ar.Saga("s", max_bytes=100), []

        @saga.step
        async def huge(ctx: ar.SagaContext[None], value: Any = value, log: list[Any] = log) -> str:
            log.append("happened")
            return value  # type: ignore[no-any-return]

        @huge.compensate
        async def undo(ctx: ar.SagaContext[None], result: Any, log: list[Any] = log) -> None:
            log.append(("undone", result))

        error = await undone_of(saga, None)
        assert isinstance(error.cause, ar.NotStorable)
        assert log == ["happened", ("undone", None)]


async def test_a_saga_within_a_saga() -> None:
    """A step may run a saga: its failure fails the step; once done it is undone with the step."""
    log: list[str] = []
    inner, outer = ar.Saga("inner"), ar.Saga("outer")

    @inner.step
    async def small(ctx: ar.SagaContext[str]) -> str:
        log.append(f"small {ctx.input}")
        if ctx.input == "bad":
            raise ar.Fail("inner")
        return "s"

    @small.compensate
    async def unsmall(ctx: ar.SagaContext[str], result: str | None) -> None:
        log.append(f"-small {result}")

    @outer.step
    async def big(ctx: ar.SagaContext[str]) -> str:
        return (await ctx.run(inner, ctx.input))[small]

    @big.compensate
    async def unbig(ctx: ar.SagaContext[str], result: str | None) -> None:
        await ctx.undo(inner)

    @outer.step
    async def after(ctx: ar.SagaContext[str]) -> None:
        log.append("after")
        if ctx.input == "late":
            raise ar.Fail("outer")

    assert (await outer.run("good")).results["big"] == "s"
    assert log == ["small good", "after"]
    log.clear()
    error = await undone_of(outer, "bad")
    assert isinstance(error.cause, ar.SagaFailed)
    assert log == ["small bad"]
    log.clear()
    await undone_of(outer, "late")
    assert log == ["small late", "after", "-small s"]
    assert [r.state async for r in inner.list(ar.SagaState.COMPENSATED)] == [ar.SagaState.COMPENSATED] * 2


async def test_a_thousand_steps() -> None:
    """G10: one saga of a thousand steps, in a line, and undone again."""
    saga, count = ar.Saga("s"), [0]
    for i in range(1000):

        @saga.step(name=f"step {i}")
        async def step(ctx: ar.SagaContext[None], i: int = i) -> int:
            count[0] += 1
            if i == 999:
                raise ar.Fail("the last")
            return i

        @step.compensate
        async def undo(ctx: ar.SagaContext[None], result: int | None, i: int = i) -> None:
            assert result == i
            count[0] -= 1

    await undone_of(saga, None)
    assert count == [1]


async def test_listing_and_looking() -> None:
    """By state; and each with the timeline of its steps."""
    world = World()
    saga = trip(world)
    await saga.run(ORDER, id="good")
    world.fails("car", ar.Fail("none"))
    await undone(saga, id="bad")
    world.fails("-flight", OSError())
    with pytest.raises(ar.SagaStuck):
        await saga.run(ORDER, id="stuck")
    running = await saga.start(Order("x", Decimal(1)), id="running")
    by_state = {
        state: [record.id async for record in saga.list(state)]
        for state in (ar.SagaState.DONE, ar.SagaState.COMPENSATED, ar.SagaState.STUCK, ar.SagaState.RUNNING)
    }
    assert [*by_state.values()] == [["good"], ["bad"], ["stuck"], ["running"]]
    assert len([record async for record in saga.list()]) == 4
    record = await saga.get("bad")
    assert record is not None
    assert [entry.name.rpartition(":")[0] + ":" + entry.step for entry in record.timeline][:2] == [
        "start:1:flight",
        "start:1:hotel",
    ]
    assert [entry.seq for entry in record.timeline] == list(range(1, len(record.timeline) + 1))
    assert [e.at for e in record.timeline] == sorted(e.at for e in record.timeline)
    assert record.step("car").state is ar.StepState.FAILED
    with pytest.raises(KeyError):
        record.step("boat")
    assert await saga.get("none") is None
    live = await running.get()
    assert live is not None
    assert live.owned
    world.wrong.clear()
    world.fails("car", ar.Fail("none"))
    await running.abort()
    with pytest.raises(ar.SagaFailed):
        await running.result()


async def test_a_state_to_list_is_a_state() -> None:
    """Its name would match nothing, and nobody would notice."""
    with pytest.raises(TypeError, match="must be a SagaState or None, got 'done'"):
        [record async for record in ar.Saga("s").list(state="done")]  # type: ignore[arg-type]


async def test_what_has_ended_is_kept_for_its_retention() -> None:
    """A week by default; then it is as if it had never been."""
    saga = trip(World(), retention=100.0)
    await saga.run(ORDER, id="1")
    await asyncio.sleep(99)
    assert await saga.get("1") is not None
    await asyncio.sleep(2)
    assert await saga.get("1") is None
