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
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from struct import Struct

from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument
from aresilience.errors import BackendError
from aresilience.limiter.algorithm import Algorithm
from aresilience.limiter.fixed_window import FixedWindow
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.sliding_log import SlidingLog
from aresilience.limiter.sliding_window import SlidingWindow
from aresilience.limiter.store import Ask, Grant, Meter, Part

__all__ = ["RedisLimiterStore"]

_SCRIPT = Script.beside("aresilience.limiter", "limiter.lua")
_ACQUIRE, _GIVE_BACK, _CHARGE = 0, 1, 2
_FOREVER = 2**51
_ENTRY, _PART = Struct("<4d"), Struct("<7d")
_ONE_NOW = _ENTRY.pack(_ACQUIRE, 1, 0, 1)


class RedisLimiterStore:
    """Counts on a Redis backend, by the server's clock."""

    __slots__ = ("_backend", "_head", "_keys", "_packed", "_turns")

    _KEPT = 10_000
    """Names of keys that are remembered, to hash each once."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self._keys: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._packed: dict[tuple[Hashable, int], bytes] = {}
        self._turns: dict[tuple[Part, ...], _Turn] = {}
        self._head: tuple[int] = (0,)

    def set_time(self, micros: int) -> None:
        """For tests: the server's time, instead of its clock (0)."""
        self._head = (micros,)

    def acquire(self, ask: Ask, max_wait: int) -> asyncio.Future[Grant]:
        """One decision; callers who ask the same without waiting, before it leaves, share it."""
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        if max_wait == 0:
            turn = self._turns.get(ask)
            if turn is None:
                turn = self._turns[ask] = _Turn(self, ask)
                self._backend.join(_SCRIPT, turn, self._head)
            turn.waiters.append(future)
        else:
            self._ride(_One(self, ask, _ACQUIRE, min(max_wait, _FOREVER), future))
        return future

    async def give_back(self, ask: Ask, at: int) -> None:
        await self._ride(_One(self, ask, _GIVE_BACK, at))

    async def charge(self, ask: Ask) -> None:
        for meter, key, cost in ask:
            while cost > 0:
                part = min(cost, meter.algorithm.capacity)
                await self._ride(_One(self, ((meter, key, part),), _CHARGE, 0))
                cost -= part

    async def peek(self, ask: Ask) -> Grant:
        return await self._ride(_One(self, ask, _ACQUIRE, -1))

    def one_slot(self, ask: Ask) -> bool:
        return len({self._backend.slot(name) for name in self.names(ask)}) == 1

    def return_later(self, ask: Ask, at: int) -> None:
        answer = self._ride(_One(self, ask, _GIVE_BACK, at))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def leaves(self, ask: Ask) -> None:
        """A shared ask is on its way: who comes now begins another."""
        self._turns.pop(ask, None)

    def args(self, ask: Ask, mode: int, count: int, time: int) -> list[bytes]:
        """The arguments of an entry, as the script unpacks them."""
        usual = count == 1 and mode == time == 0 and len(ask) == 1
        args = [_ONE_NOW if usual else _ENTRY.pack(mode, count, time, len(ask))]
        for meter, _, cost in ask:
            known = self._packed.get((meter.algorithm, cost))
            if known is None:
                if len(self._packed) >= self._KEPT:
                    self._packed.clear()
                known = self._packed[meter.algorithm, cost] = _numbers(meter.algorithm, cost)
            args.append(known)
        return args

    def names(self, ask: Ask) -> list[bytes]:
        """The keys of an ask on the server."""
        names = []
        for meter, key, _ in ask:
            found = self._keys.get((meter.name, key))
            names.append(self._name(meter, key) if found is None else found)
        return names

    def _name(self, meter: Meter, key: str) -> bytes:
        limiter, _, number = meter.name.rpartition(":")
        name = self._backend.key("limit", limiter, key) + number.encode()
        self._keys[meter.name, key] = name
        if len(self._keys) > self._KEPT:
            self._keys.popitem(last=False)
        return name

    def _ride(self, rider: _One) -> asyncio.Future[Grant]:
        self._backend.join(_SCRIPT, rider, self._head)
        return rider.future


class _One:
    """One ask of one caller."""

    __slots__ = ("_args", "_ask", "_gives", "_store", "future", "keys")

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
        self._gives = mode == _ACQUIRE
        self.keys: Sequence[Argument] = store.names(ask)
        self.future = future or asyncio.get_running_loop().create_future()

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        return self._args

    def answer(self, item: list[int]) -> None:
        if not self.future.done():
            self.future.set_result(_grant(self._ask, item, item[0] > 0))
        elif self._gives and item[0]:  # nobody wants any more what was granted
            self._store.return_later(self._ask, item[2])

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Turn:
    """Callers who ask the same: granted in the order in which they asked."""

    __slots__ = ("_ask", "_sealed", "_store", "keys", "waiters")

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
        return self._store.args(self._ask, _ACQUIRE, len(self.waiters), 0)

    def answer(self, item: list[int]) -> None:
        left = item[0]
        yes = _grant(self._ask, item, True) if left else None
        no = _grant(self._ask, item, False) if left < len(self.waiters) else None
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
            if not waiter.done():  # each his own, to which he may add notes and a traceback
                waiter.set_exception(type(error)(*error.args))


def _numbers(algorithm: Algorithm, cost: int) -> bytes:
    """What the script needs to know of an algorithm."""
    rate = algorithm.rate
    if isinstance(algorithm, Gcra):
        step = divmod(cost * algorithm.step, algorithm.scale)
        depth = divmod(algorithm.depth, algorithm.scale)
        return _PART.pack(1, cost, algorithm.scale, *step, *depth)
    if isinstance(algorithm, FixedWindow):
        return _PART.pack(2, cost, rate.limit, rate.period, 0, 0, 0)
    if isinstance(algorithm, SlidingWindow):
        return _PART.pack(3, cost, rate.limit, rate.period, algorithm.step, algorithm.steps, 0)
    if isinstance(algorithm, SlidingLog):
        return _PART.pack(4, cost, rate.limit, rate.period, 0, 0, 0)
    raise TypeError(f"no script for {type(algorithm).__name__}")


def _grant(ask: Ask, item: list[int], allowed: bool) -> Grant:
    now, at = item[1], item[2]
    if allowed and at > now and item[0] > 1:
        at = now
    if len(ask) == 1:
        views: tuple[tuple[int, int], ...] = (_view(ask[0][0].algorithm, item[3], item[4], item[5], now),)
    else:
        views = tuple(
            _view(part[0].algorithm, item[place], item[place + 1], item[place + 2], now)
            for place, part in zip(range(3, len(item), 3), ask, strict=True)
        )
    return Grant(allowed, now, at, views)


def _view(algorithm: Algorithm, a: int, b: int, c: int, now: int) -> tuple[int, int]:
    """What is left, from the three numbers of state."""
    if isinstance(algorithm, Gcra):
        return algorithm.view(a * algorithm.scale + b, now)
    if isinstance(algorithm, FixedWindow):
        return algorithm.view((a, b), now)
    if isinstance(algorithm, SlidingWindow):
        return algorithm.view((a, b, c), now)
    if a == 0:
        return algorithm.capacity, 0
    left = 0 if b > now else max(0, algorithm.rate.limit - a)
    return left, b + algorithm.rate.period - now
