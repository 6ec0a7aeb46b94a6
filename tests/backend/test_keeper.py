"""The keeper: one timer for all leases, renewals in common, and loss by arithmetic alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import aresilience as ar
from aresilience.backend.leases import Body, Confirmation, Keeper, Kept
from aresilience.clock import lease_reader
from aresilience.errors import BackendError, NotSent, OutcomeUnknown
from aresilience.testing import FaultyBackend, run_virtual

Answer = Callable[["Thing"], "Confirmation | BackendError | None"]


class Ours:
    """A family that remembers when it was asked for what, and answers by a function."""

    def __init__(self, answer: Answer | None = None, takes: float = 0.0) -> None:
        self.asked: list[tuple[float, int]] = []
        self.answer = answer
        self.takes = takes

    async def renew(self, leases: Sequence[Thing]) -> Sequence[Confirmation | BackendError | None]:
        """Say yes, late or otherwise."""
        sent = asyncio.get_running_loop().time()
        self.asked.append((round(sent, 6), len(leases)))
        if self.takes:
            await asyncio.sleep(self.takes)
        return [self.answer(lease) if self.answer else Confirmation(sent) for lease in leases]


class Thing(Kept):
    """A lease that remembers its loss."""

    __slots__ = ("lost",)

    def __init__(self, family: Ours, ttl: float) -> None:
        super().__init__(family, ttl)
        self.lost: list[tuple[float, str]] = []

    def on_lost(self, why: str) -> None:
        self.lost.append((round(asyncio.get_running_loop().time(), 6), why))


async def test_a_lease_is_renewed_every_third_of_its_ttl() -> None:
    """Thirty seconds: renewed at 10, 20, 30, …; never lost."""
    keeper, ours = Keeper(), Ours()
    thing = Thing(ours, 30.0)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(65)
    assert [at for at, _ in ours.asked] == [10, 20, 30, 40, 50, 60]
    assert thing.lost == []
    keeper.drop(thing)


async def test_ten_thousand_leases_are_twenty_calls_at_most() -> None:
    """Taken at any time over a period, they are renewed on common ticks."""
    keeper, ours = Keeper(), Ours()
    things = [Thing(ours, 30.0) for _ in range(10_000)]
    for thing in things:
        keeper.keep(thing, keeper.now())
        await asyncio.sleep(0.001)
    before = len(ours.asked)
    await asyncio.sleep(10)
    period = ours.asked[before:]
    assert sum(n for _, n in period) >= 10_000
    assert len(period) <= 21
    for thing in things:
        keeper.drop(thing)


async def test_age_counts_from_when_the_request_was_sent() -> None:
    """Asked 4 s before the answer came, a lease of 10 s is lost at 9 s from the asking, not from the answer."""
    keeper, ours = Keeper(), Ours(lambda _: NotSent("down"))
    thing = Thing(ours, 10.0)
    await asyncio.sleep(4)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(20)
    assert [at for at, _ in thing.lost] == [9.0]


async def test_l4_silence_is_loss() -> None:
    """L4: the store never answers: lost at ttl·(1 - margin), with no answer at all."""
    keeper, ours = Keeper(), Ours(takes=1000.0)
    thing = Thing(ours, 10.0)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(9.5)
    assert thing.lost == [(9.0, "it was not confirmed within 9 s")]
    assert len(ours.asked) == 1  # never twice at once
    await asyncio.sleep(2000)
    assert len(thing.lost) == 1


async def test_l4_failures_are_tried_again_until_it_is_lost() -> None:
    """L4: after a failure again every tenth of the ttl; one that succeeds counts from its own sending."""
    errors = [NotSent("down"), OutcomeUnknown("?"), None]

    def answer(thing: Thing) -> Confirmation | BackendError | None:
        error = errors.pop(0) if errors else NotSent("down again")
        return error or Confirmation(asyncio.get_running_loop().time())

    keeper, ours = Keeper(), Ours(answer)
    thing = Thing(ours, 30.0)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(100)
    assert [at for at, _ in ours.asked][:4] == [10, 13, 16, 26]
    assert [at for at, _ in thing.lost] == [16 + 27]


async def test_what_the_store_denies_is_lost_at_once() -> None:
    """The answer that it is not ours is not waited out."""
    keeper, ours = Keeper(), Ours(lambda _: None)
    thing = Thing(ours, 30.0)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(11)
    assert thing.lost == [(10.0, "the store says that it is not ours any more")]
    assert len(keeper) == 0


async def test_an_answer_after_the_release_changes_nothing() -> None:
    """Given back while its renewal was on its way: neither lost nor kept."""
    keeper, ours = Keeper(), Ours(lambda _: None, takes=5.0)
    thing = Thing(ours, 30.0)
    keeper.keep(thing, 0.0)
    await asyncio.sleep(12)
    keeper.drop(thing)
    await asyncio.sleep(100)
    assert thing.lost == []
    assert len(ours.asked) == 1


async def test_families_do_not_wait_for_each_other() -> None:
    """One family's failure, be it a mistake in it, is its own."""

    def mistake(_: Thing) -> Confirmation:
        raise ZeroDivisionError

    keeper, good, bad = Keeper(), Ours(), Ours(mistake)
    kept, lost = Thing(good, 9.0), Thing(bad, 9.0)
    keeper.keep(kept, 0.0)
    keeper.keep(lost, 0.0)
    await asyncio.sleep(30)
    assert kept.lost == []
    assert len(lost.lost) == 1
    keeper.drop(kept)


