"""Snapshots on disk: what was known when it was last written, for a start without the registry."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from aresilience.backend.leases import Keeper
from aresilience.errors import CorruptState
from aresilience.registry.record import Instance, packed, unpacked

__all__ = ["Cache", "load", "save"]

_MOST_BYTES = 256 * 2**20
_SAVED_EVERY = 1.0
_log = logging.getLogger("aresilience")


def load(path: Path) -> dict[str, tuple[Instance, ...]]:
    """What is there; nothing if there is none, or none that can be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        facts = json.loads(path.read_bytes())
        return {
            service: tuple(unpacked(service, who, value.encode()) for who, value in instances.items())
            for service, instances in facts.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, CorruptState, RecursionError) as error:
        _log.warning("the registry's snapshot %s cannot be used: %s", path.name, error)
        return {}


def save(path: Path, known: Mapping[str, tuple[Instance, ...]]) -> None:
    """Replace what is there, at once: whoever reads sees the old one or the new one. An error is logged."""
    facts = {
        service: {each.id: packed(each).decode() for each in instances}
        for service, instances in known.items()
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(facts))
        beside.replace(path)
    except OSError as error:
        _log.warning("the registry's snapshot %s cannot be written: %s", path.name, error)


class Cache:
    """What a process knows, on a disk: read once, written a second after a change."""

    def __init__(self, path: Path, known: Callable[[], Mapping[str, tuple[Instance, ...]]]) -> None:
        self._path = path
        self._known = known
        self._kept: dict[str, tuple[Instance, ...]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> None:
        """Read it, if that was not done yet."""
        if self._kept is None:
            self._kept = await asyncio.to_thread(load, self._path)

    def get(self, service: str) -> tuple[Instance, ...] | None:
        """What was kept of a service."""
        return None if self._kept is None else self._kept.get(service)

    def changed(self, keeper: Keeper) -> None:
        """There is something new to keep."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SAVED_EVERY, self._due, keeper)

    async def flush(self) -> None:
        """Write what is not written yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            await self._write()

    def _due(self, keeper: Keeper) -> None:
        self._timer = None
        keeper.aside(self._write())

    async def _write(self) -> None:
        await asyncio.to_thread(save, self._path, {**(self._kept or {}), **self._known()})
