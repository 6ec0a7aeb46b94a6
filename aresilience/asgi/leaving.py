"""Clients that leave while their request waits.

Servers do not cancel the application when a client leaves, so a request that waits in a queue would wait on,
take its permit, and do its work for nobody: under load, when clients give up, that is most of the work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from aresilience.asgi.types import Message, Receive, Scope
from aresilience.deadline import is_own_cancel
from aresilience.errors import Rejected

__all__ = ["ClientLeft", "Queueing"]


class ClientLeft(Rejected):
    """The client closed its connection while its request waited."""


class Queueing:
    """Looks out for the client of a request while that waits, and loses no message.

    Nothing happens for a wait that is over at once. Otherwise messages are received, until one says that there
    is more of the body to come: that part is held, and nothing more is read. `receive` is what the application
    calls from then on; what was held, and what is on its way, comes first.

    Not looked out for are websockets, and clients that ask before they send a body (`Expect: 100-continue`):
    receiving would tell them to send.
    """

    __slots__ = ("_held", "_left", "_receive", "_scope", "_waiting", "_watcher")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._held: deque[Message] = deque()
        self._watcher: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._left = False

    async def wait(self, what: Awaitable[None]) -> None:
        """Await `what`. Cancels it and raises `ClientLeft` if the client leaves before it is done."""
        task = asyncio.current_task()
        assert task is not None, "servers run the application in a task"
        self._waiting, cancelling = task, task.cancelling()
        start = task.get_loop().call_soon(self._look_out)  # only if `what` has to wait
        try:
            await what
        except BaseException as error:
            if self._left and is_own_cancel(task, cancelling, error):
                raise ClientLeft("the client left while its request waited") from error
            raise
        finally:
            start.cancel()
            self._waiting = None

    @property
    def receive(self) -> Receive:
        """For the application: the server's own, unless it had to wait."""
        return self._receive if self._watcher is None else self._next

    async def close(self) -> None:
        """The request is over."""
        watcher = self._watcher
        if watcher is None:
            return
        watcher.cancel()
        await asyncio.wait((watcher,))
        if not watcher.cancelled():
            watcher.exception()  # seen: it is nobody's any more

    def _look_out(self) -> None:
        if self._waiting is None or self._scope["type"] != "http":
            return
        if not any(name == b"expect" for name, _ in self._scope["headers"]):
            self._watcher = self._waiting.get_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while self._waiting is not None:
            message = await self._receive()
            self._held.append(message)
            if message["type"] == "http.disconnect":
                if self._waiting is not None:
                    self._left = True
                    self._waiting.cancel()
                return
            if message.get("more_body"):
                return

    async def _next(self) -> Message:
        while not self._held:
            watcher = self._watcher
            if watcher is None:
                return await self._receive()
            await asyncio.wait((watcher,))
            if not self._held:
                self._watcher = None
                watcher.result()  # what the server's receive raised is the application's to see
        return self._held.popleft()
