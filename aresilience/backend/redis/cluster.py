"""A Cluster: which node has which slot, and what to do when it has moved."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import RedisError

from aresilience.backend.redis.address import Address
from aresilience.backend.redis.commands import Detour, Plain, Request
from aresilience.backend.redis.errors import text_of
from aresilience.backend.redis.link import Link
from aresilience.backend.redis.single import Greet, Node, limit, ready
from aresilience.errors import BackendError, ConfigurationError, NotSent, TimedOut

__all__ = ["ClusterRoutes"]

_HOPS = 3
_log = logging.getLogger("aresilience")


class ClusterRoutes:
    """A link for each master that has been asked for, and the map of slots."""

    def __init__(self, address: Address, *, deadline: float, greet: Greet) -> None:
        self._address = address
        self._greet = greet
        self._deadline = deadline
        self._timers = Link.timers(deadline)
        self._links: dict[Node, Link] = {}
        self._owners: dict[int, Node] = {}
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

    def _nodes(self) -> list[Node]:
        """All that are known, masters first."""
        return list(dict.fromkeys([*self._owners.values(), *self._address.nodes]))

    def _link_to(self, node: Node) -> Link:
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

    async def _connect_to_owner(self, node: Node) -> AbstractConnection:
        try:
            return await self._connect(node)
        except Exception:
            self._refresh_soon()  # a dead node's slots may have another owner
            raise

    async def _connect(self, node: Node) -> AbstractConnection:
        with limit(self._deadline):
            return await ready(self._address.connection(*node), self._greet)

    def _redirect(self, node: Node, request: Request, error: RedisError) -> bool:
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
            owners: dict[int, Node] = {}
            for first_slot, last_slot, master, *_ in reply:
                owner = ((master[0] or b"").decode() or node[0], int(master[1]))
                owners.update(dict.fromkeys(range(first_slot, last_slot + 1), owner))
            self._owners = owners
            return
