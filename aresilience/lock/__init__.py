"""Lock, semaphore, read-write lock, leader election: what one process has, no other has, until it is lost.

What it is for: work that must not be done twice at once, over all processes: a report, a migration, an order;
so many at once (`Semaphore`); many readers or one writer (`ReadWriteLock`); one that does it all
(`LeaderElection`).

Use: `async with ar.Lock("order:42", backend=backend) as lease:`. Just before a side effect `lease.check()`,
which asks nobody, and in loops too, where a call may eat a cancel; at the resource `FencedGuard`, with
`lease.fence`. By hand `await lock.acquire(timeout=5)`,
`await lock.try_acquire()`, `await lease.release()`. `Lock.all("a", "b")` takes several, all or none.

Defaults: held for 30 s at a time (leadership 10 s), renewed every third of that; waited for without a limit,
but for the ambient deadline; woken by push, with a timer to the holder's end behind it.

Events: `LeaseGranted`, `LeaseReleased`, `LeaseLost`, `CallRejected`.

What is promised: one holder at a time by the store's clock, and a fence that rises with every grant of a
name. The body is cancelled, and `LockLost` raised, a tenth of the ttl before the store lets another one in,
counted from when the last confirmed renewal was sent, whether or not an answer comes. What is not: that a
process which was stopped for longer does not take one more step when it wakes, that a body which ignores its
cancellation ends, or that a master which dies had told its replicas. `wait_replicas` makes the last rarer (a
replica that has it may not be the one that is promoted), `lock_delay` gives the others time; only the fence
at the resource settles it: without a guard a lock is for efficiency, with one for correctness. On Redis the
fence is the higher of the last one and the server's time in microseconds: it rises over evictions, flushes
and failovers, as long as the clock of the server that goes on is not behind by more than the way there took.
In memory it rises while the process lives; but without a
backend what is held is each event loop's own.

There is no quorum over independent servers (Redlock). It still rests on clocks and on pauses that end, as any
lease does, so it needs the fence all the same; a random token cannot order two holders, and a fence that
rises over servers that do not know of each other cannot be had. It costs a round trip to each, and locks out
all when a majority is away. Where one Redis with replicas and a guard is not enough, use a consensus system.

When the store is down: acquiring raises the `BackendError`, for all who wait in this process; what is held is
renewed again and again until it is lost; what cannot be released is free after its ttl.

What not to do: hold a lock for as long as a user thinks; forget a lease (it is renewed until it is released);
block the event loop while holding one; write without the fence where a second writer would do harm; take one
lock while holding another (`Lock.all`); make the ttl shorter than a pause of your process; use the in-memory
lock for what other processes touch.
"""

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
