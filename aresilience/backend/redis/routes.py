"""Which link a key's commands travel over: the one server, the master that the sentinels name, or the
cluster's node that has the slot."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import RedisError

from aresilience.backend.redis.address import Address, hang_up
from aresilience.backend.redis.commands import Detour, Plain, Request
from aresilience.backend.redis.errors import code_of, text_of
from aresilience.backend.redis.link import Link
from aresilience.deadline import Expiry
from aresilience.errors import BackendError, ConfigurationError, NotSent, TimedOut

__all__ = ["ClusterRoutes", "Routes", "SentinelRoutes", "SingleRoutes", "routes_to"]

Greet = Callable[[AbstractConnection], Coroutine[Any, Any, str | None]]
"""Looks at a new connection's server before it is used; its role, or raises what makes it unusable."""

_Node = tuple[str, int]
_NEW_MASTER = ("READONLY", "MASTERDOWN")
_HOPS = 3
_log = logging.getLogger("aresilience")


class Routes(Protocol):
    """The links of a backend."""

    async def start(self) -> None:
        """Find out what can be found out. A server that is away may come back; raises only what will not
        change, a `ConfigurationError`."""

    def link(self, key: bytes | None = None) -> Link: ...

    def slot(self, key: bytes) -> int: ...

    async def connection(self) -> AbstractConnection:
        """A connection of its own, for wake-ups; or an error, within the deadline."""

    async def close(self) -> None: ...

    def abandon(self) -> None: ...


def routes_to(address: Address, *, deadline: float, greet: Greet) -> Routes:
    """The routes for an address."""
    kinds: dict[str, Callable[..., Routes]] = {
        "single": SingleRoutes,
        "sentinel": SentinelRoutes,
        "cluster": ClusterRoutes,
    }
    return kinds[address.kind](address, deadline=deadline, greet=greet)


class SingleRoutes:
    """One server: one link."""

    def __init__(self, address: Address, *, deadline: float, greet: Greet) -> None:
        self._address = address
        self._deadline = deadline
        self._greet = greet
        self._link = Link(
            address.shown, self.connection, timers=Link.timers(deadline), redirect=self._redirect
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
        with _limit(self._deadline):
            return await _ready(self._address.connection(), self._greet)

    def _redirect(self, request: Request, error: RedisError) -> bool:
        return False

    async def close(self) -> None:
        await self._link.close()

    def abandon(self) -> None:
        self._link.abandon()


class SentinelRoutes(SingleRoutes):
    """The master that a majority of the sentinels names, asked anew for every connection."""

    async def connection(self) -> AbstractConnection:
        with _limit(self._deadline):
            host, port = await self._master()
            return await _ready(self._address.connection(host, port), self._greet_master)

    async def _greet_master(self, connection: AbstractConnection) -> str | None:
        role = await self._greet(connection)
        if role == "slave":
            raise NotSent(
                f"the sentinels of {self._address.shown} name a replica: a failover is on its way"
            )
        return role

    async def _master(self) -> _Node:
        """All sentinels are asked at once, so that one that is away costs nothing: the first address with
        a majority, or, if others do not answer in half of the time, the one named most often."""
        nodes = self._address.nodes
        asked = {asyncio.create_task(self._named_by(*node)) for node in nodes}
        votes: Counter[_Node] = Counter()
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

    async def _named_by(self, host: str, port: int) -> _Node:
        connection = await _ready(self._address.sentinel(host, port))
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


class ClusterRoutes:
    """A link for each master that has been asked for, and the map of slots."""

    def __init__(self, address: Address, *, deadline: float, greet: Greet) -> None:
        self._address = address
        self._greet = greet
        self._deadline = deadline
        self._timers = Link.timers(deadline)
        self._links: dict[_Node, Link] = {}
        self._owners: dict[int, _Node] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        await self._refresh(first=True)

    def link(self, key: bytes | None = None) -> Link:
        owner = self._owners.get(self.slot(key)) if key is not None else None
        if owner is None:
            owner = next(iter(self._owners.values()), self._address.nodes[0])
            if key is not None or not self._owners:
                self._refresh_soon()
        return self._link_to(owner)

    def slot(self, key: bytes) -> int:
        return int(key_slot(key))

    async def connection(self) -> AbstractConnection:
        """To any node: for messages, which reach all of them."""
        error: Exception = NotSent(f"no node of {self._address.shown} answers")
        for node in self._nodes():
            try:
                return await self._connect(node)
            except (RedisError, OSError, BackendError, TimedOut) as found:
                error = found
        raise error

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(link.close() for link in list(self._links.values())))

    def abandon(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        for link in self._links.values():
            link.abandon()

    def _nodes(self) -> list[_Node]:
        """All that are known, masters first."""
        return list(dict.fromkeys([*self._owners.values(), *self._address.nodes]))

    def _link_to(self, node: _Node) -> Link:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(
                f"{node[0]}:{node[1]}",
                partial(self._connect_to_owner, node),
                timers=self._timers,
                redirect=partial(self._redirect, node),
            )
            if self._closed:
                link.abandon()
        return link

    async def _connect_to_owner(self, node: _Node) -> AbstractConnection:
        try:
            return await self._connect(node)
        except Exception:
            self._refresh_soon()  # a dead node's slots may have another owner
            raise

    async def _connect(self, node: _Node) -> AbstractConnection:
        with _limit(self._deadline):
            return await _ready(self._address.connection(*node), self._greet)

    def _redirect(self, node: _Node, request: Request, error: RedisError) -> bool:
        """Follow MOVED and ASK, a few times for each request; what is to come later is the link's matter."""
        words = text_of(error).split()
        if words[0] not in ("MOVED", "ASK") or len(words) < 3:
            return False
        request.detour = detour = request.detour or Detour()
        detour.hops += 1
        if detour.hops > _HOPS:
            return False
        host, _, port = words[2].rpartition(":")
        owner = (host or node[0], int(port))
        detour.asking = words[0] == "ASK"
        if not detour.asking:
            self._owners[int(words[1])] = owner
            self._refresh_soon()
        request.sent = False
        self._link_to(owner).take_over(request)
        return True

    def _refresh_soon(self) -> None:
        if not self._closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self, *, first: bool = False) -> None:
        for node in self._nodes():
            question = Plain(asyncio.get_running_loop(), ("CLUSTER", "SLOTS"))
            self._link_to(node).ask(question)
            try:
                reply = await question.future
            except ConfigurationError:
                if first:
                    raise
                continue
            except BackendError as error:
                if first and "cluster support disabled" in str(error):
                    raise ConfigurationError(f"{self._address.shown} is no cluster: use redis://") from None
                if first:
                    _log.warning("%s does not tell its slots: %s", self._address.shown, error)
                continue
            owners: dict[int, _Node] = {}
            for first_slot, last_slot, master, *_ in reply:
                owner = ((master[0] or b"").decode() or node[0], int(master[1]))
                owners.update(dict.fromkeys(range(first_slot, last_slot + 1), owner))
            self._owners = owners
            return


def _limit(seconds: float) -> Expiry:
    return Expiry(
        asyncio.get_running_loop().time() + seconds,
        lambda: TimedOut(f"no connection within {seconds:g} s"),
    )


async def _ready(connection: AbstractConnection, greet: Greet | None = None) -> AbstractConnection:
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
