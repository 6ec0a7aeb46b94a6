"""Locks and what is like them (to be written)."""

from aresilience.lock.election import Leader, LeaderElection, Leadership
from aresilience.lock.facts import LeaseGranted, LeaseLost, LeaseReleased, LockLost, LockTimeout, StaleFence
from aresilience.lock.guard import FencedGuard
from aresilience.lock.lease import Lease
from aresilience.lock.lock import Lock
from aresilience.lock.machine import Holder
from aresilience.lock.readwrite import ReadWriteLock
from aresilience.lock.semaphore import Semaphore

__all__ = [
    "FencedGuard",
    "Holder",
    "Leader",
    "LeaderElection",
    "Leadership",
    "Lease",
    "LeaseGranted",
    "LeaseLost",
    "LeaseReleased",
    "Lock",
    "LockLost",
    "LockTimeout",
    "ReadWriteLock",
    "Semaphore",
    "StaleFence",
]