def test_nothing_runs_when_nothing_is_held() -> None:
    """No timer and no task is left: the loop is dead at once."""
    from aresilience.testing import Deadlock

    async def main() -> None:
        keeper, ours = Keeper(), Ours()
        for _ in range(1000):
            thing = Thing(ours, 30.0)
            keeper.keep(thing, 0.0)
            keeper.drop(thing)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main())


async def test_what_was_given_back_is_not_remembered() -> None:
    """A hundred thousand leases taken and given back, beside one that stays, leave no trail."""
    keeper, ours = Keeper(), Ours()
    stays = Thing(ours, 3600.0)
    keeper.keep(stays, 0.0)
    for _ in range(100_000):
        thing = Thing(ours, 3600.0)
        keeper.keep(thing, 0.0)
        keeper.drop(thing)
    assert len(keeper._heap) < 100
    keeper.drop(stays)


async def test_closing_a_backend_ends_what_it_keeps() -> None:
    """Leaving the backend tells every holder."""
    backend = ar.connect("memory://")
    async with backend:
        thing = Thing(Ours(), 30.0)
        backend.keeper.keep(thing, backend.keeper.now())
    assert thing.lost == [(0.0, "the backend was closed")]


async def test_a_pause_of_the_process_is_a_loss() -> None:
    """The loop stood still past the end: the first thing that happens is the loss, not a renewal."""
    keeper, ours = Keeper(), Ours()
    thing = Thing(ours, 3.0)
    keeper.keep(thing, keeper.now() - 5.0)
    await asyncio.sleep(0.001)
    assert len(thing.lost) == 1
    assert ours.asked == []


async def test_the_next_loop_starts_afresh() -> None:
    """A backend used on one loop after another keeps nothing of the first."""
    backend = FaultyBackend()

    def on_a_loop() -> None:
        async def main() -> None:
            thing = Thing(Ours(), 30.0)
            backend.keeper.keep(thing, backend.keeper.now())

        run_virtual(main())

    await asyncio.to_thread(on_a_loop)
    assert len(backend.keeper) == 1
    backend.keeper.now()
    assert len(backend.keeper) == 0


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no such clock on this platform")
def test_leases_age_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real loop's leases age by CLOCK_BOOTTIME; a loop with a clock of its own keeps it."""
    loop = asyncio.new_event_loop()
    try:
        now = lease_reader(loop)
        assert now() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
        monkeypatch.setattr(time, "clock_gettime", lambda _: 12345.0)
        assert lease_reader(loop)() == 12345.0
    finally:
        loop.close()

    async def virtual() -> float:
        return lease_reader(asyncio.get_running_loop())()

    assert run_virtual(virtual()) == 0.0


@pytest.mark.real_time
async def test_a_suspend_is_noticed_within_a_second_of_waking() -> None:
    """The clock of leases jumps by an hour, as after a suspend: lost at once, however far the timer was."""
    keeper, ours = Keeper(), Ours()
    thing = Thing(ours, 600.0)
    jump = 0.0
    keeper.now()
    real = keeper.clock
    keeper.clock = lambda: real() + jump
    keeper.keep(thing, real())
    await asyncio.sleep(0)
    jump = 3600.0
    async with asyncio.timeout(1.5):
        while not thing.lost:
            await asyncio.sleep(0.01)


async def test_a_body_is_cancelled_once_and_a_cancel_of_others_stays_theirs() -> None:
    """Cut by us alone: `ended` says so. Cancelled by somebody else too: theirs wins."""
    bodies: list[Body] = []
    told: list[bool] = []

    async def works() -> None:
        body = Body()
        bodies.append(body)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as error:
            told.append(body.ended(error))
            if not told[-1]:
                raise

    task = asyncio.ensure_future(works())
    await asyncio.sleep(1)
    bodies[0].cut()
    bodies[0].cut()
    await task
    both = asyncio.ensure_future(works())
    await asyncio.sleep(1)
    bodies[1].cut()
    both.cancel()
    await asyncio.wait([both])
    assert told == [True, False]
    assert both.cancelled()


async def test_who_is_slow_costs_the_others_nothing() -> None:
    """A renewal of three leases on two servers, one of which stands still: only its lease is lost."""

    class Far(Ours):
        async def renew(self, leases: Sequence[Thing]) -> Any:
            loop = asyncio.get_running_loop()
            self.asked.append((loop.time(), len(leases)))
            answers = [loop.create_future() for _ in leases]
            for lease, answer in zip(leases, answers, strict=True):
                if lease is slow:
                    loop.call_later(2.9, answer.set_exception, OutcomeUnknown("no answer"))
                else:
                    loop.call_later(0.1, answer.set_result, Confirmation(loop.time()))
            return answers

    keeper, far = Keeper(), Far()
    slow, *others = things = [Thing(far, 3.0) for _ in range(3)]
    for thing in things:
        keeper.keep(thing, 0.0)
    await asyncio.sleep(10)
    assert [at for at, _ in slow.lost] == [2.7]
    assert [thing.lost for thing in others] == [[], []]
    await keeper.close(1.0)
    await keeper.settled(5.0)
