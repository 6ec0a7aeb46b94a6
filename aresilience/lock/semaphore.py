"""Semaphore: so many at once, over all processes, each with a lease of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.events import Listener
from aresilience.lock.entered import Entered
from aresilience.lock.lease import Lease
from aresilience.lock.leasing import Leasing
from aresilience.lock.lock import PLACE, OnLost
from aresilience.lock.machine import Ask, Holder, Kind

__all__ = ["Semaphore"]


_MOST = 2**31 - 1


class Semaphore(Leasing):
    """`async with semaphore as lease:` holds one of `permits`, in whatever process.

    Each permit is a lease: of a process that died it is free after `ttl` seconds. First come, first served,
    over processes too; a process with several who wait has one place at a time. All who use a name give it
    the same `permits`: each asks by its own. The other options are those of `Lock`. A task may hold several:
    with all permits held by tasks that wait for another, nothing moves until `wait` is over.

    Acquiring raises `LockTimeout`, or a `BackendError`. Being lost raises `LockLost` at the end of the body.
    """

    kind = "Semaphore"

    def __init__(
        self,
        name: str,
        *,
        permits: int,
        ttl: float | timedelta = 30.0,
        wait: float | timedelta | None = None,
        on_lost: OnLost = "cancel",
        owner: str | None = None,
        group: str | None = None,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(
            (name,),
            ttl=ttl,
            wait=wait,
            owner=owner,
            on_lost=on_lost,
            group=group,
            backend=backend,
            listeners=listeners,
        )
        self._permits = arguments.count("Semaphore: permits", permits, most=_MOST)
        self._entered = Entered()

    async def acquire(self, timeout: float | timedelta | None = None) -> Lease:
        """Hold a permit until `lease.release()`; use `async with lease:` for the body.

        Waits for `timeout` seconds, by default as long as `wait` says, and never past the ambient deadline.
        Raises `LockTimeout`, or a `BackendError`.
        """
        return await self.obtained_within(self._ask(), timeout)

    async def try_acquire(self) -> Lease | None:
        """Hold a permit if one is free and nobody waits for it, else None, at once. Raises a `BackendError`."""
        return await self.obtained_now(self._ask())

    async def holders(self) -> Sequence[Holder]:
        """Who holds permits now, in all processes. Raises a `BackendError`."""
        return await self.desk.store.holders(self._ask())

    def _ask(self) -> Ask:
        return self.new_ask(Kind.PERMIT, room="semaphore", permits=self._permits, place=PLACE)

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
        return f"<Semaphore {self.name!r} {self._permits} permits, ttl {self.ttl:g} s>"
