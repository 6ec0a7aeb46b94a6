"""Snapshots on disk: what was known when it was last written, for a start without the registry."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from aresilience.errors import CorruptState
from aresilience.registry.record import Instance, packed, unpacked

__all__ = ["load", "save"]

_MOST_BYTES = 256 * 2**20
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
