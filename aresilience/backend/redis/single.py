"""One server: one link. And what connecting has in common, however the server was found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from aresilience.backend.redis.address import Address, hang_up
from aresilience.backend.redis.commands import Plain, Request
from aresilience.backend.redis.link import Link
from aresilience.deadline import Expiry
from aresilience.errors import BackendError, ConfigurationError, TimedOut

__all__ = ["Greet", "Node", "SingleRoutes", "limit", "ready"]

Greet: TypeAlias = Callable[[AbstractConnection], Coroutine[Any, Any, str | None]]
"""Looks at a new connection's server before it is used; its role, or raises what makes it unusable."""
Node: TypeAlias = tuple[str, int]
_log = logging.getLogger("aresilience")


class SingleRoutes:
    """One server: one link."""

    def __init__(self, address: Address, *, deadline: float, greet: Greet) -> None:
        self._address = address
        self._deadline = deadline
        self._greet = greet
        self._link = Link(
            address.shown, self._for_the_link, timers=Link.timers(deadline), redirect=self._redirect
        )

    async def start(self) -> None:
        question = Plain(asyncio.get_running_loop(), ("PING",))
        self._link.ask(question)
        await _settled(question, self._address)

    def link(self, key: bytes | None = None) -> Link:
        return self._link

    def slot(self, key: bytes) -> int:
        return 0

    async def connection(self) -> AbstractConnection:
        with limit(self._deadline):
            return await ready(self._address.connection(), self._greet)

    async def _for_the_link(self) -> AbstractConnection:
        return await self.connection()

    def _redirect(self, request: Request, error: RedisError) -> bool:
        return False

    async def close(self) -> None:
        await self._link.close()

    def abandon(self) -> None:
        self._link.abandon()


def limit(seconds: float) -> Expiry:
    return Expiry(
        asyncio.get_running_loop().time() + seconds,
        lambda: TimedOut(f"no connection within {seconds:g} s"),
    )


async def ready(connection: AbstractConnection, greet: Greet | None = None) -> AbstractConnection:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        if greet is not None:
            await greet(connection)
    except BaseException:
        hang_up(connection)
        raise
    return connection


async def _settled(question: Plain, address: Address) -> None:
    try:
        await question.future
    except ConfigurationError:
        raise
    except BackendError as error:
        _log.warning("%s is not there yet: %s", address.shown, error)
