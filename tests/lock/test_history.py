"""Histories of several processes: stopped, killed, and while the master changes.

Promised, and asserted: fences strictly rise in the order of the grants, a guarded resource never takes a lower
one after a higher, nothing that it took is lost. Not promised, and counted: how often two bodies overlapped
because one of them was stopped for longer than its lock lived.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import eventually

import aresilience as ar

if TYPE_CHECKING:
    from servers import RedisServer, SentinelTrio

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

WORKER = Path(__file__).with_name("worker.py")
Event = dict[str, Any]


async def started(url: str, ttl: float, seconds: float) -> asyncio.subprocess.Process:
    """A worker."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        url,
        str(ttl),
        str(seconds),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


async def told(worker: asyncio.subprocess.Process) -> list[Event]:
    """All that it said."""
    assert worker.stdout is not None
    return [json.loads(line) for line in (await worker.stdout.read()).splitlines()]


def order_of_grants(events: list[Event]) -> None:
    """No grant with a higher fence was over before one with a lower fence was asked for."""
    entered = sorted((e for e in events if e["what"] == "enter"), key=lambda e: e["fence"])
    assert len({e["fence"] for e in entered}) == len(entered), "a fence was given twice"
    latest = float("inf")
    for event in reversed(entered):  # from the highest down: nobody below asked after this one had it
        assert event["asked"] <= latest, f"fence {event['fence']} was asked for after a higher one was held"
        latest = min(latest, event["at"])


def overlaps(events: list[Event]) -> int:
    """Bodies that began before the one before them had ended."""
    ends = {e["fence"]: e["at"] for e in events if e["what"] == "exit"}
    begun = sorted((e["at"], e["fence"]) for e in events if e["what"] == "enter")
    return sum(ends.get(before[1], 0.0) > after[0] for before, after in pairwise(begun))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seconds", [4.0, pytest.param(20.0, marks=pytest.mark.slow)])
async def test_six_processes_that_are_stopped_now_and_then(
    redis_server: RedisServer, seconds: float, publish: Callable[[str], None]
) -> None:
    """L5, rung 9: SIGSTOP for 0.05 to 0.5 s against a ttl of 0.25 s: the guard takes nothing stale."""
    workers = [await started(redis_server.url, 0.25, seconds) for _ in range(6)]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    reading = [asyncio.ensure_future(told(worker)) for worker in workers]
    chance = random.Random(7)
    stops, end = 0, time.monotonic() + seconds
    while time.monotonic() < end - 0.6:
        victims = chance.sample(workers, 3)  # of six: every other time the one who holds it is among them
        for victim in victims:
            victim.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.05 + 0.45 * chance.random())
        for victim in victims:
            victim.send_signal(signal.SIGCONT)
        stops += 3
        await asyncio.sleep(0.05)
    events = [event for each in await asyncio.gather(*reading) for event in each]
    for worker in workers:
        assert await worker.wait() == 0
    count = {what: sum(e["what"] == what for e in events) for what in sorted({e["what"] for e in events})}
    order_of_grants(events)
    async with ar.connect(redis_server.url, deadline=2.0) as backend:
        value, fence = await ar.FencedGuard("history", backend=backend).read("counter")
    assert count["wrote"] > 20
    accepted = int(value or 0)
    # A write whose answer did not come in time, or not before the body was cut, may have been taken too.
    untold = count.get("OutcomeUnknown", 0) + count.get("LockLost", 0)
    assert count["wrote"] <= accepted <= count["wrote"] + untold
    assert fence >= max(e["fence"] for e in events if e["what"] == "wrote")
    plain = int(redis_server.command("GET", "ar-test-unguarded") or 0)
    lost = count.get("wrote plainly", 0) - plain
    told_of, refused = count.get("LockLost", 0), count.get("StaleFence", 0)
    publish(
        f"lock history, {stops} SIGSTOPs in {seconds:g} s: {count['enter']} sections, "
        f"{overlaps(events)} overlaps, {told_of} told of their loss, {refused} stale writes refused; "
        f"updates lost: {max(lost, 0)} unguarded, 0 guarded"
    )


