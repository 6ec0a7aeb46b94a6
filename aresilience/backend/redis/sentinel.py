"""The master that the sentinels name, and leaving it when they name another.

A master that is replaced need not notice: until a sentinel tells it, ten seconds later or when a partition
heals, it goes on taking writes that will be thrown away. So we listen to the sentinels, and look now and then.
"""

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
from aresilience.backend.redis.wakeups import Wakeups
from aresilience.chance import entropy
from aresilience.errors import BackendError, ConfigurationError, NotSent, TimedOut

__all__ = ["SentinelRoutes"]

_NEW_MASTER = ("READONLY", "MASTERDOWN")
_LOOKS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Seconds between looks after one sentinel has spoken of a new master: the others follow."""


class SentinelRoutes(SingleRoutes):
    """The master that a majority of the sentinels names, asked anew for every connection."""

    def __init__(self, address: Address, *, deadline: float, greet: Greet) -> None:
        super().__init__(address, deadline=deadline, greet=greet)
        self._used: Node | None = None
        self._looking: asyncio.Task[None] | None = None
        self._watch = Wakeups(self._to_a_sentinel, b"aresilience", every=10.0)

    async def start(self) -> None:
        await super().start()
        self._watch.listen(b"+switch-master", self._switched, self._look_once)

    async def connection(self) -> AbstractConnection:
        with limit(self._deadline):
            host, port = await self._master()
            return await ready(self._address.connection(host, port), self._greet_master)

    async def _for_the_link(self) -> AbstractConnection:
        connection: Any = await self.connection()
        self._used = connection.host, connection.port
        return connection  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self._watch.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await super().close()

    def abandon(self) -> None:
        super().abandon()
        self._watch.abandon()
        if self._looking is not None:
            self._looking.cancel()

    async def _greet_master(self, connection: AbstractConnection) -> str | None:
        role = await self._greet(connection)
        if role == "slave":
            raise NotSent(
                f"the sentinels of {self._address.shown} name a replica: a failover is on its way"
            )
        return role

    def _redirect(self, request: Request, error: RedisError) -> bool:
        if code_of(error) in _NEW_MASTER:
            self._link.retire()  # it was the master; the next connection asks who is
        return False

    # Who is the master

    async def _master(self) -> Node:
        """All sentinels are asked at once, so that one that is away costs nothing: the first address with
        a majority, or, if others do not answer in half of the time, the one named most often."""
        nodes = self._address.nodes
        pending = {asyncio.create_task(self._named_by(*node)) for node in nodes}
        votes: Counter[Node] = Counter()
        loop = asyncio.get_running_loop()
        half_time = loop.time() + self._deadline / 2
        error: BaseException | None = None
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

    # Whether it still is

    async def _to_a_sentinel(self) -> AbstractConnection:
        """To any: when it fails, another is tried."""
        nodes = self._address.nodes
        with limit(self._deadline):
            return await ready(self._address.sentinel(*nodes[int(entropy().random() * len(nodes))]))

    def _switched(self, message: bytes) -> None:
        if message.split()[0].decode() == self._address.service:
            self._look(_LOOKS)

    def _look_once(self) -> None:
        self._look(_LOOKS[:1])

    def _look(self, pauses: tuple[float, ...]) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.get_running_loop().create_task(self._leave_if_replaced(pauses))

    async def _leave_if_replaced(self, pauses: tuple[float, ...]) -> None:
        for pause in pauses:
            await asyncio.sleep(pause)
            try:
                with limit(self._deadline):
                    master = await self._master()
            except (RedisError, OSError, BackendError, TimedOut):
                continue
            if self._used is not None and master != self._used:
                self._link.retire()
                return
