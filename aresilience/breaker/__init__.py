"""Circuit breaker: stop calling what does not answer, and find out gently when it does again.

What it is for: a dependency that is down costs its callers their time and their connections, and the
calls keep it down. An open circuit refuses at once, with `CircuitOpen`.

Use: `@breaker`, `await breaker.call(fn, …)`, `async with breaker.guard(): …`; for streams, `permit = await
breaker.admit()` and `await breaker.record(permit, error)`. `CircuitBreakers` keeps one per key. Put the
time limit inside (`Timeout`), so that a hang is a failure; put retries outside.

Defaults: opens after 5 failures in a row, for 30 s; then one probe at a time, and 2 successes close it.
With `failure_rate` or `window` it judges the rate of the last 100 calls instead, once there are 20.

Events: `BreakerChanged`, `CallRejected`.

What counts: errors that match `failure_on` and not `ignore` fail; calls slower than
`slow_call_duration` and results that match `failure_if` too; `ignore`d errors, refusals of other
policies and every kind of cancellation count nowhere and give their place back; any other error means
that the dependency answered, a success. A call that began before the state last changed counts nowhere.

When the store is down, each process goes on with what it knows, and no call waits longer than the backend's
deadline. A call through a closed circuit never asks the store, nor does a refusal by an open one. What does
(opening, probing, `isolate`, `reset`) is decided here alone, and `StoreDegraded` told each time.

| what is the matter with Redis                        | what is told                     | afterwards         |
|------------------------------------------------------|----------------------------------|--------------------|
| LOADING: waited for until the deadline               | `Refused`                        | the last one holds |
| BUSY, OOM, READONLY, MASTERDOWN, MISCONF, NOREPLICAS | `Refused`                        | the last one holds |
| NOAUTH, WRONGPASS, NOPERM                            | `ConfigurationError`             | the last one holds |
| maxclients, when we have to connect anew             | `NotSent`                        | the last one holds |
| no answer (SIGSTOP, a partition)                     | `OutcomeUnknown`, then `NotSent` | the last one holds |
| killed, restarting                                   | `OutcomeUnknown`, then `NotSent` | the last one holds |
| WRONGTYPE or garbage in the key                      | `CorruptState`                   | once it is deleted |
| NOSCRIPT (restarted, SCRIPT FLUSH)                   | nothing: one round trip more     |                    |
| FLUSHALL; keys evicted, where maxmemory-policy lets  | nothing: the state is put back   |                    |

Those who find Redis back learn of it from a message, or look within some seconds. A probe that ended meanwhile
gives its place back then, with its result.

What not to do: put it outside the retries (it then sees one failure where there were three); share
one between dependencies; forget a time limit inside, without which a hang is never a failure.
"""

from aresilience.breaker.breaker import CircuitBreaker
from aresilience.breaker.facts import BreakerChanged, CircuitOpen, Permit, Snapshot
from aresilience.breaker.keyed import CircuitBreakers
from aresilience.breaker.machine import BreakerState
from aresilience.breaker.window import Window

__all__ = [
    "BreakerChanged",
    "BreakerState",
    "CircuitBreaker",
    "CircuitBreakers",
    "CircuitOpen",
    "Permit",
    "Snapshot",
    "Window",
]
