"""Where leases are granted: six atomic verbs, and a way to hear of changes.

The contract:

- All names of an ask are granted together or not at all, by the store's clock alone. The token is the
  operation's id: asked twice, it has the same grant with the same fence, and a fence is higher than every
  one before it.
- `renew` prolongs what the token still holds, and never takes anything; `release` lets go of that alone, and of
  a place in a queue. Both may be repeated.
- `take` grants whoever holds it; the holder hears of it when it renews.
- An `acquire` that is cancelled, whatever becomes of its answer, leaves nothing held by its token for longer
  than it takes to ask for that. One whose outcome is unknown is for the caller to release.
- `Grant.sent` is the keeper's clock when the request left: from then on its time runs.
- `watch` calls back with a token, or "" for everybody, when something may have changed: a hint, which can be
  lost. Who waits also asks when the time of `Busy` is over.
- Failures are the three kinds of `BackendError`; nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from aresilience.backend.leases import Answer, Kept
from aresilience.lock.machine import Ask, Busy, Holder

__all__ = ["Grant", "HasAsk", "LeaseStore", "Uncut", "Wake"]

Wake: TypeAlias = Callable[[str], None]


class Uncut(asyncio.Future[Any]):
    """A future that whoever awaits it cannot cancel: the cancel comes when it is done. It must be bounded."""

    def cancel(self, msg: Any = None) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Grant:
    """It is yours, from a request that left at `sent`."""

    fence: int
    sent: float


class HasAsk(Kept):
    """What is held by an `Ask`."""

    __slots__ = ("ask",)

    ask: Ask


class LeaseStore(Protocol):
    """Grants leases, and renews them for the keeper."""

    def acquire(self, ask: Ask, waits: bool) -> Awaitable[Grant | Busy]: ...

    async def take(self, ask: Ask) -> Grant: ...

    async def renew(self, leases: Sequence[HasAsk]) -> Sequence[Answer | asyncio.Future[Answer]]:
        """See `Family`: where there are several servers, each answers for itself."""

    def release(self, ask: Ask) -> Awaitable[Any]:
        """True if it was held until now."""

    async def tell(self, ask: Ask) -> bool:
        """Replace what the holder says of itself by `ask.owner`; False if it is not the holder."""

    async def holders(self, ask: Ask) -> Sequence[Holder]: ...

    async def replicated(self, ask: Ask, replicas: int) -> int:
        """How many replicas have what was granted, after waiting for `replicas` of them for a moment."""

    def release_later(self, ask: Ask) -> None:
        """`release` by somebody who cannot wait for it: the store sees to it."""

    def watch(self, ask: Ask, wake: Wake) -> Callable[[], None]:
        """Be told of changes of the names of `ask`; the function returned ends it."""
