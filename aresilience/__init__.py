"""Resilience for asyncio services: what to reach for when the network is not to be trusted."""

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
    DeadlineExceeded,
    PipelineWarning,
    Rejected,
    TimedOut,
)
from aresilience.events import CallRejected, Event, LoggingListener
from aresilience.fallback import Fallback, FallbackUsed
from aresilience.hedge import Hedge, HedgeStarted, HedgeWon, Percentile
from aresilience.outcome import Outcome
from aresilience.pipeline import Pipeline
from aresilience.policy import Layer, Policy
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

__version__ = "0.1.0"

__all__ = [
    "AresilienceError",
    "Attempt",
    "Backoff",
    "BreakerChanged",
    "BreakerState",
    "Bulkhead",
    "BulkheadFull",
    "CallRejected",
    "CircuitBreaker",
    "CircuitBreakers",
    "CircuitOpen",
    "DeadlineExceeded",
    "Event",
    "Fallback",
    "FallbackUsed",
    "Hedge",
    "HedgeStarted",
    "HedgeWon",
    "Layer",
    "LoggingListener",
    "Outcome",
    "Percentile",
    "Pipeline",
    "PipelineWarning",
    "Policy",
    "Rejected",
    "Retry",
    "RetryBudget",
    "RetryGaveUp",
    "RetryScheduled",
    "StopReason",
    "TimedOut",
    "Timeout",
    "TimeoutExpired",
    "Window",
    "__version__",
    "deadline",
    "retry_after_hint",
    "retry_history",
    "time_remaining",
]
