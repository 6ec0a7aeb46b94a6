"""Registrations in this process: the machine, a dict, and the loop's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aresilience.clock import LoopClock
from aresilience.errors import BackendError, Refused
from aresilience.registry.machine import Catalogue, Changes, Place
from aresilience.registry.store import Beat, OnChange

__all__ = ["MemoryRegistryStore"]

_NOTHING = Changes(True, False, 0, 0, -1, ())


class MemoryRegistryStore:
    """At most `max_keys` instances; one more is refused."""

    ready = True

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._services: dict[str, Catalogue] = {}
        self._listeners: dict[str, list[OnChange]] = {}
        self._clock = LoopClock()
        self._time: int | None = None

    def set_time(self, micros: int) -> None:
        """For tests: the store's time, instead of the loop's clock."""
        self._time = micros

    async def register(self, beat: Beat, value: bytes, *, takeover: bool) -> Place:
        now = self._now()
        catalogue = self._services.get(beat.service)
        if catalogue is None:
            if len(self._services) >= self._max_keys:
                self._services = {name: each for name, each in self._services.items() if len(each)}
            catalogue = self._services[beat.service] = Catalogue(now)
        if not catalogue.has(beat.id) and len(self) >= self._max_keys:
            raise Refused(f"the memory backend holds its {self._max_keys} instances")
        before = catalogue.revision
        place = catalogue.register(beat.id, beat.token, value, micros(beat.ttl), takeover, now)
        self._tell(beat.service, before)
        return place

    async def renew(self, beats: Sequence[Beat]) -> Sequence[bool | BackendError]:
        now = self._now()
        return [self._renew(beat, now) for beat in beats]

    async def withdraw(self, service: str, who: str, token: str) -> bool:
        catalogue = self._services.get(service)
        if catalogue is None:
            return False
        before = catalogue.revision
        gone = catalogue.withdraw(who, token, self._now())
        self._tell(service, before)
        return gone

    async def changes(self, service: str, since: int, base: int, most: int) -> Changes:
        catalogue = self._services.get(service)
        if catalogue is None:
            return _NOTHING
        before = catalogue.revision
        found = catalogue.list(since, base, most, self._now())
        self._tell(service, before)
        return found

    async def announce(self, services: Sequence[str]) -> None:
        """Nothing to do: they are all here."""

    async def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, catalogue in self._services.items() if len(catalogue)))

    def listen(self, service: str, on_change: OnChange) -> Callable[[], None]:
        listeners = self._listeners.setdefault(service, [])
        listeners.append(on_change)

        def end() -> None:
            if on_change in listeners:
                listeners.remove(on_change)
            if not listeners and self._listeners.get(service) is listeners:
                del self._listeners[service]

        return end

    def __len__(self) -> int:
        return sum(map(len, self._services.values()))

    def _renew(self, beat: Beat, now: int) -> bool:
        catalogue = self._services.get(beat.service)
        return catalogue is not None and catalogue.renew(beat.id, beat.token, micros(beat.ttl), now)

    def _tell(self, service: str, before: int) -> None:
        if self._services[service].revision != before:
            for on_change in list(self._listeners.get(service, ())):
                on_change(None)

    def _now(self) -> int:
        return micros(self._clock.read()) if self._time is None else self._time


def micros(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * 1e6)
