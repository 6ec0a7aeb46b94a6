"""Where a process gets its leases on one backend: the local queue, the store, the wake-ups, the keeper.

What happens to an `obtain` at each of its awaits:

| awaits               | cancelled, or its time is over       | the process dies   | no answer             |
|----------------------|--------------------------------------|--------------------|-----------------------|
| its turn in the line | leaves the line                      |                    |                       |
| the store's answer   | what it granted is released, when it | held for a ttl     | released; the error   |
|                      | comes (or at once, if it is here)    |                    |                       |
| a wake-up            | gives up its place in the queue      | its place runs out | asks at the end of    |
|                      |                                      |                    | what is held          |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from aresilience.backend import Backend, MemoryBackend
from aresilience.backend.backend import to_the_end
from aresilience.chance import entropy
from aresilience.deadline import ambient
from aresilience.errors import BackendError, NotSent, OutcomeUnknown
from aresilience.lock.facts import LockTimeout
from aresilience.lock.lines import Lines
from aresilience.lock.machine import Ask, Busy, Kind
from aresilience.lock.memory import MemoryLeaseStore
from aresilience.lock.store import Grant, LeaseStore

__all__ = ["Desk", "Ear", "desk_of", "to_its_end", "until_of"]

_LINGER = 1.0
"""Seconds for which a subscription is kept that nobody needs just now."""
_LATE = 0.005
"""The most by which waiters come later than the end of what they wait for, so that not all come at once."""
_PAUSE, _LONGEST_PAUSE = 0.002, 1.0
"""The head start that other processes get, now and then: twice as long each time that none of them was there in
time. How far away they are nobody here knows."""
_OTHERS_TOLD = 16
_MOST_TOLD = 1024
_DEADLINES = 3
"""A ttl of so many deadlines outlives one answer that is lost."""

_log = logging.getLogger("aresilience")


class Desk:
    """One for each backend and loop: see the module's description."""

    def __init__(self, backend: Backend, store: LeaseStore) -> None:
        self.loop = asyncio.get_running_loop()
        self.keeper = backend.keeper
        self.store = store
        self.lines = Lines()
        self.deadline = backend.deadline
        self.inside: dict[tuple[Hashable, asyncio.Task[Any]], object] = {}
        """Which tasks hold what, by which lease: asking again would wait for oneself."""
        self.observers: set[Ear] = set()
        """Those who look on without asking."""
        self._warned = isinstance(store, MemoryLeaseStore)
        self._ears: dict[Hashable, Ear] = {}
        self._told: dict[Hashable, _Told] = {}
        self._asking = 0
        self._nobody_asks: asyncio.Future[None] | None = None
        self.keeper.before_close["lock"] = self.close

    def close(self) -> asyncio.Future[None] | None:
        """Tell all who wait that there is nothing more to wait for."""
        if self.loop is not asyncio.get_running_loop():
            return None
        self.lines.fail_all(self.keeper.is_closing())
        for ear in (*self._ears.values(), *self.observers):
            ear.over(self.keeper.is_closing)
        if self._asking:
            self._nobody_asks = self.loop.create_future()
        return self._nobody_asks

    async def obtain(self, ask: Ask, line: Hashable, until: float | None, now_only: bool) -> Grant:
        """A grant; for what only one can hold with the turn of `line`, for the caller to pass on.

        Raises `LockTimeout`, or the `BackendError` that the store met.
        """
        self._asking += 1
        try:
            return await self._obtain(ask, line, until, now_only)
        finally:
            self._asking -= 1
            if self._nobody_asks is not None and not self._asking and not self._nobody_asks.done():
                self._nobody_asks.set_result(None)

    async def _obtain(self, ask: Ask, line: Hashable, until: float | None, now_only: bool) -> Grant:
        if self.keeper.closing:
            raise self.keeper.is_closing()
        exclusive = ask.kind in (Kind.LOCK, Kind.WRITE)
        if not exclusive and not self.lines.taken(line):  # nobody waits: many may ask at once
            answer = await self._answer(ask, waits=False)
            if isinstance(answer, Grant):
                return answer
            if now_only:
                raise _timeout(ask, answer)
        if not self.lines.enter(line) and (now_only or not await self.lines.stand(line, until)):
            raise _timeout(ask, None)
        try:
            grant = await self._ask(ask, line, until, now_only)
        except BackendError as error:
            self.lines.fail(line, error)  # they would meet the same, one after the other
            self._give_up(ask, line)
            raise
        except BaseException:
            self._give_up(ask, line)
            raise
        if not exclusive:
            self.lines.leave(line)  # there may be more for the next
        return grant

    async def take(self, ask: Ask) -> Grant:
        """A grant, whoever holds it."""
        task = self.keeper.aside(self.store.take(ask))
        try:
            await to_its_end(task)
        except NotSent:
            raise
        except (asyncio.CancelledError, BackendError):
            self.store.release_later(ask)
            raise
        return task.result()  # type: ignore[no-any-return]

    def warn_of(self, ttl: float) -> None:
        """Say, once, that a single lost answer is the end of a lease that is so short."""
        if ttl < _DEADLINES * self.deadline and not self._warned:
            self._warned = True
            _log.warning(
                "a ttl of %g s is short for a backend with a deadline of %g s: one lost answer can lose "
                "the lease; make it %g s, or the deadline shorter",
                ttl,
                self.deadline,
                _DEADLINES * self.deadline,
            )

    def pass_on(self, line: Hashable) -> None:
        """Let the next of this process have the turn."""
        self.lines.leave(line)

    def others_first(self, line: Hashable) -> bool:
        """Whether it went from hand to hand here so often that others who wait should have a chance first."""
        told = self._told.get(line)
        return self.lines.is_long(line) or (told is not None and told.times >= _OTHERS_TOLD)

    def told_others(self, line: Hashable) -> None:
        """Somebody elsewhere was told of a release; unless he was there in time, it is counted."""
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.setdefault(line, _Told()).times += 1

    def pass_on_later(self, line: Hashable) -> None:
        """The same, after those of other processes that have just been told."""
        told = self._told.setdefault(line, _Told())
        self.loop.call_later(told.pause, self.lines.leave, line)
        told.times, told.pause = 0, min(2 * told.pause, _LONGEST_PAUSE)

    def _give_up(self, ask: Ask, line: Hashable) -> None:
        """Leave the line, and the queue: in this order, so that whoever follows in line has a place before."""
        follows = self.lines.waiting(line) > 0
        self.lines.leave(line)
        if ask.place and follows and not self.loop.is_closed():
            self.loop.call_soon(self.store.release_later, ask)
        elif ask.place:
            self.store.release_later(ask)

    async def _ask(self, ask: Ask, line: Hashable, until: float | None, now_only: bool) -> Grant:
        """Ask until it is granted, whenever there is news, and when the time of whoever holds it is over."""
        loop = asyncio.get_running_loop()
        ear = self._hear(ask, line) if line in self._ears else None  # listens before it asks
        try:
            while True:
                if self.keeper.closing:
                    raise self.keeper.is_closing()
                if ear is not None:
                    ear.news = False
                answer = await self._answer(ask, waits=not now_only)
                if isinstance(answer, Grant):
                    return answer
                if self._told:
                    self._told.pop(line, None)  # somebody else has it: all is well
                now = loop.time()
                if now_only or (until is not None and now >= until):
                    raise _timeout(ask, answer)
                if ear is None:
                    ear = self._hear(ask, line)
                pause = answer.left / 1e6
                if ask.place:
                    pause = min(pause, ask.place / 3e6)
                when = now + pause + 1e-6 + entropy().random() * min(_LATE, pause)
                await ear.wait(when if until is None else min(when, until))
        finally:
            if ear is not None:
                self._unhear(line, ear)

    async def _answer(self, ask: Ask, waits: bool) -> Grant | Busy:
        """One question to the store, which leaves nothing behind if it is cancelled or not answered."""
        pending = self.store.acquire(ask, waits)
        try:
            return await pending
        except asyncio.CancelledError:
            if isinstance(pending, asyncio.Future) and pending.done() and not pending.cancelled():
                self.store.release_later(ask)  # the answer and the cancel came together
            raise
        except OutcomeUnknown:
            self.store.release_later(ask)
            raise

    def _hear(self, ask: Ask, line: Hashable) -> Ear:
        ear = self._ears.get(line)
        if ear is None or ear.loop is not asyncio.get_running_loop():
            ear = self._ears[line] = Ear()
            ear.end = self.store.watch(ask, ear.told)
        if ear.linger is not None:
            ear.linger.cancel()
            ear.linger = None
        ear.token = ask.token if ask.place else None
        return ear

    def _unhear(self, line: Hashable, ear: Ear) -> None:
        if isinstance(self.store, MemoryLeaseStore):
            self._forget(line, ear)
        else:
            ear.linger = ear.loop.call_later(_LINGER, self._forget, line, ear)

    def _forget(self, line: Hashable, ear: Ear) -> None:
        ear.end()
        if self._ears.get(line) is ear:
            del self._ears[line]


