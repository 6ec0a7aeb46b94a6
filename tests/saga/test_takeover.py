"""Taking over from the dead: one at a time, without traffic, bounded, and only what is understood."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar
from aresilience.saga.stores import store_on
from aresilience.testing import Recorder


class Machine:
    """One process: a definition with its own log, on a backend shared with others."""

    def __init__(self, backend: ar.Backend, world: list[str], name: str = "m", **options: Any) -> None:
        self.world = world
        self.seen = Recorder()
        self.saga = saga = ar.Saga("job", backend=backend, listeners=[self.seen], **options)

        for step in "abc":

            @saga.step(name=step)
            async def act(ctx: ar.SagaContext[int], step: str = step) -> str:
                world.append(f"{name}:{step}")
                await asyncio.sleep(10)
                return step

            @act.compensate
            async def undo(ctx: ar.SagaContext[int], result: str | None, step: str = step) -> None:
                world.append(f"{name}:-{step}")

    def die(self, id: str) -> None:
        """As kill -9: it does nothing any more, and gives nothing back."""
        run = self.saga.running.pop(id)
        run.store.keeper.drop(run)
        run._lost = "died"
        run.store = Dead(run.store)  # type: ignore[assignment]
        run._cancel_all()
        run.wake()


class Dead:
    """What a dead process says."""

    def __init__(self, store: Any) -> None:
        self.keeper = store.keeper

    def hand_over_later(self, id: str, fence: int) -> None:
        """Nothing."""


async def test_a_worker_takes_over_without_traffic() -> None:
    """eventuate#40: nothing else has to happen; a lease after the owner died another goes on."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        one, two = Machine(backend, world, "one", lease=9.0), Machine(backend, world, "two", lease=9.0)
        async with two.saga.worker():
            await one.saga.start(1, id="1")
            await asyncio.sleep(15)
            one.die("1")
            died = asyncio.get_running_loop().time()
            while "1" not in two.saga.running:
                await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() - died < 9 + 3 * 1.25 + 0.2
            await two.saga.attach("1").result()
        assert world == ["one:a", "one:b", "two:b", "two:c"]
        assert two.seen.of(ar.SagaTakenOver)[0].recoveries == 1
        record = await two.saga.get("1")
        assert record is not None
        assert record.recoveries == 0, "it got further"


async def test_two_recoverers_race_and_one_wins() -> None:
    """G3: ten workers; each saga is taken over by exactly one."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        dead = Machine(backend, world, "dead", lease=9.0)
        for i in range(20):
            await dead.saga.start(i, id=str(i))
        await asyncio.sleep(1)
        for i in range(20):
            dead.die(str(i))
        world.clear()
        rest = [Machine(backend, world, f"m{i}", lease=9.0) for i in range(10)]
        workers = [machine.saga.worker(concurrency=5) for machine in rest]
        for worker in workers:
            await worker.__aenter__()
        while [record async for record in rest[0].saga.list(ar.SagaState.RUNNING)]:
            await asyncio.sleep(1)
        for worker in workers:
            await worker.__aexit__(None, None, None)
        assert sum(worker.taken for worker in workers) == 20
        assert sorted(entry[-1] for entry in world) == sorted("abc" * 20)


async def test_an_owner_that_was_only_slow_is_fenced() -> None:
    """It wakes after another has taken over: nothing that it writes counts, and it stops."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        slow, quick = (
            Machine(backend, world, "slow", lease=9.0),
            Machine(backend, world, "quick", lease=9.0),
        )
        handle = await slow.saga.start(1, id="1")
        await asyncio.sleep(1)
        run = slow.saga.running["1"]
        backend.keeper.drop(run)  # it sleeps: nothing renews
        run._deadline = None
        await asyncio.sleep(8.5)
        assert await quick.saga.adopt("1")
        assert (await handle.result()).last == "c"
        assert world == ["slow:a", "quick:a", "quick:b", "quick:c"]
        assert slow.saga.running == {}


