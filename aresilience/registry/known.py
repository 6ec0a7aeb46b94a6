"""The machine that follows a service: listings and messages in, what is served out.

    NOTHING ──a full listing──▶ FOLLOWING, at a revision ──a message that follows on it──▶ FOLLOWING, further
                                  │   ▲
    a gap, a hint, a timer: list  └───┘ the changes since then; everything, if they do not add up

A listing comes in parts: `take` says from where to ask for the next one. The store's digest is the sum of the
revisions of the living, so it shows if a change was lost.
"""

from __future__ import annotations

import logging

from aresilience.errors import CorruptState
from aresilience.registry.damping import Damping, Served
from aresilience.registry.machine import EXPIRED, Change, Changes
from aresilience.registry.record import Instance, InstanceState, unpacked
from aresilience.registry.store import Told

__all__ = ["Known"]

_PART, _SUM = 2**32, 2**48
_log = logging.getLogger("aresilience")


class Known:
    """What is known of one service, and what is served of it."""

    __slots__ = (
        "_base",
        "_revisions",
        "_seen",
        "_warned",
        "came",
        "followed",
        "revision",
        "served",
        "service",
        "went",
    )

    def __init__(self, service: str, damping: Damping) -> None:
        self.service = service
        self.served: Served[Instance] = Served(damping)
        self.revision = -1
        """Of the last change that is known; -1: ask for everything."""
        self.followed = False
        """Whether a listing was ever complete."""
        self.came = self.went = 0
        self._revisions: dict[str, int] = {}  # of those that live, as the store says
        self._seen: dict[str, int] | None = None  # in the full listing that is being read
        self._base = -1
        self._warned = False

    def hear(self, told: Told, now: float) -> bool:
        """A message. False: it does not follow on what is known, so ask."""
        if told.change.revision <= self.revision:
            return True
        if told.before != self.revision or self._seen is not None:
            return False
        self._apply(told.change, now)
        self.revision = told.change.revision
        return True

    def begin(self) -> tuple[int, int]:
        """A listing begins: since when, and from where, to ask."""
        self._seen, self._base = None, self.revision
        return self.revision, self.revision

    def take(self, found: Changes, now: float) -> tuple[int, int] | None:
        """A part of a listing: where to ask for the next one; None: that was the last."""
        if found.full:
            self._seen, self._base = {}, found.revision
        for change in found.changes:
            self._apply(change, now)
            if self._seen is None:
                continue
            if change.value is None:  # it left while the parts were read
                self._seen.pop(change.id, None)
            else:
                self._seen[change.id] = change.revision
        if found.more and found.changes:
            return found.changes[-1].revision, self._base
        if self._seen is not None:
            self._only(self._seen, now)
            self._seen = None
        self.revision, self.followed = found.revision, True
        if self._sum() != found.digest:
            self.revision = -1
        return None

    def begin_with(self, instances: tuple[Instance, ...]) -> None:
        """Serve these until a listing says more."""
        for instance in instances:
            self.served.put(instance.id, instance)

    def up(self) -> tuple[Instance, ...]:
        """Those that may be called."""
        return tuple([each for each in self.served.values() if each.state is InstanceState.UP])

    def settle(self, now: float) -> None:
        """Remove who is to be removed by now."""
        self.went += len(self.served.settle(now))

    def counted(self) -> tuple[int, int]:
        """How many came and went since this was last asked."""
        came, went, self.came, self.went = self.came, self.went, 0, 0
        return came, went

    def _apply(self, change: Change, now: float) -> None:
        who = change.id
        if change.value is None:
            self._revisions.pop(who, None)
            if change.why == EXPIRED:
                self.served.vanish(who, now)
            elif self.served.withdraw(who):
                self.went += 1
            return
        self._revisions[who] = change.revision
        try:
            instance = unpacked(self.service, who, change.value)
        except CorruptState as error:
            level = logging.DEBUG if self._warned else logging.WARNING
            _log.log(level, "an instance of %r is left out: %s", self.service, error)
            self._warned = True
            self.served.withdraw(who)
            return
        known = self.served.get(who)
        self.came += known is None
        if known is None or known != instance or known.life != instance.life:
            known = instance  # else the same object: whoever compares sees that nothing has changed
        self.served.put(who, known)

    def _only(self, seen: dict[str, int], now: float) -> None:
        """Who is not in a full listing has vanished, or withdrew so long ago that nobody remembers."""
        if self.followed:
            self.served.disturbed(now)
        for who in list(self.served):
            if who not in seen:
                self.served.vanish(who, now)
        self._revisions = seen

    def _sum(self) -> int:
        return sum(revision % _PART for revision in self._revisions.values()) % _SUM
