"""Recording: an application's response held back until it is whole, so that it can be kept before it is sent.

held ──(its last part)──────────────────────────▶ whole: `kept` or not, and sent by the middleware
  │
  └──(a stream, a part too many, trailers, …)───▶ passed on: what was held, and all that follows, as it comes
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from aresilience.asgi.kept import Headers, Kept
from aresilience.asgi.types import Message, Receive, Send

__all__ = ["Recording", "taken_off", "without"]

_LONGEST_NUMBER = 20
_BODIES = ("http.response.pathsend", "http.response.zerocopysend")


class Recording:
    """The two sides of one request that the application sees."""

    __slots__ = (
        "_body",
        "_left",
        "_limit",
        "_override",
        "_parts",
        "_receive",
        "_send",
        "_size",
        "_streams",
        "headers",
        "passes",
        "said",
        "status",
        "whole",
    )

    def __init__(
        self,
        body: bytes,
        receive: Receive,
        send: Send,
        *,
        limit: int,
        streams: Collection[bytes],
        override: bytes,
    ) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self._limit = limit
        self._streams = streams
        self._override = override
        self._parts: list[bytes] = []
        self._size = 0
        self._left = asyncio.Event()
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.said: bool | None = None
        """What the application says about keeping it, if it does."""
        self.passes = False
        """Whether it is passed on as it comes, and cannot be kept."""
        self.whole = asyncio.Event()
        """Set with its last part, held or passed on."""

    @property
    def body(self) -> bytes:
        """What is held of it."""
        return b"".join(self._parts)

    async def receive(self) -> Message:
        """The request's body, whole; then nothing, whether the client is there or not, until it is answered."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.passes:
            await self._left.wait()
        if self.passes and not self.whole.is_set():
            return await self._receive()  # an endless stream ends when its client leaves
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response."""
        kind = message["type"]
        if self.passes:
            await self._pass(message)
        elif kind == "http.response.start":
            self.status = message["status"]
            self.headers, self.said = taken_off(message.get("headers", ()), self._override)
            if message.get("trailers") or self._is_stream():
                await self._let_go({**message, "headers": self.headers})
        elif kind == "http.response.body":
            await self._take(message)
        elif kind in _BODIES:
            await self._let_go()
            await self._pass(message)
        else:
            await self._send(message)  # nothing of the response itself: an early hint, a push

    def kept(self, names: Collection[str], *, head: bool = False) -> Kept:
        """What is to be stored of it. `head`: it answers a HEAD, and its length is that of another answer."""
        assert self.status is not None
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        known = head and lengths and lengths[0].isdigit() and len(lengths[0]) < _LONGEST_NUMBER
        length = int(lengths[0]) if known else None
        headers = tuple(
            (name.lower().decode("latin-1"), value.decode("latin-1"))
            for name, value in self.headers
            if name.lower().decode("latin-1") in names
        )
        return Kept(self.status, headers, self.body, length)

    async def answer(self) -> None:
        """Send what is held, as it was: also if the application did not end it."""
        if self.passes or self.status is None:
            return
        await self._send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        more = not self.whole.is_set()
        await self._send({"type": "http.response.body", "body": self.body, "more_body": more})

    async def _take(self, message: Message) -> None:
        part, more = message.get("body", b""), message.get("more_body", False)
        self._size += len(part)
        self._parts.append(bytes(part))
        if self._size > self._limit:
            self._parts.pop()
            await self._let_go()
            await self._pass(message)
        elif not more:
            self.whole.set()
            self._left.set()

    async def _let_go(self, start: Message | None = None) -> None:
        """From here on it is passed on."""
        self.passes = True
        self._left.set()
        if start is None:
            start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await self._send(start)
        for part in self._parts:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self._parts.clear()

    async def _pass(self, message: Message) -> None:
        await self._send(message)
        if not message.get("more_body", False):
            self.whole.set()

    def _is_stream(self) -> bool:
        for name, value in self.headers:
            if name.lower() == b"content-type":
                return value.split(b";")[0].strip().lower() in self._streams
        return False


def taken_off(headers: Headers, override: bytes) -> tuple[list[tuple[bytes, bytes]], bool | None]:
    """Headers without the override, and what that says: "yes", "no", or nothing."""
    rest: list[tuple[bytes, bytes]] = []
    said: bool | None = None
    for name, value in headers:
        if name.lower() == override:
            said = {b"yes": True, b"no": False}.get(bytes(value).strip().lower(), said)
        else:
            rest.append((bytes(name), bytes(value)))
    return rest, said


def without(override: bytes, send: Send) -> Send:
    """For a response of which nothing is kept: sent as it is, but for the override."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": taken_off(message.get("headers", ()), override)[0]}
        await send(message)

    return sending
