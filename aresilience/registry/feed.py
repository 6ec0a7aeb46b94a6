"""What a process knows of a service: a list in memory, kept up to date by a listing and a watch.

- The listing is the truth. It is asked for at the start, when a message leaves a gap, when the store says that
  messages may have been lost, when somebody's time may be over, and every `resync` seconds.
- A message that follows on what is known is applied at once, without asking.
- After each listing the digest is compared: what does not add up is listed from the beginning.
- An error changes nothing in the list. It is tried again, in growing, jittered pauses, for ever.

There is no task while nothing is asked: one timer, which holds the feed only weakly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod, WeakSet, ref

from aresilience.backend.leases import Keeper
from aresilience.chance import entropy
from aresilience.errors import BackendError, CorruptState, NotSent
from aresilience.events import Event
from aresilience.registry.damping import Damping, Served
from aresilience.registry.facts import DiscoveryChanged, DiscoveryDegraded
from aresilience.registry.machine import EXPIRED, Change, Changes
from aresilience.registry.record import Instance, InstanceState, unpacked
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.store import RegistryStore, Told

__all__ = ["Feed", "Watch"]

_PAGE = 500
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_BREATH = 0.01
"""Seconds between two listings at least, so that a registry in uproar is not asked all the time."""
_PART, _SUM = 2**32, 2**48
_log = logging.getLogger("aresilience")


class Feed:
    """The instances of one service, as of now. Answers without I/O once it `is_known`."""

    def __init__(
        self,
        name: str,
        service: str,
        store: RegistryStore,
        keeper: Keeper,
        *,
        damping: Damping,
        resync: float,
        max_stale: float,
        tell: Callable[[Event], None] | None,
    ) -> None:
        self._name = name
        self.service = service
        self._store = store
        self._keeper = keeper
        self._resync = resync
        self._max_stale = max_stale
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.instances: tuple[Instance, ...] = ()
        """Those that may be called."""
        self.is_known = False
        """Whether there is an answer: from the registry, or from the disk."""
        self.listed = False
        """Whether it is the registry's."""
        self.changed_at = 0.0
        self._served: Served[Instance] = Served(damping)
        self._revisions: dict[str, int] = {}  # of those that the registry says live
        self._revision = -1
        self._digest = 0
        self._began = self._listed_at = self._loop.time()
        self._confirmed: float | None = None
        self._closed = False
        self._error: BackendError | None = None
        self._failures = 0
        self._soonest: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._settling = False
        self._watchers: WeakSet[Watch] = WeakSet()
        self._followers: list[WeakMethod[Callable[[], None]]] = []
        self._came = self._went = 0
        mine = ref(self)

        def hear(told: Told | None) -> None:
            feed = mine()
            if feed is not None:
                feed._hear(told)

        self._unlisten = store.listen(service, hear) if store.ready else None
        self._hear_with = hear
        self.look()

    # What is asked of it

    def snapshot(self) -> Snapshot:
        """What is known, and how well."""
        now = self._loop.time()
        age = None if self._confirmed is None else max(0.0, now - self._confirmed)
        held, healthy = self._served.held, self._error is None and self.listed
        return Snapshot(
            self.service, self.instances, age, bool(held) or not healthy, healthy, held, self._revision
        )

    async def known(self) -> None:
        """Wait for the first answer. Raises the `BackendError` if there is none to be had now, and nothing
        was kept."""
        while not self.is_known:
            if self._looking is None:
                self.look()
            looking = self._looking
            if looking is not None:
                await asyncio.wait([looking])
            if not self.is_known and self._error is not None:
                raise type(self._error)(*self._error.args)

    def watch(self) -> Watch:
        """Every state from now on, or the newest of those that were missed."""
        watch = Watch(self)
        self._watchers.add(watch)
        return watch

    def follow(self, changed: Callable[[], None]) -> None:
        """Call back a bound method after every change, for as long as its object lives."""
        self._followers = [follower for follower in self._followers if follower() is not None]
        self._followers.append(WeakMethod(changed))

    def begin_with(self, instances: tuple[Instance, ...]) -> None:
        """Serve what was kept, until the registry says more."""
        if not self.is_known:
            for instance in instances:
                self._served.put(instance.id, instance)
            self.is_known = True
            self._publish()

    def look(self) -> None:
        """Ask the registry, now or as soon as the asking that is on its way is done."""
        if self._looking is not None:
            self._again = True
        elif not self._loop.is_closed():
            self._again = False
            self._looking = self._keeper.aside(self._look())
            self._looking.add_done_callback(self._looked)

    def close(self) -> None:
        """No more of it."""
        self._closed = True
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    # Messages

    def _hear(self, told: Told | None) -> None:
        if told is not None and told.change.revision <= self._revision:
            return
        if told is None or told.before != self._revision or self._looking is not None:
            self.look()
            return
        self._apply(told.change)
        self._revision = told.change.revision
        self._confirm()
        self._soon()

    # Listings

    async def _look(self) -> None:
        try:
            if not self._store.ready:
                raise NotSent("the backend is not open")
            if self._unlisten is None:
                self._unlisten = self._store.listen(self.service, self._hear_with)
            await self._list()
            if self._sum() != self._digest:
                self._revision = -1
                await self._list()
        except BackendError as error:
            self._failed(error)
        else:
            self._confirm()
        self._publish()

    async def _list(self) -> None:
        since = base = self._revision
        seen: dict[str, int] | None = None
        while True:
            found = await self._store.changes(self.service, since, base, _PAGE)
            if found.full:
                seen, base = {}, found.revision
            self._take(found, seen)
            if not found.more or not found.changes:
                break
            since = found.changes[-1].revision
        if seen is not None:
            self._only(seen, begun=base)
        self._revision, self._digest = found.revision, found.digest
        self._listed_at = self._loop.time()
        soonest = found.soonest
        self._soonest = None if soonest < 0 else self._loop.time() + soonest / 1e6

    def _take(self, found: Changes, seen: dict[str, int] | None) -> None:
        for change in found.changes:
            self._apply(change)
            if seen is not None and change.value is not None:
                seen[change.id] = change.revision

    def _only(self, seen: dict[str, int], begun: int) -> None:
        """A full listing: who is not in it has vanished, or withdrew so long ago that nobody remembers."""
        now = self._loop.time()
        if self.listed:
            self._served.disturbed(now)
        for who in list(self._served):
            if who not in seen:
                self._served.vanish(who, now)
        self._revisions = {who: seen[who] for who in self._revisions if who in seen}

    def _apply(self, change: Change) -> None:
        now, who = self._loop.time(), change.id
        if change.value is None:
            self._revisions.pop(who, None)
            if change.why == EXPIRED:
                self._served.vanish(who, now)
            elif self._served.withdraw(who):
                self._went += 1
            return
        self._revisions[who] = change.revision
        try:
            instance = unpacked(self.service, who, change.value)
        except CorruptState as error:
            _log.warning("an instance of %r is left out: %s", self.service, error)
            self._served.withdraw(who)
            return
        self._came += who not in self._served
        self._served.put(who, instance)

    def _sum(self) -> int:
        return sum(revision % _PART for revision in self._revisions.values()) % _SUM

    # What follows

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if self._closed or self._loop.is_closed():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("looking at the registry failed", exc_info=error)
            self._failed(BackendError(f"{type(error).__name__} while looking at the registry"))
        self._arm(_BREATH if self._again and error is None and self._error is None else None)

    def _confirm(self) -> None:
        now = self._loop.time()
        self._confirmed = now
        self._error, self._failures = None, 0
        self.is_known = self.listed = True
        self._served.answered(now)

    def _failed(self, error: BackendError) -> None:
        news = self._error is None
        self._error = error
        self._failures += 1
        self._served.failed()
        if news and self._tell is not None:
            now = self._loop.time()
            age = None if self._confirmed is None else now - self._confirmed
            self._tell(DiscoveryDegraded(self._name, now, self.service, error, age))

    def _soon(self) -> None:
        """Publish once for all the messages of this turn."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        self._publish()
        self._arm(None)

    def _publish(self) -> None:
        now = self._loop.time()
        self._went += len(self._served.settle(now))
        up = [each for each in self._served.values() if each.state is InstanceState.UP]
        if self._error is not None and now - self._since() > self._max_stale:
            up = []
        instances = tuple(up)
        if instances == self.instances:
            if self.changed_at == 0.0 and self.is_known:
                self._wake()
            return
        self.instances = instances
        self.changed_at = now
        came, went, self._came, self._went = self._came, self._went, 0, 0
        self._wake()
        if self._tell is not None:
            held = len(self._served.held)
            self._tell(DiscoveryChanged(self._name, now, self.service, len(up), came, went, held))

    def _since(self) -> float:
        """Since when what is known is not confirmed any more."""
        return self._began if self._confirmed is None else self._confirmed

    def _wake(self) -> None:
        for follower in self._followers:
            changed = follower()
            if changed is not None:
                changed()
        for watch in list(self._watchers):
            watch.wake()

    # The timer

    def _arm(self, within: float | None) -> None:
        """Look again at the next moment at which something may be due."""
        now = self._loop.time()
        u = entropy().random() if within is None else 0.0
        if within is not None:
            when = now + within
        elif self._error is not None:
            pause = min(_LAST_PAUSE, self._resync, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20))
            when = now + pause * (0.5 + u / 2)
        else:
            when = self._listed_at + self._resync * (0.75 + u / 2)
            if self._soonest is not None:
                when = min(when, self._soonest + u * self._resync * 0.05)
        due = self._served.next_at(now)
        settle_only = due is not None and due < when
        if due is not None:
            when = min(when, due)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(when, now), _ring, ref(self), settle_only)

    def _rung(self, settle_only: bool) -> None:
        self._timer = None
        if settle_only:
            self._settle()
        else:
            self.look()


def _ring(mine: ref[Feed], settle_only: bool) -> None:
    feed = mine()
    if feed is not None:
        feed._rung(settle_only)


class Watch:
    """An async iterator over what is known of a service: first what is known now, then each change.

    It has room for one: who is slow sees the newest state, and none of those between.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._seen: Any = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> tuple[Instance, ...]:
        feed = self._feed
        while not feed.is_known or feed.instances is self._seen:
            if self._waiter is not None:
                raise RuntimeError("a watch has one reader: call watch() again for another")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._seen = feed.instances
        return feed.instances

    def wake(self) -> None:
        """There may be news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
