"""The keeper: renews every lease of a backend that is due, many with one call, by one timer.

The contract with those who have it keep something:

- `keep(kept, sent)`: `sent` is the keeper's clock when the request that took the lease left. From then on
  `kept.family.renew(leases)` is called with all leases of the family that are due, in a task of the
  keeper's, never twice at once for a lease.
- `renew` answers for each lease, in order: a `Confirmation` (its `sent` is when the renewal left), None if
  the store says that it is not ours any more, or the `BackendError` that it met. What it raises holds for
  all. It ends within the backend's deadline. An answer may be a future of one: then each counts when it comes,
  and who is slow costs the others nothing.
- A lease is lost when the store says so, or when the last confirmed request was sent ttl·(1 - MARGIN) ago,
  whether or not an answer is still out. Then `kept.on_lost(why)` is called, once, from the loop.
- `drop(kept)` ends it without a word: it was released, or nobody needs it. An answer that is still on its
  way changes nothing.
- While the backend is being closed, `keep` raises `NotSent`: what was granted meanwhile is for the caller to
  give back. Those who still ask are stopped by what is in `before_close`.
- When the backend is closed, `kept.on_close()` is called for all that is left, while there is still a way to
  give it back; what it returns is waited for, within the deadline.

Leases of one ttl are renewed on common ticks, twenty to a period: ten thousand of them are twenty calls.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeAlias

from aresilience.clock import lease_reader
from aresilience.errors import BackendError, NotSent

__all__ = ["MARGIN", "Answer", "Confirmation", "Family", "Keeper", "Kept"]

MARGIN = 0.1
"""The share of a ttl, before its end, by which a lease that is not confirmed is given up."""
_PERIOD = 1 / 3
_AGAIN = 1 / 10
_TICKS = 60
"""Ticks in a ttl: leases that are due within one of them are renewed together."""
_LEAST_PAUSE = 0.01
_NAP = 1.0
"""The longest sleep on a real clock: a timer of the loop does not see that the machine was suspended."""
_EXACT = 1e-6

_log = logging.getLogger("aresilience")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The store says that it is ours, in answer to a request that left at `sent`, by the keeper's clock."""

    sent: float


Answer: TypeAlias = Confirmation | BackendError | None


class Family(Protocol):
    """How leases of one kind are renewed."""

    async def renew(self, leases: Sequence[Any]) -> Sequence[Answer | asyncio.Future[Answer]]: ...


class Kept:
    """Something that is held for `ttl` seconds at a time. What a pattern holds is a subclass."""

    __slots__ = ("_due", "_next", "_renewing", "ends", "family", "held", "ttl")

    def __init__(self, family: Family, ttl: float) -> None:
        self.family = family
        self.ttl = ttl
        self.held = False
        """Between `keep` and `drop`, or the loss."""
        self.ends = 0.0
        """When it is lost unless confirmed before, by the keeper's clock."""
        self._due = self._next = 0.0
        self._renewing = False

    def on_lost(self, why: str) -> None:
        """It is not ours any more, or may not be. Called once, never while the holder's task runs."""
        raise NotImplementedError

    def on_close(self) -> asyncio.Future[Any] | None:
        """The backend is being closed: give it back; if there is somebody to stop first, say when he has."""
        self.on_lost("the backend was closed")
        return None

    def count_from(self, sent: float) -> None:
        """A request that left at `sent` is confirmed."""
        self.ends = sent + self.ttl * (1 - MARGIN)
        tick = self.ttl / _TICKS
        self._due = (sent + self.ttl * _PERIOD) // tick * tick


