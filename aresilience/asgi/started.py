"""Whether a response has started: from then on an error can only break it off."""

from __future__ import annotations

from aresilience.asgi.types import Message, Send

__all__ = ["Started"]

_STARTS = frozenset(
    ("http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start")
)


class Started:
    """A `send` that passes every message on, as it is, and remembers whether a response has begun."""

    __slots__ = ("_send", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.started = True
        await self._send(message)