async def test_poison_is_parked() -> None:
    """A saga that kills whoever runs it is taken over five times, and then waits for a person."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        for i in range(7):
            machine = Machine(backend, world, f"m{i}", lease=3.0)
            if i == 0:
                await machine.saga.start(1, id="1")
            else:
                await asyncio.sleep(4)
                assert await machine.saga.adopt("1")
            await asyncio.sleep(0.1)
            if "1" in machine.saga.running:
                machine.die("1")
        assert world == [f"m{i}:a" for i in range(6)]
        record = await machine.saga.get("1")
        assert record is not None
        assert record.state is ar.SagaState.PARKED
        assert "6 times" in record.cause
        assert machine.seen.of(ar.SagaNeedsHelp)
        with pytest.raises(ar.SagaParked, match="6 times"):
            await machine.saga.attach("1").result()
        assert (await (await machine.saga.resume("1")).result()).last == "c"


async def test_another_version_is_run_by_its_definition() -> None:
    """G5: version 2 is deployed while a saga of version 1 is on its way: its own steps are run."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        old = Machine(backend, world, "old", version=1)
        await old.saga.start(1, id="1")
        await asyncio.sleep(1)
        old.saga.running["1"].stop()
        await asyncio.sleep(0)
        kept = Machine(backend, world, "kept", version=1)
        new = ar.Saga("job", version=2, older=[kept.saga], backend=backend)

        @new.step
        async def only(ctx: ar.SagaContext[int]) -> str:
            return "only"

        async with new.worker():
            result = await new.attach("1").result()
            assert result.results == {"a": "a", "b": "b", "c": "c"}
            assert (await new.run(1, id="2")).results == {"only": "only"}
        assert world == ["old:a", "kept:a", "kept:b", "kept:c"]


async def test_a_version_that_is_unknown_is_parked_never_guessed() -> None:
    """G5: with a clear error; and once its definition is registered it can be resumed."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        old = Machine(backend, world, "old", version=1)
        await old.saga.start(1, id="1")
        await asyncio.sleep(15)
        old.saga.running["1"].stop()
        await asyncio.sleep(0)
        new = ar.Saga("job", version=2, backend=backend)

        @new.step
        async def a(ctx: ar.SagaContext[int]) -> str:
            raise NotImplementedError

        async with new.worker():
            with pytest.raises(ar.SagaParked, match="version 1"):
                await new.attach("1").result()
            with pytest.raises(ValueError, match="not known"):
                await new.resume("1")
        record = await new.get("1")
        assert record is not None
        assert record.version == 1
        assert (await (await old.saga.resume("1")).result()).last == "c"


async def test_the_same_version_with_other_steps_is_parked() -> None:
    """The steps were changed and the version was not: the hash says so."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        old = Machine(backend, world, "old")
        await old.saga.start(1, id="1")
        old.saga.running["1"].stop()
        await asyncio.sleep(0)
        changed = ar.Saga("job", backend=backend)

        @changed.step
        async def a(ctx: ar.SagaContext[int]) -> str:
            raise NotImplementedError

        with pytest.raises(ar.SagaParked, match="known here: 1"):
            await changed.attach("1").result()


