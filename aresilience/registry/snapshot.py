"""What is known of a service at one moment, and how well."""

from __future__ import annotations

from dataclasses import dataclass

from aresilience.registry.record import Instance

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The instances of a service that may be called."""

    service: str
    instances: tuple[Instance, ...]
    """Those that are up, and those that are `held`."""
    age: float | None
    """Seconds since the registry last confirmed it; None: it never has (it is what was kept on disk)."""
    stale: bool
    """Whether the registry does not answer, or somebody is held."""
    healthy: bool
    """Whether the registry answers."""
    held: tuple[str, ...]
    """The ids of those that the registry has lost without their word, and that are served for some time yet."""
    revision: int
    """The registry's number of the last change in it."""
