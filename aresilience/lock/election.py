"""Leader election: one of the candidates leads, and all can see who."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.events import Listener
from aresilience.lock.desk import Desk, Ear
from aresilience.lock.lease import Lease
from aresilience.lock.leasing import Leasing
from aresilience.lock.lock import OnLost
from aresilience.lock.machine import Ask, Holder, Kind
from aresilience.lock.store import Grant

__all__ = ["Campaign", "Leader", "LeaderElection", "Leadership"]


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, what it proclaims of itself, and under which fence; for how many seconds it has, and for how
    many more it does if it does not renew."""

    candidate: str
    metadata: str
    fence: int
    held_for: float
    expires_in: float


class Leadership(Lease):
    """A lease on being the leader."""

    __slots__ = ()

    async def resign(self) -> None:
        """Let somebody else lead, now. The body goes on, without leadership: end it. Raises as `release`."""
        await self.release()

    async def proclaim(self, metadata: str) -> None:
        """Replace what all can read of this leader. Raises `LockLost`, or a `BackendError`."""
        self.check()
        leasing = self._leasing
        assert isinstance(leasing, LeaderElection)
        self.ask.owner = leasing._card(metadata)
        if not await self._desk.store.tell(self.ask):
            why = "the store says that it is not ours any more"
            self._desk.keeper.lose(self, why)
            raise self._lost_error(why)


class LeaderElection(Leasing):
    """`async with election.campaign() as leadership:` runs its body in one candidate at a time.

    The body is cancelled and `LockLost` raised when leadership is lost: at nine tenths of `ttl` after the last
    confirmed renewal was sent. The next leader begins when `ttl` is over: the tenth between is the margin for
    clocks that run at different rates, and for a body that takes its time to end. What must not happen twice
    even so is guarded by `leadership.fence` (see `FencedGuard`).

    `candidate`: a name that all can see; by default host and process id. `ttl`: how long at most nobody leads
    after a leader died. A leader that resigns, or whose body ends, is followed at once.
    """

    kind = "LeaderElection"

    def __init__(
        self,
        name: str,
        *,
        candidate: str | None = None,
        ttl: float | timedelta = 10.0,
        on_lost: OnLost = "cancel",
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(
            (name,),
            ttl=ttl,
            wait=None,
            owner=candidate,
            on_lost=on_lost,
            group=None,
            backend=backend,
            listeners=listeners,
        )

    def campaign(self, *, metadata: str = "", timeout: float | timedelta | None = None) -> Campaign:
        """Become the leader, waiting for `timeout` seconds; None: for as long as it takes.

        `metadata` is what all can read of this leader. Entering it raises `LockTimeout`, or a `BackendError`.
        """
        if timeout is not None:
            timeout = arguments.duration("LeaderElection.campaign: timeout", timeout, zero=True)
        return Campaign(self, self._card(metadata), timeout)

    async def leader(self) -> Leader | None:
        """Who leads now, or None. Raises a `BackendError`."""
        found = await self.desk.store.holders(self._ask_as(""))
        return _leader(found[0]) if found else None

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Who leads, now and whenever that changes; None while nobody does. Raises a `BackendError`.

        A leader that follows another before we hear of it may be missed; the last one never is.
        """
        ask = self._ask_as("")
        desk = self.desk
        ear = Ear()
        ear.end = desk.store.watch(ask, ear.told)
        desk.observers.add(ear)
        said: tuple[str, str, int] | bool | None = False
        try:
            while True:
                ear.news = False
                leader = await self.leader()
                now = None if leader is None else (leader.candidate, leader.metadata, leader.fence)
                if now != said:
                    said = now
                    yield leader
                left = self.ttl if leader is None else leader.expires_in
                await ear.wait(desk.loop.time() + max(left, 0.001))
        finally:
            desk.observers.discard(ear)
            ear.end()

    def _ask_as(self, card: str) -> Ask:
        """An ask that says who asks."""
        ask = self.new_ask(Kind.LOCK, room="leader", loud=True)
        ask.owner = card
        return ask

    def _card(self, metadata: str) -> str:
        """What is stored of a leader."""
        if not isinstance(metadata, str):
            raise TypeError(f"LeaderElection: metadata must be a string, got {metadata!r}")
        return json.dumps([self.said_owner(), metadata])

    def new_lease(self, desk: Desk, ask: Ask, grant: Grant, has_turn: bool) -> Leadership:
        """Leadership."""
        return Leadership(self, desk, ask, grant, has_turn=has_turn)

    def __repr__(self) -> str:
        return f"<LeaderElection {self.name!r} as {self.said_owner()!r}, ttl {self.ttl:g} s>"


class Campaign:
    """The wait for leadership, and the body that leads."""

    __slots__ = ("_card", "_election", "_leadership", "_taken", "_wait")

    def __init__(self, election: LeaderElection, card: str, wait: float | None) -> None:
        self._election = election
        self._card = card
        self._wait = wait
        self._taken = False
        self._leadership: Leadership | None = None

    async def __aenter__(self) -> Leadership:
        if self._taken:
            raise RuntimeError("a campaign is entered once: write election.campaign() each time")
        self._taken = True
        try:  # a token for each try: what is late of one is nothing to the next
            lease = await self._election.obtained(self._election._ask_as(self._card), self._wait)
            assert isinstance(lease, Leadership)
            await lease.__aenter__()
        except BaseException:
            self._taken = False
            raise
        self._leadership = lease
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._leadership is not None
        await self._leadership.__aexit__(kind, error, traceback)


def _leader(holder: Holder) -> Leader:
    candidate, metadata = json.loads(holder.owner)
    return Leader(candidate, metadata, holder.fence, holder.held_for, holder.expires_in)