async def test_an_older_worker_leaves_newer_sagas_alone() -> None:
    """While a deployment rolls, what is of the new version waits for a worker that knows it."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        new = Machine(backend, world, "new", version=2)
        for i in range(5):
            await new.saga.start(i, id=str(i))
        old = Machine(backend, world, "old", version=1)
        await asyncio.sleep(1)
        await old.saga.start(1, id="old")
        for machine, ids in ((new, "01234"), (old, ["old"])):
            for id_ in ids:
                machine.saga.running[id_].stop()
        await asyncio.sleep(0)
        world.clear()
        async with old.saga.worker(concurrency=2, every=1.0):
            await asyncio.sleep(60)
            assert {entry.partition(":")[0] for entry in world} == {"old"}
            assert world[-1] == "old:c"
            assert len([record async for record in new.saga.list(ar.SagaState.RUNNING)]) == 5


async def test_an_input_that_cannot_be_read_is_parked() -> None:
    """Stored in another form: nothing is run on a guess."""
    backend = ar.MemoryBackend()
    async with backend:
        one = Machine(backend, [], input=int)
        await one.saga.start(1, id="1")
        one.saga.running["1"].stop()
        await asyncio.sleep(0)
        other = Machine(backend, [], codec=ar.JsonCodec(version=2))
        with pytest.raises(ar.SagaParked, match="codec"):
            await other.saga.attach("1").result()


async def test_a_worker_survives_a_store_that_fails() -> None:
    """It tells, and looks again."""
    from aresilience.testing.faulty import Fault, FaultyBackend

    backend, world = FaultyBackend(), []
    async with backend:
        one = Machine(backend, world, "one")
        await one.saga.start(1, id="1")
        one.saga.running["1"].stop()
        await asyncio.sleep(0)
        backend.plan(Fault.NOT_SENT, verb="due", times=2)
        backend.plan(Fault.REFUSED, Fault.LOST_REQUEST, verb="claim")
        async with one.saga.worker(every=1.0):
            await asyncio.sleep(60)
        assert len(one.seen.of(ar.StoreDegraded)) >= 3
        assert (await one.saga.attach("1").result()).last == "c"


async def test_people_skip_retry_and_force() -> None:
    """What is stuck is helped step by step: a step seen to by hand is skipped, another tried again."""
    saga, log = ar.Saga("s"), []
    fails = {"a", "b"}

    for name in "ab":

        @saga.step(name=name)
        async def act(ctx: ar.SagaContext[int]) -> int:
            return ctx.input

        @act.compensate(attempts=1)
        async def undo(ctx: ar.SagaContext[int], result: int, name: str = name) -> None:
            if name in fails:
                raise OSError(name)
            log.append(name)

    @saga.step(name="c")
    async def c(ctx: ar.SagaContext[int]) -> int:
        raise ar.Fail

    for id_ in ("1", "2"):
        with pytest.raises(ar.SagaStuck) as caught:
            await saga.run(1, id=id_)
        assert caught.value.remaining == ("b", "a"), "Temporal-Java, eventuate: the rest is not dropped"
    with pytest.raises(ValueError, match="does not wait"):
        await saga.skip("1", "a")
    with pytest.raises(ar.SagaStuck) as caught:
        await (await saga.skip("1", saga.steps["b"])).result()
    assert caught.value.remaining == ("a",)
    with pytest.raises(ValueError, match="does not wait"):
        await saga.retry("1", "b")
    fails.clear()
    with pytest.raises(ar.SagaFailed):
        await (await saga.retry("1", "a")).result()
    assert log == ["a"]
    with pytest.raises(ValueError, match="neither"):
        await saga.resume("1")
    await saga.force("2", "the customer is dead")
    with pytest.raises(ar.SagaStuck, match="by hand"):
        await saga.attach("2").result()
    with pytest.raises(ValueError, match="ended"):
        await saga.force("2", "again")
    record = await saga.get("2")
    assert record is not None
    assert record.state is ar.SagaState.FORCED
    assert record.cause == "the customer is dead"
    with pytest.raises(LookupError):
        await saga.resume("none")


async def test_a_running_saga_can_be_ended_by_force() -> None:
    """Its owner is fenced: it stops at its next write, and nothing is undone."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        one = Machine(backend, world)
        handle = await one.saga.start(1, id="1")
        await asyncio.sleep(15)
        await one.saga.force("1", "enough")
        with pytest.raises(ar.SagaStuck, match="by hand: enough"):
            await handle.result()
        await asyncio.sleep(60)
        assert world == ["m:a", "m:b"]


async def test_what_is_parked_can_be_aborted_or_skipped_with_a_result() -> None:
    """A person who knows what happened says so."""
    saga = ar.Saga("s")

    @saga.step(on_exhausted="park", attempts=1)
    async def ask(ctx: ar.SagaContext[int]) -> int:
        raise OSError

    @ask.compensate
    async def undo(ctx: ar.SagaContext[int], result: int | None) -> None: ...

    @saga.step
    async def use(ctx: ar.SagaContext[int]) -> int:
        return 2 * ctx.result(ask)

    for id_ in ("1", "2"):
        with pytest.raises(ar.SagaParked):
            await saga.run(1, id=id_)
    assert (await (await saga.skip("1", ask, 21)).result())[use] == 42
    assert await saga.abort("2", "no answer")
    with pytest.raises(ar.SagaFailed, match="no answer"):
        await saga.attach("2").result()


