"""Resilience for asyncio services: what to reach for when the network is not to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aresilience.backend import Backend, MemoryBackend, connect
from aresilience.backoff import Backoff
from aresilience.breaker import (
    BreakerChanged,
    BreakerState,
    CircuitBreaker,
    CircuitBreakers,
    CircuitOpen,
    Window,
)
from aresilience.budget import RetryBudget
from aresilience.bulkhead import Bulkhead, BulkheadFull
from aresilience.deadline import deadline, time_remaining
from aresilience.errors import (
    AresilienceError,
    BackendError,
    ConfigurationError,
    CorruptState,
    DeadlineExceeded,
    NotSent,
    OutcomeUnknown,
    PipelineWarning,
    Refused,
    Rejected,
    TimedOut,
)
from aresilience.events import CallRejected, Event, Listener, LoggingListener, StoreDegraded
from aresilience.fallback import Fallback, FallbackUsed
from aresilience.hedge import Hedge, HedgeStarted, HedgeWon, Percentile
from aresilience.limiter import (
    Decision,
    NearLimit,
    RateLimited,
    RateLimiter,
    Reservation,
    acquire_all,
)
from aresilience.lock import (
    FencedGuard,
    Holder,
    Leader,
    LeaderElection,
    Leadership,
    Lease,
    LeaseGranted,
    LeaseLost,
    LeaseReleased,
    Lock,
    LockLost,
    LockTimeout,
    ReadWriteLock,
    Semaphore,
    StaleFence,
)
from aresilience.outcome import ErrorSpec, Outcome
from aresilience.pipeline import Pipeline
from aresilience.policies import Policies
from aresilience.policy import Layer, Policy
from aresilience.registry import (
    Balancer,
    DiscoveryChanged,
    DiscoveryDegraded,
    Instance,
    InstanceState,
    LeastRequest,
    NoInstances,
    OutlierPolicy,
    OutliersChanged,
    PeakEwma,
    Random,
    Registered,
    Registration,
    RegistrationLost,
    RegistrationStatus,
    Rendezvous,
    RoundRobin,
    Service,
    ServiceRegistry,
    Snapshot,
    Watch,
)
from aresilience.retry import (
    Attempt,
    Retry,
    RetryGaveUp,
    RetryScheduled,
    StopReason,
    retry_after_hint,
    retry_history,
)
from aresilience.timeout import Timeout, TimeoutExpired

if TYPE_CHECKING:
    from aresilience.backend.redis import RedisBackend

__version__ = "0.1.0"

__all__ = [
    "AresilienceError",
    "Attempt",
    "Backend",
    "BackendError",
    "Backoff",
    "Balancer",
    "BreakerChanged",
    "BreakerState",
    "Bulkhead",
    "BulkheadFull",
    "CallRejected",
    "CircuitBreaker",
    "CircuitBreakers",
    "CircuitOpen",
    "ConfigurationError",
    "CorruptState",
    "DeadlineExceeded",
    "Decision",
    "DiscoveryChanged",
    "DiscoveryDegraded",
    "ErrorSpec",
    "Event",
    "Fallback",
    "FallbackUsed",
    "FencedGuard",
    "Hedge",
    "HedgeStarted",
    "HedgeWon",
    "Holder",
    "Instance",
    "InstanceState",
    "Layer",
    "Leader",
    "LeaderElection",
    "Leadership",
    "Lease",
    "LeaseGranted",
    "LeaseLost",
    "LeaseReleased",
    "LeastRequest",
    "Listener",
    "Lock",
    "LockLost",
    "LockTimeout",
    "LoggingListener",
    "MemoryBackend",
    "NearLimit",
    "NoInstances",
    "NotSent",
    "Outcome",
    "OutcomeUnknown",
    "OutlierPolicy",
    "OutliersChanged",
    "PeakEwma",
    "Percentile",
    "Pipeline",
    "PipelineWarning",
    "Policies",
    "Policy",
    "Random",
    "RateLimited",
    "RateLimiter",
    "ReadWriteLock",
    "RedisBackend",
    "Refused",
    "Registered",
    "Registration",
    "RegistrationLost",
    "RegistrationStatus",
    "Rejected",
    "Rendezvous",
    "Reservation",
    "Retry",
    "RetryBudget",
    "RetryGaveUp",
    "RetryScheduled",
    "RoundRobin",
    "Semaphore",
    "Service",
    "ServiceRegistry",
    "Snapshot",
    "StaleFence",
    "StopReason",
    "StoreDegraded",
    "TimedOut",
    "Timeout",
    "TimeoutExpired",
    "Watch",
    "Window",
    "__version__",
    "acquire_all",
    "connect",
    "deadline",
    "retry_after_hint",
    "retry_history",
    "time_remaining",
]


def __getattr__(name: str) -> Any:
    """`RedisBackend` is imported when it is first used: in memory, nobody pays for a Redis client."""
    if name == "RedisBackend":
        from aresilience.backend.redis import RedisBackend

        return RedisBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
