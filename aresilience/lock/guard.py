"""The guard at the resource: whoever comes with an old fence had lost his lock, and is refused.

A lock cannot keep a process that was stopped, or cut off, from one last write: only the resource can, by
remembering the highest fence that it has seen. A lock without a guard is for efficiency, one with it for
correctness.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

from aresilience import arguments
from aresilience.backend import Backend, MemoryBackend
from aresilience.lock.facts import StaleFence
from aresilience.lock.lease import Lease

__all__ = ["FencedGuard"]

_WEEK = 7 * 86_400.0
_HIGHEST = 2**53
_LONGEST = 3660 * 86_400.0


class FencedGuard:
    """Refuses a fence that is lower than one that it has seen, with `StaleFence`; an equal one passes.

    Three forms, for where the resource is:

    - in this process: `guard.admit(lease)` before the effect;
    - on the backend: `await guard.write(key, value, lease)`, checked and written in one step, kept for
      `keep` seconds after the last write;
    - in a database: `UPDATE … SET …, fence = ? WHERE id = ? AND fence <= ?` (the last condition is
      `FencedGuard.SQL`), then `guard.confirm(cursor.rowcount, lease)`.

    What is read, changed and written is safe only if the fence goes there before the reading: `guard.read(key,
    lease)`, or that UPDATE of the fence alone before the SELECT. Else an old holder's write may fall between.

    For `lease` also a number will do, one that a lease's `fence` was in another process.
    """

    SQL = "fence <= ?"
    """The condition of an UPDATE, with `lease.fence` as its parameter: what it does not hold for is refused."""

    def __init__(
        self, name: str, *, keep: float | timedelta = _WEEK, backend: Backend | None = None
    ) -> None:
        self.name = arguments.text("FencedGuard: name", name)
        self._keep = arguments.duration("FencedGuard: keep", keep, most=_LONGEST)
        if backend is not None and not isinstance(backend, Backend):
            raise TypeError(f"FencedGuard: backend must come from ar.connect(…), got {backend!r}")
        self._backend = backend
        self._seen = 0

    def admit(self, lease: Lease | int) -> None:
        """Let a side effect in this process pass, or raise `StaleFence`."""
        fence = _number(lease)
        if fence < self._seen:
            raise self._stale(fence, self._seen)
        self._seen = fence

    def confirm(self, rows: int, lease: Lease | int) -> None:
        """Raise `StaleFence` if the guarded statement changed no row; `ValueError` if nobody can tell."""
        if rows < 0:
            raise ValueError(f"FencedGuard.confirm: rows must be how many rows were changed, got {rows!r}")
        if rows < 1:
            raise self._stale(_number(lease), None)

    async def write(self, key: str, value: bytes | str, lease: Lease | int) -> None:
        """Put `value` in place for `key`, unless a higher fence was there before.

        Raises `StaleFence`, or a `BackendError`: where its outcome is unknown, the same write may be repeated.
        """
        arguments.text("FencedGuard.write: key", key)
        if not isinstance(value, bytes | str):
            raise TypeError(f"FencedGuard.write: value must be bytes or a string, got {value!r}")
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        fence = _number(lease)
        seen = await self._store().write((self.name, key), data, fence, self._keep)
        if seen > fence:
            raise self._stale(fence, seen)

    async def read(self, key: str, lease: Lease | int | None = None) -> tuple[bytes | None, int]:
        """The value of `key` and its fence; (None, 0) where there is none.

        With a lease, whoever had it before cannot write from now on: for what is read, changed and written.
        Raises `StaleFence` then, or a `BackendError`.
        """
        arguments.text("FencedGuard.read: key", key)
        if lease is None:
            return await self._store().read((self.name, key))
        fence = _number(lease)
        value, seen = await self._store().claim((self.name, key), fence, self._keep)
        if seen > fence:
            raise self._stale(fence, seen)
        return value, seen

    def _store(self) -> _Store:
        where = self._backend or MemoryBackend.of_this_loop()
        if isinstance(where, MemoryBackend):
            most = where.max_keys
            return where.shared("guard", "", lambda: _Memory(most))
        from aresilience.lock.guard_redis import RedisGuardStore

        return where.shared("guard", "", lambda: RedisGuardStore(where))

    def _stale(self, fence: int, seen: int | None) -> StaleFence:
        than = "one that was there before" if seen is None else f"{seen}, which was there before"
        return StaleFence(
            f"{self.name!r} refuses fence {fence}: it is lower than {than}", fence=fence, seen=seen
        )

    def __repr__(self) -> str:
        return f"<FencedGuard {self.name!r}>"


_Place: TypeAlias = tuple[str, str]
"""The name of a guard, and a key."""


class _Store(Protocol):
    """Where the values of all guards are: written and checked in one step."""

    async def write(self, key: _Place, value: bytes, fence: int, keep: float) -> int:
        """The highest fence seen, this one included."""

    async def claim(self, key: _Place, fence: int, keep: float) -> tuple[bytes | None, int]:
        """The value, after noting the fence; and the highest seen."""

    async def read(self, key: _Place) -> tuple[bytes | None, int]: ...


class _Memory:
    """At most `most` values: the one that was written longest ago goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[_Place, tuple[bytes | None, int]] = OrderedDict()

    async def write(self, key: _Place, value: bytes, fence: int, keep: float) -> int:
        seen = self._values.get(key, (None, 0))[1]
        if seen <= fence:
            self._keep(key, value, fence)
        return max(seen, fence)

    async def claim(self, key: _Place, fence: int, keep: float) -> tuple[bytes | None, int]:
        value, seen = self._values.get(key, (None, 0))
        if seen <= fence:
            self._keep(key, value, fence)
        return value, max(seen, fence)

    def _keep(self, key: _Place, value: bytes | None, fence: int) -> None:
        self._values[key] = (value, fence)
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    async def read(self, key: _Place) -> tuple[bytes | None, int]:
        return self._values.get(key, (None, 0))


def _number(lease: Lease | int) -> int:
    fence: Any = lease.fence if isinstance(lease, Lease) else lease
    if arguments.count("FencedGuard: fence", fence, least=0) >= _HIGHEST:
        raise ValueError(f"FencedGuard: fence must be less than 2**53, got {fence!r}")
    return int(fence)
