"""A memory backend whose stores fail as Redis does, by plan or by seed.

    backend = FaultyBackend()
    limiter = ar.RateLimiter("100/s", backend=backend)
    backend.plan(Fault.REFUSED, None, Fault.LOST_REPLY)          # for the next three calls, in order
    backend.plan(Fault.NOT_SENT, verb="acquire", times=5)        # for the next five of this verb

    backend = FaultyBackend(seed=7, rate=0.2)                    # one call in five, the same ones each time
    backend.heal()                                               # and from here on, none

Every async method of a store is a call. What is not async passes as it is. It works in virtual time.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from aresilience import arguments
from aresilience.backend import MemoryBackend
from aresilience.chance import SeededEntropy, entropy
from aresilience.errors import NotSent, OutcomeUnknown, Refused

__all__ = ["Fault", "FaultyBackend", "StoreCall"]

T = TypeVar("T")


class Fault(enum.Enum):
    """What happens to a call of a store.

    Where a call is cancelled while a fault keeps it waiting, nothing has happened yet.
    """

    NOT_SENT = "no connection: NotSent at once, nothing happens"
    REFUSED = "the server says no: Refused at once, nothing happens"
    LOST_REQUEST = "OutcomeUnknown at the deadline, and nothing has happened"
    LOST_REPLY = "OutcomeUnknown at the deadline, and it has happened"
    LATE = "OutcomeUnknown at the deadline, and it happens some time after that"
    SLOW = "it happens, and is answered, within the deadline, but not at once"
    TWICE = "it happens twice, as if sent again; the second answer is the one that comes"


@dataclass(frozen=True, slots=True)
class StoreCall:
    """A call of a store, and what was done to it."""

    kind: str
    name: str
    verb: str
    fault: Fault | None


class FaultyBackend(MemoryBackend):
    """A `MemoryBackend` between which and its stores things go wrong.

    `rate` is the share of calls that have a fault, drawn from `faults`; chance comes from `seed`, or from
    the loop's. What is planned goes before. `calls` is the list of all calls so far.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        rate: float = 0.0,
        faults: Sequence[Fault] = tuple(Fault),
        max_keys: int = 1_000_000,
        prefix: str = "ar",
        deadline: float | timedelta = 0.25,
    ) -> None:
        super().__init__(max_keys=max_keys, prefix=prefix, deadline=deadline)
        self.rate = arguments.fraction("FaultyBackend: rate", rate) if rate else 0.0
        self.faults = tuple(faults)
        self.calls: list[StoreCall] = []
        self._chance = None if seed is None else SeededEntropy(seed)
        self._plan: deque[Fault | None] = deque()
        self._plans: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self._late: set[asyncio.Task[Any]] = set()

    def plan(self, *faults: Fault | None, verb: str | None = None, times: int = 1) -> None:
        """What the next calls meet (None: nothing), after what is planned already."""
        (self._plan if verb is None else self._plans[verb]).extend(faults * times)

    def heal(self) -> None:
        """No faults from now on: for the part of a test that asks whether everything recovers."""
        self.rate = 0.0
        self._plan.clear()
        self._plans.clear()

    async def settle(self) -> None:
        """Wait until what was `LATE` has happened."""
        while self._late:
            await asyncio.wait(self._late)

    def shared(self, kind: str, name: str, make: Callable[[], T]) -> T:
        """The store of that kind and name, behind faults."""
        return super().shared(kind, name, lambda: cast(T, _FaultyStore(self, kind, name, make())))

    async def _close(self) -> None:
        for task in self._late:
            task.cancel()
        await self.settle()

    async def call(self, where: tuple[str, str, str], run: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a store's method, or what becomes of it."""
        fault = self._next(where[2])
        self.calls.append(StoreCall(*where, fault))
        if fault is Fault.NOT_SENT:
            raise NotSent("planned: no connection")
        if fault is Fault.REFUSED:
            raise Refused("planned: the server said no")
        if fault is Fault.SLOW:
            await asyncio.sleep(self._random() * self.deadline)
        elif fault is Fault.TWICE:
            await run()
        elif fault is not None:
            await asyncio.sleep(self.deadline)
            if fault is Fault.LOST_REPLY:
                await run()
            elif fault is Fault.LATE:
                task = asyncio.create_task(self._later(run))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            raise OutcomeUnknown("planned: no answer came")
        return await run()

    async def _later(self, run: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        await asyncio.sleep(self._random() * self.deadline)
        await run()

    def _next(self, verb: str) -> Fault | None:
        if self._plans[verb]:
            return self._plans[verb].popleft()
        if self._plan:
            return self._plan.popleft()
        if not self.rate or not self.faults or self._random() >= self.rate:
            return None
        return self.faults[int(self._random() * len(self.faults))]

    def _random(self) -> float:
        return (self._chance or entropy()).random()


class _FaultyStore:
    """Stands in for a store; whatever is asked of it is asked of the store."""

    __slots__ = ("_backend", "_store", "_where")

    def __init__(self, backend: FaultyBackend, kind: str, name: str, store: object) -> None:
        object.__setattr__(self, "_backend", backend)
        object.__setattr__(self, "_where", (kind, name))
        object.__setattr__(self, "_store", store)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def verb(*args: Any, **kwargs: Any) -> Any:
            return await self._backend.call((*self._where, name), lambda: found(*args, **kwargs))

        return verb

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._store, name, value)

    def __repr__(self) -> str:
        return f"<faulty {self._store!r}>"
