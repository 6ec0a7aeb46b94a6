"""The registry: who is there, told by each of its own accord, and known by all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from aresilience import arguments
from aresilience.backend import Backend, MemoryBackend
from aresilience.backend.backend import to_the_end
from aresilience.chance import entropy
from aresilience.events import Event, Listener, Listeners
from aresilience.outcome import ErrorMatcher, ErrorSpec
from aresilience.registry import disk
from aresilience.registry.balance import Balancer
from aresilience.registry.beats import Beats
from aresilience.registry.choices import LeastRequest
from aresilience.registry.chooser import Chooser
from aresilience.registry.damping import Damping
from aresilience.registry.facts import DiscoveryChanged
from aresilience.registry.feed import Feed
from aresilience.registry.machine import ANYBODY
from aresilience.registry.memory import MemoryRegistryStore
from aresilience.registry.outliers import OutlierPolicy
from aresilience.registry.record import Instance, packed, service_name
from aresilience.registry.registration import Registration
from aresilience.registry.service import Service
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.store import Beat, RegistryStore
from aresilience.registry.watch import Watch

__all__ = ["ServiceRegistry"]


class ServiceRegistry:
    """Where instances of services register, and are found.

    - `ttl`: seconds after which an instance that has stopped saying so is gone. It says so three times in
      that, and once more often where that fails.
    - `resync`: mean seconds between two listings, whether or not there were messages.
    - Removals are damped. Who vanishes without a word, stays while the registry does not answer and for `grace`
      seconds (a ttl) after it came back; of those who vanish together at most a share of `remove_share` (0.15)
      goes in each ttl, one at least; and after `hold` seconds (three ttls) whoever it is goes.
    - `max_stale`: seconds for which what is known is served while the registry does not answer; then nothing.
    - `snapshot`: a file in which what is known is kept, for a start while the registry is away.

    Processes that share a `backend` by its address share the registry. Without one it is this process's own.
    """

    def __init__(
        self,
        *,
        ttl: float | timedelta = 10.0,
        resync: float | timedelta = 10.0,
        grace: float | timedelta | None = None,
        hold: float | timedelta | None = None,
        remove_share: float = 0.15,
        max_stale: float | timedelta = 3600.0,
        snapshot: str | Path | None = None,
        name: str = "registry",
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        where = "ServiceRegistry"
        self.name = arguments.text(f"{where}: name", name)
        self.ttl = arguments.duration(f"{where}: ttl", ttl)
        self._resync = arguments.duration(f"{where}: resync", resync)
        self._max_stale = arguments.duration(f"{where}: max_stale", max_stale)
        self._damping = Damping(
            self.ttl if grace is None else arguments.duration(f"{where}: grace", grace, zero=True),
            3 * self.ttl if hold is None else arguments.duration(f"{where}: hold", hold, zero=True),
            arguments.fraction(f"{where}: remove_share", remove_share),
            self.ttl,
        )
        if snapshot is not None and not isinstance(snapshot, str | Path):
            raise TypeError(f"{where}: snapshot must be the path of a file, got {snapshot!r}")
        self._cache = None if snapshot is None else disk.Cache(Path(snapshot), self._all_known)
        if backend is not None and not isinstance(backend, Backend):
            raise TypeError(f"{where}: backend must come from ar.connect(…), got {backend!r}")
        self._backend = backend
        self._listeners = Listeners(listeners)
        self._hearts: Beats | None = None
        self._feeds: dict[str, Feed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    # To be found

    def register(
        self,
        instance: Instance,
        *,
        health: Callable[[], object] | None = None,
        propagation: float | timedelta = 1.0,
    ) -> Registration:
        """`async with registry.register(me) as registration:`: registered while the body runs.

        The beat comes from this event loop: while it is blocked there is none. `health` is asked before each
        beat; while it says no (or raises) there is none either, and after a ttl the instance is gone until it
        says yes. Leaving drains: it says so, waits `propagation` seconds for that to get about, and withdraws;
        a body that failed or was cancelled withdraws at once.
        """
        where = "ServiceRegistry.register"
        if not isinstance(instance, Instance):
            raise TypeError(f"{where}: instance must be an ar.Instance, got {instance!r}")
        return Registration(
            self.name,
            self._beats,
            instance,
            ttl=self.ttl,
            propagation=arguments.duration(f"{where}: propagation", propagation, zero=True),
            health=None if health is None else arguments.plain_function(f"{where}: health", health),
            tell=self._tell if self._listeners else None,
        )

    async def announce(
        self, instance: Instance, *, ttl: float | timedelta | None = None, token: str = ""
    ) -> str:
        """Register by hand, for `ttl` seconds from now; the token that renews and withdraws it.

        With that token again: change its facts. Nothing renews it but `heartbeat`. Raises a `BackendError`.
        """
        where = "ServiceRegistry.announce"
        seconds = self.ttl if ttl is None else arguments.duration(f"{where}: ttl", ttl)
        token = _token(f"{where}: token", token) or entropy().token()
        beats = self._beats()
        beat = Beat(instance.service, instance.id, token, seconds)
        await beats.store.register(beat, packed(instance, token), takeover=True)
        await beats.announce({instance.service})
        return token

    async def heartbeat(
        self,
        service: str,
        id: str,  # noqa: A002
        *,
        ttl: float | timedelta | None = None,
        token: str = "",
    ) -> bool:
        """Renew by hand, for `ttl` seconds from now; False if it is not registered (any more).

        With a `token` only the registration that it belongs to. Raises a `BackendError`.
        """
        where = "ServiceRegistry.heartbeat"
        seconds = self.ttl if ttl is None else arguments.duration(f"{where}: ttl", ttl)
        token = _token(f"{where}: token", token) or ANYBODY
        beat = Beat(service_name(f"{where}: service", service), id, token, seconds)
        (answer,) = await self._store().renew([beat])
        if isinstance(answer, bool):
            return answer
        raise answer

    async def deregister(self, service: str, id: str, *, token: str = "") -> bool:  # noqa: A002
        """Withdraw by hand; False if it is not registered (any more).

        With a `token` only the registration that it belongs to. Raises a `BackendError`.
        """
        where = "ServiceRegistry.deregister"
        token = _token(f"{where}: token", token) or ANYBODY
        return await self._store().withdraw(service_name(f"{where}: service", service), id, token)

    # To find

    async def discover(self, service: str) -> tuple[Instance, ...]:
        """The instances that may be called, as this process knows them: no I/O but for the first time.

        Raises a `BackendError` if nothing is known yet and the registry does not answer.
        """
        feed = self._feeds.get(service)
        if feed is not None and feed.is_known and self._loop is not None and self._loop.is_running():
            return feed.instances
        feed = await self._known(service)
        return feed.instances

    def snapshot(self, service: str) -> Snapshot:
        """What is known of a service now, and how well. Never waits: the first time nothing is known."""
        return self.feed(service).snapshot()

    def watch(self, service: str) -> Watch:
        """`async for instances in registry.watch("user-service"):` what is known now, then each change.

        Who is slow sees the newest state, and none of those between. It ends when the registry is closed.
        """
        return self.feed(service).watch()

    async def services(self) -> tuple[str, ...]:
        """The names of services that have registered in the last day. Raises a `BackendError`."""
        return await self._store().names()

    def service(
        self,
        service: str,
        *,
        balancer: Balancer | None = None,
        outliers: OutlierPolicy | None = None,
        zone: str = "",
        slow_start: float | timedelta = 10.0,
        failure_on: ErrorSpec = Exception,
    ) -> Service:
        """The instances of a service, to be called: `async with users.pick() as instance:`.

        - `balancer`: `LeastRequest()` unless said. `outliers`: when to take an instance out of rotation; None:
          never.
        - `zone`: where we are: calls stay there as far as the instances there can carry them.
        - `slow_start`: seconds until an instance that has come, or come back, has its full share; 0: at once.
        - `failure_on`: which errors of the body are the instance's failures.
        """
        where = "ServiceRegistry.service"
        if balancer is not None and not isinstance(balancer, Balancer):
            raise TypeError(f"{where}: balancer must be a Balancer such as ar.PeakEwma(), got {balancer!r}")
        if outliers is not None and not isinstance(outliers, OutlierPolicy):
            raise TypeError(f"{where}: outliers must be an ar.OutlierPolicy, got {outliers!r}")
        if not isinstance(zone, str):
            raise TypeError(f"{where}: zone must be a string, got {zone!r}")
        name = service_name(f"{where}: service", service)
        chooser = Chooser(
            self.name,
            name,
            lambda: self.feed(name),
            balancer=LeastRequest() if balancer is None else balancer,
            outliers=outliers,
            zone=zone,
            slow_start=arguments.duration(f"{where}: slow_start", slow_start, zero=True),
            failure_on=ErrorMatcher(f"{where}: failure_on", failure_on),
            listeners=self._listeners,
        )
        return Service(name, lambda: self.feed(name), chooser)

    def follows(self, service: str) -> bool:
        """Whether this process knows the service, having asked for it before."""
        return service in self._feeds

    def feed(self, service: str) -> Feed:
        """What is known of a service, begun when it is first asked for."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._feeds.clear()
            self._loop = loop
        found = self._feeds.get(service)
        if found is None:
            name = service_name("ServiceRegistry: service", service)
            found = self._feeds[name] = Feed(
                self.name,
                name,
                self._store(),
                self._place().keeper,
                damping=self._damping,
                resync=self._resync,
                max_stale=self._max_stale,
                tell=self._tell if self._listeners or self._cache is not None else None,
            )
            kept = None if self._cache is None else self._cache.get(name)
            if kept is not None:
                found.begin_with(kept)
        return found

    async def _known(self, service: str) -> Feed:
        if self._cache is not None:
            await self._cache.read()
        feed = self.feed(service)
        if not feed.is_known:
            await feed.known()
        return feed

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` every event of this registry; the function returned ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.remove(listener)

    # The end

    async def __aenter__(self) -> ServiceRegistry:
        if self._cache is not None:
            await self._cache.read()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching, and write the snapshot. Registrations are not concerned."""
        if self._cache is not None:
            await to_the_end(self._cache.flush())
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()

    def __repr__(self) -> str:
        up = sum(len(feed.instances) for feed in self._feeds.values())
        return f"<ServiceRegistry {self.name!r} ttl={self.ttl:g} {len(self._feeds)} services, {up} up>"

    # Inside

    def _place(self) -> Backend:
        return MemoryBackend.of_this_loop() if self._backend is None else self._backend

    def _store(self) -> RegistryStore:
        backend = self._place()
        if isinstance(backend, MemoryBackend):
            most = backend.max_keys
            return backend.shared("registry", "", lambda: MemoryRegistryStore(most))
        from aresilience.backend.redis import RedisBackend

        if not isinstance(backend, RedisBackend):
            raise TypeError(f"ServiceRegistry: backend must come from ar.connect(…), got {backend!r}")
        from aresilience.registry.redis import RedisRegistryStore

        redis = backend
        return redis.shared("registry", "", lambda: RedisRegistryStore(redis))

    def _beats(self) -> Beats:
        keeper = self._place().keeper
        if self._hearts is None or self._hearts.keeper is not keeper:
            self._hearts = Beats(self._store(), keeper)
        return self._hearts

    def _tell(self, event: Event) -> None:
        if self._cache is not None and isinstance(event, DiscoveryChanged):
            self._cache.changed(self._place().keeper)
        if self._listeners:
            self._listeners.tell(event)

    def _all_known(self) -> dict[str, tuple[Instance, ...]]:
        return {name: feed.instances for name, feed in self._feeds.items() if feed.listed}


def _token(where: str, value: object) -> str:
    if not isinstance(value, str) or not (value == "" or (value.isalnum() and len(value) <= 64)):
        raise ValueError(f"{where} must be what announce returned, got {value!r}")
    return value
