"""Bulkhead: so many inside, so many in a FIFO queue, and every permit comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.testing import Recorder, VirtualLoop

EPSILON = 1e-6


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def forever() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def ending(awaitable: Awaitable[object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error)


async def settle() -> None:
    """Let everything that can run now do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def inside(bulkhead: ar.Bulkhead) -> tuple[int, int]:
    """How many run, and how many wait."""
    return bulkhead.running, bulkhead.waiting


async def trace(
    bulkhead: ar.Bulkhead, calls: list[tuple[float, float]]
) -> list[tuple[float | None, float]]:
    """For calls of (arrival, duration): when each got in (None: refused), and when it was over."""

    async def call(arrival: float, duration: float) -> tuple[float | None, float]:
        await asyncio.sleep(arrival)
        try:
            async with bulkhead:
                entered = now()
                await asyncio.sleep(duration)
                return entered, now()
        except ar.BulkheadFull:
            return None, now()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(*each)) for each in calls]
    assert inside(bulkhead) == (0, 0)
    return [task.result() for task in tasks]


@pytest.mark.parametrize(
    ("bulkhead", "calls", "expected"),
    [
        # nobody waits by default: the third of two is refused at once
        ((2, 0, None), [(0, 5), (1, 5), (2, 5), (6, 1)], [(0, 5), (1, 6), (None, 2), (6, 7)]),
        # one after the other, in order of arrival
        ((1, 3, None), [(0, 5), (1, 5), (2, 5), (3, 5)], [(0, 5), (5, 10), (10, 15), (15, 20)]),
        # the queue is full: refused at once; there is a place again when the next one has moved up
        ((1, 1, None), [(0, 5), (1, 5), (2, 5), (6, 5)], [(0, 5), (5, 10), (None, 2), (10, 15)]),
        # max_wait is exact: a permit a moment before is good, at that moment or later it is too late
        ((1, 1, 3.0), [(0, 3 - EPSILON), (0, 1)], [(0, 3 - EPSILON), (3 - EPSILON, 4 - EPSILON)]),
        ((1, 1, 3.0), [(0, 3 + EPSILON), (0, 1)], [(0, 3 + EPSILON), (None, 3)]),
        # each waits for as long as max_wait, from its own arrival on
        ((1, 2, 3.0), [(0, 5), (1, 5), (4, 1)], [(0, 5), (None, 4), (5, 6)]),
    ],
)
async def test_who_gets_in_and_when(
    bulkhead: tuple[int, int, float | None], calls: list[tuple[float, float]], expected: object
) -> None:
    """Rows of (arrival, duration) against (entered or refused, over)."""
    permits, places, patience = bulkhead
    limit = ar.Bulkhead(permits, max_waiting=places, max_wait=patience)
    assert await trace(limit, calls) == expected


async def test_a_hundred_and_ten_in_flight() -> None:
    """Bulkhead(10, max_waiting=100) holds 110 calls, and refuses the 111th (tower's numbers)."""
    bulkhead = ar.Bulkhead(10, max_waiting=100)
    calls = [asyncio.create_task(bulkhead.call(forever)) for _ in range(110)]
    await settle()
    assert inside(bulkhead) == (10, 100)
    with pytest.raises(ar.BulkheadFull, match="is full: 10 of 10 running, 100 of 100 waiting"):
        await bulkhead.call(forever)
    assert now() == 0.0
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert inside(bulkhead) == (0, 0)


async def test_the_reverse_order_admits_ten() -> None:
    """A limit of 10 outside of a queue for 100 admits 10 calls, and nobody ever waits (tower's numbers)."""
    outer, queue = ar.Bulkhead(10, name="outer"), ar.Bulkhead(10, max_waiting=100)
    fetch = ar.Pipeline(outer, queue).wrap(forever)
    calls = [asyncio.create_task(ending(fetch())) for _ in range(110)]
    await settle()
    assert (inside(outer), inside(queue)) == ((10, 0), (10, 0))
    assert sum(call.done() for call in calls) == 100


async def test_a_permit_passes_from_hand_to_hand() -> None:
    """Who comes in the turn in which a permit is given back does not overtake the one who waits."""
    bulkhead = ar.Bulkhead(1, max_waiting=5)
    order: list[str] = []
    gate = asyncio.Event()

    async def call(name: str) -> None:
        async with bulkhead:
            order.append(name)
            await gate.wait()
        if name == "first":
            newcomer.append(asyncio.create_task(call("newcomer")))

    newcomer: list[asyncio.Task[None]] = []
    tasks = [asyncio.create_task(call(name)) for name in ("first", "second", "third")]
    await settle()
    gate.set()
    await asyncio.gather(*tasks)
    await newcomer[0]
    assert order == ["first", "second", "third", "newcomer"]


