"""Idempotency: once, whatever the client and the network do. In memory and on Redis.

What it is for: a client that got no answer asks again. With a key on its request, the work behind it is done
once, and every call with that key gets its one answer, on whichever process it arrives.

Use: `await idem.run(key, charge, order_id, amount)`; `@idem(key=lambda order_id, amount: order_id)`; by hand,
`async with idem.claim(key) as claim`. Inside, `ar.current_claim()` has the fence, the attempt, and
`downstream_key("stripe")`, to pass on. `get`, `evict` and `in_flight` are for operators.

Defaults: results are kept for a day from when the work was done; a claim is a lease of 30 s that is renewed; a
concurrent duplicate waits up to 30 s, woken by push; work that was abandoned runs again; a cancelled caller's
work goes on and is stored; a failing store raises; no failure is stored, every one releases the key.

Events: `CallReplayed`, `CallRejected` (in flight), `ClaimTakenOver`, `AnswerNotKept`, `FinishedAlone`,
`StoreDegraded`.

What is certain: of the processes that share a name on a backend one at a time has the claim of a key, and
only its owner can end it. What is not: an owner that was cut off from the store for longer than a lease may
still be at work while another one takes over (`claim.check()` tells it), and a failover of Redis can lose a
claim. The body that must not run twice even then gives `claim.fence` to its resource, or
`claim.downstream_key` to the service that it calls; and `on_abandoned="refuse"` never runs again by itself
what may have been done.

When the store is down: a claim raises, or (`on_store_error="run"`) runs unprotected. Work that is done returns
its result, which the store is told again for as long as two leases. If that was in vain, the key is abandoned,
not free. Who waits for another's result never runs unprotected.

Work that goes on after its caller was cancelled keeps the caller's ambient deadline: what it begins after that
is refused.

What not to do: share one name between unrelated things, or a key between users (scope it: `(user, key)`); use
a lease shorter than the longest pause of the event loop; put it inside a retry, where every attempt would be a
claim of its own; call with the same key from inside.
"""

from aresilience.idempotency.claim import Claim, current_claim
from aresilience.idempotency.facts import (
    Abandoned,
    AnswerLost,
    AnswerNotKept,
    CallReplayed,
    ClaimLost,
    ClaimTakenOver,
    FinishedAlone,
    InFlight,
    KeyReused,
    KeyState,
)
from aresilience.idempotency.idempotency import Idempotency
from aresilience.idempotency.record import RecordState

__all__ = [
    "Abandoned",
    "AnswerLost",
    "AnswerNotKept",
    "CallReplayed",
    "Claim",
    "ClaimLost",
    "ClaimTakenOver",
    "FinishedAlone",
    "Idempotency",
    "InFlight",
    "KeyReused",
    "KeyState",
    "RecordState",
    "current_claim",
]
