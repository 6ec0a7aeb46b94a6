"""Sagas on Redis: other processes, lost replies, servers that go away, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.testing import FaultProxy, Recorder, cancel_sweep

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]


class Process:
    """One process with the definition; effects are shared by all of them."""

    def __init__(self, backend: Any, effects: list[str], **options: Any) -> None:
        self.seen = Recorder()
        self.gates: dict[str, asyncio.Event] = {}
        self.saga = saga = ar.Saga("shop", backend=backend, listeners=[self.seen], **options)

        def declare(name: str, kind: Any) -> ar.Step[str]:
            @kind(name=name, backoff=ar.Backoff.constant(0.01))
            async def step(ctx: ar.SagaContext[dict[str, str]]) -> str:
                effects.append(name)
                if name in self.gates:
                    await self.gates[name].wait()
                if ctx.input.get("fails") == name:
                    raise ar.Fail(name)
                return f"{name} of {ctx.input['id']}"

            return step

        for name in ("order", "stock"):
            step = declare(name, saga.step)

            @step.compensate(backoff=ar.Backoff.constant(0.01))
            async def undo(
                ctx: ar.SagaContext[dict[str, str]], result: str | None, name: str = name
            ) -> None:
                effects.append(f"-{name}")
                assert result in (None, f"{name} of {ctx.input['id']}")
                if ctx.input.get("stuck") == name:
                    raise OSError(name)

        declare("pay", saga.pivot)
        declare("ship", saga.retriable)

    async def reaches(self, step: str, effects: list[str]) -> None:
        """Wait until a step has begun."""
        async with asyncio.timeout(5):
            while step not in effects:
                await asyncio.sleep(0.002)


@pytest.fixture
async def both(redis_server: RedisServer) -> AsyncIterator[tuple[Any, Any]]:
    """Two open backends on one server."""
    async with (
        ar.connect(redis_server.url, deadline=1.0) as one,
        ar.connect(redis_server.url, deadline=1.0) as two,
    ):
        yield one, two


async def test_the_same_on_redis(both: tuple[Any, Any]) -> None:
    """Done, undone and stuck; and another process reads the results."""
    effects: list[str] = []
    one, two = (Process(backend, effects) for backend in both)
    result = await one.saga.run({"id": "1"}, id="1")
    assert result.last == "ship of 1"
    assert (await two.saga.attach("1").result()).results["order"] == "order of 1"
    assert (await two.saga.run({"id": "1"}, id="1")).last == "ship of 1"
    assert effects == ["order", "stock", "pay", "ship"]
    effects.clear()
    with pytest.raises(ar.SagaFailed) as caught:
        await one.saga.run({"id": "2", "fails": "pay"}, id="2")
    assert effects == ["order", "stock", "pay", "-stock", "-order"]
    with pytest.raises(ar.SagaFailed) as elsewhere:
        await two.saga.attach("2").result()
    assert isinstance(elsewhere.value.cause, ar.Fail)
    assert elsewhere.value.steps == caught.value.steps
    with pytest.raises(ar.SagaStuck):
        await one.saga.run({"id": "3", "fails": "pay", "stuck": "stock"}, id="3")
    with pytest.raises(ar.SagaStuck) as stuck:
        await two.saga.attach("3").result()
    assert stuck.value.remaining == ("stock", "order")
    with pytest.raises(ar.SagaFailed):
        await (await two.saga.skip("3", "stock")).result()
    listed = {record.id: record.state.value async for record in two.saga.list()}
    assert listed == {"1": "done", "2": "compensated", "3": "compensated"}


async def test_who_waits_elsewhere_is_woken(both: tuple[Any, Any]) -> None:
    """The result is heard of, not polled for: well before the five seconds after which one looks."""
    effects: list[str] = []
    one, two = (Process(backend, effects) for backend in both)
    one.gates["pay"] = asyncio.Event()
    await one.saga.start({"id": "1"}, id="1")
    await one.reaches("pay", effects)
    waits = asyncio.ensure_future(two.saga.attach("1").result())
    async with asyncio.timeout(10):
        while not both[1]._wakeups.connected.is_set():
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    began = asyncio.get_running_loop().time()
    one.gates["pay"].set()
    assert (await waits).last == "ship of 1"
    assert asyncio.get_running_loop().time() - began < 2


async def test_an_abort_from_another_process_reaches_a_step_that_takes_long(both: tuple[Any, Any]) -> None:
    """The owner hears of the flag, and goes back when its attempt ends."""
    effects: list[str] = []
    one, two = (Process(backend, effects) for backend in both)
    one.gates["stock"] = asyncio.Event()
    handle = await one.saga.start({"id": "1"}, id="1")
    await one.reaches("stock", effects)
    assert await two.saga.abort("1", "from elsewhere")
    async with asyncio.timeout(5):
        while one.saga.running["1"].course.abort is None:
            await asyncio.sleep(0.002)
    one.gates["stock"].set()
    with pytest.raises(ar.SagaFailed, match="from elsewhere"):
        await handle.result()
    assert effects == ["order", "stock", "-stock", "-order"]


async def test_a_process_that_stops_hands_over(redis_server: RedisServer, both: tuple[Any, Any]) -> None:
    """Its backend is closed in the middle of a step; a worker elsewhere goes on within moments."""
    effects: list[str] = []
    other = Process(both[0], effects)
    async with ar.connect(redis_server.url, deadline=1.0) as closing:
        one = Process(closing, effects)
        one.gates["stock"] = asyncio.Event()
        await one.saga.start({"id": "1"}, id="1")
        await one.reaches("stock", effects)
    began = asyncio.get_running_loop().time()
    async with other.saga.worker():
        async with asyncio.timeout(5):
            while (record := await other.saga.get("1")) is None or record.state is not ar.SagaState.DONE:
                await asyncio.sleep(0.005)
    assert asyncio.get_running_loop().time() - began < 5
    assert effects == ["order", "stock", "stock", "pay", "ship"]
    assert other.seen.of(ar.SagaTakenOver)[0].recoveries == 0


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("fails", ["", "ship", "pay"])
async def test_every_lost_reply_has_one_effect(redis_server: RedisServer, nth: int, fails: str) -> None:
    """Whichever reply is swallowed, of begin or an append: every step is done once, and all ends well."""
    effects: list[str] = []
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.15) as backend:
            one = Process(backend, effects)
            await one.saga.run({"id": "0"})  # the server knows the script from now on
            effects.clear()
            proxy.replies.swallow(nth=nth)
            run = one.saga.run({"id": "1", "fails": "pay" if fails == "pay" else ""}, id="1")
            if fails == "pay":
                with pytest.raises(ar.SagaFailed):
                    await run
                assert effects == ["order", "stock", "pay", "-stock", "-order"]
            else:
                await run
                assert effects == ["order", "stock", "pay", "ship"]


async def test_an_outage_in_the_middle_is_waited_out(redis_server: RedisServer) -> None:
    """The same write again and again while the lease lasts; nothing is done twice, and it is told."""
    effects: list[str] = []
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as backend:
            one = Process(backend, effects)
            one.gates["stock"] = asyncio.Event()
            handle = await one.saga.start({"id": "1"}, id="1")
            await one.reaches("stock", effects)
            proxy.refuse()
            proxy.cut()
            one.gates["stock"].set()
            async with asyncio.timeout(5):
                while not one.seen.of(ar.StoreDegraded):
                    await asyncio.sleep(0.005)
            assert "pay" not in effects, "never an act whose intent is not written"
            await proxy.heal()
            await handle.result()
    assert effects == ["order", "stock", "pay", "ship"]


async def test_a_journal_that_is_gone_stops_its_owner(
    both: tuple[Any, Any], redis_server: RedisServer
) -> None:
    """G9: evicted in the middle: `CorruptState`, and nobody begins it from the start."""
    effects: list[str] = []
    one = Process(both[0], effects)
    one.gates["stock"] = asyncio.Event()
    handle = await one.saga.start({"id": "1"}, id="1")
    await one.reaches("stock", effects)
    store: Any = one.saga.store
    await both[1].command("DEL", store._key("1"), key=store._key("1"))
    one.gates["stock"].set()
    with pytest.raises(ar.CorruptState, match="gone"):
        await handle.result()
    with pytest.raises(ar.CorruptState, match="gone"):
        await one.saga.run({"id": "1"}, id="1")
    assert effects == ["order", "stock"]


async def test_a_flush_is_no_new_beginning_for_the_old_owner(both: tuple[Any, Any]) -> None:
    """After FLUSHALL an id may begin again, and the owner of before cannot write into that."""
    effects: list[str] = []
    one, two = (Process(backend, effects) for backend in both)
    one.gates["stock"] = two.gates["stock"] = asyncio.Event()
    handle = await one.saga.start({"id": "1"}, id="1")
    await one.reaches("stock", effects)
    await both[1].command("FLUSHALL")
    await two.saga.start({"id": "1"}, id="1")
    one.gates["stock"].set()
    await two.saga.attach("1").result()
    await handle.result()
    assert effects.count("ship") == 1


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_restart_keeps_what_was_confirmed(
    start_redis: Callable[..., RedisServer], fsync: str
) -> None:
    """kill -9 of the server in the middle of a hundred sagas: each goes on from what was written. (With
    everysec the kernel has what the disk has not: only the end of the whole machine loses it.)"""
    server = start_redis("--appendonly", "yes", "--appendfsync", fsync)
    effects: list[str] = []
    async with ar.connect(server.url, deadline=0.5) as backend:
        one = Process(backend, effects)
        handles = [await one.saga.start({"id": str(i)}, id=str(i)) for i in range(100)]
        server.kill()
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            for handle in handles:
                await handle.result()
    assert {name: effects.count(name) for name in ("order", "stock", "pay", "ship")} == dict.fromkeys(
        ("order", "stock", "pay", "ship"), 100
    )


async def test_two_recoverers_race(both: tuple[Any, Any], redis_server: RedisServer) -> None:
    """G3: two workers on two connections, a hundred sagas whose owner is gone: each is taken over once."""
    effects: list[str] = []
    async with ar.connect(redis_server.url, deadline=1.0) as closing:
        gone = Process(closing, effects)
        gone.gates["order"] = asyncio.Event()
        handles = [await gone.saga.start({"id": str(i)}, id=str(i)) for i in range(100)]
    effects.clear()
    one, two = (Process(backend, effects) for backend in both)
    async with one.saga.worker() as first, two.saga.worker() as second, asyncio.timeout(20):
        while [record.id async for record in one.saga.list(ar.SagaState.RUNNING)]:
            await asyncio.sleep(0.02)
        assert first.taken + second.taken == len(handles)
    assert len(one.seen.of(ar.SagaTakenOver)) + len(two.seen.of(ar.SagaTakenOver)) == 100
    for name in ("order", "stock", "pay", "ship"):
        assert effects.count(name) == 100


async def test_s16_what_a_failover_lost_is_written_again(both: tuple[Any, Any]) -> None:
    """S16: the server goes on from an older copy of the journal: its owner notices, and writes all again."""
    effects: list[str] = []
    one = Process(both[0], effects)
    one.gates = {"order": asyncio.Event(), "pay": asyncio.Event()}
    handle = await one.saga.start({"id": "1"}, id="1")
    await one.reaches("order", effects)
    store: Any = one.saga.store
    key = store._key("1")
    old = await both[1].command("DUMP", key)
    one.gates["order"].set()
    await one.reaches("pay", effects)
    assert await both[1].command("RESTORE", key, 0, old, "REPLACE") == b"OK"
    one.gates["pay"].set()
    assert (await handle.result()).last == "ship of 1"
    record = await one.saga.get("1")
    assert record is not None
    assert [entry.name for entry in record.timeline][:-1] == [
        f"{did}:1:{step}" for step in ("order", "stock", "pay", "ship") for did in ("start", "done")
    ]
    assert effects == ["order", "stock", "pay", "ship"]


async def test_in_a_cluster(redis_cluster: Cluster) -> None:
    """Run, undone, handed over and taken over, with journals in many slots."""
    effects: list[str] = []
    async with ar.connect(redis_cluster.url, deadline=2.0) as backend:
        other = Process(backend, effects)
        async with ar.connect(redis_cluster.url, deadline=2.0) as closing:
            one = Process(closing, effects)
            await asyncio.gather(*(one.saga.run({"id": str(i)}, id=str(i)) for i in range(20)))
            with pytest.raises(ar.SagaFailed):
                await one.saga.run({"id": "x", "fails": "pay"}, id="x")
            one.gates["stock"] = asyncio.Event()
            for i in range(20, 40):
                await one.saga.start({"id": str(i)}, id=str(i))
        async with other.saga.worker(), asyncio.timeout(20):
            while [record.id async for record in other.saga.list(ar.SagaState.RUNNING)]:
                await asyncio.sleep(0.02)
        assert len([record async for record in other.saga.list(ar.SagaState.DONE)]) == 40
    assert effects.count("ship") == 40


async def test_open_journals_have_no_ttl_ended_ones_have(both: tuple[Any, Any]) -> None:
    """While it is open or waits for a person it stays; ended, for its retention; reopened, it stays again."""
    one = Process(both[0], [], retention=1000.0)
    store: Any = one.saga.store

    async def ttl(id: str) -> int:
        return int(await both[1].command("TTL", store._key(id), key=store._key(id)))

    with pytest.raises(ar.SagaStuck):
        await one.saga.run({"id": "1", "fails": "pay", "stuck": "stock"}, id="1")
    assert await ttl("1") == -1
    await one.saga.force("1", "enough")
    assert 990 < await ttl("1") <= 1000
    await one.saga.run({"id": "2"}, id="2")
    assert 990 < await ttl("2") <= 1000


async def test_three_steps_are_four_round_trips(both: tuple[Any, Any], redis_server: RedisServer) -> None:
    """An outcome and the next intent are one write: n steps cost n + 1."""
    one = Process(both[0], [])
    await one.saga.run({"id": "0"}, id="0")
    before = redis_server.calls("evalsha")
    await one.saga.run({"id": "1"}, id="1")
    assert redis_server.calls("evalsha") - before == 5  # begin, three between, the end


class Swept:
    """What a run of the sweep has, and what it leaves: for each id, what happened of it."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.effects: dict[str, list[str]] = {}

    def declared(self, backend: ar.Backend) -> ar.Saga:
        """Two steps; the second fails if it is told to."""
        saga = ar.Saga(self.name, backend=backend)

        for name in "ab":

            @saga.step(name=name)
            async def step(ctx: ar.SagaContext[str], name: str = name) -> str:
                if name == "b" and ctx.input == "fails":
                    raise ar.Fail
                if name not in (done := self.effects.setdefault(ctx.id, [])):  # under the same key, once
                    done.append(name)
                return name

            @step.compensate
            async def undo(ctx: ar.SagaContext[str], result: str | None, name: str = name) -> None:
                if name in (done := self.effects.setdefault(ctx.id, [])):
                    done.remove(name)

        return saga

    async def use(self) -> None:
        """All public coroutines, on connections of its own."""
        async with ar.connect(self.url, deadline=2.0) as backend:
            saga = self.declared(backend)
            async with saga.worker():
                await saga.run("works", id=f"works {len(self.effects)}")
                handle = await saga.start("fails", id=f"fails {len(self.effects)}")
                try:
                    await handle.result()
                except ar.SagaFailed:
                    await handle.get()
                await handle.abort()
                assert [record.id async for record in saga.list(ar.SagaState.STUCK)] == []

    async def check(self) -> None:
        """A worker that comes later brings all to an end, each with all or with none."""
        async with ar.connect(self.url, deadline=2.0) as backend:
            saga = self.declared(backend)
            async for record in saga.list():
                try:
                    await saga.attach(record.id).result()
                except ar.SagaFailed:
                    assert self.effects.get(record.id, []) == [], record.id
                else:
                    assert self.effects[record.id] == ["a", "b"], record.id


def test_cancelled_at_every_await_on_redis(redis_server: RedisServer) -> None:
    """Wherever the caller is cut, with his connection: no task is left, no cancel lost, every saga whole."""

    numbers = count()

    def make() -> Swept:
        return Swept(redis_server.url, f"swept {next(numbers)}")

    async def use(state: Swept) -> None:
        await state.use()

    async def check(state: Swept) -> None:
        await state.check()

    report = cancel_sweep(use, make=make, check=check, loop_factory=asyncio.new_event_loop)
    assert report.points > 5
