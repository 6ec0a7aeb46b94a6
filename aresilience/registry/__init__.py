"""Service registry."""

from aresilience.registry.facts import (
    DiscoveryChanged,
    DiscoveryDegraded,
    NoInstances,
    Registered,
    RegistrationLost,
    RegistrationStatus,
)
from aresilience.registry.record import Instance, InstanceState
from aresilience.registry.registration import Registration
from aresilience.registry.registry import ServiceRegistry
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.watch import Watch

__all__ = [
    "DiscoveryChanged",
    "DiscoveryDegraded",
    "Instance",
    "InstanceState",
    "NoInstances",
    "Registered",
    "Registration",
    "RegistrationLost",
    "RegistrationStatus",
    "ServiceRegistry",
    "Snapshot",
    "Watch",
]
