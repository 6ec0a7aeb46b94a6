"""The contract of an idempotency store, to run against one of your own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aresilience.backend.leases import Confirmation
from aresilience.chance import entropy
from aresilience.idempotency.record import Answer, Ask, Ending, Standing, Work
from aresilience.idempotency.store import IdempotencyStore, Lease

__all__ = ["check_idempotency_store"]

_LEASE, _KEEP, _TTL = 0.1, 0.4, 0.2


async def check_idempotency_store(store: IdempotencyStore) -> None:
    """Raise `AssertionError` if a store breaks the contract (see `idempotency.store`).

    It needs about a second, of the loop's time; the store is left empty, and is expected to be so.
    """
    await _one_claim_at_a_time(store)
    await _only_the_owner_ends_it(store)
    await _what_is_done_is_told(store)
    await _a_lease_runs_out(store)
    await _renewed_it_does_not(store)
    await _what_is_open_is_listed(store)
    await _who_waits_is_woken(store)


def _ask(fingerprint: str = "1:f", *, takeover: bool = True) -> Ask:
    return Ask(entropy().token(), fingerprint, round(_LEASE * 1e6), round(_KEEP * 1e6), takeover)


def _work(ask: Ask, standing: Standing) -> Work:
    return Work(ask.token, ask.fingerprint, standing.fence, standing.attempt)


async def _taken(store: IdempotencyStore, ident: str) -> tuple[Ask, Work]:
    ask = _ask()
    standing = await store.claim(ident, ask)
    assert standing.answer is Answer.CLAIMED, f"a free record was not granted: {standing}"
    return ask, _work(ask, standing)


def _id() -> str:
    return entropy().token()


async def _one_claim_at_a_time(store: IdempotencyStore) -> None:
    ident = _id()
    asks = [_ask() for _ in range(20)]
    standings = await asyncio.gather(*(store.claim(ident, ask) for ask in asks))
    won = [n for n, standing in enumerate(standings) if standing.answer is Answer.CLAIMED]
    assert len(won) == 1, f"{len(won)} claims of one record were granted"
    assert {s.answer for s in standings} == {Answer.CLAIMED, Answer.RUNNING}
    again = await store.claim(ident, asks[won[0]])
    assert again.answer is Answer.CLAIMED, "asked again with the same token, the answer was another one"
    assert (again.fence, again.attempt) == (standings[won[0]].fence, 1)
    other = await store.claim(ident, _ask("1:other"))
    assert other.answer is Answer.REUSED, "another fingerprint was not noticed"
    assert (await store.look(ident)).answer is Answer.RUNNING
    assert await store.settle(ident, _work(asks[won[0]], again), Ending.RELEASED, b"", 0)
    assert (await store.look(ident)).answer is Answer.ABSENT, "a released record is still there"


async def _only_the_owner_ends_it(store: IdempotencyStore) -> None:
    ident = _id()
    _, work = await _taken(store, ident)
    stranger = replace(work, token=entropy().token())
    for ending in Ending:
        assert not await store.settle(ident, stranger, ending, b"x", 10**6), f"a stranger: {ending}"
    assert (await store.look(ident)).answer is Answer.RUNNING
    assert await store.forget(ident)
    assert not await store.forget(ident)
    assert await store.settle(ident, work, Ending.DONE, b"late", 10**6), (
        "a lost record was not written anew"
    )
    assert (await store.look(ident)).value == b"late"
    await store.forget(ident)


async def _what_is_done_is_told(store: IdempotencyStore) -> None:
    endings = {Ending.DONE: Answer.DONE, Ending.FAILED: Answer.FAILED, Ending.LOST: Answer.LOST}
    for ending, answer in endings.items():
        ident, value = _id(), bytes(range(256))
        _, work = await _taken(store, ident)
        for _ in range(2):  # told again, it counts again
            assert await store.settle(ident, work, ending, value, round(_TTL * 1e6))
        standing = await store.claim(ident, _ask())
        assert (standing.answer, standing.value) == (answer, value)
        assert 0 < standing.left <= _TTL * 1e6
        assert (await store.claim(ident, _ask("1:other"))).answer is Answer.REUSED
    await asyncio.sleep(_TTL + 0.05)
    assert (await store.look(ident)).answer is Answer.ABSENT, "a result outlived its ttl"


async def _a_lease_runs_out(store: IdempotencyStore) -> None:
    ident = _id()
    _, work = await _taken(store, ident)
    await asyncio.sleep(_LEASE + 0.02)
    assert (await store.claim(ident, _ask(takeover=False))).answer is Answer.ABANDONED
    ask = _ask()
    standing = await store.claim(ident, ask)
    assert (standing.answer, standing.attempt) == (Answer.CLAIMED, 2), "nobody could take over"
    assert standing.fence > work.fence, "a fence did not rise"
    assert not await store.settle(ident, work, Ending.DONE, b"stale", 10**6), "a stale owner was believed"
    assert (await store.look(ident)).answer is Answer.RUNNING
    assert await store.settle(ident, _work(ask, standing), Ending.UNDONE, b"", 0)
    assert (await store.look(ident)).answer is Answer.ABANDONED, "what it took over is not as before"
    await store.forget(ident)


async def _renewed_it_does_not(store: IdempotencyStore) -> None:
    ident, gone = _id(), _id()
    ask, work = await _taken(store, ident)
    mine = Lease(store, ident, ask.token, _LEASE, ask.keep)
    not_mine = Lease(store, gone, entropy().token(), _LEASE, ask.keep)
    for _ in range(4):
        await asyncio.sleep(_LEASE / 2)
        answers = await store.renew([mine, not_mine])
        assert isinstance(answers[0], Confirmation), f"a renewal failed: {answers[0]}"
        assert answers[1] is None, "what is not there was renewed"
    assert (await store.claim(ident, _ask())).answer is Answer.RUNNING
    assert await store.settle(ident, work, Ending.ABANDONED, b"", 0)
    assert await store.renew([mine]) == [None], "what was given up was renewed"
    assert (await store.claim(ident, _ask(takeover=False))).answer is Answer.ABANDONED
    await store.forget(ident)


async def _what_is_open_is_listed(store: IdempotencyStore) -> None:
    running, abandoned, over = _id(), _id(), _id()
    await _taken(store, running)
    _, work = await _taken(store, abandoned)
    await store.settle(abandoned, work, Ending.ABANDONED, b"", 0)
    _, work = await _taken(store, over)
    await store.settle(over, work, Ending.DONE, b"", 10**6)
    assert sorted(await store.open_ids()) == sorted([running, abandoned])
    for ident in (running, abandoned, over):
        await store.forget(ident)
    assert list(await store.open_ids()) == []


async def _who_waits_is_woken(store: IdempotencyStore) -> None:
    for ending in (Ending.DONE, Ending.RELEASED, Ending.ABANDONED):
        ident, ask = _id(), replace(_ask(), lease=10**7)
        work = _work(ask, await store.claim(ident, ask))
        watch = store.watches.begin(ident)
        try:
            await watch.wait(0, 0.05)  # until it listens: the first news may be that
            seen = watch.pulses
            assert (await store.claim(ident, _ask())).answer is Answer.RUNNING
            await store.settle(ident, work, ending, b"", 10**6)
            began = asyncio.get_running_loop().time()
            await watch.wait(seen, 1.0)
            assert watch.pulses > seen, f"nobody was woken by {ending}"
            assert asyncio.get_running_loop().time() - began < 0.9
        finally:
            store.watches.end(ident)
        await store.forget(ident)
    assert len(store.watches) == 0
