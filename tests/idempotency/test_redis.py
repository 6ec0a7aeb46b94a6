"""On Redis: round trips, push instead of polling, lost replies, lost servers, and processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import Cluster, RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]
WORKER = Path(__file__).with_name("worker.py")
Two = tuple[ar.Backend, ar.Backend]


def calls(server: RedisServer) -> dict[str, int]:
    """How often each command was called since the last `CONFIG RESETSTAT`."""
    lines = server.command("INFO", "commandstats").splitlines()
    stats = dict(line.removeprefix("cmdstat_").split(":", 1) for line in lines if ":" in line)
    return {name: int(stat.split("=")[1].split(",")[0]) for name, stat in stats.items()}


class Effects:
    """Work that counts how often it was done."""

    def __init__(self, takes: float = 0.0, ends: asyncio.Event | None = None) -> None:
        self.takes = takes
        self.ends = ends
        self.done: list[int] = []

    async def work(self) -> dict[str, int]:
        """Do it."""
        claim = ar.current_claim()
        await asyncio.sleep(self.takes)
        if self.ends is not None:
            await self.ends.wait()
        self.done.append(claim.attempt)
        return {"fence": claim.fence}


async def test_a_first_call_is_two_round_trips_and_a_replay_one(
    two: Two, redis_server: RedisServer
) -> None:
    """One script call to claim, one to complete; one for the answer of before; none with a local cache."""
    effects = Effects()
    idem = ar.Idempotency(name="trips", backend=two[0])
    cached = ar.Idempotency(name="trips", cache=10, backend=two[1])
    await idem.run("warm", effects.work)
    await cached.run("warm", effects.work)

    def scripts() -> int:
        return calls(redis_server).get("evalsha", 0)

    before = scripts()
    await idem.run("k", effects.work)
    assert scripts() - before == 2
    await idem.run("k", effects.work)
    assert scripts() - before == 3
    await cached.run("k", effects.work)
    assert scripts() - before == 4
    for _ in range(10):
        await cached.run("k", effects.work)
    assert scripts() - before == 4
    assert "eval" not in calls(redis_server) or calls(redis_server)["eval"] <= 4


async def test_a_duplicate_in_another_process_is_woken_by_push(two: Two, redis_server: RedisServer) -> None:
    """It asks nothing while it waits, and is there as soon as the work is done."""
    effects = Effects(0.5)
    one = ar.Idempotency(name="push", backend=two[0])
    other = ar.Idempotency(name="push", backend=two[1])
    first = asyncio.create_task(one.run("k", effects.work))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(other.run("k", effects.work))
    await asyncio.sleep(0.1)
    before = calls(redis_server)["evalsha"]
    await asyncio.sleep(0.3)
    assert calls(redis_server)["evalsha"] == before
    answer = await first
    done = time.monotonic()
    assert await waiting == answer
    assert time.monotonic() - done < 0.5
    assert effects.done == [1]


async def test_nobody_is_told_who_does_not_wait(two: Two, redis_server: RedisServer) -> None:
    """Without a duplicate that waits, nothing is published."""
    idem = ar.Idempotency(name="quiet", backend=two[0])
    await idem.run("k", Effects().work)
    await idem.run("k", Effects().work)
    assert "publish" not in calls(redis_server)


async def test_a_lost_message_costs_a_while_and_no_more(two: Two, redis_server: RedisServer) -> None:
    """The push connection is cut just before the end: the waiter finds out when it listens again."""
    effects = Effects(0.3)
    one = ar.Idempotency(name="cut", backend=two[0])
    other = ar.Idempotency(name="cut", backend=two[1])
    first = asyncio.create_task(one.run("k", effects.work))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(other.run("k", effects.work))
    await asyncio.sleep(0.25)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    assert await first == await waiting
    assert effects.done == [1]


@pytest.mark.parametrize("ending", ["raises", "releases", "abandons"])
async def test_who_waits_is_woken_by_every_end(two: Two, ending: str) -> None:
    """Failed, released, given up: one of those who wait runs, at once."""
    one = ar.Idempotency(name="ends", backend=two[0])
    other = ar.Idempotency(name="ends", backend=two[1])
    effects = Effects()

    async def owner() -> None:
        async with one.claim("k", operation="Effects.work") as claim:
            await asyncio.sleep(0.2)
            if ending == "raises":
                raise OSError("down")
            (claim.release if ending == "releases" else claim.abandon)()

    first = asyncio.create_task(owner())
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(other.run("k", effects.work)) for _ in range(5)]
    await asyncio.wait([first])
    ended = time.monotonic()
    answers = await asyncio.gather(*waiting)
    assert time.monotonic() - ended < 1.0
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert effects.done == [2 if ending == "abandons" else 1]
    assert first.exception() is None or ending == "raises"


async def test_the_lease_is_renewed_many_at_once(two: Two, redis_server: RedisServer) -> None:
    """A hundred claims that outlive their lease: kept, and renewed by few calls."""
    idem = ar.Idempotency(name="renew", lease=1.2, backend=two[0])
    other = ar.Idempotency(name="renew", lease=1.2, in_flight="raise", backend=two[1])
    tasks = [asyncio.create_task(idem.run(f"{n}", Effects(3.0).work)) for n in range(100)]
    await asyncio.sleep(2.0)
    for n in range(0, 100, 10):
        with pytest.raises(ar.InFlight):
            await other.run(f"{n}", Effects().work)
    await asyncio.gather(*tasks)
    assert calls(redis_server)["evalsha"] < 300


# A store that answers late, or not


async def test_s_every_reply_of_every_script_may_be_lost(
    redis_server: RedisServer, proxy: FaultProxy, two: Two
) -> None:
    """Claim and completion: swallowed, or cut off with their connection, one by one; the effect is there at
    most once, and the next call with the key has the answer, or runs for the first time."""
    whole = ar.Idempotency(name="lost", on_abandoned="refuse", wait=1.0, backend=two[0])
    for nth, fault in itertools.product(range(1, 5), ("swallow", "reset")):
        effects = Effects()
        key = f"{nth} {fault}"
        await whole.run(f"warm {key}", effects.work)
        effects.done.clear()
        if fault == "reset":  # every reply, those to unknown scripts included
            redis_server.command("SCRIPT", "FLUSH")
        async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.2) as hurried:
            idem = ar.Idempotency(name="lost", lease=5.0, on_abandoned="refuse", backend=hurried)
            await hurried.ping()
            getattr(proxy.replies, fault)(nth=nth)
            try:
                await idem.run(key, effects.work)
            except ar.OutcomeUnknown:
                assert effects.done == []
            await proxy.heal()
            await whole.run(key, effects.work)  # told again, or taken back meanwhile
        await whole.run(key, effects.work)
        assert effects.done == [1]


@pytest.mark.parametrize("verb", ["get", "in_flight", "evict"])
async def test_what_operators_ask_may_be_asked_again(proxy: FaultProxy, verb: str) -> None:
    """A reply that is lost is an error that says so, and nothing else."""
    async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.6) as hurried:
        idem = ar.Idempotency(name="ops", backend=hurried)
        await idem.run("k", Effects().work)
        proxy.replies.swallow()
        ask: Callable[[], Any] = {
            "get": lambda: idem.get("k"),
            "in_flight": idem.in_flight,
            "evict": lambda: idem.evict("k"),
        }[verb]
        with pytest.raises(ar.OutcomeUnknown):
            await ask()
        await proxy.heal()
        with contextlib.suppress(ar.OutcomeUnknown):
            await ask()  # the replies of this connection are one behind: it is dropped
        await ask()


async def test_renewals_that_are_lost_are_asked_again(proxy: FaultProxy) -> None:
    """Of three renewals two are swallowed: the lease holds."""
    effects = Effects(1.2)
    async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as backend:
        idem = ar.Idempotency(name="renewals", lease=0.9, on_abandoned="refuse", backend=backend)
        task = asyncio.create_task(idem.run("k", effects.work))
        await asyncio.sleep(0.2)
        proxy.replies.swallow(times=2)
        await task
        assert await idem.run("k", effects.work)
    assert effects.done == [1]


async def test_a_stale_owner_is_refused(two: Two, proxy: FaultProxy) -> None:
    """I4: cut off for longer than its lease, another takes over; its completion is refused."""
    seen = Recorder()
    async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.3) as cut_off:
        stale = ar.Idempotency(name="stale", lease=0.3, backend=cut_off, listeners=[seen])
        fresh = ar.Idempotency(name="stale", lease=0.3, backend=two[0])
        ends = asyncio.Event()
        late, quick = Effects(ends=ends), Effects()
        task = asyncio.create_task(stale.run("k", late.work))
        while not task.done() and not await fresh.in_flight():  # it has the claim
            await asyncio.sleep(0.01)
        proxy.refuse()
        proxy.cut()
        answer = await fresh.run("k", quick.work)
        assert quick.done == [2]
        await proxy.heal()
        while True:  # the line is back
            with contextlib.suppress(ar.BackendError):
                await cut_off.ping()
                break
            await asyncio.sleep(0.01)
        ends.set()
        with pytest.raises(ar.ClaimLost):
            await task
        assert late.done == [1]
        assert await fresh.run("k", quick.work) == answer


async def test_a_server_that_lost_its_records_gets_the_result(two: Two, redis_server: RedisServer) -> None:
    """FLUSHALL while work runs: its result is kept all the same, and the work does not run again."""
    idem = ar.Idempotency(name="flushed", lease=5.0, backend=two[0])
    effects = Effects(0.2)
    task = asyncio.create_task(idem.run("k", effects.work))
    await asyncio.sleep(0.05)
    redis_server.command("FLUSHALL")
    answer = await task
    assert await idem.run("k", effects.work) == answer
    assert effects.done == [1]


async def test_a_restart_in_the_middle(start_redis: Callable[..., RedisServer]) -> None:
    """A server without persistence dies and comes back empty: the completion is told until it knows it."""
    server = start_redis()
    async with ar.connect(server.url, deadline=0.2) as backend:
        idem = ar.Idempotency(name="restart", lease=5.0, backend=backend)
        effects = Effects(0.3)
        task = asyncio.create_task(idem.run("k", effects.work))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.kill)
        answer = await task
        await asyncio.to_thread(server.start)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                state = await idem.get("k")
            except ar.BackendError:
                state = None
            if state is not None and state.state is ar.RecordState.DONE:
                break
            await asyncio.sleep(0.02)
        assert await idem.run("k", effects.work) == answer
    assert effects.done == [1]


async def test_in_a_cluster(redis_cluster: Cluster) -> None:
    """Keys on all nodes, waiters woken across them, what is open listed from everywhere."""
    async with (
        ar.connect(redis_cluster.url, deadline=2.0) as one,
        ar.connect(redis_cluster.url, deadline=2.0) as other,
    ):
        effects = Effects(0.3)
        first = ar.Idempotency(name="cluster", backend=one)
        second = ar.Idempotency(name="cluster", backend=other)
        tasks = [
            asyncio.create_task(idem.run(f"{n}", effects.work))
            for n in range(20)
            for idem in (first, second)
        ]
        await asyncio.sleep(0.15)
        assert len(await first.in_flight()) == 20
        answers = await asyncio.gather(*tasks)
        assert len(effects.done) == 20
        assert answers[::2] == answers[1::2]
        assert await second.in_flight() == []


async def cancelled_and_closed(url: str, effects: Effects, within: float) -> float:
    """Leave the work to itself, close the backend, and tell how long that took."""
    async with ar.connect(url, deadline=0.2) as backend:
        idem = ar.Idempotency(name="closing", finish_within=within, backend=backend)
        task = asyncio.create_task(idem.run("k", effects.work))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        began = time.monotonic()
    return time.monotonic() - began


@pytest.mark.parametrize("finished", [True, False])
async def test_closing_finishes_work_or_gives_it_up_in_time(
    redis_url: str, two: Two, finished: bool
) -> None:
    """What goes on without its caller is stored before the connection is closed; or cancelled in time, and the
    next process is told that nobody knows."""
    effects = Effects(0.4 if finished else 60.0)
    took = await cancelled_and_closed(redis_url, effects, 5.0 if finished else 0.3)
    assert took < 5.0
    idem = ar.Idempotency(name="closing", on_abandoned="refuse", backend=two[1])
    if finished:
        assert await idem.run("k", effects.work)
    else:
        with pytest.raises(ar.Abandoned):
            await idem.run("k", effects.work)
    assert effects.done == ([1] if finished else [])


@pytest.mark.parametrize("seed", range(3))
async def test_over_a_bad_line_work_is_done_at_most_once(
    redis_server: RedisServer, proxy: FaultProxy, seed: int
) -> None:
    """Replies swallowed, delayed, cut off, connections reset, callers cancelled, two processes: when it is
    over, each key's work was done once, all who have an answer have the same, and nothing is in flight."""
    chance = random.Random(seed)
    effects: dict[str, int] = {}
    answers: dict[str, set[str]] = {}

    async def work(key: str) -> str:
        effects[key] = effects.get(key, 0) + 1
        await asyncio.sleep(chance.random() * 0.05)
        return f"{key} {effects[key]} {ar.current_claim().fence}"

    async def client(idem: ar.Idempotency) -> None:
        while time.monotonic() < end:
            key = f"{chance.randrange(30)}"
            try:
                async with asyncio.timeout(0.02 if chance.random() < 0.3 else None):
                    answers.setdefault(key, set()).add(await idem.run(key, work, key))
            except (ar.BackendError, ar.InFlight, ar.Abandoned, TimeoutError):
                await asyncio.sleep(0.005)

    async def trouble() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(chance.random() * 0.1)
            what = chance.choice(["swallow", "delay", "reset", "cut"])
            if what == "cut":
                proxy.cut()
            elif what == "delay":
                proxy.replies.delay(chance.random() * 0.2)
            else:
                getattr(proxy.replies, what)()

    end = time.monotonic() + 2.0
    url = f"redis://127.0.0.1:{proxy.port}"
    async with ar.connect(url, deadline=0.1) as one, ar.connect(url, deadline=0.1) as two:
        idems = [
            ar.Idempotency(name="line", lease=20.0, wait=1.0, on_abandoned="refuse", backend=backend)
            for backend in (one, two)
        ]
        await asyncio.gather(trouble(), *(client(idem) for idem in idems * 4))
        await proxy.heal()
        async with asyncio.timeout(10):
            while [s for s in await quiet(idems[0]) if s.state is ar.RecordState.RUNNING]:
                await asyncio.sleep(0.05)
    assert effects
    assert set(effects.values()) == {1}
    assert all(len(said) <= 1 for said in answers.values())


