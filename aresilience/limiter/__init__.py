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

When the store is down, `on_store_error` decides: "local" (the default) goes on counting in this process, with
its share of the limit; "allow" and "refuse" say so; "raise" raises the `BackendError`. A decision whose outcome
is unknown is never asked for again. All but "raise" tell a `StoreDegraded`.

What not to do: use a fixed window where twice the limit around its edge would hurt; put a user's key into the
limiter's name; share one limiter between things that have limits of their own.
"""

from aresilience.limiter.decision import Decision, NearLimit, RateLimited
from aresilience.limiter.limiter import RateLimiter
from aresilience.limiter.reservation import Reservation
from aresilience.limiter.together import acquire_all

__all__ = ["Decision", "NearLimit", "RateLimited", "RateLimiter", "Reservation", "acquire_all"]
