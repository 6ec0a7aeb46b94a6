"""Service registry: who is there, told by each of its own accord; found without asking; called with care.

What it is for: services that call each other by name, whose instances come, go, die and are moved. Each process
says of itself that it is there, three times in each ttl; each caller has the list in its memory, and chooses.

Use: `async with registry.register(Instance(...)) as registration:` to be found; `await
registry.discover("user-service")` or `async for instances in registry.watch(...)` to find; `users =
registry.service("user-service", balancer=PeakEwma(), outliers=OutlierPolicy(), zone="a")` and `async with
users.pick() as instance:` to call. `aresilience.integrations.httpx.ResilientTransport` does all of the latter
for httpx, `aresilience.asgi.RegistryLifespan` the former for ASGI.

Defaults: a ttl of 10 s; drained for 1 s before it withdraws; listed anew every 10 s, with messages between; the
instance with the least to do of two; slow start in 10 s; nobody is ejected unless there is an `OutlierPolicy`.

Events: `Registered`, `RegistrationLost`; `DiscoveryChanged`, `DiscoveryDegraded`; `OutliersChanged`.

What is promised: availability before consistency. A change is seen in milliseconds where messages arrive, after
`resync` where they don't. A dead instance is found until its ttl is over, or longer where many vanish together:
every call may meet one. Of two processes with one id the later one is registered, and the earlier one knows it.

When the store is down: registrations go on trying for ever, with jitter, and say so in `registered`; what was
known last is served for `max_stale` seconds (an hour), `stale` and with its `age`; nobody is removed. When it
is back, empty or not, all register again before anybody is missed. A snapshot on disk serves a cold start.

What not to do: take `NoInstances` for a reason to ask at once again; keep secrets in metadata, which everybody
can read; rely on it for mutual exclusion: that is what locks are for; block the event loop for a ttl: that is
what being dead looks like.
"""

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