async def test_memory_is_bounded() -> None:
    """As many open sagas as the backend has keys, no more; what has ended makes room."""
    async with ar.MemoryBackend(max_keys=3) as backend:
        machine = Machine(backend, [])
        handles = [await machine.saga.start(i, id=str(i)) for i in range(3)]
        with pytest.raises(ar.Refused, match="at most 3"):
            await machine.saga.start(4, id="4")
        for handle in handles:
            await handle.result()
        for i in range(10, 20):
            await machine.saga.run(i, id=str(i))
        store: Any = store_on(backend, "job")
        assert len(store._ended) == 3


async def test_a_deadline_does_not_count_against_what_a_person_resumes() -> None:
    """Parked for longer than its deadline, then resumed: it goes forward, as it was told."""
    saga, down = ar.Saga("s", deadline=60.0), [True]

    @saga.step(on_exhausted="park", attempts=1)
    async def ask(ctx: ar.SagaContext[int]) -> str:
        if down[0]:
            raise OSError("down")
        return "up"

    with pytest.raises(ar.SagaParked):
        await saga.run(1, id="1")
    await asyncio.sleep(3600)
    down.clear()
    down.append(False)
    assert (await (await saga.resume("1")).result()).last == "up"


async def test_what_is_parked_at_its_pivot_cannot_be_aborted() -> None:
    """It may have happened: skip or retry it, or force an end."""
    saga = ar.Saga("s")

    @saga.pivot(attempts=1)
    async def pay(ctx: ar.SagaContext[int]) -> None:
        raise OSError("no answer")

    with pytest.raises(ar.SagaParked):
        await saga.run(1, id="1")
    assert not await saga.abort("1", "no")
    assert (await (await saga.skip("1", pay)).result()).last is None


async def test_a_saga_within_that_is_not_kept_any_more_cannot_be_undone() -> None:
    """It happened, and nobody knows how to undo it: stuck, never taken for nothing."""
    inner, outer = ar.Saga("inner", retention=10.0), ar.Saga("outer")

    @inner.step
    async def small(ctx: ar.SagaContext[int]) -> int:
        return ctx.input

    @outer.step
    async def big(ctx: ar.SagaContext[int]) -> int:
        return (await ctx.run(inner, ctx.input))[small]

    @big.compensate(attempts=3)
    async def unbig(ctx: ar.SagaContext[int], result: int | None) -> None:
        await ctx.undo(inner)

    @outer.step
    async def late(ctx: ar.SagaContext[int]) -> None:
        await asyncio.sleep(60)
        raise ar.Fail

    with pytest.raises(ar.SagaStuck, match="not kept"):
        await outer.run(1)


async def test_a_saga_within_that_still_runs_is_aborted() -> None:
    """The deadline of the outer one cuts the step that waits for the inner one: that is called back."""
    log: list[str] = []
    inner, outer = ar.Saga("inner"), ar.Saga("outer", deadline=5.0)

    for name in "ab":

        @inner.step(name=name)
        async def act(ctx: ar.SagaContext[int], name: str = name) -> None:
            await asyncio.sleep(4)
            log.append(name)

        @act.compensate
        async def undo(ctx: ar.SagaContext[int], result: None, name: str = name) -> None:
            log.append(f"-{name}")

    @outer.step
    async def big(ctx: ar.SagaContext[int]) -> None:
        await ctx.run(inner, ctx.input)

    @big.compensate
    async def unbig(ctx: ar.SagaContext[int], result: None) -> None:
        await ctx.undo(inner)

    with pytest.raises(ar.SagaFailed, match="deadline"):
        await outer.run(1)
    assert log == ["a", "b", "-b", "-a"]


async def test_a_backlog_is_worked_off_without_pauses() -> None:
    """After an outage there is more than workers can take at once: they do not wait for their timer."""
    backend, world = ar.MemoryBackend(), []
    async with backend:
        dead = Machine(backend, world, "dead")
        for i in range(200):
            await dead.saga.start(i, id=str(i))
            dead.saga.running[str(i)].stop()
        await asyncio.sleep(0)
        rest = [Machine(backend, world, f"m{i}") for i in range(3)]
        workers = [machine.saga.worker(concurrency=10) for machine in rest]
        began = asyncio.get_running_loop().time()
        for worker in workers:
            await worker.__aenter__()
        while [record async for record in dead.saga.list(ar.SagaState.RUNNING)]:
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() - began < 1.2 * 30 * 200 / 30
        for worker in workers:
            await worker.__aexit__(None, None, None)
