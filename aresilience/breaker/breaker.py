"""The shell of the circuit breaker: asks, calls, reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.backoff import Backoff
from aresilience.breaker.facts import BreakerChanged, CircuitOpen, Permit, Snapshot, without_traceback
from aresilience.breaker.guard import Guard
from aresilience.breaker.judge import NO_RESULT, Judge
from aresilience.breaker.machine import BreakerState, Refusal, Rules
from aresilience.breaker.store import BreakerStore
from aresilience.breaker.stores import store_on
from aresilience.breaker.window import StreakCounts, Window
from aresilience.clock import LoopClock
from aresilience.events import CallRejected, Listener, StoreDegraded
from aresilience.outcome import ErrorSpec, Outcome
from aresilience.policy import Layer, Policy

__all__ = ["CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")


class CircuitBreaker(Policy):
    """Refuses calls to what does not answer.

    Opens on
    - `failure_threshold` failures in a row (5 unless a rate is asked for); or
    - a share of `failure_rate` failures (0.5), or of `slow_call_rate` calls (1.0) that take longer than
      `slow_call_duration` seconds, over `window` (the last 100 calls), once there are `minimum_calls` (20).

    Stays open for `recovery_timeout` seconds (30), or for the delays of a `Backoff`, which grow with each
    failed recovery. Then lets probes pass: `half_open_max_calls` at once (1), `half_open_total` in one
    round (no limit); `success_threshold` successes (2) close it, one failure or slow call reopens it. A
    probe without an answer in `probe_timeout` seconds (as long as it was open, at least 30) has failed.

    With a `backend` all processes share one circuit under this name: each counts its own calls, and what
    opens it for one opens it for all; probes are counted together.

    `failure_on` (Exception) and `ignore` take types and predicates, `failure_if` is a predicate on results.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_counts",
        "_generation",
        "_judge",
        "_last_failure",
        "_mode",
        "_rules",
        "_state",
        "_store",
    )

    layer = Layer.BREAKER
    refusal = CircuitOpen

    def __init__(
        self,
        name: str | None = None,
        *,
        failure_threshold: int | None = None,
        failure_rate: float | None = None,
        window: Window | None = None,
        minimum_calls: int | None = None,
        slow_call_duration: float | timedelta | None = None,
        slow_call_rate: float | None = None,
        recovery_timeout: float | timedelta | Backoff = 30.0,
        half_open_max_calls: int = 1,
        half_open_total: int | None = None,
        success_threshold: int = 2,
        probe_timeout: float | timedelta | None = None,
        failure_on: ErrorSpec = Exception,
        ignore: ErrorSpec = (),
        failure_if: Callable[[Any], object] | None = None,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        if backend is not None and name is None:
            raise ValueError("CircuitBreaker: name is needed with a backend: it is what processes share by")
        self._judge = Judge(
            failure_threshold=failure_threshold,
            failure_rate=failure_rate,
            window=window,
            minimum_calls=minimum_calls,
            slow_call_duration=slow_call_duration,
            slow_call_rate=slow_call_rate,
            failure_on=failure_on,
            ignore=ignore,
            failure_if=failure_if,
        )
        kind = "CircuitBreaker"
        if not isinstance(recovery_timeout, Backoff):
            seconds = arguments.duration(f"{kind}: recovery_timeout", recovery_timeout)
            recovery_timeout = Backoff.constant(seconds)
        successes = arguments.count(f"{kind}: success_threshold", success_threshold)
        if half_open_total is not None:
            arguments.count(f"{kind}: half_open_total", half_open_total)
            if half_open_total < successes:
                raise ValueError(
                    f"{kind}: half_open_total must be at least success_threshold ({successes}), or "
                    f"the circuit could never close; got {half_open_total!r}"
                )
        self._rules = Rules(
            recovery_timeout,
            arguments.count(f"{kind}: half_open_max_calls", half_open_max_calls),
            half_open_total,
            successes,
            None if probe_timeout is None else arguments.duration(f"{kind}: probe_timeout", probe_timeout),
        )
        self._clock = LoopClock()
        self._start(backend)

    def _start(self, backend: Backend | None, key: str | None = None) -> None:
        self._store: BreakerStore = store_on(
            backend, self.name, key, self._rules, self._clock, changed=self._follow, degraded=self._degraded
        )
        self._counts = self._judge.new_counts()
        self._mode: BreakerState | None = None
        self._state = BreakerState.CLOSED
        self._generation = 0
        self._closed = True
        self._last_failure: Exception | None = None

    def sibling(self, backend: Backend | None, key: str | None) -> CircuitBreaker:
        """The breaker of a key, with the same name, options and listeners: nothing is checked again."""
        twin = object.__new__(CircuitBreaker)
        twin.name, twin._listeners = self.name, self._listeners
        twin._judge, twin._rules, twin._clock = self._judge, self._rules, self._clock
        twin._start(backend, key)
        return twin

    # Calls

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        counts = self._counts
        if self._judge.plain and isinstance(counts, StreakCounts):
            return self._around_a_streak(fn, counts)
        clock, slow_after, failure_if = self._clock, self._judge.slow_after, self._judge.failure_if

        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if not self._closed:
                return await self._call_with_permit(fn, args, kwargs)
            if not clock.is_running():
                clock.read()
            now = clock.now
            generation, began = self._generation, now()
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                if self._count_error(error, generation, began):
                    await self._trip(generation, error)
                raise
            ended = now()
            failed = failure_if is not None and bool(failure_if(result))
            if failed or ended - began > slow_after:
                slow = ended - began > slow_after
                if self._count(generation, began, ended, failed=failed, slow=slow):
                    await self._trip(generation, None)
            elif generation == self._generation and self._closed:
                if counts.since <= began and ended < counts.until:
                    counts.passed += 1
                elif counts.good(began, ended):
                    await self._trip(generation, None)
            return result

        return guarded

    def _around_a_streak(
        self, fn: Callable[P, Awaitable[T]], counts: StreakCounts
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """`around` where only errors in a row count: neither clock nor result needs a look."""

        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if not self._closed:
                return await self._call_with_permit(fn, args, kwargs)
            generation = self._generation
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                if self._count_error(error, generation, 0.0):
                    await self._trip(generation, error)
                raise
            if counts.failures and generation == self._generation and self._closed:
                counts.clear()
            return result

        return guarded

    def guard(self) -> Guard:
        """`async with breaker.guard(): …`: the body is the call. A new guard for each call."""
        return Guard(self)

    async def admit(self) -> Permit | None:
        """Ask to make a call; each permit goes to `record` once. Raises `CircuitOpen`.

        None is a permit too: the call may be made and will not be counted.
        """
        if not self._closed:
            if self._mode is BreakerState.DISABLED:
                return None
            answer = await self._store.admit()
            self._follow()
            if isinstance(answer, Refusal):
                self._refuse(answer)
                return None
            if answer is not None:
                return Permit(answer.generation, self._clock.read(), answer)
        return Permit(self._generation, self._clock.read())

    async def record(
        self, permit: Permit | None, error: BaseException | None = None, result: object = NO_RESULT
    ) -> None:
        """Report how an admitted call ended: with an error, or well, with a result to judge or without."""
        if permit is None:
            return
        generation, probe = permit.generation, permit.probe
        permit.generation, permit.probe = -1, None  # used up
        if probe is None:
            if error is not None:
                trip = self._count_error(error, generation, permit.began)
            else:
                now = self._clock.read()
                failed = self._judge.of_result(result) is Outcome.FAILURE
                slow = now - permit.began > self._judge.slow_after
                trip = self._count(generation, permit.began, now, failed=failed, slow=slow)
            if trip:
                await self._trip(generation, error)
            return
        success: bool | None = None
        try:
            outcome = self._judge.of_result(result) if error is None else self._judge.of_error(error)
            if outcome is not Outcome.IGNORED and self._mode is not BreakerState.DISABLED:
                on_time = self._clock.read() - permit.began <= self._judge.slow_after
                success = outcome is Outcome.SUCCESS and on_time
                if not success and isinstance(error, Exception) and generation == self._generation:
                    self._last_failure = without_traceback(error)
        finally:  # a predicate that raises must not keep the place
            await self._store.record(probe, success)
            self._follow()

    async def _call_with_permit(self, fn: Callable[..., Awaitable[T]], args: Any, kwargs: Any) -> T:
        async with Guard(self) as call:
            call.result = result = await fn(*args, **kwargs)
        return result

    def _count_error(self, error: BaseException, generation: int, began: float) -> bool:
        """Count a call that raised; True if the circuit should open."""
        outcome = self._judge.of_error(error)
        if outcome is Outcome.IGNORED:
            return False
        now = 0.0 if self._judge.plain else self._clock.read()
        slow = now - began > self._judge.slow_after
        return self._count(generation, began, now, failed=outcome is Outcome.FAILURE, slow=slow)

    def _count(self, generation: int, began: float, now: float, *, failed: bool, slow: bool) -> bool:
        """Count a call, unless it began in another generation; True if the circuit should open."""
        if generation != self._generation or self._mode is BreakerState.DISABLED:
            return False
        return self._counts.add(began, now, failed=failed, slow=slow)

    async def _trip(self, generation: int, error: BaseException | None) -> None:
        cause = without_traceback(error) if isinstance(error, Exception) else None
        if await self._store.trip(generation):
            self._last_failure = cause
        self._follow()

    def _follow(self) -> None:
        """Take over the store's state, and tell if it is a new one."""
        circuit = self._store.circuit
        old, new = self._state, circuit.state
        self._closed = new is BreakerState.CLOSED and self._mode is not BreakerState.DISABLED
        if circuit.generation == self._generation and new is old:
            return  # the same number can be another state: what a process decided while it was alone
        self._generation = circuit.generation
        self._state = new
        self._counts.clear()
        if new is BreakerState.CLOSED:
            self._last_failure = None
        if self._listeners and new is not old:
            open_for = circuit.open_for if new is BreakerState.OPEN else None
            self._listeners.tell(BreakerChanged(self.name, self._clock.last(), old, new, open_for))

    def _degraded(self, error: Exception) -> None:
        """The shared store failed: what this process knows goes on."""
        if self._listeners:
            self._listeners.tell(StoreDegraded(self.name, self._clock.read(), error, "local"))

    def _refuse(self, refusal: Refusal) -> None:
        """Raise `CircuitOpen`; in shadow mode only tell."""
        shadow = self._mode is BreakerState.SHADOW
        if self._listeners:
            self._listeners.tell(CallRejected(self.name, self._clock.read(), refusal.retry_after, shadow))
        if shadow:
            return
        if refusal.retry_after is None:
            wait = "until it is reset"
        elif self._state is BreakerState.OPEN:
            wait = f"for another {refusal.retry_after:.6g} s"
        else:
            wait = f"and probed: ask again when a probe has ended, in {refusal.retry_after:.6g} s at most"
        last = self._last_failure
        cause = "" if last is None else f"; last failure: {type(last).__name__}: {last}"
        raise CircuitOpen(
            f"circuit {self.name!r} is {self._state.value} {wait}{cause}",
            retry_after=refusal.retry_after,
            last_failure=last,
        ) from last

    # By hand

    async def isolate(self) -> None:
        """Refuse every call until `reset`."""
        self._switch(None)
        await self._store.isolate()
        self._follow()

    async def reset(self) -> None:
        """Back to CLOSED, from any state or mode, with nothing counted."""
        self._switch(None)
        await self._store.reset()
        self._follow()

    def disable(self) -> None:
        """Let every call pass uncounted, until `reset`."""
        self._switch(BreakerState.DISABLED)

    def shadow(self) -> None:
        """Count and change state as ever, but refuse nothing, until `reset`."""
        self._switch(BreakerState.SHADOW)

    def _switch(self, mode: BreakerState | None) -> None:
        """Into a mode that hides the circuit's state, or out of it."""
        old, self._mode = self._mode, mode
        self._follow()
        if self._listeners and mode is not old:
            was, now = old or self._state, mode or self._state
            self._listeners.tell(BreakerChanged(self.name, self._clock.last(), was, now, None))

    # What can be seen

    @property
    def state(self) -> BreakerState:
        """What a call would find now. An open circuit whose time is over shows as HALF_OPEN."""
        return self._mode or self._circuit_state()

    def snapshot(self) -> Snapshot:
        """Everything that can be seen from outside, at one moment."""
        circuit, now = self._store.circuit, self._now_or_none()
        left: float | None = None
        if circuit.state is BreakerState.OPEN and now is not None:
            left = max(0.0, circuit.open_left(now))
        calls, failures, slow = self._counts.seen(now)
        return Snapshot(
            self.name,
            self.state,
            self._circuit_state(),
            calls,
            failures,
            slow,
            circuit.probes,
            left,
            circuit.rounds,
            self._last_failure,
        )

    def _circuit_state(self) -> BreakerState:
        now = self._now_or_none()
        circuit = self._store.circuit
        return circuit.state if now is None else circuit.state_at(now)

    def _now_or_none(self) -> float | None:
        try:
            return self._clock.read()
        except RuntimeError:  # looked at from outside a loop
            return None

    def __repr__(self) -> str:
        s = self.snapshot()
        facts = [s.state.value]
        if s.circuit is not s.state:
            facts.append(f"circuit {s.circuit.value}")
        if s.retry_after:
            facts.append(f"{s.retry_after:.6g} s left")
        if s.calls:
            facts.append(f"{s.failures} failed and {s.slow} slow of {s.calls} calls")
        elif s.failures:
            facts.append(f"{s.failures} failures in a row")
        return f"<CircuitBreaker {self.name!r} {', '.join(facts)}>"
