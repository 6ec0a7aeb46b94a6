"""Ends of which somebody may not know: evicted meanwhile, closed meanwhile, taken over, unprotected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import FaultyBackend
from aresilience.testing.faulty import Fault


def counting(takes: float = 0.0) -> Callable[[], Awaitable[int]]:
    """Work that says how often it has run."""
    runs = 0

    async def count() -> int:
        nonlocal runs
        await asyncio.sleep(takes)
        runs += 1
        return runs

    return count


@pytest.mark.parametrize("slow", ["claim", "forget"])
async def test_nothing_of_an_evicted_key_stays_in_its_own_process(
    slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the eviction and a replay asks, or is answered, first."""
    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", backend=backend, cache=10)
    other = ar.Idempotency(name="x", backend=backend)
    count = counting()
    await other.run("k", count)
    store: Any = type(idem._claims._store)
    claim, forget = store.claim, store.forget

    async def slow_claim(self: Any, *args: Any) -> Any:
        answer = await claim(self, *args)
        await asyncio.sleep(3 if slow == "claim" else 1)
        return answer

    async def slow_forget(self: Any, *args: Any) -> Any:
        await asyncio.sleep(1 if slow == "claim" else 2)
        return await forget(self, *args)

    monkeypatch.setattr(store, "claim", slow_claim)
    monkeypatch.setattr(store, "forget", slow_forget)
    replay = asyncio.create_task(idem.run("k", count))
    await asyncio.sleep(0.5)
    assert await idem.evict("k")
    assert await replay == 1
    assert await idem.run("k", count) == 2


async def test_who_waits_when_the_backend_is_closed_is_told_so() -> None:
    """Not cancelled, for nobody cancelled it: an error that says what is not known."""
    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", backend=backend, finish_within=1)
    async with backend:
        call = asyncio.create_task(idem.run("k", counting(1000)))
        await asyncio.sleep(1)
    await asyncio.wait([call])
    assert not call.cancelled()
    assert isinstance(call.exception(), ar.OutcomeUnknown)
    assert "closed while" in str(call.exception())


async def test_work_that_cancels_itself_is_still_cancelled() -> None:
    """That is what it raised, and what its caller gets."""

    async def gives_up() -> None:
        raise asyncio.CancelledError

    call = asyncio.create_task(ar.Idempotency().run("k", gives_up))
    await asyncio.wait([call])
    assert call.cancelled()


async def test_work_that_never_began_leaves_no_claim() -> None:
    """Its task was cancelled before its first step: the claim is taken back."""
    idem = ar.Idempotency(on_abandoned="refuse")
    before = asyncio.all_tasks()
    call = asyncio.create_task(idem.run("k", counting()))
    await asyncio.sleep(0)
    (work,) = asyncio.all_tasks() - before - {call}
    work.cancel()
    await asyncio.wait([call])
    assert isinstance(call.exception(), ar.OutcomeUnknown)
    await asyncio.sleep(0.1)
    assert await idem.get("k") is None


@pytest.mark.parametrize("how", ["cancelled", "raises", "released"])
async def test_a_takeover_that_did_nothing_leaves_unknown_what_was_unknown(how: str) -> None:
    """The attempt before it may have done some or all: the next one is not told that it is the first."""
    idem = ar.Idempotency(on_cancel="release")
    attempts: list[int] = []

    async def work() -> None:
        claim = ar.current_claim()
        attempts.append(claim.attempt)
        if len(attempts) > 1:
            return
        if how == "raises":
            raise ValueError
        if how == "released":
            claim.release()
        await asyncio.sleep(10 if how == "cancelled" else 0)

    async with idem.claim("k", operation=work.__qualname__) as claim:
        claim.abandon()
    call = asyncio.create_task(idem.run("k", work))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.wait([call])
    state = await idem.get("k")
    assert state is not None
    assert (state.state, state.attempt) == (ar.RecordState.ABANDONED, 2)
    await idem.run("k", work)
    assert attempts == [2, 3]


async def test_unless_somebody_found_out() -> None:
    """Then nothing is known to have been done, and the key is free."""

    async def reconcile(claim: Any) -> None:
        pass

    async def work() -> None:
        raise ValueError

    idem = ar.Idempotency(on_abandoned=reconcile)
    async with idem.claim("k", operation=work.__qualname__) as claim:
        claim.abandon()
    with pytest.raises(ValueError):
        await idem.run("k", work)
    assert await idem.get("k") is None


async def test_an_unprotected_run_whose_claim_did_arrive_ends_it() -> None:
    """Also if the first word of its end is lost: it is told again until it is heard."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", backend=backend, on_store_error="run")
    backend.plan(Fault.LOST_REPLY, verb="claim")
    backend.plan(Fault.NOT_SENT, verb="settle", times=2)
    count = counting()
    assert await idem.run("k", count) == 1
    await asyncio.sleep(5)
    assert await idem.run("k", count) == 1


async def test_closing_waits_for_what_cancelled_work_begins_at_its_end() -> None:
    """What is given back by work that was cancelled late is given back before the way to it is closed."""
    backend = ar.MemoryBackend(deadline=2.0)
    given_back: list[bool] = []

    async def give_back() -> None:
        await asyncio.sleep(1)
        given_back.append(True)

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            backend.finish(give_back(), within=2.0)

    async with backend:
        backend.finish(work(), within=1.0)
    assert given_back == [True]
