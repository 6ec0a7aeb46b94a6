"""Tokens counted in Redis: one script call for everything that a turn of the loop asks.

| when Redis                     | acquire                     | give_back, charge, peek     |
|--------------------------------|-----------------------------|-----------------------------|
| cannot be reached (`NotSent`)  | raises; the shell's policy  | raises, whatever the policy |
| says no (`Refused`)            | raises; the shell's policy  | raises, whatever the policy |
| does not answer in time        | raises `OutcomeUnknown`; it may have been counted; never asked twice |

Who is cancelled while the answer is on its way gets what was granted given back when it comes.
The same ask by many callers of one turn (no waiting) is one decision for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Sequence

from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument, Batch, Rider
from aresilience.backend.redis.errors import another
from aresilience.errors import BackendError
from aresilience.limiter.decision import Decision, decision_of
from aresilience.limiter.entries import ACQUIRE, CHARGE, ENTRY, GIVE_BACK, grant_of, numbers
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.names import Names
from aresilience.limiter.run import Run
from aresilience.limiter.store import Ask, Grant, Part

__all__ = ["RedisLimiterStore"]

_SCRIPT = Script.beside("aresilience.limiter", "limiter.lua")
_FOREVER = 2**51


class RedisLimiterStore:
    """Counts on a Redis backend, by the server's clock."""

    __slots__ = ("_backend", "_head", "_packed", "_runs", "_turns", "names_of")

    _KEPT = 10_000
    """Algorithms and costs that are remembered as numbers."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self.names_of = Names(self._name).of
        self._packed: dict[tuple[Hashable, int], bytes] = {}
        self._runs: dict[str, Run] = {}
        self._turns: dict[tuple[Part, ...], _Turn] = {}
        self._head: tuple[int] = (0,)

    def set_time(self, micros: int) -> None:
        """For tests: the server's time, instead of its clock (0)."""
        self._head = (micros,)
        self._runs.clear()

    def acquire(self, ask: Ask, max_wait: int) -> asyncio.Future[Grant]:
        """One decision; callers who ask the same without waiting, before it leaves, share it."""
        if max_wait != 0:
            return self._ride(_One(self, ask, ACQUIRE, min(max_wait, _FOREVER)))
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        turn = self._turns.get(ask)
        if turn is None:
            self._runs.clear()  # who asks now must not come before this one
            turn = self._turns[ask] = _Turn(self, ask)
            self.join(turn)
        turn.waiters.append(future)
        return future

    def decide(self, ask: Ask) -> Awaitable[Decision]:
        """`acquire` without waiting: those who ask one bucket go together, whatever their keys."""
        meter, key, cost = ask[0]
        run = self._runs.get(meter.name)
        if len(ask) == 1 and run is not None and run.algorithm is meter.algorithm and run.cost == cost:
            return run.add(key)
        if len(ask) > 1 or not cost or not isinstance(meter.algorithm, Gcra) or not self._together():
            return self._decided(ask)
        run = Run(self, meter, meter.algorithm, cost)
        first = run.begin(key)
        self._runs[meter.name] = run
        return first

    async def _decided(self, ask: Ask) -> Decision:
        grant = await self.acquire(ask, 0)
        return decision_of(ask, grant, grant.allowed)

    async def give_back(self, ask: Ask, at: int) -> None:
        await self._ride(_One(self, ask, GIVE_BACK, at))

    async def charge(self, ask: Ask) -> None:
        for meter, key, cost in ask:
            while cost > 0:
                part = min(cost, meter.algorithm.capacity)
                await self._ride(_One(self, ((meter, key, part),), CHARGE, 0))
                cost -= part

    async def peek(self, ask: Ask) -> Grant:
        return await self._ride(_One(self, ask, ACQUIRE, -1))

    def one_slot(self, ask: Ask) -> bool:
        return len({self._backend.slot(name) for name in self.names(ask)}) == 1

    def return_later(self, ask: Ask, at: int) -> None:
        answer = self._ride(_One(self, ask, GIVE_BACK, at))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def leaves(self, ask: Ask) -> None:
        """A shared ask is on its way: who comes now begins another."""
        self._turns.pop(ask, None)

    def ends(self, run: Run) -> None:
        """Nobody can join a run any more: who comes now begins another."""
        if self._runs.get(run.meter.name) is run:
            del self._runs[run.meter.name]

    def args(self, ask: Ask, mode: int, count: int, time: int) -> list[bytes]:
        """The arguments of an entry, as the script unpacks them."""
        args = [ENTRY.pack(mode, count, time, len(ask))]
        for meter, _, cost in ask:
            known = self._packed.get((meter.algorithm, cost))
            if known is None:
                if len(self._packed) >= self._KEPT:
                    self._packed.clear()
                known = self._packed[meter.algorithm, cost] = numbers(meter.algorithm, cost)
            args.append(known)
        return args

    def names(self, ask: Ask) -> list[bytes]:
        """The keys of an ask on the server."""
        return [name for meter, key, _ in ask for name in self.names_of(meter.name, (key,))]

    def _together(self) -> bool:
        """Whether all keys go to one place: a cluster has a slot other than 0 for this one."""
        return self._backend.slot(b"a") == 0

    def join(self, rider: Rider) -> None:
        """Ride on the next call."""
        self._backend.join(_SCRIPT, rider, self._head)

    def _name(self, meter: str, key: str) -> bytes:
        limiter, _, number = meter.rpartition(":")
        return self._backend.key("limit", limiter, key) + number.encode()

    def _ride(self, rider: _One) -> asyncio.Future[Grant]:
        self._runs.clear()  # who asks now must not come before this one
        self.join(rider)
        return rider.future


