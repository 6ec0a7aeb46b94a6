"""Lock: one at a time, over all processes, for as long as it is confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Literal

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.events import Listener
from aresilience.lock.entered import Entered
from aresilience.lock.lease import Lease
from aresilience.lock.leasing import Leasing
from aresilience.lock.machine import Ask, Holder, Kind

__all__ = ["PLACE", "Lock", "OnLost"]

OnLost = Literal["cancel", "flag"]

PLACE = 3_000_000
"""Microseconds for which the place of a waiter that died is kept, where they are served in order."""


_LONGEST_DELAY = 30 * 86_400.0


def _delay(kind: str, seconds: float | timedelta) -> float:
    return arguments.duration(f"{kind}: lock_delay", seconds, zero=True, most=_LONGEST_DELAY)


class Lock(Leasing):
    """`async with lock as lease:` holds `name`; nobody else does, in any process on the backend.

    `ttl`: seconds for which it is held without being confirmed; it is renewed every third of that. `wait`:
    how long to wait for it, in seconds; None: for ever; 0: one try. `fair`: processes are served first come,
    first served (the tasks of one process always are), if all who use the name ask so: who does not goes
    before those who wait. `on_lost`: "cancel" cancels the body when it is lost;
    "flag" leaves that to `lease.check()` and `lease.lost`. `lock_delay`: seconds for which nobody gets it
    after it ended without being released. `wait_replicas`: so many replicas must have it within 0.1 s, for
    which all else that this process asks of Redis waits, or `acquire` gives it back and raises `Refused`.
    `owner`: what others can read of who holds it; by default host and process id. `group`: in a Cluster,
    names of a group live in one slot, so that `Lock.all` can take them together; it is part of the name: a
    lock of the same name in another group, or in none, is another lock.

    Acquiring raises `LockTimeout`, or a `BackendError`. Being lost raises `LockLost` at the end of the body.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float | timedelta = 30.0,
        wait: float | timedelta | None = None,
        fair: bool = False,
        on_lost: OnLost = "cancel",
        lock_delay: float | timedelta = 0.0,
        wait_replicas: int = 0,
        owner: str | None = None,
        group: str | None = None,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self._start(
            (name,), ttl, wait, on_lost, lock_delay, wait_replicas, owner, group, backend, listeners
        )
        self._fair = fair

    def _start(
        self,
        names: tuple[str, ...],
        ttl: float | timedelta,
        wait: float | timedelta | None,
        on_lost: OnLost,
        lock_delay: float | timedelta,
        wait_replicas: int,
        owner: str | None,
        group: str | None,
        backend: Backend | None,
        listeners: Iterable[Listener],
    ) -> None:
        super().__init__(
            names,
            ttl=ttl,
            wait=wait,
            owner=owner,
            on_lost=on_lost,
            group=group,
            backend=backend,
            listeners=listeners,
        )
        self._delay = round(_delay(self.kind, lock_delay) * 1e6)
        self._replicas = arguments.count(f"{self.kind}: wait_replicas", wait_replicas, least=0, most=1000)
        self._fair = False
        self._entered = Entered()

    @classmethod
    def all(
        cls,
        *names: str,
        ttl: float | timedelta = 30.0,
        wait: float | timedelta | None = None,
        on_lost: OnLost = "cancel",
        lock_delay: float | timedelta = 0.0,
        wait_replicas: int = 0,
        owner: str | None = None,
        group: str | None = None,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> Lock:
        """Several names at once, all or none, in one command: nobody holds one while waiting for another.

        It excludes locks of each of the names. In a Cluster they need a common `group`. It waits until all are
        free at once, and has no place in a line: where each is always busy, it can wait for ever.
        """
        for name in names:
            arguments.text("Lock.all: names", name)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Lock.all: names must be one or more different names, got {names!r}")
        lock = cls.__new__(cls)
        ordered = tuple(sorted(names))
        lock._start(
            ordered, ttl, wait, on_lost, lock_delay, wait_replicas, owner, group, backend, listeners
        )
        return lock

    async def acquire(self, timeout: float | timedelta | None = None) -> Lease:
        """Hold it, and renew it until `lease.release()`; use `async with lease:` for the body.

        Waits for `timeout` seconds, by default as long as `wait` says, and never past the ambient deadline.
        Raises `LockTimeout`, a `BackendError`, or `RuntimeError` where this task holds it already.
        """
        return await self.obtained_within(self._ask(), timeout, self._replicas)

    async def try_acquire(self) -> Lease | None:
        """Hold it if it is free, else None, at once. Raises a `BackendError`."""
        return await self.obtained_now(self._ask(), self._replicas)

    async def take_over(self) -> Lease:
        """Hold it, whoever holds it now.

        They hear of it when they renew, a third of their ttl later at most: until then both believe that they
        hold it, and only the fence tells them apart. Raises a `BackendError`.
        """
        desk = self.desk
        began = desk.loop.time()
        ask = self._ask()
        grant = await desk.take(ask)
        return await self.begun(self.new_lease(desk, ask, grant, False), grant, began)

    async def holder(self) -> Holder | None:
        """Who holds it (the first of its names) now, in any process. Raises a `BackendError`."""
        found = await self.desk.store.holders(self._ask())
        return found[0] if found else None

    def _ask(self) -> Ask:
        return self.new_ask(Kind.LOCK, delay=self._delay, place=PLACE if self._fair else 0)

    async def __aenter__(self) -> Lease:
        return await self._entered.enter(await self.acquire())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entered.leave(kind).__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        fair = ", fair" if self._fair else ""
        return f"<Lock {self.name!r} ttl {self.ttl:g} s{fair}>"