async def quiet(idem: ar.Idempotency) -> list[ar.KeyState]:
    """What is in flight, once the line is good again."""
    while True:
        try:
            return await idem.in_flight()
        except ar.BackendError:
            await asyncio.sleep(0.05)


# Processes


def storm(url: str) -> subprocess.Popen[str]:
    """A process that makes 250 calls at once when it is told to; see worker.py."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), "storm", url, "250"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def die(url: str, when: str, verb: str) -> None:
    """Let a process begin a call and kill itself; see worker.py."""
    command = [sys.executable, str(WORKER), "die", url, when, verb]
    assert (await asyncio.to_thread(subprocess.run, command, timeout=20)).returncode == -9


async def said(process: subprocess.Popen[str]) -> str:
    """A line of its output."""
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def test_a_thousand_duplicates_over_four_processes_run_once(redis_server: RedisServer) -> None:
    """One body; a thousand equal answers."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(storm(redis_server.url)) for _ in range(4)]
        for process in processes:
            assert await said(process) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(await said(process)) for process in processes]
        for process in processes:
            assert await asyncio.to_thread(process.wait, 10) == 0
    answers = [answer for result in results for answer in result["answers"]]
    assert len(answers) == 1000
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert redis_server.command("GET", "effects") == "1"


KILLS = [f"{when} {verb}" for verb in ("claim", "renew", "settle") for when in ("before", "after")]


