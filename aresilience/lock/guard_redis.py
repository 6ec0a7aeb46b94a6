"""Guarded values in Redis."""

from __future__ import annotations

from aresilience.backend import Backend
from aresilience.backend.redis import RedisBackend, Script
from aresilience.errors import CorruptState

__all__ = ["RedisGuardStore"]

_SCRIPT = Script.beside("aresilience.lock", "guard.lua")


class RedisGuardStore:
    """The values of all guards of a backend: `key` is a guard's name and its key."""

    def __init__(self, backend: Backend) -> None:
        assert isinstance(backend, RedisBackend)
        self._backend = backend

    async def write(self, key: tuple[str, str], value: bytes, fence: int, keep: float) -> int:
        args = (fence, max(1, round(keep * 1000)), value)
        said = await self._backend.run(_SCRIPT, [self._key(key)], args)
        return int(said[0])

    async def claim(self, key: tuple[str, str], fence: int, keep: float) -> tuple[bytes | None, int]:
        args = (fence, max(1, round(keep * 1000)))
        said = await self._backend.run(_SCRIPT, [self._key(key)], args)
        return (said[1] if len(said) > 1 else None), int(said[0])

    async def read(self, key: tuple[str, str]) -> tuple[bytes | None, int]:
        name = self._key(key)
        value, fence = await self._backend.command("HMGET", name, "value", "fence", key=name)
        try:
            return value, int(fence or 0)
        except ValueError as error:
            raise CorruptState("a guarded key holds something else") from error

    def _key(self, key: tuple[str, str]) -> bytes:
        return self._backend.key("guarded", *key)
