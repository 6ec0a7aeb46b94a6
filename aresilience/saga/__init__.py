"""Saga."""

from aresilience.saga.context import SagaContext
from aresilience.saga.facts import (
    Fail,
    RetryStep,
    SagaAborted,
    SagaChanged,
    SagaFailed,
    SagaInterrupted,
    SagaMismatch,
    SagaNeedsHelp,
    SagaParked,
    SagaRecord,
    SagaStuck,
    SagaTakenOver,
    StepFailed,
    StepRecord,
)
from aresilience.saga.handle import SagaHandle, SagaResult
from aresilience.saga.record import SagaState, StepState
from aresilience.saga.saga import Saga
from aresilience.saga.steps import Step
from aresilience.saga.worker import SagaWorker

__all__ = [
    "Fail",
    "RetryStep",
    "Saga",
    "SagaAborted",
    "SagaChanged",
    "SagaContext",
    "SagaFailed",
    "SagaHandle",
    "SagaInterrupted",
    "SagaMismatch",
    "SagaNeedsHelp",
    "SagaParked",
    "SagaRecord",
    "SagaResult",
    "SagaState",
    "SagaStuck",
    "SagaTakenOver",
    "SagaWorker",
    "Step",
    "StepFailed",
    "StepRecord",
    "StepState",
]
