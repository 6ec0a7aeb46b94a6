"""Ten thousand sagas in virtual time: steps fail, processes die, the store drops, delays and doubles.

Safety: whatever happens, a saga ends with all of its effects or none, each at most once. Liveness: when the
faults stop, every saga ends.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import run_virtual
from aresilience.testing.faulty import FaultyBackend

SAGAS = 500
SEEDS = range(20)
STEPS = ("flight", "hotel", "car", "pay", "mail")


class Participant:
    """Whom the steps call: it knows a key that it has seen, and has a barrier. It may fail before or after."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.rows: set[str] = set()
        self.effects: Counter[str] = Counter()
        self.undone: set[str] = set()

    async def call(self, ctx: ar.SagaContext[Any]) -> str:
        """Do or undo, once for a key, whatever the caller hears of it."""
        await asyncio.sleep(self.chance.random())
        fate = self.chance.random()
        if fate < 0.04:
            raise ConnectionError("before")
        key, step = ctx.idempotency_key, f"{ctx.id}/{ctx.step}"
        if ctx.compensating:
            null = key.replace("-undo", "-do") not in self.rows
            self.rows.add(key.replace("-undo", "-do"))
            if key not in self.rows and not null:
                self.undone.add(step)
                self.effects[f"-{step}"] += 1
            self.rows.add(key)
        elif key not in self.rows:
            if fate < 0.07 and ctx.step != "mail":
                raise ar.Fail("no")
            self.rows.add(key)
            self.effects[step] += 1
        if fate > 0.96:
            raise ConnectionError("after")
        await asyncio.sleep(self.chance.random())
        return ctx.step


def process(backend: ar.Backend, participant: Participant) -> ar.Saga:
    """A process's definition: two bookings at once, one after them, the pivot, a mail."""
    saga = ar.Saga("trip", backend=backend, lease=3.0, max_recoveries=3, deadline=60.0)

    def declare(name: str, **options: Any) -> None:
        @saga.step(name=name, **options)
        async def act(ctx: ar.SagaContext[int]) -> str:
            return await participant.call(ctx)

        @act.compensate
        async def undo(ctx: ar.SagaContext[int], result: str | None) -> None:
            assert result in (None, name)
            await participant.call(ctx)

    declare("flight", after=[])
    declare("hotel", after=[])
    declare("car", after=["flight", "hotel"])

    @saga.pivot(attempts=2)
    async def pay(ctx: ar.SagaContext[int]) -> str:
        return await participant.call(ctx)

    @saga.retriable(attempts=4)
    async def mail(ctx: ar.SagaContext[int]) -> str:
        return await participant.call(ctx)

    return saga


def die(saga: ar.Saga, id: str) -> None:
    """As kill -9, for one saga of the process."""
    run = saga.running.pop(id)
    run.store.keeper.drop(run)
    run._lost = "died"
    run.store = Silent(run.store)  # type: ignore[assignment]
    run._cancel_all()
    run.wake()


class Silent:
    """What a dead process says to the store."""

    def __init__(self, store: Any) -> None:
        self.keeper = store.keeper

    def hand_over_later(self, id: str, fence: int) -> None:
        """Nothing."""


async def simulate(seed: int, sagas: int) -> Counter[str]:
    """One history; how the sagas ended."""
    chance = random.Random(seed)
    backend = FaultyBackend(seed=seed, rate=0.05)
    participant = Participant(chance)
    async with backend:
        processes = [process(backend, participant) for _ in range(3)]
        workers = [await saga.worker(every=1.0).__aenter__() for saga in processes]
        begun: set[str] = set()

        async def client(id: str) -> None:
            await asyncio.sleep(60 * chance.random())
            try:
                handle = await chance.choice(processes).start(int(id), id=id)
            except ar.BackendError:
                return  # it may have begun all the same
            if chance.random() < 0.1:
                await asyncio.sleep(5 * chance.random())
                try:
                    await handle.abort()
                except (ar.BackendError, LookupError):
                    return

        async def reaper() -> None:
            while True:
                await asyncio.sleep(0.2)
                victim = chance.choice(processes)
                if victim.running and chance.random() < 0.4:
                    name = chance.choice(sorted(victim.running))
                    if chance.random() < 0.5:
                        die(victim, name)
                    else:  # it was paused for longer than its lease, and goes on as if nothing had happened
                        backend.keeper.drop(victim.running[name])

        async def operator() -> None:
            while True:
                await asyncio.sleep(2)
                for state in (ar.SagaState.STUCK, ar.SagaState.PARKED):
                    try:
                        async for record in processes[0].list(state):
                            await processes[0].resume(record.id)
                    except (ar.BackendError, ValueError):
                        continue

        helpers = [asyncio.create_task(reaper()), asyncio.create_task(operator())]
        await asyncio.gather(*(client(str(i)) for i in range(sagas)))
        helpers[0].cancel()
        backend.heal()
        await backend.settle()
        async with asyncio.timeout(600):  # liveness: now everything ends
            for i in range(sagas):
                while (record := await processes[0].get(str(i))) is not None:
                    begun.add(str(i))
                    if record.state in (ar.SagaState.DONE, ar.SagaState.COMPENSATED):
                        break
                    await asyncio.sleep(0.5)
        helpers[1].cancel()
        for worker in workers:
            await worker.__aexit__(None, None, None)
        ends: Counter[str] = Counter()
        for id_ in begun:
            record = await processes[0].get(id_)
            assert record is not None
            ends[record.state.value] += 1
            check(participant, record)
        ends["never begun"] = sagas - len(begun)
        assert not {key.partition("/")[0].lstrip("-") for key in participant.effects} - begun
        return ends


def check(participant: Participant, record: ar.SagaRecord) -> None:
    """All, or none; each effect and its undoing at most once."""
    effects = {step: participant.effects[f"{record.id}/{step}"] for step in STEPS}
    undone = {step: participant.effects[f"-{record.id}/{step}"] for step in STEPS}
    assert max(effects.values()) <= 1, record
    assert max(undone.values()) <= 1, record
    if record.state is ar.SagaState.DONE:
        assert set(effects.values()) == {1}, record
        assert set(undone.values()) == {0}, record
    else:
        assert effects == undone, record


@pytest.mark.parametrize("seed", SEEDS)
def test_all_or_none_whatever_fails(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Five hundred sagas for each of twenty seeds."""
    ends = run_virtual(simulate(seed, SAGAS), seed=seed)
    with capsys.disabled():
        print(f"\nseed {seed}: {dict(sorted(ends.items()))}", end="")
    assert ends["done"] > SAGAS / 4
    assert ends["compensated"] > SAGAS / 20