async def test_a_place_in_the_queue_is_free_when_its_wait_is_over() -> None:
    """In the very turn in which a wait runs out another caller can have the place, before the first has run."""
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=3.0)
    ended: list[str] = []

    async def come_at(when: float, name: str) -> None:
        await asyncio.sleep(when)
        ended.append(f"{name} {(await ending(bulkhead.call(forever))) is ar.BulkheadFull} {now()}")

    async with bulkhead, asyncio.TaskGroup() as group:
        group.create_task(come_at(3.0, "second"))  # its timer is older, so it runs first
        await asyncio.sleep(0)
        group.create_task(come_at(0.0, "first"))
    assert ended == ["first True 3.0", "second True 6.0"]


class Timers(VirtualLoop):
    """Remembers the timers that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, *args: object, **kwargs: object) -> asyncio.TimerHandle:
        """As ever, and remembered."""
        self.timers.append(super().call_at(*args, **kwargs))  # type: ignore[arg-type]
        return self.timers[-1]


@pytest.mark.parametrize(("deadline", "timers"), [(None, 1), (5.0, 11)])
def test_a_wait_that_is_over_leaves_no_timer(deadline: float | None, timers: int) -> None:
    """Waits that are granted share one timer, or call theirs off where a deadline is nearer."""

    async def main() -> int:
        bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=9.0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Timers)
        with ar.deadline(deadline):
            for _ in range(10):
                async with bulkhead:
                    waiter = asyncio.create_task(bulkhead.call(asyncio.sleep, 0))
                    await settle()
                await waiter
        if deadline is not None:
            assert all(timer.cancelled() for timer in loop.timers)
        await asyncio.sleep(20.0)
        return len(loop.timers) - 1

    with asyncio.Runner(loop_factory=Timers) as runner:
        assert runner.run(main()) == timers


# Cancellation, and whatever else ends a call


async def test_a_cancelled_waiter_frees_its_place() -> None:
    """A cancel in the queue leaves the queue, and the next one moves up."""
    bulkhead = ar.Bulkhead(1, max_waiting=2)
    async with bulkhead:
        first = asyncio.create_task(bulkhead.call(forever))
        second = asyncio.create_task(bulkhead.call(asyncio.sleep, 1.0))
        await settle()
        first.cancel()
        await settle()
        assert (first.cancelled(), inside(bulkhead)) == (True, (1, 1))
    await second
    assert inside(bulkhead) == (0, 0)


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_permit_that_meets_a_cancel_is_passed_on(cancel_first: bool, others: int) -> None:
    """A waiter cancelled in the step in which it is granted its permit passes it on, and is cancelled."""
    bulkhead = ar.Bulkhead(1, max_waiting=2)

    async def hold() -> None:
        async with bulkhead:
            await settle()
            if cancel_first:
                waiter.cancel()
        if not cancel_first:
            waiter.cancel()

    holder = asyncio.create_task(hold())
    waiter = asyncio.create_task(bulkhead.call(forever))
    behind = [asyncio.create_task(bulkhead.call(asyncio.sleep, 1.0)) for _ in range(others)]
    await asyncio.wait([holder, waiter, *behind])
    assert (waiter.cancelled(), inside(bulkhead)) == (True, (0, 0))
    assert now() == float(others)


@pytest.mark.parametrize(
    "error", [ValueError(), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()]
)
async def test_y10_a_permit_is_given_back_on_every_exit(error: BaseException) -> None:
    """Each layer releases its permit when an inner layer raises BaseException."""
    outer, inner = ar.Bulkhead(1), ar.Bulkhead(1)

    async def fail() -> None:
        assert (outer.running, inner.running) == (1, 1)
        raise error

    async def block() -> None:
        async with outer:
            await inner.call(fail)

    for use in (block, ar.Pipeline(outer, inner).wrap(fail)):
        with pytest.raises(type(error)):
            await use()
        assert (inside(outer), inside(inner)) == ((0, 0), (0, 0))


async def test_a_refused_caller_takes_nothing() -> None:
    """A refusal, at once or after a wait, neither takes nor gives a permit."""
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=1.0)
    async with bulkhead:
        waiter = asyncio.create_task(ending(bulkhead.call(forever)))
        await settle()
        assert await ending(bulkhead.call(forever)) is ar.BulkheadFull
        assert inside(bulkhead) == (1, 1)
        assert await waiter is ar.BulkheadFull
        assert inside(bulkhead) == (1, 0)
    assert inside(bulkhead) == (0, 0)


async def test_entered_twice_in_one_call_it_refuses_when_patience_ends() -> None:
    """A call that needs a second permit of a full bulkhead gets no answer until `max_wait`."""
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=2.0)
    assert await ending(bulkhead.wrap(bulkhead.wrap(forever))()) is ar.BulkheadFull
    assert (now(), inside(bulkhead)) == (2.0, (0, 0))


async def test_a_deadline_around_a_wait_is_what_ends_it() -> None:
    """The task's own deadline ends its wait as `DeadlineExceeded`; the queue is left."""
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=60.0)

    async def hurried() -> None:
        with ar.deadline(2.0):
            await bulkhead.call(forever)

    async with bulkhead:
        assert await ending(hurried()) is ar.DeadlineExceeded
        assert await ending(ar.Timeout(2.0).wrap(bulkhead.wrap(forever))()) is ar.TimedOut
        assert (now(), inside(bulkhead)) == (4.0, (1, 0))


