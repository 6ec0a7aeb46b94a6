"""Locks and what is like them (to be written)."""

from aresilience.lock.facts import LeaseGranted, LeaseLost, LeaseReleased, LockLost, LockTimeout, StaleFence
from aresilience.lock.lease import Lease
from aresilience.lock.lock import Lock
from aresilience.lock.machine import Holder

__all__ = [
    "Holder",
    "Lease",
    "LeaseGranted",
    "LeaseLost",
    "LeaseReleased",
    "Lock",
    "LockLost",
    "LockTimeout",
    "StaleFence",
]