@pytest.mark.parametrize("point", KILLS)
async def test_kill_9_at_every_call_of_the_store(redis_server: RedisServer, point: str, two: Two) -> None:
    """The process dies just before or just after a call: another finishes the work after the lease, once more
    at most; where the result was stored already, it is the answer, and nothing runs."""
    redis_server.command("DEL", "effects")
    await die(redis_server.url, *point.split())
    effects_before = int(redis_server.command("GET", "effects") or 0)
    idem = ar.Idempotency(name="kill", lease=0.5, wait=10.0, backend=two[0])
    effects = Effects()
    began = time.monotonic()
    answer = await idem.run("k", effects.work, fingerprint="f")
    assert time.monotonic() - began < 5.0
    expected: dict[str, tuple[int, list[int]]] = {
        "before claim": (0, [1]),
        "after claim": (0, [2]),
        "before renew": (0, [2]),
        "after renew": (0, [2]),
        "before settle": (1, [2]),
        "after settle": (1, []),
    }
    assert (effects_before, effects.done) == expected[point]
    assert await idem.run("k", effects.work, fingerprint="f") == answer
    assert len(effects.done) <= 1
    assert await idem.in_flight() == []


async def test_and_again_while_it_is_taken_over(redis_server: RedisServer, two: Two) -> None:
    """Two deep: the successor dies too; the third one is the third attempt."""
    for _ in range(2):
        await die(redis_server.url, "before", "settle")
    idem = ar.Idempotency(name="kill", lease=0.5, wait=10.0, backend=two[0])
    effects = Effects()
    await idem.run("k", effects.work, fingerprint="f")
    assert effects.done == [3]


async def test_a_killed_owners_work_can_be_refused(redis_server: RedisServer, two: Two) -> None:
    """`refuse`: nobody runs it again by himself; the operator sees it, and evicts it."""
    await die(redis_server.url, "after", "claim")
    idem = ar.Idempotency(name="kill", lease=0.5, wait=10.0, on_abandoned="refuse", backend=two[0])
    effects = Effects()
    with pytest.raises(ar.Abandoned):
        await idem.run("k", effects.work, fingerprint="f")
    [entry] = await idem.in_flight()
    assert entry.state is ar.RecordState.ABANDONED
    await idem.evict(entry)
    await idem.run("k", effects.work, fingerprint="f")
    assert effects.done == [1]
