"""The shell of the rate limiter: asks the store, waits its turn, and has an answer when the store has none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.clock import LoopClock
from aresilience.deadline import time_remaining
from aresilience.errors import BackendError
from aresilience.events import CallRejected, Listener, StoreDegraded
from aresilience.limiter.bucket import around_a_bucket
from aresilience.limiter.decision import Decision, NearLimit, RateLimited, decision_of
from aresilience.limiter.deny import DenyCache
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.making import ALGORITHMS, AlgorithmName, leased, meters_for, shrunk, store_on
from aresilience.limiter.memory import MemoryLimiterStore
from aresilience.limiter.outage import Outage
from aresilience.limiter.rate import MICROS, Rate, parse_rates
from aresilience.limiter.reservation import Reservation
from aresilience.limiter.store import Ask, Grant, LimiterStore, Meter
from aresilience.policy import Layer, Policy

__all__ = ["RateLimiter"]

P = ParamSpec("P")
T = TypeVar("T")
OnStoreError = Literal["allow", "refuse", "raise", "local"]

_FOREVER = 2**51
_REFUSED_FOR = 1.0


class RateLimiter(Policy):
    """So many tokens in a time, for each key.

    - `rate`: "100/s", "20/10s", or several of which all must admit: "1000/min; 20000/h".
    - `burst`: tokens at once (the limit of the rate, unless said); only for "gcra", and one rate.
    - `algorithm`: "gcra" (a token bucket), "sliding_window", "fixed_window" or "sliding_log" (exact, but an
      entry for each token).
    - `key`: as a policy, the key of a call, from its arguments. Without it all calls share one.
    - `max_wait`: as a policy, how long a call may wait for its token, in seconds; without it a call is
      refused at once. It is the default of `acquire` and `reserve` too, which without it wait for ever.
    - `name`: by which processes share the limit on a backend, and needed there.
    - `shadow`: refuses and delays nothing, and tells what it would have refused or delayed.
    - `near_limit`: the share of the limit from which on `NearLimit` is told.
    - `on_store_error`: when the backend fails: "local" counts in this process, with `local_share` of the
      limit; "allow", "refuse" or "raise".
    - `deny_cache`: `try_acquire` remembers refusals, and repeats them without asking the backend.
    - `lease`: take so many tokens ahead, for `lease_time` seconds, and decide here meanwhile: fewer round
      trips, for an overshoot of at most `lease` tokens by each process.
    - `max_keys`: keys kept in this process, at most.
    """

    __slots__ = (
        "_backend_name",
        "_clock",
        "_denied",
        "_key",
        "_local",
        "_max_wait",
        "_meters",
        "_near",
        "_on_store_error",
        "_outage",
        "_shadow",
        "_share",
        "algorithm",
        "store",
    )

    layer = Layer.LIMIT
    refusal = RateLimited

    def __init__(
        self,
        rate: str,
        *,
        burst: int | None = None,
        algorithm: AlgorithmName = "gcra",
        key: Callable[..., str] | None = None,
        max_wait: float | timedelta | None = None,
        name: str | None = None,
        shadow: bool = False,
        near_limit: float = 0.8,
        on_store_error: OnStoreError = "local",
        local_share: float = 1.0,
        deny_cache: bool = False,
        lease: int | None = None,
        lease_time: float | timedelta = 1.0,
        max_keys: int = 1_000_000,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        kind = "RateLimiter"
        arguments.choice(f"{kind}: algorithm", algorithm, ALGORITHMS)
        self.algorithm: AlgorithmName = algorithm
        self._key = None if key is None else arguments.plain_function(f"{kind}: key", key)
        self._max_wait = (
            None if max_wait is None else arguments.duration(f"{kind}: max_wait", max_wait, zero=True)
        )
        self._shadow = shadow
        self._near = arguments.fraction(f"{kind}: near_limit", near_limit)
        arguments.choice(f"{kind}: on_store_error", on_store_error, ("allow", "refuse", "raise", "local"))
        self._on_store_error = on_store_error
        self._share = arguments.fraction(f"{kind}: local_share", local_share)
        arguments.count(f"{kind}: max_keys", max_keys)
        if backend is not None and name is None:
            raise ValueError(f"{kind}: name is needed with a backend: it is what processes share by")
        self._meters = meters_for(self.name, parse_rates(f"{kind}: rate", rate), burst, algorithm)
        self.store: LimiterStore = leased(store_on(backend, max_keys), self._meters, lease, lease_time)
        self._denied = DenyCache() if deny_cache else None
        self._local: MemoryLimiterStore | None = None
        self._outage = Outage()
        self._clock = LoopClock()

    # Asking

    async def try_acquire(self, key: str = "", cost: int = 1) -> Decision:
        """Take `cost` tokens now, or none. The decision is true if they were taken.

        0 costs nothing and tells what is left. More than the limit holds is refused for ever. Who is cancelled
        before the answer gives them back; in the very turn in which it comes, has spent them.
        """
        ask = self.ask(key, cost)
        never = self.never(ask) if cost > 1 else None
        if never is not None:
            return self._judged(never, ask)
        if self._denied is not None and (left := self._denied.left(key, cost)) is not None:
            known = Decision(False, self._meters[0].algorithm.capacity, 0, left, left)
            return self._judged(known, ask)
        decide = getattr(self.store, "decide", None)
        try:
            if decide is None:
                grant = await self.store.acquire(ask, 0)
                decision = decision_of(ask, grant, grant.allowed)
            else:
                decision = await decide(ask)
        except BackendError as error:
            return self._judged(self._without_store(error, ask, 0)[0], ask)
        if self._denied is not None and decision.retry_after:
            self._denied.add(key, cost, decision.retry_after)
        return self._judged(decision, ask) if self._listeners.each or self._shadow else decision

    async def acquire(
        self, key: str = "", cost: int = 1, timeout: float | timedelta | None = None
    ) -> Decision:
        """Take `cost` tokens, waiting for them: first come, first served.

        Raises `RateLimited` at once if the wait would be longer than `timeout` (or `max_wait`, or what is
        left of the ambient deadline). Who is cancelled while waiting gives the tokens back.
        """
        reservation = await self.reserve(key, cost, max_wait=timeout)
        await reservation.wait()
        return reservation.decision

    async def reserve(
        self, key: str = "", cost: int = 1, *, max_wait: float | timedelta | None = None
    ) -> Reservation:
        """Take `cost` tokens that will be there in `reservation.delay` seconds, without waiting for them.

        Raises `RateLimited` if that is longer than `max_wait`.
        """
        ask = self.ask(key, cost)
        limit = self.longest_wait(max_wait)
        never = self.never(ask)
        if never is not None:
            return self._unheld(never, ask)
        try:
            grant = await self.store.acquire(ask, limit)
        except BackendError as error:
            return self.reserve_without_store(error, ask, limit)
        return self.reserved(self.store, ask, grant)

    def reserved(
        self, store: LimiterStore, ask: Ask, grant: Grant, *, degraded: bool = False
    ) -> Reservation:
        """The reservation for a grant; `RateLimited` if it was none."""
        decision = self._judged(decision_of(ask, grant, grant.allowed, degraded=degraded), ask)
        if not decision.allowed:
            raise self._refusal(decision)
        if not grant.allowed:  # shadow mode: what would have been refused passes, at once and for nothing
            return self._nothing_held(decision)
        return Reservation(store, ask, grant, decision)

    def reserve_without_store(self, error: BackendError, ask: Ask, max_wait: int) -> Reservation:
        """A reservation by what `on_store_error` says."""
        decision, grant = self._without_store(error, ask, max_wait)
        if grant is None:
            return self._unheld(decision, ask)
        return self.reserved(self._local_store(), self._local_ask(ask), grant, degraded=True)

    def _unheld(self, decision: Decision, ask: Ask) -> Reservation:
        """A reservation of nothing, if the decision (or shadow mode) allows."""
        judged = self._judged(decision, ask)
        if not judged.allowed:
            raise self._refusal(judged)
        return self._nothing_held(judged)

    def _nothing_held(self, decision: Decision) -> Reservation:
        return Reservation(self.store, (), Grant(True, 0, 0, ()), decision)

    async def peek(self, key: str = "") -> Decision:
        """What a key has left; takes nothing. Raises `BackendError` if the store fails."""
        ask = self.ask(key, 1)
        grant = await self.store.peek(ask)
        return decision_of(ask, grant, grant.at == grant.now)

    async def set_rate(self, rate: str, *, burst: int | None = None) -> None:
        """Change the rate from now on, in this process; the number of rates stays the same.

        What was taken stays taken: a bucket keeps the time until it is full, a window its count, or begins
        anew if its period is another. Waiters keep their times. With a smaller limit a key may have less than
        nothing left, and recovers by itself. On a backend other processes keep the rate that they have, over
        the same count (of windows, if the period is the same): tell each of them.
        """
        rates, n = parse_rates("RateLimiter.set_rate: rate", rate), len(self._meters)
        if len(rates) != n:
            raise ValueError(f"RateLimiter.set_rate: rate must have {n} rates, as before, got {rate!r}")
        news = meters_for(self.name, rates, burst, self.algorithm)
        for meter, new in zip(self._meters, news, strict=True):
            meter.name, meter.algorithm = new.name, new.algorithm
            if isinstance(self.store, MemoryLimiterStore):
                self.store.table(meter)
        if self._denied is not None:
            self._denied.clear()

    @property
    def shadowed(self) -> bool:
        """Whether it is in shadow mode."""
        return self._shadow

    @property
    def rates(self) -> tuple[tuple[Rate, int], ...]:
        """Each rate, and the most tokens at once."""
        return tuple((m.algorithm.rate, m.algorithm.capacity) for m in self._meters)

    def ask(self, key: str, cost: int) -> Ask:
        """The parts that a key and a cost stand for."""
        if not isinstance(key, str):
            raise TypeError(f"{self.name}: key must be a string, got {key!r} ({type(key).__name__})")
        if cost != 1:
            arguments.count(f"{self.name}: cost", cost, least=0)
        meters = self._meters
        if len(meters) == 1:
            return ((meters[0], key, cost),)
        return tuple([(meter, key, cost) for meter in meters])

    # As a policy

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        key_of, store = self._key, self.store
        if isinstance(store, MemoryLimiterStore) and self._is_one_bucket():
            return around_a_bucket(fn, store, self._meters[0], self._listeners, self._admit)

        async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            await self._admit("" if key_of is None else key_of(*args, **kwargs))
            return await fn(*args, **kwargs)

        return limited

    async def _admit(self, key: str = "") -> None:
        if self._max_wait:
            await self.acquire(key)
        else:
            decision = await self.try_acquire(key)
            if not decision.allowed:
                raise self._refusal(decision)

    def _is_one_bucket(self) -> bool:
        one = len(self._meters) == 1 and isinstance(self._meters[0].algorithm, Gcra)
        return one and self._key is None and not self._max_wait and not self._shadow

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    # Answers

    def _refusal(self, decision: Decision) -> RateLimited:
        wait = decision.retry_after
        when = "ever: it costs more than the limit holds" if wait is None else f"for another {wait:.3g} s"
        return RateLimited(
            f"rate limit {self.name!r} does not allow it {when}",
            retry_after=wait,
            decision=decision,
            limiter=self,
        )

    def never(self, ask: Ask) -> Decision | None:
        """The refusal of an ask that no wait can help."""
        for meter, _, cost in ask:
            if cost > meter.algorithm.capacity:
                return Decision(False, meter.algorithm.capacity, meter.algorithm.capacity, None, 0.0)
        return None

    def _judged(self, decision: Decision, ask: Ask) -> Decision:
        """Tell what is to be told; in shadow mode, turn a refusal into a yes."""
        if self._listeners.each:
            if not decision.allowed:
                now = self._clock.read()
                self._listeners.tell(CallRejected(self.name, now, decision.retry_after, self._shadow))
            else:
                self._tell_if_near(decision, ask[0][2])
        if decision.allowed or not self._shadow:
            return decision
        return Decision(
            True,
            decision.limit,
            decision.remaining,
            decision.retry_after,
            decision.reset_after,
            decision.degraded,
            shadowed=True,
        )

    def _tell_if_near(self, decision: Decision, cost: int) -> None:
        used = decision.limit - decision.remaining
        if cost and used >= self._near * decision.limit > used - cost:
            now = self._clock.read()
            self._listeners.tell(NearLimit(self.name, now, decision.remaining, decision.limit))

    def longest_wait(self, asked: float | timedelta | None) -> int:
        """The microseconds that a wait may take, by what was asked, by default, and by the deadline."""
        if self._shadow:
            return 0  # nobody is refused, so nobody is made to wait either
        wait = self._max_wait
        if asked is not None:
            wait = arguments.duration(f"{self.name}: timeout", asked, zero=True)
        left = time_remaining()
        if left is not None:
            wait = left if wait is None else min(wait, left)
        return _FOREVER if wait is None else min(_FOREVER, int(wait * MICROS))

    # Without the store

    def _without_store(self, error: BackendError, ask: Ask, max_wait: int) -> tuple[Decision, Grant | None]:
        """What `on_store_error` says; the grant, if it was counted in this process."""
        answer = self._on_store_error
        if self._listeners and self._outage.is_news(error, now := self._clock.read()):
            self._listeners.tell(StoreDegraded(self.name, now, error, answer))
        if answer == "raise":
            raise error
        capacity = ask[0][0].algorithm.capacity
        if answer == "allow":
            return Decision(True, capacity, capacity, 0.0, 0.0, degraded=True), None
        if answer == "refuse":
            return Decision(False, capacity, 0, _REFUSED_FOR, _REFUSED_FOR, degraded=True), None
        local = self._local_ask(ask)
        grant = self._local_store().acquire_now(local, max_wait)
        return decision_of(local, grant, grant.allowed, degraded=True), grant

    def _local_store(self) -> MemoryLimiterStore:
        if self._local is None:
            self._local = MemoryLimiterStore()
        return self._local

    def _local_ask(self, ask: Ask) -> Ask:
        """The same, of this process's share."""
        if self._share == 1.0:
            return ask
        return tuple(
            (Meter(meter.name, shrunk(meter.algorithm, self._share)), key, cost) for meter, key, cost in ask
        )

    def __repr__(self) -> str:
        rates = "; ".join(str(rate) for rate, _ in self.rates)
        return f"<RateLimiter {self.name!r} {rates} by {self.algorithm}>"
