"""Sagas within sagas: each child belongs to one step of one parent, and is undone with it or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar
from aresilience.saga.record import Did, Entry
from aresilience.saga.store import Head


def child_on(backend: ar.Backend, log: list[str], takes: float = 0.0, **options: Any) -> ar.Saga:
    """One that sends a letter, and calls it back."""
    child = ar.Saga("mail", backend=backend, **options)

    @child.step
    async def send(ctx: ar.SagaContext[int]) -> int:
        await asyncio.sleep(takes)
        log.append("sent")
        return 1

    @send.compensate
    async def unsend(ctx: ar.SagaContext[int], result: int | None) -> None:
        log.append("called back")

    return child


def parent_on(backend: ar.Backend, child: ar.Saga, name: str, *, fails: bool = False) -> ar.Saga:
    """One that runs it."""
    parent = ar.Saga(name, backend=backend)

    @parent.step
    async def notify(ctx: ar.SagaContext[int]) -> None:
        await ctx.run(child, ctx.input)

    @notify.compensate
    async def unnotify(ctx: ar.SagaContext[int], result: None) -> None:
        await ctx.undo(child)

    @parent.step
    async def last(ctx: ar.SagaContext[int]) -> None:
        if fails:
            raise ar.Fail("no")

    return parent


async def test_parents_of_one_id_have_children_of_their_own() -> None:
    """A checkout and a refund of order-42 send a letter each; undoing the one leaves the other's alone."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        child = child_on(backend, log)
        await parent_on(backend, child, "checkout").run(1, id="order-42")
        with pytest.raises(ar.SagaFailed):
            await parent_on(backend, child, "refund", fails=True).run(1, id="order-42")
        states = [record.state async for record in child.list()]
    assert log == ["sent", "sent", "called back"]
    assert sorted(state.value for state in states) == ["compensated", "done"]


async def test_a_child_has_an_id_of_its_own_however_deep() -> None:
    """Ids are not put together of ids: they would grow, and one could be made to look like another."""
    ids = set()
    for saga, id_, step in [("p", "x", "s"), ("p", "x/s", "s"), ("p", "x", "s/s"), ("p/x", "x", "s")]:
        ctx = ar.SagaContext(saga, id_ * 900, step, 1, lambda name: None)
        ids.add(ctx._child(ar.Saga("child")))
    assert len(ids) == 4
    assert {len(id_) for id_ in ids} == {32}


async def test_a_child_that_is_begun_after_its_parent_undid_it_does_nothing() -> None:
    """Its first attempt hangs, the parent is undone, and then the begin arrives after all."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        child = child_on(backend, log)
        await child.undo("x")
        await child.undo("x")
        with pytest.raises(ar.SagaFailed, match="undone before it began"):
            await child.run(1, id="x")
        with pytest.raises(ar.SagaStuck, match="not kept any more"):
            await child.undo("y", missing_ok=False)
        assert log == []


async def test_undone_before_it_began_also_if_who_notes_it_dies() -> None:
    """What was noted is ended by whoever takes it over: it needs no input."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        child = child_on(backend, log)
        head = Head("x", 1, child.plan.fingerprint, b"")
        await child.store.begin(
            head, [Entry(Did.TURN, "", 1, b"undone before it began")], "dead", 1_000_000
        )
        async with child.worker():
            with pytest.raises(ar.SagaFailed, match="undone before it began"):
                await child.attach("x").result()
    assert log == []


@pytest.mark.parametrize("lost", [1, 99])
async def test_undo_does_not_return_before_it_is_undone(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else changes it between the look and the turn: once is tried again, for ever is an error."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        child = child_on(backend, log)
        await child.run(1, id="x")
        change, asked = child.store.change, [0]

        async def contended(*args: Any) -> bool:
            asked[0] += 1
            return asked[0] > lost and await change(*args)

        monkeypatch.setattr(child.store, "change", contended)
        if lost == 1:
            await child.undo("x")
            assert log == ["sent", "called back"]
        else:
            with pytest.raises(ar.SagaStuck, match="however often"):
                await child.undo("x")


async def test_a_parent_that_is_handed_over_does_not_abort_its_child() -> None:
    """`on_cancel="abort"` is for callers: the parent goes on elsewhere, and finds its child."""
    log: list[str] = []
    async with ar.MemoryBackend() as backend:
        child = child_on(backend, log, takes=10.0, on_cancel="abort")
        parent = parent_on(backend, child, "checkout")
        handle = await parent.start(1, id="x")
        await asyncio.sleep(1)
        parent.running["x"].stop()
        await asyncio.sleep(1)
        async with parent.worker():
            await handle.result()
    assert log == ["sent"]
