"""Read-write lock: many who read or one who writes, over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType

from aresilience.backend import Backend
from aresilience.events import Listener
from aresilience.lock.lease import Lease
from aresilience.lock.leasing import Leasing
from aresilience.lock.lock import PLACE, OnLost
from aresilience.lock.machine import Ask, Kind

__all__ = ["ReadWriteLock", "Side"]


class ReadWriteLock(Leasing):
    """`async with rw.read():` beside other readers; `async with rw.write() as lease:` alone.

    Writers come first: while one waits, nobody begins to read, and writers follow each other first come, first
    served; those who read already are waited for. So readers can starve where writers never pause, and writers
    never do; but after sixteen writers of one process in a row others have their chance first, readers too. A
    writer that died while it waited holds readers up for three seconds at most.

    The options are those of `Lock`. A task that holds either side and asks for one gets a `RuntimeError`: there
    is no upgrade. The fence of a writer is higher than that of everybody before.
    """

    kind = "ReadWriteLock"

    def __init__(
        self,
        name: str,
        *,
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

    def read(self) -> Side:
        """To hold it beside other readers."""
        return Side(self, Kind.READ)

    def write(self) -> Side:
        """To hold it alone."""
        return Side(self, Kind.WRITE)

    def _ask_for(self, kind: Kind) -> Ask:
        """An ask for one side."""
        return self.new_ask(kind, room="rw", loud=True, place=PLACE if kind is Kind.WRITE else 0)

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name!r} ttl {self.ttl:g} s>"


class Side:
    """One side of a `ReadWriteLock`, for one body."""

    __slots__ = ("_kind", "_lease", "_lock", "_taken")

    def __init__(self, lock: ReadWriteLock, kind: Kind) -> None:
        self._lock = lock
        self._kind = kind
        self._lease: Lease | None = None
        self._taken = False

    async def acquire(self, timeout: float | timedelta | None = None) -> Lease:
        """Hold it until `lease.release()`.

        Raises `LockTimeout`, a `BackendError`, or `RuntimeError` where this task holds either side already.
        """
        return await self._lock.obtained_within(self._lock._ask_for(self._kind), timeout)

    async def try_acquire(self) -> Lease | None:
        """Hold it if it can be had now, else None, at once. Raises a `BackendError`."""
        return await self._lock.obtained_now(self._lock._ask_for(self._kind))

    async def __aenter__(self) -> Lease:
        if self._taken:
            raise RuntimeError("a side of a ReadWriteLock is entered once: write rw.read() each time")
        self._taken = True
        try:
            lease = await self.acquire()
            await lease.__aenter__()
        except BaseException:
            self._taken = False
            raise
        self._lease = lease
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease, self._lease = self._lease, None
        assert lease is not None
        self._taken = False
        await lease.__aexit__(kind, error, traceback)
