"""Registrations on Redis: one script for all verbs, the server's clock, changes told as they happen.

| when Redis                 | register, withdraw, changes                    | renew                       |
|----------------------------|------------------------------------------------|-----------------------------|
| fails, in any of the ways  | raise; safe to repeat                          | the error, for those beats  |
| has lost its data          | register: a new generation; changes: all anew  | False: register again       |

Beats of one turn of the loop ride in one call, up to 500. A caller that is cancelled leaves its verb to happen
or not: what it asked for is asked again, or ends by itself. Keys live for a day after their last use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aresilience.backend.redis import RedisBackend, Script
from aresilience.backend.redis.commands import Argument, Batch
from aresilience.chance import entropy
from aresilience.errors import BackendError
from aresilience.registry.machine import Change, Changes, Place
from aresilience.registry.memory import micros
from aresilience.registry.store import Beat, OnChange, Told

__all__ = ["RedisRegistryStore"]

_SCRIPT = Script.beside("aresilience.registry", "registry.lua")
_NAMES = Script.beside("aresilience.registry", "names.lua")
_KEPT_MS = 86_400_000
_PARTS = ("meta", "records", "ends", "changed", "gone")
_NAMES_KEPT = 10_000
_RESYNC_WITHIN = 0.2


class RedisRegistryStore:
    """Instances on a Redis backend."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self._head: tuple[int, int] = (0, _KEPT_MS)
        self._known: dict[str, tuple[list[bytes], str]] = {}
        self._names = backend.key("registry", "names")

    @property
    def ready(self) -> bool:
        return self._backend.is_open

    def set_time(self, micros: int) -> None:
        """For tests: the server's time, instead of its clock (0)."""
        self._head = (micros, _KEPT_MS)

    async def register(self, beat: Beat, value: bytes, *, takeover: bool) -> Place:
        words = (beat.id, beat.token, micros(beat.ttl), int(takeover), value)
        ours, generation = await self._run(beat.service, "r", *words)
        return Place(bool(ours), generation)

    async def renew(self, beats: Sequence[Beat]) -> Sequence[bool | BackendError]:
        riders = [_Renewal(self.keys(beat.service), beat) for beat in beats]
        for rider in riders:
            self._backend.join(_SCRIPT, rider, self._head)
        answers = await asyncio.gather(*[rider.future for rider in riders], return_exceptions=True)
        return [_bool_or_error(answer) for answer in answers]

    async def withdraw(self, service: str, who: str, token: str) -> bool:
        return bool(await self._run(service, "w", who, token))

    async def changes(self, service: str, since: int, base: int, most: int) -> Changes:
        full, more, revision, digest, soonest, *rest = await self._run(service, "l", since, base, most)
        found = []
        for place in range(0, len(rest), 5):
            who, generation, at, value, why = rest[place : place + 5]
            gone = why.decode()
            found.append(Change(_text(who), generation, at, None if gone else value, gone))
        return Changes(bool(full), bool(more), revision, digest, soonest, tuple(found))

    async def announce(self, services: Sequence[str]) -> None:
        await self._backend.run(_NAMES, [self._names], [_KEPT_MS, *services])

    async def names(self) -> tuple[str, ...]:
        found = await self._backend.run(_NAMES, [self._names], [_KEPT_MS])
        return tuple(sorted(_text(name) for name in found))

    def listen(self, service: str, on_change: OnChange) -> Callable[[], None]:
        channel = self._place(service)[1]

        soon: asyncio.TimerHandle | None = None

        def resync() -> None:
            """Whoever lost his connection when we did lists too: not all at once."""
            nonlocal soon
            if soon is not None:
                soon.cancel()
            within = entropy().random() * _RESYNC_WITHIN
            soon = asyncio.get_running_loop().call_later(within, on_change, None)

        unlisten = self._backend.listen(channel, lambda message: on_change(_told(message)), resync)

        def end() -> None:
            unlisten()
            if soon is not None:
                soon.cancel()

        return end

    def keys(self, service: str) -> list[bytes]:
        """The keys of a service, in one slot."""
        return self._place(service)[0]

    def _place(self, service: str) -> tuple[list[bytes], str]:
        found = self._known.get(service)
        if found is None:
            if len(self._known) >= _NAMES_KEPT:
                self._known.clear()
            keys = [self._backend.key("registry", part, tag=service) for part in _PARTS]
            found = self._known[service] = keys, f"registry:{service}"
        return found

    async def _run(self, service: str, verb: str, *words: Argument) -> list[Any]:
        keys, channel = self._place(service)
        told = self._backend.channel(channel)
        (answer,) = await self._backend.run(_SCRIPT, keys, [*self._head, verb, told, *words])
        return answer  # type: ignore[no-any-return]


class _Renewal:
    """One beat in a call with many."""

    __slots__ = ("_args", "batch", "future", "keys")

    batch: Batch

    def __init__(self, keys: Sequence[Argument], beat: Beat) -> None:
        self.keys = keys
        self._args = ("b", beat.id, beat.token, micros(beat.ttl))
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def wanted(self) -> bool:
        return not self.future.done()

    def args(self) -> Sequence[Argument]:
        return self._args

    def answer(self, item: int) -> None:
        if not self.future.done():
            self.future.set_result(bool(item))

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _bool_or_error(answer: bool | BaseException) -> bool | BackendError:
    if isinstance(answer, bool | BackendError):
        return answer
    raise answer


def _told(message: bytes) -> Told | None:
    """What a message says; None if it says only that there is something to look at."""
    try:
        before, revision, rest = message.split(b"|", 2)
        length, rest = rest.split(b":", 1)
        who, rest = rest[: int(length)], rest[int(length) + 1 :]
        generation, bar, value = rest.partition(b"|")
        if bar:
            change = Change(_text(who), int(generation), int(revision), value)
        else:
            change = Change(_text(who), 0, int(revision), None, rest.decode())
        return Told(int(before), change)
    except ValueError:
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
