"""`FaultyBackend`: faults by plan and by seed, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from aresilience import NotSent, OutcomeUnknown, RateLimiter, Refused
from aresilience.backend import MemoryBackend
from aresilience.errors import BackendError
from aresilience.testing.faulty import Fault, FaultyBackend, StoreCall


class Shelf:
    """A store."""

    def __init__(self) -> None:
        self.count = 0
        self.label = "shelf"

    async def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    async def other(self) -> str:
        return "other"

    def peek(self) -> int:
        return self.count

    def __len__(self) -> int:
        return self.count


def on(backend: MemoryBackend) -> Shelf:
    """The store of that backend."""
    return backend.shared("shelf", "x", Shelf)


async def timed(shelf: Shelf) -> tuple[object, float]:
    """What adding one says, and after how long."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        said: object = await shelf.add()
    except BackendError as error:
        said = type(error)
    return said, loop.time() - started


@pytest.mark.parametrize(
    ("fault", "said", "after", "count"),
    [
        (None, 1, 0.0, 1),
        (Fault.NOT_SENT, NotSent, 0.0, 0),
        (Fault.REFUSED, Refused, 0.0, 0),
        (Fault.LOST_REQUEST, OutcomeUnknown, 0.25, 0),
        (Fault.LOST_REPLY, OutcomeUnknown, 0.25, 1),
        (Fault.LATE, OutcomeUnknown, 0.25, 0),
        (Fault.TWICE, 2, 0.0, 2),
    ],
)
async def test_each_fault_does_what_it_says(
    fault: Fault | None, said: object, after: float, count: int
) -> None:
    """What the caller hears, when, and whether it has happened; the next call is well."""
    backend = FaultyBackend()
    shelf = on(backend)
    backend.plan(fault)
    assert await timed(shelf) == (said, pytest.approx(after))
    assert shelf.peek() == count
    await backend.settle()
    assert shelf.peek() == count + (fault is Fault.LATE)
    assert await shelf.add() == shelf.peek()
    assert [call.fault for call in backend.calls] == [fault, None]


async def test_slow_is_slow_but_in_time() -> None:
    """SLOW: within the deadline, later than at once."""
    backend = FaultyBackend(seed=1, deadline=1.0)
    backend.plan(Fault.SLOW, times=10)
    for n in range(1, 11):
        said, after = await timed(on(backend))
        assert said == n
        assert 0 < after < 1.0


async def test_a_plan_is_kept_in_order_and_by_verb() -> None:
    """What is planned for a verb is for that verb; the rest is for whoever comes; None is no fault."""
    backend = FaultyBackend()
    shelf = on(backend)
    backend.plan(Fault.REFUSED, verb="other")
    backend.plan(None, Fault.NOT_SENT)
    backend.plan(Fault.TWICE, times=2)
    assert await shelf.add() == 1
    with pytest.raises(Refused):
        await shelf.other()
    with pytest.raises(NotSent):
        await shelf.other()
    assert await shelf.add() == 3
    assert await shelf.other() == "other"
    assert await shelf.add() == 4
    assert backend.calls[1] == StoreCall("shelf", "x", "other", Fault.REFUSED)


async def test_the_same_seed_gives_the_same_faults() -> None:
    """By seed: the same calls have the same faults; another seed, others; about as many as `rate` says."""

    async def history(seed: int) -> list[Fault | None]:
        backend = FaultyBackend(seed=seed, rate=0.3)
        for _ in range(400):
            await timed(on(backend))
        await backend.settle()
        return [call.fault for call in backend.calls]

    first = await history(1)
    assert first == await history(1)
    assert first != await history(2)
    counts = Counter(first)
    assert 230 < counts[None] < 330
    assert all(counts[fault] > 4 for fault in Fault)


@pytest.mark.virtual_time(seed=3)
async def test_without_a_seed_the_loops_decides() -> None:
    """No seed of its own: chance comes from the loop's, and only the faults that were chosen occur."""
    backend = FaultyBackend(rate=0.5, faults=(Fault.REFUSED,))
    for _ in range(50):
        await timed(on(backend))
    assert {call.fault for call in backend.calls} == {None, Fault.REFUSED}


async def test_healed_is_healed() -> None:
    """After `heal` nothing fails, whatever was planned or drawn."""
    backend = FaultyBackend(seed=1, rate=1.0)
    backend.plan(Fault.REFUSED, times=100)
    backend.heal()
    assert [await on(backend).add() for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "fault", [f for f in Fault if f not in (Fault.NOT_SENT, Fault.REFUSED, Fault.TWICE)]
)
async def test_cancelled_while_a_fault_makes_it_wait_nothing_has_happened(fault: Fault) -> None:
    """A verb that is cancelled did not happen, as the contract of a store says."""
    backend = FaultyBackend(seed=1)
    shelf = on(backend)
    backend.plan(fault)
    task = asyncio.ensure_future(shelf.add())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await backend.settle()
    assert task.cancelled()
    assert shelf.peek() == 0


async def test_what_is_not_async_passes() -> None:
    """Attributes can be read and set, plain methods called; the store itself is shared as on any backend."""
    backend = FaultyBackend(rate=1.0, seed=1, faults=(Fault.REFUSED,))
    shelf = on(backend)
    shelf.label = "changed"
    assert (on(backend).label, shelf.peek(), on(backend) is shelf) == ("changed", 0, True)
    assert "Shelf" in repr(shelf)
    assert backend.calls == []
    with pytest.raises(AttributeError):
        shelf.nothing  # noqa: B018


async def test_what_is_late_ends_with_the_backend() -> None:
    """Leaving the backend leaves no task."""
    async with FaultyBackend() as backend:
        backend.plan(Fault.LATE)
        await timed(on(backend))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_pattern_on_it_meets_the_faults() -> None:
    """A limiter on a faulty backend: its calls are seen, and fail as planned."""
    backend = FaultyBackend()
    limiter = RateLimiter("10/s", name="api", backend=backend, on_store_error="raise")
    backend.plan(Fault.REFUSED, verb="acquire")
    with pytest.raises(Refused):
        await limiter.try_acquire()
    assert await limiter.try_acquire()
    assert [(call.verb, call.fault) for call in backend.calls] == [
        ("acquire", Fault.REFUSED),
        ("acquire", None),
    ]


async def test_an_empty_store_is_a_store() -> None:
    """A store that is false when it is empty is made once, not each time that it is asked for."""
    backend = MemoryBackend()
    assert on(backend) is on(backend)
    assert on(backend) is not on(MemoryBackend())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    """`rate` is between 0 and 1."""
    with pytest.raises(ValueError, match="rate"):
        FaultyBackend(rate=rate)
