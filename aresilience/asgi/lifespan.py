"""RegistryLifespan: registered when the application is ready, drained and withdrawn before it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from datetime import timedelta
from types import FrameType
from typing import Any

from aresilience import arguments
from aresilience.asgi.types import ASGIApp, Message, Receive, Scope, Send
from aresilience.registry import Instance, InstanceState, Registration, ServiceRegistry

__all__ = ["RegistryLifespan"]

_log = logging.getLogger("aresilience")
_STARTED, _SHUTDOWN = "lifespan.startup.complete", "lifespan.shutdown"


class RegistryLifespan:
    """Registers a service for as long as it can serve.

    - The instance is registered when the application says that its startup is complete, not before. `instance`
      may be a function, for what is known only then.
    - When the server shuts down it is drained: out of rotation, `propagation` seconds (1) for that to get
      about, then until the requests in flight have ended, `drain_timeout` seconds (10) at most; then it is
      withdrawn. Then the application's own shutdown begins.
    - Servers stop taking connections before they say that they shut down. To be out of rotation before that,
      await `drain()` from what knows first (a preStop hook), or name the `signals`, (signal.SIGTERM,) say: then
      the server gets its signal when the drain is over, and at once if it comes a second time.
    - `health`: as for `ServiceRegistry.register`.
    - `resources`: what is to be entered before and left after, in order: the backend, for one.

    An application without lifespan events is served as well. `registration` is there while it is registered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        registry: ServiceRegistry,
        instance: Instance | Callable[[], Instance],
        health: Callable[[], object] | None = None,
        propagation: float | timedelta = 1.0,
        drain_timeout: float | timedelta = 10.0,
        signals: Collection[signal.Signals] = (),
        resources: Collection[Any] = (),
    ) -> None:
        where = "RegistryLifespan"
        if not isinstance(registry, ServiceRegistry):
            raise TypeError(f"{where}: registry must be an ar.ServiceRegistry, got {registry!r}")
        if not isinstance(instance, Instance) and not callable(instance):
            raise TypeError(f"{where}: instance must be an ar.Instance or a function, got {instance!r}")
        self.app = app
        self._registry = registry
        self._instance = instance
        self._health = health
        self._propagation = arguments.duration(f"{where}: propagation", propagation, zero=True)
        self._drain_timeout = arguments.duration(f"{where}: drain_timeout", drain_timeout, zero=True)
        self._signals = tuple(signals)
        self._resources = tuple(resources)
        self._begins_as = InstanceState.UP
        self._in_flight = 0
        self._idle: asyncio.Event | None = None
        self._draining: asyncio.Task[None] | None = None
        self.registration: Registration | None = None

    @property
    def in_flight(self) -> int:
        """Requests and websockets that have begun and not ended."""
        return self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._idle is not None:
                self._idle.set()

    async def drain(self) -> None:
        """Out of rotation, and wait for what is in flight; within `propagation` and `drain_timeout` seconds.

        However often it is called, it happens once.
        """
        if self.registration is None:
            return
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(self.registration))
        await asyncio.wait([self._draining])

    async def _drain(self, registration: Registration) -> None:
        await registration.drain()
        if self._in_flight and self._drain_timeout:
            self._idle = asyncio.Event()
            waiting = asyncio.ensure_future(self._idle.wait())
            _, late = await asyncio.wait([waiting], timeout=self._drain_timeout)
            if late:
                waiting.cancel()
                _log.warning("%d requests are still in flight after the drain", self._in_flight)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await stack.enter_async_context(resource)
            life = _Life(self, stack, receive, send)
            try:
                await self.app(scope, life.receive, life.send)
            except BaseException as error:
                if life.answered or not isinstance(error, Exception):
                    raise
                _log.debug("the application has no lifespan of its own", exc_info=error)
            if not life.answered:  # it has none: it is ready as it is
                await life.alone()

    async def register(self, stack: AsyncExitStack) -> None:
        """The application is ready, and the server will be as soon as it knows: until then it is starting."""
        made = self._instance if isinstance(self._instance, Instance) else self._instance()
        self._begins_as = made.state
        if made.state is InstanceState.UP:
            made = made.but(state=InstanceState.STARTING)
        stack.push_async_callback(self._end_drain)
        registration = self._registry.register(made, health=self._health, propagation=self._propagation)
        self.registration = await stack.enter_async_context(registration)
        restore = [self._take(each) for each in self._signals]
        for undo in restore:
            stack.callback(undo)

    async def serve(self) -> None:
        """The server knows."""
        if self.registration is not None and self._begins_as is InstanceState.UP:
            await self.registration.update(state=InstanceState.UP)

    async def _end_drain(self) -> None:
        if self._draining is not None and not self._draining.done():
            self._draining.cancel()
            await asyncio.wait([self._draining])

    async def withdraw(self) -> None:
        """The server shuts down: drained, and gone before the application's own shutdown."""
        await self.drain()
        registration, self.registration = self.registration, None
        if registration is not None:
            await registration.withdraw()

    def _take(self, number: signal.Signals) -> Callable[[], None]:
        """Put ourselves before whoever handles a signal."""
        loop = asyncio.get_running_loop()
        before = signal.getsignal(number) or signal.SIG_DFL

        def pass_on() -> None:
            signal.signal(number, before)
            signal.raise_signal(number)

        def handle(_: int, frame: FrameType | None) -> None:
            signal.signal(number, before)  # a second time it is not ours
            loop.call_soon_threadsafe(begin)

        def begin() -> None:
            task = loop.create_task(self.drain())
            tasks.append(task)
            task.add_done_callback(lambda _: pass_on())

        def restore() -> None:
            if signal.getsignal(number) is handle:
                signal.signal(number, before)

        tasks: list[asyncio.Task[None]] = []
        signal.signal(number, handle)
        return restore

    def __repr__(self) -> str:
        return f"<RegistryLifespan {self.registration!r}, {self._in_flight} in flight>"


class _Life:
    """The two sides of a lifespan, between the server and the application."""

    def __init__(
        self, outer: RegistryLifespan, stack: AsyncExitStack, receive: Receive, send: Send
    ) -> None:
        self._outer = outer
        self._stack = stack
        self._receive = receive
        self._send = send
        self._asked: Message | None = None
        self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == _SHUTDOWN:
            await self._outer.withdraw()
        else:
            self._asked = message
        return message

    async def send(self, message: Message) -> None:
        self.answered = True
        if message["type"] == _STARTED:
            await self._outer.register(self._stack)
        await self._send(message)
        if message["type"] == _STARTED:
            await self._outer.serve()

    async def alone(self) -> None:
        """The protocol, for an application that does not speak it."""
        if self._asked is None:
            await self._receive()
        await self.send({"type": _STARTED})
        while (await self.receive())["type"] != _SHUTDOWN:
            pass
        await self._send({"type": "lifespan.shutdown.complete"})
