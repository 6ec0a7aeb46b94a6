"""The master that the sentinels name."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from aresilience.backend.redis.address import Address, hang_up
from aresilience.backend.redis.commands import Request
from aresilience.backend.redis.errors import code_of
from aresilience.backend.redis.single import Greet, Node, SingleRoutes, limit, ready
from aresilience.errors import BackendError, ConfigurationError, NotSent

__all__ = ["SentinelRoutes"]

_NEW_MASTER = ("READONLY", "MASTERDOWN")


class SentinelRoutes(SingleRoutes):
    """The master that a majority of the sentinels names, asked anew for every connection."""

    async def connection(self) -> AbstractConnection:
        with limit(self._deadline):
            host, port = await self._master()
            return await ready(self._address.connection(host, port), self._greet_master)

    async def _greet_master(self, connection: AbstractConnection) -> str | None:
        role = await self._greet(connection)
        if role == "slave":
            raise NotSent(
                f"the sentinels of {self._address.shown} name a replica: a failover is on its way"
            )
        return role

    async def _master(self) -> Node:
        """All sentinels are asked at once, so that one that is away costs nothing: the first address with
        a majority, or, if others do not answer in half of the time, the one named most often."""
        nodes = self._address.nodes
        asked = {asyncio.create_task(self._named_by(*node)) for node in nodes}
        votes: Counter[Node] = Counter()
        loop = asyncio.get_running_loop()
        half_time = loop.time() + self._deadline / 2
        error: BaseException | None = None
        pending = asked
        try:
            while pending and (not votes or loop.time() < half_time):
                left = half_time - loop.time() if votes else None
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception() or error
                    if task.exception() is None:
                        votes[task.result()] += 1
                if votes and 2 * votes.most_common(1)[0][1] > len(nodes):
                    break
        finally:
            for task in pending:
                task.cancel()
                task.add_done_callback(lambda late: late.cancelled() or late.exception())
        if votes:
            return votes.most_common(1)[0][0]
        if isinstance(error, RedisError | BackendError):
            raise error
        raise NotSent(f"no sentinel of {self._address.shown} answers") from error

    async def _named_by(self, host: str, port: int) -> Node:
        connection = await ready(self._address.sentinel(host, port))
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            reply: Any = await connection.read_response()
        finally:
            hang_up(connection)
        if not reply:
            raise ConfigurationError(f"the sentinels know no service {self._address.service!r}")
        return reply[0].decode(), int(reply[1])

    def _redirect(self, request: Request, error: RedisError) -> bool:
        if code_of(error) in _NEW_MASTER:
            self._link.retire()  # it was the master; the next connection asks who is
        return False
