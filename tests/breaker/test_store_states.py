"""Fault case 13: every state of the server × what a shared breaker asks of it, on real Redis. The rows of the
table in the docstring of `aresilience.breaker`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from servers import eventually
from states import BY_NAME, STATES, State, app_url, begun

import aresilience as ar
import aresilience.breaker
from aresilience.breaker.facts import Permit
from aresilience.testing import Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

T = TypeVar("T")
CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    ar.BreakerState.CLOSED,
    ar.BreakerState.OPEN,
    ar.BreakerState.HALF_OPEN,
    ar.BreakerState.ISOLATED,
)
DEADLINE = 0.15
SLACK = 2.0

state_of_the_server = pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)


async def fails() -> None:
    """What is down."""
    raise ConnectionError("down")


async def works() -> str:
    """What is up."""
    return "up"


async def in_time(asked: Awaitable[T], deadline: float = DEADLINE) -> T:
    """What is asked of a breaker never takes longer than its backend's deadline."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        return await asked
    finally:
        assert loop.time() - started < deadline + SLACK


async def opens(breaker: ar.CircuitBreaker) -> None:
    """Let it see the one failure that opens it: the caller has his own error, in time."""
    with pytest.raises(ConnectionError):
        await in_time(breaker.call(fails))


@dataclass
class Two:
    """One breaker in two processes, and what the first of them tells."""

    backends: tuple[Any, Any]
    one: ar.CircuitBreaker
    two: ar.CircuitBreaker
    seen: Recorder

    async def agree(self, *states: ar.BreakerState) -> None:
        """Both look, as they do every few seconds, until both are in one of these states, and in the same."""

        def they_do() -> bool:
            for backend in self.backends:
                backend.shared("breaker", "news", lambda: None)._look_at_all()
            return self.one.state is self.two.state and self.one.state in states

        await eventually(they_do)

    def commands(self) -> int:
        """How many were sent."""
        return sum(backend._routes.link().commands for backend in self.backends)

    def check(self, state: State) -> None:
        """Whether what was told is what the table says."""
        told = self.seen.of(ar.StoreDegraded)
        assert bool(told) == bool(state.errors)
        assert {type(e.error) for e in told} <= set(state.errors)
        assert {e.answer for e in told} <= {"local"}
        assert all(state.code in str(e.error) for e in told)


@asynccontextmanager
async def shared(server: RedisServer, state: State, **options: Any) -> AsyncIterator[Two]:
    """A breaker in two processes, closed for both, that opens on the first failure."""
    url = app_url(server) if state.as_app else server.url
    async with ar.connect(url, deadline=DEADLINE) as left, ar.connect(url, deadline=DEADLINE) as right:
        options = {"failure_threshold": 1, "recovery_timeout": 30.0, "probe_timeout": 60.0, **options}
        one, two = (ar.CircuitBreaker("b", backend=backend, **options) for backend in (left, right))
        for backend in (left, right):
            await eventually(backend._wakeups.connected.is_set)
        await one.reset()
        both = Two((left, right), one, two, Recorder())
        await eventually(lambda: one._store.circuit.generation == two._store.circuit.generation)
        one.listen(both.seen)
        yield both


@state_of_the_server
async def test_it_opens_alone_and_then_for_all(troubled_server: RedisServer, state: State) -> None:
    """In the state calls pass as ever, a failure opens it here, in time, and calls are refused; after it the
    other process follows."""
    async with shared(troubled_server, state) as both:
        one = both.one
        async with begun(state, troubled_server, *both.backends):
            before = both.commands()
            assert [await one.call(works) for _ in range(100)] == ["up"] * 100
            assert both.commands() == before  # nothing was asked
            await opens(one)
            assert one.state is OPEN
            before = both.commands()
            for _ in range(100):
                with pytest.raises(ar.CircuitOpen):
                    await one.call(works)
            assert both.commands() - before <= 4  # some looks at the news, of both; none for the calls
            both.check(state)
        await both.agree(OPEN)
        assert [(e.old, e.new) for e in both.seen.of(ar.BreakerChanged)] == [(CLOSED, OPEN)]


@state_of_the_server
async def test_by_hand_alone_and_then_for_all(troubled_server: RedisServer, state: State) -> None:
    """What is isolated, and reset, while the store is down holds here at once, and for all when it is back."""
    async with shared(troubled_server, state) as both:
        async with begun(state, troubled_server, *both.backends):
            await in_time(both.one.isolate())
            assert both.one.state is ISOLATED
        await both.agree(ISOLATED)
        async with begun(state, troubled_server, *both.backends):
            await in_time(both.two.reset())
            assert both.two.state is CLOSED
            assert await both.two.call(works) == "up"
        await both.agree(CLOSED)
        both.check(state)


ENDS = [("ends well", state) for state in STATES] + [
    (how, BY_NAME[name])
    for how in ("is cancelled", "fails")
    for name in ("OOM", "SIGSTOP", "killed", "FLUSHALL", "garbage")
]


