"""One connection to one server, shared by all tasks of a process.

    ask ──▶ queue ──▶ (one turn later) one write ──▶ flight ──▶ replies, in order ──▶ futures

- What is asked in one turn of the loop leaves in one write. At most `PIPELINES` writes are unanswered;
  what arrives meanwhile waits and leaves together.
- Every request has the deadline from the moment it is asked, over all its detours. Not yet sent by then:
  `NotSent`. Sent: `OutcomeUnknown`, and the place in line is kept for its reply. What the server said that
  it did not run (LOADING, NOSCRIPT, MOVED, …) is sent again within that time, and then `Refused`.
- A caller that is cancelled takes its request out of the queue, or leaves its reply to be dropped (or
  undone): no command is ever cut, and no connection is lost for it.
- A connection that breaks, or from which nothing comes for two deadlines, is dropped; the next request
  makes a new one. What was sent over it is unknown, what was not is sent over the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from aresilience.backend.redis.address import hang_up
from aresilience.backend.redis.commands import Asking, Detour, Request, Verdict
from aresilience.backend.redis.errors import (
    MAX_CLIENTS,
    StrayReplyError,
    another,
    code_of,
    is_reply,
    not_sent,
    refused,
)
from aresilience.errors import BackendError, NotSent, OutcomeUnknown, TimedOut
from aresilience.timers import EqualTimers

__all__ = ["Link"]

_PAUSE = 0.02
"""Before what the server will run a little later is sent again."""
_LATER = ("LOADING", "TRYAGAIN")


class Link:
    """See the module's description. `connect` makes a connection that is ready for commands, in time.

    `redirect(request, error)` is asked about every error reply: True if it has sent the request elsewhere.
    """

    PIPELINES = 2

    __slots__ = (
        "_ahead",
        "_closed",
        "_connect",
        "_connection",
        "_deadline",
        "_drained",
        "_flight",
        "_heard",
        "_loop",
        "_pipelines",
        "_queue",
        "_redirect",
        "_retired",
        "_task",
        "_timers",
        "_wake",
        "commands",
        "name",
        "writes",
    )

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[AbstractConnection]],
        *,
        timers: EqualTimers[int, Request],
        redirect: Callable[[Request, RedisError], bool] | None = None,
    ) -> None:
        self.name = name
        self._loop = timers.loop
        self._connect = connect
        self._deadline = timers.seconds
        self._redirect = redirect
        self._queue: deque[Request] = deque()
        self._ahead = 0  # how many at its head are there for the second time
        self._flight: deque[Request] = deque()
        self._pipelines: deque[int] = deque()  # replies still missing of each write
        self._timers = timers
        self._connection: AbstractConnection | None = None
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._closed = False
        self._retired = False
        self._heard = 0.0
        self.commands = 0
        self.writes = 0

    @staticmethod
    def timers(deadline: float) -> EqualTimers[int, Request]:
        """The deadlines of all requests of a backend, whichever link has them."""
        loop = asyncio.get_running_loop()
        return EqualTimers(loop, deadline, lambda _, request: request.link.expired(request))

    def ask(self, request: Request) -> None:
        """Queue a request; its future tells the rest."""
        if self._closed:
            request.fail(NotSent("the backend is closed"))
            return
        self._timers.start(id(request), request)
        self.take_over(request)

    def take_over(self, request: Request) -> None:
        """Queue a request that another link had; its deadline goes on."""
        request.link = self
        self._queue.append(request)
        if self._task is None or self._task.done():
            self._task = self._background(self._run(), "link")
        else:
            self._nudge()

    async def close(self) -> None:
        """Send what is queued, wait for the answers for at most the deadline, then hang up."""
        task = self._task
        self._forget_unwanted()
        try:
            end = self._loop.time() + self._deadline
            while task is not None and not task.done() and (self._queue or self._flight):  # answers may ask
                self._drained = self._loop.create_future()
                done, _ = await asyncio.wait([self._drained], timeout=end - self._loop.time())
                if not done:
                    break
        finally:
            self.abandon()
        if task is not None:
            await asyncio.wait([task])
        self._fail_queue(NotSent("the backend was closed"))

    def abandon(self) -> None:
        """Hang up as soon as the loop runs."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._nudge()  # should the cancel get lost

    def drop(self) -> None:
        """Give this connection up now; the next request makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            hang_up(connection)
            self._nudge()

    def retire(self) -> None:
        """Give this connection up when it has answered what it was asked; what comes goes over a new one."""
        self._retired = True
        self._nudge()

    def _background(self, work: Any, name: str) -> asyncio.Task[None]:
        """A task that outlives whoever asked first, so it has none of his context."""
        context = Context()
        task = self._loop.create_task(work, name=f"aresilience {name} {self.name}", context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop thrown away makes no noise
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception(), context=context)
        return task

    def _nudge(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _sleep_until_nudged(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def _run(self) -> None:
        while not self._closed:
            self._forget_unwanted()
            if not self._queue:
                await self._sleep_until_nudged()
                continue
            connection = await self._connected()
            if connection is not None:
                await self._serve(connection)

    async def _connected(self) -> AbstractConnection | None:
        """A connection, or None and everybody in the queue told so."""
        try:
            return await self._connect()
        except BackendError as error:
            self._fail_queue(error)
        except (RedisError, OSError, TimedOut) as error:
            self._fail_queue(not_sent(error))
        except Exception as error:  # noqa: BLE001 - the callers get it: a credential provider may raise anything
            self._fail_queue(NotSent(f"no connection to Redis: {type(error).__name__} on the way"))
        return None

    async def _serve(self, connection: AbstractConnection) -> None:
        """Write and read until the connection is given up."""
        self._connection = connection
        self._retired = False
        self._heard = self._loop.time()
        reader = self._background(self._read(connection), "reader")
        reader.add_done_callback(lambda _: self._nudge())
        why: BaseException | None = None
        try:
            while self._connection is connection and not reader.done() and not self._closed:
                if self._retired and not self._flight:
                    break
                if self._queue and self._long_idle():
                    await self._look_up()
                    continue
                room = len(self._pipelines) < self.PIPELINES and not self._retired
                packed = self._take() if room else None
                if packed:
                    await connection.send_packed_command(packed, check_health=False)
                else:
                    await self._sleep_until_nudged()
        except (RedisError, OSError) as error:
            why = error
        finally:
            if not self._loop.is_closed():  # else we are being collected, and nobody can be told
                self._leave(connection, reader, why)

    def _leave(
        self, connection: AbstractConnection, reader: asyncio.Task[None], why: BaseException | None
    ) -> None:
        """Nothing here waits, so no cancel can cut it."""
        if reader.done() and not reader.cancelled():
            why = reader.exception() or why
        reader.cancel()
        self._connection = None
        hang_up(connection)
        self._fail_flight(why)

    def _long_idle(self) -> bool:
        return not self._flight and self._loop.time() - self._heard > self._deadline

    async def _look_up(self) -> None:
        """Let the loop read: a server that hung up meanwhile said so, and nothing need be lost to it."""
        for _ in range(3):  # the socket is read, the reader is woken, the reader ends
            await asyncio.sleep(0)
        self._heard = self._loop.time()

    def _take(self) -> list[bytes]:
        """Everything that waits, as bytes; from now on it is in flight."""
        packed: list[bytes] = []
        self._ahead = 0
        while self._queue:
            request = self._queue.popleft()
            if not request.wanted():
                self._forget(request)
                continue
            try:
                data = request.pack()
            except Exception as error:  # noqa: BLE001 - of one caller's arguments: the others' go on
                self._timers.stop(id(request))
                request.fail(NotSent(f"what cannot be put into bytes: {error}"))
                continue
            if request.detour is not None and request.detour.asking:
                packed.append(Asking.DATA)
                self._flight.append(Asking())
            packed.append(data)
            request.sent = True
            self._flight.append(request)
        if packed:
            if not self._pipelines:
                self._heard = self._loop.time()  # silence counts from when an answer is due
            self._pipelines.append(len(packed))
            self.commands += len(packed)
            self.writes += 1
        return packed

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            try:
                reply: Any = await connection.read_response(disconnect_on_error=False)
            except RedisError as error:
                if not is_reply(error):
                    raise
                reply = error
            self._heard = self._loop.time()
            if not self._flight:
                raise StrayReplyError
            self._settle(self._flight.popleft(), reply)
            if self._drained is not None:
                self._tell_if_drained()
            self._pipelines[0] -= 1
            if self._pipelines[0] == 0:
                self._pipelines.popleft()
                self._nudge()

    def _settle(self, request: Request, reply: Any) -> None:
        if isinstance(reply, RedisError) and self._goes_on(request, reply):
            return
        try:
            verdict = request.answer(reply)
        except StrayReplyError:
            self._timers.stop(id(request))
            request.fail(OutcomeUnknown("Redis sent a reply that belongs to another request"))
            raise
        if verdict is Verdict.AGAIN:
            request.sent = False
            self._again(request)
        else:
            self._timers.stop(id(request))

    def _goes_on(self, request: Request, error: RedisError) -> bool:
        """Whether the server did not run the request, and it is sent elsewhere or later."""
        if self._redirect is not None and self._redirect(request, error):
            return True
        if code_of(error) not in _LATER or not self._has_time_for_another_try(request):
            return False
        request.sent = False
        request.detour = request.detour or Detour()
        request.detour.excuse = refused(error)
        self._loop.call_later(_PAUSE, self._again, request)
        return True

    def _has_time_for_another_try(self, request: Request) -> bool:
        """With less, it would be in flight when its deadline comes, and unknown instead of refused."""
        entry = self._timers.entries.get(id(request))
        return entry is not None and entry[0] - self._loop.time() > 2 * _PAUSE

    def _again(self, request: Request) -> None:
        """Send once more what the server said that it did not run; its deadline goes on."""
        if self._closed or not request.wanted():
            self._forget(request)
        else:
            self._queue.insert(self._ahead, request)  # before those who came later, in the old order
            self._ahead += 1
            self._nudge()

    def expired(self, request: Request) -> None:
        """The deadline of a request has come."""
        if request.sent:
            request.fail(OutcomeUnknown(f"Redis gave no answer within {self._deadline:g} s"))
        else:
            excuse = request.detour.excuse if request.detour is not None else None
            late = NotSent(f"not sent within {self._deadline:g} s: Redis is slow or away")
            request.fail(excuse or late)
        if self._flight and self._loop.time() - self._heard >= 2 * self._deadline:
            self.drop()

    def _forget_unwanted(self) -> None:
        waiting, self._queue = self._queue, deque()
        self._ahead = 0
        for request in waiting:
            if request.wanted():
                self._queue.append(request)
            else:
                self._forget(request)
        self._tell_if_drained()

    def _forget(self, request: Request) -> None:
        self._timers.stop(id(request))
        request.fail(NotSent("the backend is closed" if self._closed else "nobody waited for it any more"))

    def _fail_queue(self, error: BackendError) -> None:
        waiting, self._queue = self._queue, deque()
        self._ahead = 0
        for request in waiting:
            self._timers.stop(id(request))
            request.fail(another(error))
        self._tell_if_drained()

    def _fail_flight(self, why: BaseException | None) -> None:
        lost, self._flight = self._flight, deque()
        self._pipelines.clear()
        error: BackendError
        if isinstance(why, RedisError) and MAX_CLIENTS in str(why):
            error = not_sent(why)  # a server that is full hangs up before it reads
        else:
            reason = "the connection to Redis broke" if why is not None else "the connection was given up"
            error = OutcomeUnknown(f"{reason} before the answer came")
        for request in lost:
            self._timers.stop(id(request))
            request.fail(another(error))
        self._tell_if_drained()

    def _tell_if_drained(self) -> None:
        if self._drained is not None and not self._drained.done() and not self._flight and not self._queue:
            self._drained.set_result(None)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._connection is None else "up"
        return f"<Link {self.name} {state}, {len(self._queue)} queued, {len(self._flight)} in flight>"
