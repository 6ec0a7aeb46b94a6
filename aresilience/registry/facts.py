"""What the registry tells: its refusal, its events, and the states of a registration."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

from aresilience.errors import Rejected
from aresilience.events import Event
from aresilience.registry.record import InstanceState

__all__ = [
    "DiscoveryChanged",
    "DiscoveryDegraded",
    "NoInstances",
    "OutliersChanged",
    "Registered",
    "RegistrationLost",
    "RegistrationStatus",
]


class NoInstances(Rejected):
    """There is no instance of `service` to call, or none that may be called now."""

    def __init__(self, message: str = "", *, service: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.service = service


class RegistrationStatus(enum.Enum):
    """How things stand between an instance and the registry."""

    PENDING = "pending"
    """Not registered, and on the way to be: at the start, or after a loss, for as long as it takes."""
    REGISTERED = "registered"
    """The store has confirmed it, recently enough."""
    WITHHELD = "withheld"
    """The health function says that it is better not to be found."""
    SUPERSEDED = "superseded"
    """Another process has taken this id. We register again when it is gone."""
    WITHDRAWN = "withdrawn"
    """It is over."""


@dataclass(frozen=True, slots=True)
class Registered(Event):
    """An instance is registered (again), as this generation."""

    service: str
    generation: int
    state: InstanceState


@dataclass(frozen=True, slots=True)
class RegistrationLost(Event):
    """An instance is not registered any more, or is about not to be; it goes on trying, unless `withdrawn`."""

    level = logging.WARNING

    service: str
    status: RegistrationStatus
    why: str


@dataclass(frozen=True, slots=True)
class DiscoveryChanged(Event):
    """The instances of a service are others now: so many up, so many came, so many went. `held`: so many that
    the registry has lost are kept all the same, for now."""

    service: str
    up: int
    came: int
    went: int
    held: int


@dataclass(frozen=True, slots=True)
class DiscoveryDegraded(Event):
    """The registry has stopped answering: what is known, so many seconds old, goes on being served."""

    level = logging.WARNING

    service: str
    error: Exception
    age: float | None


@dataclass(frozen=True, slots=True)
class OutliersChanged(Event):
    """So many instances of a service are ejected now. `panic`: so many are bad that all are called."""

    level = logging.WARNING

    service: str
    ejected: int
    total: int
    panic: bool