async def test_kill_9_frees_the_lock_within_its_ttl(redis_server: RedisServer) -> None:
    """A holder is killed: who waits has it within the ttl and a little, each time."""
    async with ar.connect(redis_server.url, deadline=2.0) as backend:
        lock = ar.Lock("history", ttl=0.25, backend=backend)
        last = 0
        for _ in range(4):
            worker = await started(redis_server.url, 0.25, 30.0)
            assert worker.stdout is not None
            await worker.stdout.readline()
            fence = json.loads(await worker.stdout.readline())["fence"]
            worker.kill()
            began = time.monotonic()
            async with lock as lease:
                assert time.monotonic() - began < 0.25 + 0.15
                assert lease.fence > fence > last
                last = lease.fence
            await worker.wait()
            await worker.stdout.read()


async def fences_until(
    lock: ar.Lock, done: Callable[[], bool], grants: list[tuple[float, int]], errors: list[Exception]
) -> None:
    """Take the lock again and again, and write down its fences."""
    while not done():
        try:
            async with lock as lease:
                grants.append((time.monotonic(), lease.fence))
                await asyncio.sleep(0.001)
        except (ar.LockLost, ar.BackendError) as error:
            errors.append(error)
            await asyncio.sleep(0.01)


@pytest.mark.timeout(90)
async def test_s16_fences_rise_over_a_failover(
    redis_sentinel: SentinelTrio, publish: Callable[[str], None]
) -> None:
    """S16: the master is killed: the lock comes back with its replica, every fence above those before."""
    old = redis_sentinel.master
    grants: list[tuple[float, int]] = []
    errors: list[Exception] = []
    async with ar.connect(redis_sentinel.url, deadline=0.3) as backend:
        lock = ar.Lock("a", ttl=1.0, wait=1.0, backend=backend)
        stop = asyncio.Event()
        task = asyncio.ensure_future(fences_until(lock, stop.is_set, grants, errors))
        await eventually(lambda: len(grants) > 20)
        old.kill()
        killed = time.monotonic()
        await eventually(lambda: grants[-1][0] > killed + 0.2, within=20)
        back = next(at for at, _ in grants if at > killed + 0.2)
        await asyncio.sleep(0.3)
        stop.set()
        await task
    fences = [fence for _, fence in grants]
    assert fences == sorted(set(fences))
    publish(f"lock failover: {back - killed:.2f} s to the next grant, {len(errors)} errors meanwhile")


@pytest.mark.timeout(90)
async def test_a_lock_that_no_replica_has_is_lost_with_its_master(
    redis_sentinel: SentinelTrio, publish: Callable[[str], None]
) -> None:
    """Not replicated, the lock dies with the master: the holder is told, the next fence is higher.

    With `wait_replicas` it is not granted at all while no replica confirms it.
    """
    master, *replicas = redis_sentinel.nodes
    async with ar.connect(redis_sentinel.url, deadline=0.3) as backend:
        sure = ar.Lock("sure", ttl=2.0, wait_replicas=1, backend=backend)

        async def replicated() -> bool:
            try:
                await (await sure.acquire()).release()
            except ar.BackendError:
                return False
            return True

        await eventually(replicated)
        for replica in replicas:
            replica.pause()
        master.command("CLIENT", "KILL", "TYPE", "replica")  # or the kernel would deliver it later
        fence = 0
        with pytest.raises(ar.LockLost):  # noqa: PT012 - the body is what fails
            async with ar.Lock("a", ttl=3.0, backend=backend) as lease:
                fence = lease.fence
                with pytest.raises((ar.Refused, ar.OutcomeUnknown)):
                    await sure.acquire()
                master.kill()
                for replica in replicas:
                    replica.resume()
                await asyncio.sleep(20)

        async def again() -> int:
            try:
                async with ar.Lock("a", ttl=3.0, wait=0.5, backend=backend) as lease:
                    return lease.fence
            except (ar.BackendError, ar.LockTimeout):
                return 0

        assert await eventually(again, within=20) > fence
    publish(
        "lock failover: a lock that no replica had was lost, and its holder told; the next fence was higher"
    )
