"""What is looked at when a connection is new: whether anybody answers, the server's version, and whether it
throws keys away."""

from __future__ import annotations

import logging
import re
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, ResponseError

from aresilience.errors import ConfigurationError

__all__ = ["OLDEST", "Health"]

OLDEST = (6, 2)
_log = logging.getLogger("aresilience")


class Health:
    """`version` and `maxmemory_policy` of the server that was met last, once known (`()` and None where we
    may not ask); `warnings` in words."""

    __slots__ = ("maxmemory_policy", "version", "warnings")

    def __init__(self) -> None:
        self.version: tuple[int, ...] | None = None
        self.maxmemory_policy: str | None = None
        self.warnings: tuple[str, ...] = ()

    async def greet(self, connection: AbstractConnection) -> str | None:
        """Look at the server, and return its role, if it says. Raises `ConfigurationError` if it is too old.

        Asked of every new connection: one that accepts and does not answer (a proxy without a server, say)
        is found out before anything is sent that cannot be sent again.
        """
        try:
            await connection.send_command("INFO")
            info = _fields(await connection.read_response())
        except BusyLoadingError:
            return None
        except ResponseError:
            self.version = self.version or ()  # allowed to work, not to ask: so be it
            return None
        version = tuple(int(digits) for digits in re.findall(r"\d+", info.get("redis_version", "0"))[:3])
        if "valkey_version" not in info and version < OLDEST:
            found, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST))
            raise ConfigurationError(f"Redis {found} is too old: {oldest} or newer is needed")
        self.version = version
        self._note_policy(info.get("maxmemory_policy"))
        return info.get("role")

    def _note_policy(self, policy: str | None) -> None:
        if policy == self.maxmemory_policy:
            return
        self.maxmemory_policy = policy
        self.warnings = ()
        if policy not in (None, "noeviction"):
            self.warnings = (
                f"Redis may evict keys (maxmemory-policy {policy}): a limit, a lock or a "
                "journal that is thrown away is lost; use noeviction, or a server of its own",
            )
            _log.warning("%s", self.warnings[0])


def _fields(reply: Any) -> dict[str, str]:
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}