class _Told:
    """How often others were told and came too late, and the head start that they get next."""

    __slots__ = ("pause", "times")

    def __init__(self) -> None:
        self.times = 0
        self.pause = _PAUSE


class Ear:
    """Whoever has the turn listens with it: what it was told while it did not wait is remembered."""

    __slots__ = ("_over", "_waiter", "end", "linger", "loop", "news", "token")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.news = False
        self.token: str | None = None
        self.linger: asyncio.TimerHandle | None = None
        self.end: Callable[[], None] = _nothing
        self._waiter: asyncio.Future[None] | None = None
        self._over: Callable[[], Exception] | None = None

    def over(self, error: Callable[[], Exception]) -> None:
        """There will be no more news: whoever waits, now or later, meets the error."""
        self._over = error
        self._wake()

    def told(self, token: str) -> None:
        if token and self.token is not None and token != self.token:
            return  # another's turn
        self.news = True
        self._wake()

    async def wait(self, when: float) -> None:
        """Until there is news, or `when`."""
        if not self.news and self._over is None:
            self._waiter = self.loop.create_future()
            timer = self.loop.call_at(when, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._over is not None:
            raise self._over()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and not self.loop.is_closed():
            self._waiter.set_result(None)


def _nothing() -> None: ...


def _timeout(ask: Ask, busy: Busy | None) -> LockTimeout:
    what = ", ".join(map(repr, ask.names))
    by = f" by {busy.owner!r}" if busy is not None and busy.owner else ""
    left = None if busy is None else busy.left / 1e6
    return LockTimeout(
        f"{what} is held{by}, and did not come free in time",
        retry_after=left,
        owner="" if busy is None else busy.owner,
    )


async def to_its_end(pending: asyncio.Future[Any]) -> None:
    """Wait for what is bounded by itself, however often we are cancelled meanwhile, and then say so."""
    if not pending.done():
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending.add_done_callback(partial(_tell, waiter))
        try:
            await waiter
        except asyncio.CancelledError:  # a cancelled anyio scope goes on cancelling until we are shielded
            await to_the_end(_over(pending))
            raise
    pending.result()


def _tell(waiter: asyncio.Future[None], _: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _over(pending: asyncio.Future[Any]) -> None:
    await asyncio.wait([pending])


def until_of(wait: float | None) -> float | None:
    """When a wait that begins now ends, on the loop's clock: its own end, or that of the ambient deadline."""
    until = None if wait is None else asyncio.get_running_loop().time() + wait
    deadline = ambient()
    if deadline is None:
        return until
    return deadline if until is None else min(until, deadline)


def desk_of(backend: Backend | None, kind: str) -> Desk:
    """The desk of a backend; without one that of the running loop's own memory."""
    where = MemoryBackend.of_this_loop() if backend is None else backend
    loop = asyncio.get_running_loop()

    def is_over(desk: Desk) -> bool:
        if desk.loop is not loop and desk.loop.is_running():
            raise RuntimeError(f"{where!r} is in use on another event loop: open one for each loop")
        return desk.loop is not loop

    return where.local("lock", lambda: Desk(where, _store_on(where, kind)), until=is_over)


def _store_on(backend: Backend, kind: str) -> LeaseStore:
    if isinstance(backend, MemoryBackend):
        memory = backend
        return memory.shared("lock", "", lambda: MemoryLeaseStore(memory.keeper, memory.max_keys))
    from aresilience.backend.redis import RedisBackend

    if isinstance(backend, RedisBackend):
        from aresilience.lock.redis import RedisLeaseStore

        redis = backend
        return redis.shared("lock", "", lambda: RedisLeaseStore(redis))
    raise TypeError(f"{kind}: backend must come from ar.connect(…), got {backend!r}")
