"""Service registry."""

from aresilience.registry.balance import (
    Balancer,
    Node,
    Picker,
    Random,
    Rendezvous,
    RoundRobin,
)
from aresilience.registry.choices import LeastRequest, PeakEwma
from aresilience.registry.facts import (
    DiscoveryChanged,
    DiscoveryDegraded,
    NoInstances,
    OutliersChanged,
    Registered,
    RegistrationLost,
    RegistrationStatus,
)
from aresilience.registry.outliers import OutlierPolicy
from aresilience.registry.pick import Pick
from aresilience.registry.record import Instance, InstanceState
from aresilience.registry.registration import Registration
from aresilience.registry.registry import ServiceRegistry
from aresilience.registry.service import Service
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.watch import Watch

__all__ = [
    "Balancer",
    "DiscoveryChanged",
    "DiscoveryDegraded",
    "Instance",
    "InstanceState",
    "LeastRequest",
    "NoInstances",
    "Node",
    "OutlierPolicy",
    "OutliersChanged",
    "PeakEwma",
    "Pick",
    "Picker",
    "Random",
    "Registered",
    "Registration",
    "RegistrationLost",
    "RegistrationStatus",
    "Rendezvous",
    "RoundRobin",
    "Service",
    "ServiceRegistry",
    "Snapshot",
    "Watch",
]
