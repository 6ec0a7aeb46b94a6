"""Rate limiter: so many in a time, for each key, in this process or for all processes on a Redis.

What it is for: at the door, to share what there is fairly between those who ask; towards others, to keep
their limits.

Use: `await limiter.try_acquire(key)` answers at once; `await limiter.acquire(key, timeout=1)` waits its turn;
`limiter.reserve(key)` says when; `@limiter` and pipelines refuse with `RateLimited`. `acquire_all` takes
several limits at once, all or none.

Defaults: a token bucket (GCRA) that holds the rate's limit; "local" when the store fails.

Events: `CallRejected`, `NearLimit`, `StoreDegraded`.

First come, first served: a wait is a reservation, made in the decision itself; a wait that would be too long
is refused at once, and a cancelled one gives its tokens back. The same numbers decide in the process and in
Redis, to the microsecond, and only the store's clock counts.

When the store is down, `on_store_error` decides, within the backend's deadline (at once if Redis says no). A
decision whose outcome is unknown is never asked for again. `StoreDegraded` is told when an outage begins, and
each minute while it lasts: once for each limiter and kind of error, not for every call.

| `on_store_error`  | `try_acquire`, `@limiter`                | `acquire`, `reserve`, `acquire_all`      |
|-------------------|------------------------------------------|------------------------------------------|
| "local" (default) | counted in this process: `local_share`   | the same; waits its turn in this process |
| "allow"           | yes                                      | yes, at once                             |
| "refuse"          | no; `retry_after` is 1 s                 | `RateLimited`, at once                   |
| "raise"           | raises the `BackendError`                | raises it; nothing is taken              |

| what is the matter with Redis                        | what is decided about            | afterwards       |
|------------------------------------------------------|----------------------------------|------------------|
| LOADING: waited for until the deadline               | `Refused`                        | counts on        |
| BUSY, OOM, READONLY, MASTERDOWN, MISCONF, NOREPLICAS | `Refused`                        | counts on        |
| NOAUTH, WRONGPASS, NOPERM                            | `ConfigurationError`             | counts on        |
| maxclients, when we have to connect anew             | `NotSent`                        | counts on        |
| no answer (SIGSTOP, a partition)                     | `OutcomeUnknown`, then `NotSent` | counts on (1)    |
| killed, restarting                                   | `OutcomeUnknown`, then `NotSent` | as it was saved  |
| WRONGTYPE or garbage in a key                        | `CorruptState`, for this key     | full, if deleted |
| NOSCRIPT (restarted, SCRIPT FLUSH)                   | nothing: one round trip more     | counts on        |
| FLUSHALL; keys evicted, where maxmemory-policy lets  | nothing: the keys are full again | counts on        |

(1) What is unknown may have been counted. Where only writes are refused (OOM, READONLY, MISCONF, NOREPLICAS)
`peek` and refusals are answered as ever. A block that was leased is used up, and what `deny_cache` remembers
is refused, without a word. `peek`, `Reservation.cancel` and `Reservation.settle` raise the error, whatever the
policy; what is not given back comes back in time.

What not to do: use a fixed window where twice the limit around its edge would hurt; put a user's key into the
limiter's name; share one limiter between things that have limits of their own.
"""

from aresilience.limiter.decision import Decision, NearLimit, RateLimited
from aresilience.limiter.limiter import RateLimiter
from aresilience.limiter.reservation import Reservation
from aresilience.limiter.together import acquire_all

__all__ = ["Decision", "NearLimit", "RateLimited", "RateLimiter", "Reservation", "acquire_all"]
