"""A proxy between a client and a server that speaks RESP, where everything goes wrong that you ask for.

    async with FaultProxy("127.0.0.1", 6379) as proxy:
        backend = ar.connect(f"redis://127.0.0.1:{proxy.port}")
        proxy.replies.swallow()             # the next reply is lost; the server has run the command
        proxy.requests.swallow(nth=3)       # the third from now never arrives
        proxy.replies.delay(0.2, times=None)        # all of them, from now on
        proxy.heal()

Whole messages are counted, however TCP cuts them, so a fault hits exactly the reply that it is meant for.
It works with any client on the same loop, and on the real clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

__all__ = ["FaultProxy", "Traffic"]

Delay: TypeAlias = float | Callable[[int], float]


@dataclass(frozen=True, slots=True)
class _Rule:
    first: int
    last: float
    kind: Literal["delay", "insert", "replace", "split", "reset"]
    value: Any = None


class Traffic:
    """One direction. Each method takes hold of the `nth` message from now, and of `times` in a row (None: for
    ever); `seen` counts the messages of all connections."""

    def __init__(self) -> None:
        self.seen = 0
        self._rules: list[_Rule] = []

    def swallow(self, *, nth: int = 1, times: int | None = 1) -> None:
        """Lose it: it never arrives."""
        self._add(nth, times, "replace", b"")

    def delay(self, seconds: Delay, *, nth: int = 1, times: int | None = 1) -> None:
        """Hold it, and all behind it, for so many seconds, or what a function of its number says."""
        self._add(nth, times, "delay", seconds)

    def replace(self, data: bytes, *, nth: int = 1, times: int | None = 1) -> None:
        """Deliver something else: `b"-LOADING Redis is loading the dataset in memory\\r\\n"`."""
        self._add(nth, times, "replace", data)

    def insert(self, data: bytes, *, nth: int = 1, times: int | None = 1) -> None:
        """Deliver something before it that nobody asked for."""
        self._add(nth, times, "insert", data)

    def split(self, *, nth: int = 1, times: int | None = None) -> None:
        """Deliver it byte by byte."""
        self._add(nth, times, "split")

    def reset(self, *, after: int = 0, nth: int = 1) -> None:
        """Deliver its first `after` bytes, then reset (RST) the connection."""
        self._add(nth, 1, "reset", after)

    def heal(self) -> None:
        """Forget all faults."""
        self._rules.clear()

    def _add(self, nth: int, times: int | None, *rule: Any) -> None:
        first = self.seen + nth
        self._rules.append(_Rule(first, float("inf") if times is None else first + times - 1, *rule))

    def next_rules(self) -> list[_Rule]:
        """The faults of the message that has come."""
        self.seen += 1
        self._rules = [rule for rule in self._rules if rule.last >= self.seen]
        return [rule for rule in self._rules if rule.first <= self.seen]


class FaultProxy:
    """An async context manager; `port` on 127.0.0.1 leads to the server.

    `requests` and `replies` are the two directions; `connections` is the number that are open, `accepted`
    that of all so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._deaf = False
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        self.requests = Traffic()
        self.replies = Traffic()
        self.port = 0
        self.accepted = 0

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._clients)

    async def __aenter__(self) -> FaultProxy:
        await self.heal()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    def refuse(self) -> None:
        """New connections are refused; those that are open go on (see `cut`)."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def black_hole(self) -> None:
        """New connections are accepted, and nothing is ever answered."""
        self._deaf = True

    async def heal(self) -> None:
        """New connections work again, and no message has a fault."""
        self._deaf = False
        self.requests.heal()
        self.replies.heal()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset (RST) all connections, now."""
        for each in [*self._clients, *self._servers]:
            _reset(each)

    def inject(self, data: bytes) -> None:
        """Send all clients something that they did not ask for: `b"+STRAY\\r\\n"`."""
        for client in self._clients:
            client.write(data)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = cast(asyncio.Task[Any], asyncio.current_task())
        self._tasks.add(task)
        self._clients.append(client)
        self.accepted += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled: when the proxy ends
                if not self._deaf:
                    await self._forward(reader, client)
                    return
                while await reader.read(65536):
                    pass
        finally:
            self._tasks.discard(task)
            self._clients.remove(client)
            client.close()

    async def _forward(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        server_reader, server = await asyncio.open_connection(*self._upstream)
        self._servers.append(server)
        pumps = {
            asyncio.create_task(_pump(reader, server, self.requests)),
            asyncio.create_task(_pump(server_reader, client, self.replies)),
        }
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for end in (client, server) if any(pump.result() for pump in done) else ():
                _reset(end)
        finally:
            for pump in pumps:
                pump.cancel()
            self._servers.remove(server)
            server.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    def __repr__(self) -> str:
        return f"<FaultProxy port {self.port}, {self.connections} connections, {self.accepted} so far>"


async def _pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, traffic: Traffic) -> bool:
    """Pass whole messages on, with their faults. False: one side hung up; True: it is to be reset."""
    data = b""
    with contextlib.suppress(OSError):
        while chunk := await source.read(65536):
            data += chunk
            while (end := _end_of_message(data)) > 0:
                message, data = data[:end], data[end:]
                if not await _deliver(message, to, traffic.next_rules(), traffic.seen):
                    return True
            await to.drain()
    return False


async def _deliver(message: bytes, to: asyncio.StreamWriter, rules: list[_Rule], number: int) -> bool:
    """False: the connection is to be reset."""
    for rule in rules:
        if rule.kind == "delay":
            await asyncio.sleep(rule.value(number) if callable(rule.value) else rule.value)
        elif rule.kind == "insert":
            to.write(rule.value)
        elif rule.kind == "replace":
            message = rule.value
        elif rule.kind == "reset":
            to.write(message[: rule.value])
            await to.drain()
            return False
    if any(rule.kind == "split" for rule in rules):
        for place in range(len(message)):
            to.write(message[place : place + 1])
            await asyncio.sleep(0)
    else:
        to.write(message)
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, whatever is buffered."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()


def _end_of_message(data: bytes) -> int:
    """Where the first RESP message ends (RESP 2 and 3, also a line of an inline command); 0: not yet."""
    at, missing = 0, 1
    while missing:
        end = data.find(b"\r\n", at)
        if end < 0:
            return 0
        kind, head = data[at : at + 1], data[at + 1 : end]
        at = end + 2
        missing -= 1
        if kind in b"$!=" and int(head) >= 0:
            at += int(head) + 2
        elif kind in b"*~>":
            missing += max(0, int(head))
        elif kind in b"%|":
            missing += 2 * int(head) + (kind == b"|")
    return at if at <= len(data) else 0
