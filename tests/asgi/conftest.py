"""Asking an ASGI application: directly, as a server would, and through a real server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

App = Callable[..., Awaitable[None]]


@dataclass
class Answer:
    """What an application sent."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """The types of its messages."""
        return [message["type"] for message in self.messages]

    @property
    def status(self) -> int | None:
        """The status of its response, if it started one."""
        starts = [m for m in self.messages if m["type"].endswith("response.start")]
        return starts[0]["status"] if starts else None

    @property
    def headers(self) -> dict[str, str]:
        """Its header fields; those on several lines joined."""
        found: dict[str, str] = {}
        for message in self.messages:
            for name, value in message.get("headers", ()):
                key, text = name.decode("latin-1"), value.decode("latin-1")
                found[key] = f"{found[key]}, {text}" if key in found else text
        return found

    @property
    def body(self) -> bytes:
        """Its whole body."""
        return b"".join(m.get("body", b"") for m in self.messages if "response.body" in m["type"])


def request(path: str = "/", method: str = "GET", kind: str = "http", **more: Any) -> dict[str, Any]:
    """A scope."""
    headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in more.pop("headers", ())]
    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "path": path,
        "root_path": "",
        "headers": headers,
        "client": ("203.0.113.7", 50000),
        **more,
    }
    return scope if kind == "websocket" else {"method": method, **scope}


class Line:
    """A client's side of one request: what it sends, and whether it has left."""

    def __init__(self, parts: Iterable[bytes] = (b"",)) -> None:
        parts = list(parts)
        self.answer = Answer()
        self.asked = 0
        self._left = asyncio.Event()
        self._messages = [
            {"type": "http.request", "body": part, "more_body": place < len(parts) - 1}
            for place, part in enumerate(parts)
        ]

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        """The next message; when all is read, nothing comes until the client leaves."""
        self.asked += 1
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """As uvicorn does it: never fails, whether the client is there or not."""
        self.answer.messages.append(dict(message))


@pytest.fixture
def line() -> type[Line]:
    """Clients by hand."""
    return Line


@pytest.fixture
def scope_of() -> Callable[..., dict[str, Any]]:
    """Scopes by hand."""
    return request


@pytest.fixture
def ask() -> Callable[..., Awaitable[Answer]]:
    """Asks an application once, and returns its answer."""

    async def asking(app: App, path: str = "/", method: str = "GET", **more: Any) -> Answer:
        client = Line(more.pop("parts", (b"",)))
        await app(request(path, method, **more), client.receive, client.send)
        return client.answer

    return asking


@pytest.fixture
def ok() -> App:
    """An application that says yes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


class PromptServer(uvicorn.Server):
    """Stops when told to, instead of looking ten times a second whether it was."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        await self.on_tick(0)
        await self.stop.wait()


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[int]]:
    """Runs an application on a real uvicorn, in this loop, and tells its port."""

    @asynccontextmanager
    async def serving(app: App, **options: Any) -> AsyncIterator[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        options = {"http": "h11", "ws": "none", "lifespan": "auto", "proxy_headers": False, **options}
        config = uvicorn.Config(app, log_config=None, access_log=False, **options)
        server = PromptServer(config)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0)
        try:
            yield listener.getsockname()[1]
        finally:
            server.stop.set()
            await task

    return serving
