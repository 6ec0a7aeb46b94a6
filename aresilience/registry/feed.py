"""What a process knows of a service: a list in memory, kept up to date by a listing and a watch.

- The listing is the truth. It is asked for at the start, when a message leaves a gap, when the store says that
  messages may have been lost, when somebody's time may be over, and every `resync` seconds.
- A message that follows on what is known is applied at once, without asking.
- An error changes nothing in the list. It is tried again, in growing, jittered pauses, for ever.

There is no task while nothing is asked: one timer, which holds the feed only weakly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from operator import is_
from weakref import WeakSet, ref

from aresilience.backend.leases import Keeper
from aresilience.chance import entropy
from aresilience.errors import BackendError, NotSent
from aresilience.events import Event
from aresilience.registry.damping import Damping
from aresilience.registry.facts import DiscoveryChanged, DiscoveryDegraded
from aresilience.registry.known import Known
from aresilience.registry.pace import BREATH, after_failures, next_look
from aresilience.registry.record import Instance
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.store import RegistryStore, Told
from aresilience.registry.watch import Watch

__all__ = ["Feed"]

_PAGE = 500
_LAST_PAUSE = 5.0
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
        self._known = Known(service, damping)
        self.instances: tuple[Instance, ...] = ()
        """Those that may be called."""
        self.is_known = False
        """Whether there is an answer: from the registry, or from the disk."""
        self.listings = 0
        """How often the registry was asked, and answered."""
        self._listed_at = self._confirmed_at = self._loop.time()
        self._error: BackendError | None = None
        self._failures = 0
        self._soonest: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = self.closed = self._settling = False
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: WeakSet[Watch] = WeakSet()
        mine = ref(self)

        def hear(told: Told | None) -> None:
            feed = mine()
            if feed is not None:
                feed._hear(told)

        self._listener = hear
        self._unlisten: Callable[[], None] | None = None
        self.look()

    # What is asked of it

    @property
    def listed(self) -> bool:
        """Whether what is known is the registry's, and not only the disk's."""
        return self._known.followed

    def snapshot(self) -> Snapshot:
        """What is known, and how well."""
        known = self._known
        age = max(0.0, self._loop.time() - self._confirmed_at) if known.followed else None
        held, healthy = known.served.held, self._error is None and known.followed
        stale = bool(held) or not healthy
        return Snapshot(self.service, self.instances, age, stale, healthy, held, known.revision)

    async def known(self) -> None:
        """Wait for the first answer. Raises a `BackendError` if there is none to be had now, and nothing was
        kept."""
        while not self.is_known:
            if self._looking is None:
                self.look()
            if self._looking is not None:
                await asyncio.wait([self._looking])
            if not self.is_known and self._error is not None:
                raise type(self._error)(*self._error.args)

    def watch(self) -> Watch:
        """Every state from now on, or the newest of those that were missed."""
        watch = Watch(self)
        self._watchers.add(watch)
        return watch

    def begin_with(self, instances: tuple[Instance, ...]) -> None:
        """Serve what was kept, until the registry says more."""
        if not self.is_known:
            self._known.begin_with(instances)
            self.is_known = True
            self._publish()

    def look(self) -> None:
        """Ask the registry, now or as soon as the asking that is on its way is done."""
        if self._looking is not None:
            self._again = True
        elif not self.closed and not self._loop.is_closed():
            self._again = False
            self._looking = self._keeper.aside(self._look())
            self._looking.add_done_callback(self._looked)

    def close(self) -> None:
        """No more of it: its watches end, and who asks again gets another."""
        self.closed = True
        self.is_known = False
        self._wake()
        if self._unlisten is not None:
            self._unlisten()
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    # What comes

    def _hear(self, told: Told | None) -> None:
        if told is None or self._looking is not None or not self._known.hear(told, self._loop.time()):
            self.look()
            return
        self._confirm()
        if not self._settling:  # publish once for all the messages of this turn
            self._settling = True
            self._loop.call_soon(self._settle)

    async def _look(self) -> None:
        try:
            if not self._store.ready:
                self._unlisten = None
                raise NotSent("the backend is not open")
            if self._unlisten is None:
                self._unlisten = self._store.listen(self.service, self._listener)
            await self._list()
            if self._known.revision < 0:  # it does not add up
                await self._list()
        except BackendError as error:
            self._failed(error)
        else:
            self._listed_at = self._loop.time()
            self.listings += 1
            self._confirm()
        self._publish()

    async def _list(self) -> None:
        place: tuple[int, int] | None = self._known.begin()
        while place is not None:
            found = await self._store.changes(self.service, *place, _PAGE)
            now = self._loop.time()
            place = self._known.take(found, now)
            self._soonest = None if found.soonest < 0 else now + found.soonest / 1e6

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if self.closed or self._loop.is_closed():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("looking at the registry failed", exc_info=error)
            self._failed(BackendError(f"{type(error).__name__} while looking at the registry"))
        self._arm(BREATH if self._again and self._error is None else None)

    # What follows

    def _confirm(self) -> None:
        self._confirmed_at = self._loop.time()
        self._error, self._failures = None, 0
        self._known.served.answered(self._confirmed_at)
        if not self.is_known:
            self.is_known = True
            self._wake()

    def _failed(self, error: BackendError) -> None:
        news = self._error is None
        self._error = error
        self._failures += 1
        self._known.served.failed()
        if news and self._tell is not None:
            now = self._loop.time()
            age = now - self._confirmed_at if self._known.followed else None
            self._tell(DiscoveryDegraded(self._name, now, self.service, error, age))

    def _settle(self) -> None:
        self._settling = False
        self._publish()
        self._arm(None)

    def _publish(self) -> None:
        now = self._loop.time()
        self._known.settle(now)
        too_old = self._error is not None and now - self._confirmed_at > self._max_stale
        instances = () if too_old else self._known.up()
        if len(instances) == len(self.instances) and all(map(is_, instances, self.instances)):
            return
        self.instances = instances
        self._wake()
        if self._tell is not None:
            came, went = self._known.counted()
            held = len(self._known.served.held)
            self._tell(DiscoveryChanged(self._name, now, self.service, len(instances), came, went, held))

    def _wake(self) -> None:
        for watch in list(self._watchers):
            watch.wake()

    # The timer

    def _arm(self, within: float | None) -> None:
        """Wake up at the next moment at which something may be due."""
        if self.closed:
            return
        now = self._loop.time()
        if within is not None:
            when = now + within
        elif self._error is not None:
            longest = min(_LAST_PAUSE, self._resync)
            when = now + after_failures(self._failures, longest, entropy().random())
        else:
            u = entropy().random()
            when = next_look(now, self._listed_at, self._resync, self._soonest, u)
        due = self._known.served.next_at(now)
        settles = due is not None and due < when
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(
            max(now, when if due is None else min(due, when)), _ring, ref(self), settles
        )

    def _rung(self, settles: bool) -> None:
        self._timer = None
        if settles:
            self._settle()
        else:
            self.look()


def _ring(mine: ref[Feed], settles: bool) -> None:
    feed = mine()
    if feed is not None:
        feed._rung(settles)