class _One:
    """One ask of one caller."""

    __slots__ = ("_args", "_ask", "_gives", "_store", "batch", "future", "keys")

    batch: Batch

    def __init__(
        self,
        store: RedisLimiterStore,
        ask: Ask,
        mode: int,
        time: int,
        future: asyncio.Future[Grant] | None = None,
    ) -> None:
        self._store = store
        self._ask = ask
        self._args = store.args(ask, mode, 1, time)
        self._gives = mode == ACQUIRE
        self.keys: Sequence[Argument] = store.names(ask)
        self.future = future or asyncio.get_running_loop().create_future()

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        return self._args

    def answer(self, item: list[int]) -> None:
        if not self.future.done():
            self.future.set_result(grant_of(self._ask, item, item[0] > 0))
        elif self._gives and item[0]:  # nobody wants any more what was granted
            self._store.return_later(self._ask, item[2])

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Turn:
    """Callers who ask the same: granted in the order in which they asked."""

    __slots__ = ("_ask", "_sealed", "_store", "batch", "keys", "waiters")

    batch: Batch

    def __init__(self, store: RedisLimiterStore, ask: Ask) -> None:
        self._store = store
        self._ask = ask
        self._sealed = False
        self.keys: Sequence[Argument] = store.names(ask)
        self.waiters: list[asyncio.Future[Grant]] = []

    def wanted(self) -> bool:
        for waiter in self.waiters:
            if not waiter.done():
                return True
        if not self._sealed and self.waiters:
            self._store.leaves(self._ask)
        return not self.waiters

    def args(self) -> Sequence[Argument]:
        """Now it leaves, and nobody can join any more."""
        if not self._sealed:
            self._sealed = True
            self._store.leaves(self._ask)
            self.waiters = [waiter for waiter in self.waiters if not waiter.done()]
        return self._store.args(self._ask, ACQUIRE, len(self.waiters), 0)

    def answer(self, item: list[int]) -> None:
        left = item[0]
        yes = grant_of(self._ask, item, True) if left else None
        no = grant_of(self._ask, item, False) if left < len(self.waiters) else None
        for waiter in self.waiters:
            if yes is not None and left > 0:
                left -= 1
                if waiter.done():  # it was cancelled meanwhile
                    self._store.return_later(self._ask, yes.at)
                else:
                    waiter.set_result(yes)
            elif no is not None and not waiter.done():
                waiter.set_result(no)

    def fail(self, error: BackendError) -> None:
        if not self._sealed:
            self._store.leaves(self._ask)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(another(error))  # each his own, to add notes and a traceback to
