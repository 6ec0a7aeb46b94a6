"""Wake-ups: one pub/sub connection for a whole backend.

A message is a hint that something may have changed (a lock released, a circuit opened); it can be lost. So
whoever listens is also told to look for itself: whenever his channel has been subscribed to (messages of
before are lost), and on a timer, whether or not there is a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from aresilience.backend.redis.address import hang_up
from aresilience.backend.redis.errors import not_sent
from aresilience.chance import entropy
from aresilience.errors import BackendError, ConfigurationError, TimedOut

__all__ = ["Wakeups"]

_log = logging.getLogger("aresilience")
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0

OnMessage = Callable[[bytes], None]
OnResync = Callable[[], None]


class Wakeups:
    """Calls the listeners of a channel for each message, and after each gap.

    `own` is a channel of ours, so that there is always one to be subscribed to. `every` is the mean time
    between two looks of the listeners for themselves, and of asking whether the connection still works.
    """

    __slots__ = (
        "_confirmed",
        "_connect",
        "_connection",
        "_every",
        "_heard",
        "_listeners",
        "_outbox",
        "_own",
        "_said",
        "_tasks",
        "_warned",
        "connected",
    )

    def __init__(
        self, connect: Callable[[], Awaitable[AbstractConnection]], own: bytes, *, every: float = 5.0
    ) -> None:
        self._connect = connect
        self._own = own
        self._every = every
        self._listeners: dict[bytes, list[tuple[OnMessage, OnResync]]] = {}
        self._confirmed: set[bytes] = set()
        self._connection: AbstractConnection | None = None
        self._outbox: list[bytes] = []
        self._said = asyncio.Event()
        self._heard = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._warned = False
        self.connected = asyncio.Event()
        """Set while the subscriptions that a connection begins with are in force."""

    def listen(self, channel: bytes, on_message: OnMessage, on_resync: OnResync) -> Callable[[], None]:
        """Start listening; the function returned ends it."""
        entry = (on_message, on_resync)
        if channel not in self._listeners:
            self._say(b"SUBSCRIBE", channel)
        elif channel in self._confirmed:  # no confirmation will come: what he asked before may have changed
            asyncio.get_running_loop().call_soon(self._first_look, channel, entry)
        self._listeners.setdefault(channel, []).append(entry)
        if not self._tasks:
            self._tasks = [
                _background(self._run(), "aresilience wake-ups"),
                _background(self._now_and_then(), "aresilience wake-ups, the timer"),
            ]

        def end() -> None:
            entries = self._listeners.get(channel, [])
            if entry in entries:
                entries.remove(entry)
            if not entries and self._listeners.pop(channel, None) is not None:
                self._confirmed.discard(channel)
                self._say(b"UNSUBSCRIBE", channel)

        return end

    async def close(self) -> None:
        """Hang up."""
        self.abandon()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Hang up as soon as the loop runs."""
        for task in self._tasks:
            task.cancel()

    def _say(self, *words: bytes) -> None:
        """Tell a connection that is up, with all else of this turn; a new one begins with all channels."""
        if self._connection is not None:
            self._outbox.append(pack_command(words))  # type: ignore[arg-type]
            self._said.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            began = loop.time()
            error: Exception | None = None
            try:
                await self._hear(await self._connect())
            except (RedisError, OSError, BackendError, TimedOut) as found:
                error = found
            if isinstance(error, RedisError):
                error = not_sent(error)
            if isinstance(error, ConfigurationError) and not self._warned:
                self._warned = True
                _log.warning("no wake-ups, waiting takes longer: %s", error)
            else:
                _log.debug("no wake-ups for now: %s", type(error).__name__)
            if loop.time() - began > _LAST_PAUSE:
                pause = _FIRST_PAUSE  # it worked for a while
            await asyncio.sleep(pause * (0.5 + entropy().random()))
            pause = min(2 * pause, _LAST_PAUSE)

    async def _hear(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        teller = _background(self._tell(connection), "aresilience wake-ups, outgoing")
        try:
            # Our own comes last: when it is confirmed, so are the others.
            self._connection = connection
            self._outbox.clear()
            self._say(b"SUBSCRIBE", *self._listeners, self._own)
            while True:
                self._heard = loop.time()
                kind, *rest = await connection.read_response(disconnect_on_error=False)
                if kind == b"message":
                    for on_message, _ in list(self._listeners.get(rest[0], ())):
                        _call(on_message, rest[1])
                elif kind == b"subscribe" and rest[0] == self._own:
                    self.connected.set()
                elif kind == b"subscribe":
                    if rest[0] in self._listeners:
                        self._confirmed.add(rest[0])
                    self._resync(rest[0])
        finally:  # nothing here waits, so no cancel can cut it
            if not loop.is_closed():  # else we are being collected
                self.connected.clear()
                self._confirmed.clear()
                self._connection = None
                teller.cancel()
                hang_up(connection)

    async def _tell(self, connection: AbstractConnection) -> None:
        with contextlib.suppress(RedisError, OSError):  # the reader sees the broken connection
            while True:
                await self._said.wait()
                self._said.clear()
                said, self._outbox = self._outbox, []
                if said:
                    await connection.send_packed_command(said, check_health=False)

    async def _now_and_then(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every * (0.5 + entropy().random()))
            for channel in list(self._listeners):
                self._resync(channel)
            connection = self._connection
            if connection is not None and loop.time() - self._heard > 3 * self._every:
                hang_up(connection)  # not even an answer to our question
            else:
                self._say(b"PING")

    def _first_look(self, channel: bytes, entry: tuple[OnMessage, OnResync]) -> None:
        if entry in self._listeners.get(channel, ()):
            _call(entry[1])

    def _resync(self, channel: bytes) -> None:
        for _, on_resync in list(self._listeners.get(channel, ())):
            _call(on_resync)


def _background(work: Any, name: str) -> asyncio.Task[None]:
    """A task that outlives whoever listened first, so it has none of his context."""
    task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop thrown away makes no noise
    return task


def _call(function: Callable[..., None], *args: bytes) -> None:
    """A listener's code, which must not end the wake-ups of the others."""
    try:
        function(*args)
    except Exception:  # noqa: BLE001 - logged
        _log.exception("a listener to wake-ups failed")