@pytest.mark.parametrize(("how", "state"), ENDS, ids=lambda value: getattr(value, "name", value))
async def test_a_probe_that_ends_without_the_store(
    troubled_server: RedisServer, how: str, state: State
) -> None:
    """Admitted before, ended in the state, in time: afterwards its place is free for all, its result counts."""
    async with shared(troubled_server, state, recovery_timeout=0.02, success_threshold=2) as both:
        await opens(both.one)
        await both.agree(HALF_OPEN)
        probe = await both.one.admit()
        await eventually(lambda: both.two.snapshot().probes == 1)
        both.seen.clear()
        async with begun(state, troubled_server, *both.backends):
            if how == "ends well":
                await in_time(both.one.record(probe))
            elif how == "fails":
                await in_time(both.one.record(probe, ConnectionError("down")))
            else:
                await in_time(both.one.record(probe, asyncio.CancelledError()))
                await eventually(lambda: both.one.snapshot().probes == 0)
            assert both.one.snapshot().probes == 0
            both.check(state)
        await both.agree(HALF_OPEN)
        await eventually(lambda: both.two.snapshot().probes == 0)
        await probes_pass(both.two, 1 if how == "ends well" else 2)
        await both.agree(CLOSED)


async def probes_pass(breaker: ar.CircuitBreaker, times: int) -> None:
    """So many probes, one after the other, succeed, and the last of them closes it."""
    for number in range(times):
        assert breaker.state is HALF_OPEN
        assert await eventually(lambda: passes(breaker))
        assert breaker.snapshot().probes == 0
        assert (breaker.state is CLOSED) == (number == times - 1)


async def passes(breaker: ar.CircuitBreaker) -> bool:
    """Whether a call does."""
    try:
        return await breaker.call(works) == "up"
    except ar.CircuitOpen:
        return False


@state_of_the_server
async def test_a_probe_that_begins_without_the_store(troubled_server: RedisServer, state: State) -> None:
    """In the state each process admits as many probes as it may, in time; afterwards no place is taken that
    nobody has, though nobody knows what Redis did of what it was asked."""
    async with shared(troubled_server, state, recovery_timeout=0.02, success_threshold=1) as both:
        await opens(both.one)
        await both.agree(HALF_OPEN)
        await eventually(lambda: both.one._store.circuit.generation == both.two._store.circuit.generation)
        both.seen.clear()
        async with begun(state, troubled_server, *both.backends):
            mine = await in_time(both.one.admit())
            assert isinstance(mine, Permit)
            with pytest.raises(ar.CircuitOpen):
                await in_time(both.one.admit())
            await in_time(both.one.record(mine, asyncio.CancelledError()))
            await eventually(lambda: both.one.snapshot().probes == 0)
            both.check(state)
        await both.agree(HALF_OPEN)
        await eventually(lambda: both.two.snapshot().probes == 0)
        await probes_pass(both.two, 1)
        await both.agree(CLOSED)


@pytest.mark.parametrize("met", [True, False])
async def test_many_at_once_wait_for_one_deadline(troubled_server: RedisServer, met: bool) -> None:
    """Twenty probes begin and end while the server is silent, one behind the other: within one deadline each
    way, also if the server has been silent from the start."""
    state, deadline = BY_NAME["SIGSTOP"], 0.3
    async with ar.connect(app_url(troubled_server), deadline=deadline) as backend:
        options: Any = {"failure_threshold": 1, "recovery_timeout": 0.02, "success_threshold": 20}
        breaker = ar.CircuitBreaker("b", half_open_max_calls=20, backend=backend, **options)
        if met:
            await breaker.reset()
        async with begun(state, troubled_server, backend):
            with pytest.raises(ConnectionError):
                await in_time(breaker.call(fails), deadline)
            await eventually(lambda: breaker.state is HALF_OPEN)
            permits = await in_time(asyncio.gather(*(breaker.admit() for _ in range(20))), deadline)
            assert breaker.snapshot().probes == 20
            await in_time(asyncio.gather(*(breaker.record(permit) for permit in permits)), deadline)
            assert breaker.state is CLOSED


async def test_a_busy_server_does_not_hold_up_the_last_in_line(troubled_server: RedisServer) -> None:
    """Each answer takes half of the deadline: who stands in line decides here when his own deadline comes."""
    async with ar.testing.FaultProxy("127.0.0.1", troubled_server.port) as proxy:  # noqa: SIM117
        async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.3) as backend:
            options: Any = {"failure_threshold": 1, "recovery_timeout": 0.02, "success_threshold": 60}
            breaker = ar.CircuitBreaker("b", half_open_max_calls=60, backend=backend, **options)
            await opens(breaker)
            await eventually(lambda: breaker.state is HALF_OPEN)
            proxy.replies.delay(0.15, times=None)
            permits = await in_time(asyncio.gather(*(breaker.admit() for _ in range(60))), 0.3)
            assert len(permits) == 60
            proxy.replies.heal()


def test_the_table_in_the_docstring_is_what_is_tested() -> None:
    """Each state is in a row of the docstring's table, with the kinds of errors that its tests expect."""
    doc = aresilience.breaker.__doc__ or ""
    rows = [line for line in doc.splitlines() if line.startswith("|")]
    for state in STATES:
        word = "evict" if state.name.startswith(("allkeys", "volatile")) else state.name.split("-in-")[0]
        (row,) = [row for row in rows if re.search(rf"\b{word}", row)]
        kinds = "NotSent|OutcomeUnknown|Refused|ConfigurationError|CorruptState"
        assert {e.__name__ for e in state.errors} == set(re.findall(kinds, row)), state.name