class Keeper:
    """See the module's description. It belongs to the loop on which it first keeps something; where that is
    closed, to the next."""

    __slots__ = (
        "_heap",
        "_kept",
        "_loop",
        "_numbers",
        "_tasks",
        "_timer",
        "_wakes",
        "before_close",
        "clock",
        "closing",
    )

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: set[Kept] = set()
        self._heap: list[tuple[float, int, Kept]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = False
        """Nothing more is kept."""
        self.before_close: dict[str, Callable[[], asyncio.Future[None] | None]] = {}
        """Who asks for leases, and is to stop; what is returned says when nobody asks any more."""
        self.clock: Callable[[], float] = self._no_clock
        """Seconds; runs while the machine is suspended, where the platform has such a clock."""

    def __len__(self) -> int:
        return len(self._kept)

    def __bool__(self) -> bool:
        return True

    def now(self) -> float:
        """The clock by which leases age, of the running loop."""
        if self._loop is None or not self._loop.is_running():
            self._move_to(asyncio.get_running_loop())
        return self.clock()

    def keep(self, kept: Kept, sent: float) -> None:
        """Begin to renew it; the request that took it left at `sent`. Raises `NotSent` while all is closed."""
        if self.closing:
            raise self.is_closing()
        self.now()
        kept.count_from(sent)
        kept.held = True
        self._kept.add(kept)
        self._expect(kept, min(kept._due, kept.ends))

    def is_closing(self) -> NotSent:
        """What those hear who ask too late."""
        return NotSent("the backend is being closed")

    def drop(self, kept: Kept) -> None:
        """It was given back, or is of no use any more."""
        if not kept.held:
            return
        kept.held = False
        self._kept.discard(kept)
        if len(self._heap) > 64 and len(self._heap) > 3 * len(self._kept):
            self._heap = [entry for entry in self._heap if entry[2].held and entry[0] == entry[2]._next]
            heapq.heapify(self._heap)

    def lose(self, kept: Kept, why: str) -> None:
        """Say that it is lost, if nobody has yet."""
        if kept.held:
            self.drop(kept)
            kept.on_lost(why)

    def aside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something done for which nobody waits; `settled` does, when the backend is closed."""
        task = asyncio.get_running_loop().create_task(work, name="aresilience keeper", context=Context())
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop thrown away makes no noise
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self, seconds: float) -> None:
        """Give back all that is left, waiting for so long for those who work under it to stop."""
        self.closing = True
        stopping = [stops() for stops in list(self.before_close.values())]
        for kept in list(self._kept):
            if kept.held:
                self.drop(kept)
                stopping.append(kept.on_close())
        waited_for = [stops for stops in stopping if stops is not None]
        if waited_for:
            await asyncio.wait(waited_for, timeout=seconds)

    async def settled(self, seconds: float) -> None:
        """Wait for what is still being done, for so long."""
        loop = asyncio.get_running_loop()
        ours = {task for task in self._tasks if task.get_loop() is loop}
        if ours:
            await asyncio.wait(ours, timeout=seconds)
            for task in ours:
                task.cancel()
            await asyncio.wait(ours, timeout=seconds)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("what the keeper did aside failed: %s", type(task.exception()).__name__)

    def _no_clock(self) -> float:
        raise RuntimeError("a keeper has a clock once there is a loop")

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """What was kept on a loop that does not run any more is nobody's."""
        if loop is not self._loop:
            for kept in self._kept:
                kept.held = False
            self._kept.clear()
            self._rest()
            self._tasks.clear()
            self._loop = loop
            self.clock = lease_reader(loop)

    def _rest(self) -> None:
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect(self, kept: Kept, when: float) -> None:
        """Look at it at `when`."""
        kept._next = when
        heapq.heappush(self._heap, (when, next(self._numbers), kept))
        if self._timer is None or when < self._wakes:
            self._sleep_until(when)

    def _sleep_until(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = self._loop
        assert loop is not None
        pause = when - self.clock()
        if self.clock != loop.time:
            pause = min(pause, _NAP)
        self._wakes = when
        self._timer = loop.call_later(max(0.0, pause), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.clock()
        due: dict[Family, list[Kept]] = {}
        heap = self._heap
        while heap and heap[0][0] <= now + _EXACT:
            when, _, kept = heapq.heappop(heap)
            if not kept.held or when != kept._next:
                continue  # it was given back, or is expected at another time
            if kept.ends <= now + _EXACT:
                self._expired(kept)
            else:
                if not kept._renewing:
                    kept._renewing = True
                    due.setdefault(kept.family, []).append(kept)
                kept._next = kept.ends
                heapq.heappush(heap, (kept.ends, next(self._numbers), kept))
        for family, leases in due.items():
            self.aside(self._renew(family, leases))
        if not self._kept:
            heap.clear()
        elif heap and self._timer is None:
            self._sleep_until(heap[0][0])

    def _expired(self, kept: Kept) -> None:
        self.lose(kept, f"it was not confirmed within {kept.ttl * (1 - MARGIN):g} s")

    async def _renew(self, family: Family, leases: list[Kept]) -> None:
        answers: Sequence[Answer | asyncio.Future[Answer]]
        try:
            answers = await family.renew(leases)
        except Exception as error:  # noqa: BLE001 - told, or logged: a mistake must not end the others' renewals
            answers = [_why_not(error)] * len(leases)
        finally:
            for kept in leases:
                kept._renewing = False
        now = self.now()
        late: list[asyncio.Future[Answer]] = []
        for kept, answer in zip(leases, answers, strict=True):
            if isinstance(answer, asyncio.Future):
                kept._renewing = True
                late.append(answer)
                answer.add_done_callback(partial(self._came, kept))
            else:
                self._answered(kept, answer, now)
        if late:
            await asyncio.wait(late)

    def _came(self, kept: Kept, answer: asyncio.Future[Answer]) -> None:
        kept._renewing = False
        if answer.cancelled():
            return
        error = answer.exception()
        self._answered(kept, answer.result() if error is None else _why_not(error), self.now())

    def _answered(self, kept: Kept, answer: Answer, now: float) -> None:
        if not kept.held:
            return
        if answer is None:
            self.lose(kept, "the store says that it is not ours any more")
            return
        if isinstance(answer, Confirmation):
            kept.count_from(max(answer.sent, kept.ends - kept.ttl * (1 - MARGIN)))
            again = kept._due
        else:
            again = now + max(kept.ttl * _AGAIN, _LEAST_PAUSE)
        if kept.ends <= now:
            self._expired(kept)
        else:
            self._expect(kept, min(again, kept.ends))


def _why_not(error: BaseException) -> BackendError:
    """The answer that an error is; a family's mistake is logged."""
    if isinstance(error, BackendError):
        return error
    _log.error("renewing leases failed", exc_info=error)
    return BackendError(f"{type(error).__name__} while renewing")
