"""The Redis backend: routes, scripts, wake-ups, and a bounded end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from aresilience.backend.backend import Backend, to_the_end
from aresilience.backend.redis.address import Address, from_client
from aresilience.backend.redis.commands import Argument, Batch, Call, Plain, Rider, Undo
from aresilience.backend.redis.health import Health
from aresilience.backend.redis.routes import Routes, routes_to
from aresilience.backend.redis.scripts import Script
from aresilience.backend.redis.wakeups import Wakeups

__all__ = ["RedisBackend"]

T = TypeVar("T")

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class RedisBackend(Backend):
    """State in Redis 6.2 or newer, or Valkey: single, Sentinel or Cluster.

    `client` is a `redis.asyncio` client that you have: its address, credentials and TLS settings are used,
    over connections of our own; its retries, timeouts and pool are not. Or use `connect(url)`.

    `prefix` begins every key; `deadline` is the longest that one exchange may take, in seconds. Enter it
    (`async with backend:`) before use, once, on the loop on which it will be used.
    """

    def __init__(self, client: object, *, prefix: str = "ar", deadline: float | timedelta = 0.25) -> None:
        address = client if isinstance(client, Address) else from_client(client)
        super().__init__(prefix=prefix, deadline=deadline)
        self._address = address
        self._routes: Routes | None = None
        self._wakeups: Wakeups | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._batches: dict[tuple[str, int, tuple[Argument, ...]], Batch] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_open: dict[object, Callable[[], object]] = {}
        self.health = Health()

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._routes = routes_to(self._address, deadline=self.deadline, greet=self.health.greet)
        self._wakeups = Wakeups(self._routes.connection, f"{self.prefix}:wakeups".encode())
        await self._routes.start()
        for callback in list(self._on_open.values()):
            callback()

    async def _close(self) -> None:
        await to_the_end(self._shut())

    async def _shut(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.deadline)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self.deadline)
        if self._wakeups is not None:
            await self._wakeups.close()
        if self._routes is not None:
            await self._routes.close()
        self._routes = self._wakeups = None
        self._batches.clear()

    async def ping(self) -> float:
        """Seconds of one round trip. Raises a `BackendError`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self.command("PING")
        return loop.time() - started

    def command(self, *words: Argument, key: bytes | None = None) -> asyncio.Future[Any]:
        """One command, in this turn's write. `key` says which node of a cluster.

        Its reply is believed: only those of scripts prove, by their nonce, whose they are.
        """
        routes = self._ready()
        request = Plain(asyncio.get_running_loop(), words)
        routes.link(key).ask(request)
        return request.future

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Argument],
        undo: Undo | None = None,
    ) -> asyncio.Future[Any]:
        """One call of a script; the list that it returns, without the nonce.

        Who cancels the future leaves the reply to `undo`, to give back what the script took. Where the task is
        cancelled when the future is done but the task has not run on yet, that is left to the task.
        """
        routes = self._ready()
        request = Call(asyncio.get_running_loop(), script, keys, args, undo)
        routes.link(keys[0] if keys else None).ask(request)
        return request.future

    def join(self, script: Script, rider: Rider, head: tuple[Argument, ...] = ()) -> None:
        """Ride on the next call of a script that takes many entries, with those who ask until it leaves.

        `head` are arguments for the call as a whole. All keys of a rider lie in one slot.
        """
        routes = self._ready()
        key = bytes(rider.keys[0])  # type: ignore[arg-type]
        place = (script.sha, routes.slot(key), head)
        batch = self._batches.get(place)
        if batch is None or not batch.open:
            batch = self._batches[place] = Batch(script, head)
            batch.add(rider)
            routes.link(key).ask(batch)
            if len(self._batches) > 1024:
                self._batches = {p: b for p, b in self._batches.items() if not b.sent}
        else:
            batch.add(rider)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the backend's own: it goes on when whoever waits for it is cancelled, and ends with us."""
        self._ready()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def is_open(self) -> bool:
        """Whether it has been entered, and not left yet."""
        return self._routes is not None

    def when_open(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back now, if the backend is open, and each time that it is opened, until the function that is
        returned is called."""
        self._on_open[entry := object()] = callback
        if self._routes is not None:
            callback()

        def end() -> None:
            self._on_open.pop(entry, None)

        return end

    def key(self, kind: str, *parts: str, tag: str | None = None) -> bytes:
        """A key of ours: prefix, kind, and a digest of the parts, each with its length, in one slot.

        Whatever users put into names and keys (braces, line ends, ten megabytes) is hashed. Keys with the
        same `tag` share a slot; without one a key has the slot of its parts.
        """
        digest = _digest("".join(f"{len(part)}:{part}" for part in parts))
        if tag is None:
            return f"{self.prefix}:{kind}:{{{digest}}}".encode()
        if not _PLAIN.fullmatch(tag):  # a brace would end it early, and an empty one is none
            tag = _digest(tag)
        return f"{self.prefix}:{kind}:{{{tag}}}:{digest}".encode()

    def slot(self, key: bytes) -> int:
        """The slot of a key in a cluster; 0 where there is none."""
        return self._ready().slot(key)

    def listen(
        self, channel: str, on_message: Callable[[bytes], None], on_resync: Callable[[], None]
    ) -> Callable[[], None]:
        """Be told of messages on a channel, and when to look for oneself; see `wakeups`."""
        self._ready()
        assert self._wakeups is not None
        return self._wakeups.listen(f"{self.prefix}:{channel}".encode(), on_message, on_resync)

    def channel(self, name: str) -> str:
        """The channel's name on the server."""
        return f"{self.prefix}:{name}"

    def _ready(self) -> Routes:
        routes = self._routes
        if routes is None:
            raise RuntimeError(f"{self!r} is not open: enter it first, 'async with backend:'")
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            raise RuntimeError(
                f"{self!r} was opened on another event loop, or before a fork: "
                "open one for each loop and process"
            )
        return routes

    def _state(self) -> str:
        return self._address.shown

    def _abandon(self) -> None:
        """What is left to do for a backend that nobody has closed, on its own loop if that still runs."""
        routes, wakeups, loop = self._routes, self._wakeups, self._loop
        if routes is None or wakeups is None or loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(wakeups.abandon)
        loop.call_soon_threadsafe(routes.abandon)

    def __del__(self) -> None:
        if getattr(self, "_routes", None) is not None and self._pid == os.getpid():  # not a forked child's
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
            self._abandon()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
