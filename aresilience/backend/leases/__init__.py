"""Leases: what is ours until a moment, unless it is confirmed before.

What it is for: a lock, a permit, leadership, a registration, a claim: whatever a process holds on a backend
and must go on saying so. One `Keeper` per backend (`backend.keeper`) says it for all of them: one timer, no
task for a lease, and one call of the store for all that are due.

Use: a pattern makes a `Kept` for each thing that it holds, and a `Family` for how things of its kind are
renewed; `keeper.keep(kept, sent)` begins, `keeper.drop(kept)` ends it.

    held ──(renewed every ttl/3)──▶ held ──(released)──▶ over
      │
      └──(the store says no, or nothing is confirmed by ttl·(1 - MARGIN))──▶ lost

Defaults: renewed at a third of its ttl, again every tenth after a failure; lost a tenth before its end.

Events: none; the pattern hears of a loss in `Kept.on_lost`, and tells.

When the store is down: what fails is tried again until the lease is lost, which needs no answer. Age
counts from when the request was sent, on a clock that goes on while the machine sleeps (`clock.lease_reader`).

What not to do: block the event loop for longer than a ttl: nothing of this process runs then, the keeper
included, and the first that it does after is to say that everything is lost.
"""

from aresilience.backend.leases.body import Body
from aresilience.backend.leases.keeper import MARGIN, Answer, Confirmation, Family, Keeper, Kept

__all__ = ["MARGIN", "Answer", "Body", "Confirmation", "Family", "Keeper", "Kept"]
