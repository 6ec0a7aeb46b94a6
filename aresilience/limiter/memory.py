"""Tokens counted in this process: the machines and a dict.

Bounded: a key whose tokens are all back is forgotten when it is come across. When a table is full of keys
that are not, a key that is not in it is refused: forgetting one in use would refill it for free.
"""

from __future__ import annotations

from math import inf

from aresilience.clock import LoopClock
from aresilience.limiter.algorithm import Algorithm, State
from aresilience.limiter.decide import decide
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.store import Ask, Grant, Meter

__all__ = ["Lent", "MemoryLimiterStore", "Table"]


class Lent:
    """The state of the key "", at hand for who calculates with it himself; infinite, which admits nobody, while
    it is not lent to him."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = inf


class Table:
    """The states of one meter. Besides the dict there is a list of its keys, so that a hand can go round
    and look at a few of them each time that a new one comes."""

    __slots__ = ("_hand", "_lent", "_ring", "_scale", "max_keys", "states")

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self._lent: Lent | None = None
        self._scale = 1
        self.states: dict[str, State] = {}
        self._ring: list[str] = []
        self._hand = 0

    def fit(self, algorithm: Algorithm) -> None:
        """Convert what is here to the units of a bucket whose rate was changed."""
        if not isinstance(algorithm, Gcra) or algorithm.scale == self._scale:
            return
        old, new = self._scale, algorithm.scale
        self._scale = new
        for key, state in self.states.items():
            whole, rest = divmod(state, old)
            self.states[key] = whole * new + min(rest, new - 1)

    def lend(self, to: Lent) -> None:
        """Lend the state of the key "", until anybody else wants to see it, or the clock is another."""
        self.take_back()
        if "" in self.states:
            to.state = float(self.states[""])
            self._lent = to

    def take_back(self) -> None:
        """End what is lent."""
        if self._lent is not None:
            self.states[""] = int(self._lent.state)
            self._lent.state = inf
            self._lent = None

    def add(self, key: str, state: State) -> None:
        """A key that is new."""
        self.states[key] = state
        self._ring.append(key)

    def make_room(self, algorithm: Algorithm, now: int) -> int:
        """0 if there is room for a new key, else microseconds until there may be."""
        crowded = len(self._ring) >= self.max_keys
        soonest = 0
        for _ in range(min(16 if crowded else 2, len(self._ring))):
            self._hand = self._hand % len(self._ring) if self._ring else 0
            key = self._ring[self._hand]
            _, until_full = algorithm.view(self.states[key], now)
            if until_full > 0:
                soonest = min(soonest or until_full, until_full)
                self._hand += 1
                continue
            del self.states[key]
            self._ring[self._hand] = self._ring[-1]
            self._ring.pop()
            if not self._ring:
                break
        return soonest if len(self._ring) >= self.max_keys else 0


class MemoryLimiterStore:
    """A table for each meter."""

    __slots__ = ("_max_keys", "_tables", "clock", "shift")

    def __init__(self, max_keys: int = 1_000_000) -> None:
        self._max_keys = max_keys
        self._tables: dict[str, Table] = {}
        self.clock = LoopClock()
        self.shift = 0
        """Microseconds to add to this loop's clock, to go on from where the last loop's was."""

    def now(self) -> int:
        """Microseconds that never go back, whatever loop this runs on."""
        clock = self.clock
        if clock.is_running():
            return clock.nanos() // 1000 + self.shift
        last = clock.nanos() // 1000 + self.shift
        clock.read()
        now = clock.nanos() // 1000
        self.shift = max(0, last - now) if self._tables else 0
        for table in self._tables.values():
            table.take_back()
        return now + self.shift

    def table(self, meter: Meter) -> Table:
        """The states of one meter."""
        table = self._tables.get(meter.name)
        if table is None:
            table = self._tables[meter.name] = Table(self._max_keys)
        table.take_back()
        table.fit(meter.algorithm)
        return table

    def acquire_now(self, ask: Ask, max_wait: int) -> Grant:
        """`acquire`, for those who know that nothing here waits."""
        now = self.now()
        if len(ask) == 1:
            return self._acquire_one(*ask[0], now, max_wait)
        tables = [self.table(meter) for meter, _, _ in ask]
        states = [table.states.get(key) for table, (_, key, _) in zip(tables, ask, strict=True)]
        grant, after = decide(ask, states, now, max_wait)
        if after is None:
            return grant
        for table, (meter, _, cost), state in zip(tables, ask, states, strict=True):
            if state is None and cost:
                wait = table.make_room(meter.algorithm, now)
                if wait > 0:
                    return Grant(False, now, now + wait, tuple((0, wait) for _ in ask))
        for table, (_, key, cost), state in zip(tables, ask, after, strict=True):
            if not cost:
                continue
            if key in table.states:
                table.states[key] = state
            else:
                table.add(key, state)
        return grant

    def _acquire_one(self, meter: Meter, key: str, cost: int, now: int, max_wait: int) -> Grant:
        """`decide` for a single part."""
        machine, table = meter.algorithm, self.table(meter)
        state = table.states.get(key)
        at = machine.earliest(state, now, cost)
        if at - now > max_wait or not cost:
            return Grant(at - now <= max_wait, now, at, (machine.view(state, now),))
        after = machine.take(state, at, cost)
        if state is not None:
            table.states[key] = after
        elif (wait := table.make_room(machine, now)) > 0:
            return Grant(False, now, now + wait, ((0, wait),))
        else:
            table.add(key, after)
        return Grant(True, now, at, (machine.view(after, now),))

    def one_slot(self, ask: Ask) -> bool:
        return True

    def return_later(self, ask: Ask, at: int) -> None:
        now = self.now()
        for meter, key, cost in ask:
            states = self.table(meter).states
            if key in states:
                states[key] = meter.algorithm.give_back(states[key], now, cost, at)

    async def acquire(self, ask: Ask, max_wait: int) -> Grant:
        return self.acquire_now(ask, max_wait)

    async def give_back(self, ask: Ask, at: int) -> None:
        self.return_later(ask, at)

    async def charge(self, ask: Ask) -> None:
        now = self.now()
        for meter, key, cost in ask:
            table, algorithm = self.table(meter), meter.algorithm
            state = table.states.get(key)
            while cost > 0:
                part = min(cost, algorithm.capacity)
                state = algorithm.take(state, algorithm.earliest(state, now, part), part)
                cost -= part
            if key in table.states:
                table.states[key] = state
            elif state is not None and table.make_room(algorithm, now) == 0:
                table.add(key, state)

    async def peek(self, ask: Ask) -> Grant:
        states = [self.table(meter).states.get(key) for meter, key, _ in ask]
        return decide(ask, states, self.now(), -1)[0]
