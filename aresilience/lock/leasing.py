"""The shell that all who lease things have in common: options, asking, and the tasks inside."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Hashable, Iterable
from datetime import timedelta
from typing import Any

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.chance import entropy
from aresilience.errors import NotSent, Refused
from aresilience.events import CallRejected, Event, Listener, Listeners
from aresilience.lock.desk import Desk, desk_of, until_of
from aresilience.lock.facts import LeaseGranted, LockTimeout
from aresilience.lock.lease import Lease
from aresilience.lock.machine import Ask, Kind
from aresilience.lock.store import Grant

__all__ = ["Leasing"]

_LONGEST = 30 * 86_400.0
_SHORTEST = 0.01


class Leasing:
    """What `Lock`, `Semaphore` and the others have in common: options, asking, and the tasks inside."""

    kind = "Lock"

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        ttl: float | timedelta,
        wait: float | timedelta | None,
        owner: str | None,
        on_lost: str,
        group: str | None,
        backend: Backend | None,
        listeners: Iterable[Listener],
    ) -> None:
        kind = self.kind
        self.names = tuple(arguments.text(f"{kind}: name", name) for name in names)
        self.name = " ".join(self.names)
        self.ttl = arguments.duration(f"{kind}: ttl", ttl)
        if not _SHORTEST <= self.ttl <= _LONGEST:
            raise ValueError(f"{kind}: ttl must be from {_SHORTEST:g} to {_LONGEST:g} seconds, got {ttl!r}")
        self.wait = None if wait is None else arguments.duration(f"{kind}: wait", wait, zero=True)
        self.owner = None if owner is None else arguments.text(f"{kind}: owner", owner)
        self.group = None if group is None else arguments.text(f"{kind}: group", group)
        arguments.choice(f"{kind}: on_lost", on_lost, ("cancel", "flag"))
        self.cancels = on_lost == "cancel"
        if backend is not None and not isinstance(backend, Backend):
            raise TypeError(f"{kind}: backend must come from ar.connect(…), got {backend!r}")
        self._backend = backend
        self._listeners = Listeners(listeners)
        self._here = (0, "")
        self._ttl = round(self.ttl * 1e6)
        self._keys: dict[Kind, object] = {}  # what the store found out about our names

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` every event; the function returned ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, event: Callable[..., Event], *facts: Any) -> None:
        """Tell those who listen."""
        if self._listeners:
            self._listeners.tell(event(self.name, asyncio.get_running_loop().time(), *facts))

    def rooms(self, ask: Ask) -> list[Hashable]:
        """What a task that holds `ask` is inside of."""
        return [(ask.room, ask.group, name) for name in ask.names]

    def line(self, ask: Ask) -> Hashable:
        """The local queue in which those who ask the same wait."""
        return (ask.kind, ask.room, ask.group, ask.names)

    @property
    def desk(self) -> Desk:
        """Where this process asks."""
        return desk_of(self._backend, self.kind)

    def said_owner(self) -> str:
        """What others can read about who holds it."""
        if self.owner is not None:
            return self.owner
        if self._here[0] != os.getpid():
            self._here = (os.getpid(), f"{platform.node()}:{os.getpid()}")
        return self._here[1]

    def new_ask(self, kind: Kind, **more: Any) -> Ask:
        """An ask with a token that nobody has had."""
        return Ask(
            kind,
            self.names,
            entropy().token(),
            self._ttl,
            group=self.group,
            owner=self.said_owner(),
            keys=self._keys.get(kind),
            **more,
        )

    async def obtained(self, ask: Ask, wait: float | None, replicas: int = 0) -> Lease:
        """A lease, within `wait` seconds."""
        desk = self.desk
        task = asyncio.current_task()
        now_only = wait == 0
        if task is not None and not now_only and ask.kind is not Kind.PERMIT:
            for room in self.rooms(ask):
                if (room, task) in desk.inside:
                    raise RuntimeError(
                        f"{self.kind} {room[-1]!r} is held by this task: waiting for it would wait for ever"  # type: ignore[index]
                    )
        began = desk.loop.time()
        line = self.line(ask)
        try:
            grant = await desk.obtain(ask, line, until_of(wait), now_only)
        except LockTimeout as error:
            self.tell(CallRejected, error.retry_after)
            raise
        holds_turn = ask.kind in (Kind.LOCK, Kind.WRITE)
        return await self.begun(self.new_lease(desk, ask, grant, holds_turn), grant, began, replicas)

    async def obtained_within(
        self, ask: Ask, timeout: float | timedelta | None, replicas: int = 0
    ) -> Lease:
        """A lease, within `timeout`; None: as long as `wait` says."""
        wait = self.wait
        if timeout is not None:
            wait = arguments.duration(f"{self.kind}.acquire: timeout", timeout, zero=True)
        return await self.obtained(ask, wait, replicas)

    async def obtained_now(self, ask: Ask, replicas: int = 0) -> Lease | None:
        """A lease if there is one to be had at once."""
        try:
            return await self.obtained(ask, 0.0, replicas)
        except LockTimeout:
            return None

    async def begun(self, lease: Lease, grant: Grant, began: float, replicas: int = 0) -> Lease:
        """The lease for a grant, kept from now on."""
        desk, ask = lease._desk, lease.ask
        self._keys[ask.kind] = ask.keys
        desk.warn_of(self.ttl)
        try:
            desk.keeper.keep(lease, grant.sent)
        except NotSent:
            self._drop(lease)
            raise
        if lease._task is not None and ask.kind is not Kind.PERMIT:
            desk.inside.update(((room, lease._task), lease) for room in self.rooms(ask))
        self.tell(LeaseGranted, grant.fence, desk.loop.time() - began)
        if replicas:
            await self._confirm(lease, replicas)
        return lease

    def new_lease(self, desk: Desk, ask: Ask, grant: Grant, has_turn: bool) -> Lease:
        """The kind of lease that is handed out."""
        return Lease(self, desk, ask, grant, has_turn=has_turn)

    async def _confirm(self, lease: Lease, replicas: int) -> None:
        """Give it back unless so many replicas have it."""
        desk = lease._desk
        try:
            have = await desk.store.replicated(lease.ask, replicas)
        except BaseException:
            self._drop(lease)
            raise
        if have < replicas:
            self._drop(lease)
            raise Refused(
                f"{self.kind} {self.name!r}: only {have} of {replicas} replicas have it; given back"
            )

    def _drop(self, lease: Lease) -> None:
        lease._let_go()
        lease._desk.store.release_later(lease.ask)
