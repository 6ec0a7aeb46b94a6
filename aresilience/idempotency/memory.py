"""Records in this process: the machine and a dict.

Bounded: with each new key the next few records are looked at, and forgotten if they have expired. When the
table is full of records that have not, a new key is refused (`Refused`): to forget one would be to run its
work again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from aresilience.backend.leases import Confirmation
from aresilience.clock import LoopClock
from aresilience.errors import BackendError, Refused
from aresilience.idempotency.record import (
    Ask,
    Ending,
    Record,
    RecordState,
    Standing,
    Work,
    claim,
    renew,
    settle,
    view,
)
from aresilience.idempotency.store import Lease, Watches

__all__ = ["MemoryIdempotencyStore"]

_LOOKS = 3
_CROWDED_LOOKS = 64


class MemoryIdempotencyStore:
    """One table, by the loop's clock. `leases` is the clock of the keeper."""

    __slots__ = ("_clock", "_last", "_leases", "_max_keys", "_records", "_shift", "watches")

    def __init__(self, leases: Callable[[], float], max_keys: int = 1_000_000) -> None:
        self._leases = leases
        self._max_keys = max_keys
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._clock = LoopClock()
        self._last = self._shift = 0
        self.watches = Watches()

    def __len__(self) -> int:
        return len(self._records)

    def now(self) -> int:
        """Microseconds that never go back, whatever loop this runs on."""
        now = round(self._clock.read() * 1e6) + self._shift
        if now < self._last and self._records:
            self._shift += self._last - now
            now = self._last
        self._last = now
        return now

    async def claim(self, ident: str, ask: Ask) -> Standing:
        now = self.now()
        before = self._records.get(ident)
        standing, after = claim(before, now, ask)
        if before is None and not self._room(now):
            raise Refused(f"all {self._max_keys} records in memory are in use")
        if after is not before and after is not None:
            self._records[ident] = after
        return standing

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Confirmation | BackendError | None]:
        now, sent = self.now(), self._leases()
        answers: list[Confirmation | BackendError | None] = []
        for lease in leases:
            after = renew(self._records.get(lease.id), now, lease.token, lease.micros, lease.keep)
            if after is not None:
                self._records[lease.id] = after
            answers.append(None if after is None else Confirmation(sent))
        return answers

    async def settle(self, ident: str, work: Work, ending: Ending, value: bytes, ttl: int) -> bool:
        before = self._records.get(ident)
        counts, after, wake = settle(before, self.now(), work, ending, value, ttl)
        if after is None:
            self._records.pop(ident, None)
        else:
            self._records[ident] = after
        if wake:
            self.watches.pulse(ident)
        return counts

    async def look(self, ident: str) -> Standing:
        return view(self._records.get(ident), self.now())

    async def forget(self, ident: str) -> bool:
        before, now = self._records.pop(ident, None), self.now()
        if before is not None and before.waited:
            self.watches.pulse(ident)
        return before is not None and now < before.expires

    async def open_ids(self) -> Sequence[str]:
        now = self.now()
        return [
            ident
            for ident, record in self._records.items()
            if record.state is RecordState.RUNNING and now < record.expires
        ]

    def _room(self, now: int) -> bool:
        """Forget what has expired among the next few; whether there is room for one more."""
        records = self._records
        crowded = len(records) >= self._max_keys
        for _ in range(min(_CROWDED_LOOKS if crowded else _LOOKS, len(records))):
            ident, record = next(iter(records.items()))
            if now < record.expires:
                records.move_to_end(ident)
            else:
                del records[ident]
        return len(records) < self._max_keys