# What it tells


async def test_refusals_are_told_and_explained() -> None:
    """Each refusal is one `CallRejected` and one message that counts who runs and who waits."""
    recorder = Recorder()
    bulkhead = ar.Bulkhead(1, max_waiting=1, max_wait=1.5, name="stock", listeners=[recorder])
    async with bulkhead:
        waiter = asyncio.create_task(bulkhead.call(forever))
        await settle()
        assert repr(bulkhead) == "<Bulkhead 'stock' 1/1 running, 1/1 waiting>"
        with pytest.raises(ar.Rejected) as full:
            await bulkhead.call(forever)
        with pytest.raises(ar.Rejected) as late:
            await waiter
    assert str(full.value) == "bulkhead 'stock' is full: 1 of 1 running, 1 of 1 waiting"
    assert str(late.value) == "bulkhead 'stock' had no permit in time: 1 of 1 running, 0 of 1 waiting"
    assert full.value.retry_after is late.value.retry_after is None
    assert recorder.events == [ar.CallRejected("stock", 0.0, None), ar.CallRejected("stock", 1.5, None)]


# Any history


OPERATIONS = st.lists(
    st.tuples(st.just("enter"), st.just(0))
    | st.tuples(st.just("leave"), st.integers(0, 9))
    | st.tuples(st.just("cancel"), st.integers(0, 9))
    | st.tuples(st.just("leave and cancel"), st.integers(0, 9))
    | st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 2.0 - EPSILON, 2.0, 2.0 + EPSILON])),
    max_size=25,
)


class Model:
    """A bulkhead of lists: who is inside, who waits until when, how the others ended."""

    def __init__(self, permits: int, places: int) -> None:
        self.permits, self.places = permits, places
        self.inside: list[int] = []
        self.queue: list[tuple[int, float]] = []
        self.ended: dict[int, object] = {}

    def enter(self, who: int, at: float) -> None:
        if len(self.inside) < self.permits:
            self.inside.append(who)
        elif len(self.queue) < self.places:
            self.queue.append((who, at + 2.0))
        else:
            self.ended[who] = ar.BulkheadFull

    def remove(self, who: int, how: object) -> None:
        if who not in self.ended:
            self.ended[who] = how
            self.inside = [i for i in self.inside if i != who]
            self.queue = [(i, until) for i, until in self.queue if i != who]

    def settle(self, at: float) -> None:
        while self.queue and len(self.inside) < self.permits:
            self.inside.append(self.queue.pop(0)[0])
        for who, until in list(self.queue):
            if until <= at:
                self.remove(who, ar.BulkheadFull)


@given(st.integers(1, 3), st.integers(1, 3), OPERATIONS, st.none() | st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_history_is_that_of_a_list(
    permits: int, places: int, history: list[tuple[str, float]], seed: int | None
) -> None:
    """Against a model of lists: the same callers are inside, in the queue, refused and cancelled."""

    async def main() -> None:
        bulkhead = ar.Bulkhead(permits, max_waiting=places, max_wait=2.0)
        model = Model(permits, places)
        gates: list[asyncio.Event] = []
        tasks: list[asyncio.Task[object]] = []
        entered: list[int] = []

        async def call(who: int) -> str:
            entered.append(who)
            await gates[who].wait()
            return "done"

        async def block(who: int) -> str:
            async with bulkhead:
                return await call(who)

        for verb, number in history:
            who = int(number)
            if verb == "enter":
                gates.append(asyncio.Event())
                use: Callable[[int], Awaitable[str]] = block if len(tasks) % 2 else bulkhead.wrap(call)
                tasks.append(asyncio.ensure_future(ending(use(len(tasks)))))
                model.enter(len(tasks) - 1, now())
            elif verb == "wait":
                await asyncio.sleep(number)
            elif verb == "leave and cancel":  # in one turn: the oldest inside, and someone else
                if model.inside and who < len(tasks) and who != model.inside[0]:
                    gates[model.inside[0]].set()
                    tasks[who].cancel()
                    model.remove(model.inside[0], "done")
                    model.remove(who, asyncio.CancelledError)
            elif verb == "leave" and who in model.inside:
                gates[who].set()
                model.remove(who, "done")
            elif verb == "cancel" and who < len(tasks):
                tasks[who].cancel()
                model.remove(who, asyncio.CancelledError)
            await settle()
            model.settle(now())
            ended = {k: task.result() for k, task in enumerate(tasks) if task.done()}
            assert ended == model.ended
            assert [who for who in entered if who not in ended] == model.inside
            assert inside(bulkhead) == (len(model.inside), len(model.queue))
        for task in tasks:
            task.cancel()
        await settle()
        assert inside(bulkhead) == (0, 0)

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        runner.run(main())
