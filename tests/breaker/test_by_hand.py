"""isolate, reset, disable, shadow: by hand, with calls on their way across the change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aresilience import BreakerChanged, BreakerState, CallRejected, CircuitBreaker, CircuitOpen
from aresilience.testing import Recorder

CLOSED, OPEN, HALF_OPEN, ISOLATED, DISABLED, SHADOW = (
    BreakerState.CLOSED,
    BreakerState.OPEN,
    BreakerState.HALF_OPEN,
    BreakerState.ISOLATED,
    BreakerState.DISABLED,
    BreakerState.SHADOW,
)


def make(**options: Any) -> CircuitBreaker:
    """A breaker that opens on two failures for 10 s, and that one success closes."""
    usual: dict[str, Any] = {"failure_threshold": 2, "recovery_timeout": 10, "success_threshold": 1}
    return CircuitBreaker("b", **usual | options)


async def ok(breaker: CircuitBreaker) -> str:
    """A call that succeeds: `-`, or `x` if it was refused."""
    try:
        await breaker.call(asyncio.sleep, 0)
    except CircuitOpen:
        return "x"
    return "-"


async def fail(breaker: CircuitBreaker, times: int = 1) -> str:
    """Calls that fail: `-` for each, `x` for one that was refused."""

    async def down() -> None:
        raise ConnectionError

    made = ""
    for _ in range(times):
        try:
            await breaker.call(down)
        except CircuitOpen:
            made += "x"
        except ConnectionError:
            made += "-"
    return made


class Late:
    """A call that has begun and ends when told."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(breaker.call(self._wait))

    async def _wait(self) -> None:
        await self._end

    @classmethod
    async def begun(cls, breaker: CircuitBreaker) -> Late:
        """Begin one."""
        late = cls(breaker)
        await asyncio.sleep(0)
        return late

    async def ends(self, how: str) -> None:
        """Let it end: ok, fail or cancel."""
        if how == "cancel":
            self._task.cancel()
        elif how == "fail":
            self._end.set_exception(ConnectionError())
        else:
            self._end.set_result(None)
        await asyncio.wait([self._task])
        assert self._task.cancelled() == (how == "cancel")
        assert self._task.cancelled() or (self._task.exception() is None) == (how == "ok")


async def in_state(state: BreakerState, **options: Any) -> CircuitBreaker:
    """A breaker that came to this state by calls."""
    breaker = make(**options)
    if state is not CLOSED:
        await fail(breaker, 2)
    if state is HALF_OPEN:
        await asyncio.sleep(10)
        (await Late.begun(breaker))._task.cancel()
        await asyncio.sleep(0)
    assert breaker.snapshot().circuit is state
    return breaker


ends = pytest.mark.parametrize("how", ["ok", "fail", "cancel"])
from_states = pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])


@from_states
async def test_isolated_refuses_until_reset(state: BreakerState) -> None:
    """From any state: isolated refuses every call for any time, and reset ends it."""
    breaker = await in_state(state)
    await breaker.isolate()
    assert breaker.state is ISOLATED
    assert await ok(breaker) == "x"
    await asyncio.sleep(1e6)
    assert await fail(breaker, 3) == "xxx"
    assert breaker.state is ISOLATED
    await breaker.reset()
    assert breaker.state is CLOSED
    assert await fail(breaker, 3) == "--x"


@from_states
async def test_reset_is_a_new_beginning(state: BreakerState) -> None:
    """From any state: closed, nothing counted, no rounds, no failure remembered."""
    breaker = await in_state(state)
    if state is CLOSED:
        await fail(breaker)
    await breaker.reset()
    assert breaker.snapshot() == make().snapshot()
    assert await fail(breaker, 3) == "--x"


@from_states
async def test_disabled_passes_everything_uncounted(state: BreakerState) -> None:
    """From any state: disabled refuses nothing and counts nothing, and the circuit below stays."""
    breaker = await in_state(state)
    before = breaker.snapshot()
    breaker.disable()
    assert (breaker.state, breaker.snapshot().circuit) == (DISABLED, before.circuit)
    assert await fail(breaker, 20) == "-" * 20
    assert await ok(breaker) == "-"
    breaker.shadow()
    after = breaker.snapshot()
    assert (after.state, after.circuit, after.failures, after.rounds, after.probes) == (
        (SHADOW, before.circuit, before.failures, before.rounds, 0)
    )
    await breaker.reset()
    assert await fail(breaker, 3) == "--x"


async def test_shadow_counts_and_tells_but_refuses_nothing() -> None:
    """In shadow the circuit opens, probes and closes below, and each refusal is only an event."""
    breaker, recorder = make(probe_timeout=10), Recorder()
    breaker.listen(recorder)
    breaker.shadow()
    assert await fail(breaker, 4) == "----"
    assert (breaker.state, breaker.snapshot().circuit) == (SHADOW, OPEN)
    await asyncio.sleep(10)
    assert breaker.snapshot().circuit is HALF_OPEN
    probe = await Late.begun(breaker)
    assert await ok(breaker) == "-"
    assert breaker.snapshot().probes == 1
    await probe.ends("ok")
    assert (breaker.state, breaker.snapshot().circuit) == (SHADOW, CLOSED)
    assert [(e.old, e.new) for e in recorder.of(BreakerChanged)] == [
        (CLOSED, SHADOW),
        (CLOSED, OPEN),
        (OPEN, HALF_OPEN),
        (HALF_OPEN, CLOSED),
    ]
    assert [(e.at, e.retry_after, e.shadow) for e in recorder.of(CallRejected)] == [
        (0.0, 10.0, True),
        (0.0, 10.0, True),
        (10.0, 10.0, True),
    ]


async def test_the_way_into_a_mode_and_out_of_it_is_told() -> None:
    """What hides the circuit is told as a change of state, once, and so is its end."""
    breaker, recorder = make(), Recorder()
    breaker.listen(recorder)
    breaker.disable()
    breaker.disable()
    await asyncio.sleep(1)
    breaker.shadow()
    await fail(breaker, 2)
    await breaker.reset()
    await breaker.reset()
    breaker.disable()
    await breaker.isolate()
    assert [(e.at, e.old, e.new) for e in recorder.of(BreakerChanged)] == [
        (0.0, CLOSED, DISABLED),
        (1.0, DISABLED, SHADOW),
        (1.0, CLOSED, OPEN),
        (1.0, SHADOW, OPEN),
        (1.0, OPEN, CLOSED),
        (1.0, CLOSED, DISABLED),
        (1.0, DISABLED, CLOSED),
        (1.0, CLOSED, ISOLATED),
    ]


def test_a_mode_can_be_chosen_before_there_is_a_loop() -> None:
    """Nothing waits, so a breaker made at import can be switched there, with listeners."""
    breaker, recorder = make(), Recorder()
    breaker.listen(recorder)
    breaker.shadow()
    assert [e.new for e in recorder.of(BreakerChanged)] == [SHADOW]


async def test_a_failed_probe_in_shadow_reopens() -> None:
    """In shadow a probe decides as ever; what was passed beside it does not."""
    breaker = make()
    breaker.shadow()
    await fail(breaker, 2)
    await asyncio.sleep(10)
    probe = await Late.begun(breaker)
    beside = await Late.begun(breaker)
    await beside.ends("fail")
    assert breaker.snapshot().circuit is HALF_OPEN
    await probe.ends("fail")
    assert (breaker.snapshot().circuit, breaker.snapshot().rounds) == (OPEN, 2)


@ends
@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
@pytest.mark.parametrize("change", ["isolate", "reset", "disable"])
async def test_calls_on_their_way_count_nowhere_after_a_change(
    change: str, state: BreakerState, how: str
) -> None:
    """A call, probe or not, that ends after isolate, reset or disable changes nothing."""
    breaker = await in_state(state)
    late = await Late.begun(breaker)
    done = getattr(breaker, change)()
    if done is not None:
        await done
    before = breaker.snapshot()
    await late.ends(how)
    after = breaker.snapshot()
    assert (after.state, after.circuit, after.failures) == (before.state, before.circuit, before.failures)
    assert after.probes == 0
    await breaker.reset()
    assert await fail(breaker, 3) == "--x"


@ends
async def test_a_probe_across_disable_gives_its_place_back(how: str) -> None:
    """A probe that ends while disabled decides nothing, and the next probe finds its place free."""
    breaker = await in_state(HALF_OPEN)
    probe = await Late.begun(breaker)
    breaker.disable()
    await probe.ends(how)
    assert (breaker.snapshot().circuit, breaker.snapshot().probes) == (HALF_OPEN, 0)


@ends
async def test_calls_of_shadow_days_count_as_ever(how: str) -> None:
    """A counted call that ends after the change to shadow counts: shadow is no new state of the circuit."""
    breaker = make(failure_threshold=1)
    late = await Late.begun(breaker)
    breaker.shadow()
    await late.ends(how)
    assert breaker.snapshot().circuit is (OPEN if how == "fail" else CLOSED)


async def test_one_mode_replaces_the_other() -> None:
    """disable and shadow follow each other; isolate and reset end both."""
    breaker = make()
    breaker.disable()
    breaker.shadow()
    assert breaker.state is SHADOW
    breaker.disable()
    assert breaker.state is DISABLED
    await breaker.isolate()
    assert breaker.state is ISOLATED
    assert await ok(breaker) == "x"
    breaker.shadow()
    assert (breaker.state, breaker.snapshot().circuit) == (SHADOW, ISOLATED)
    assert await ok(breaker) == "-"
    breaker.disable()
    await breaker.reset()
    assert breaker.state is CLOSED


def test_modes_can_be_set_before_there_is_a_loop() -> None:
    """A breaker can be disabled, or put in the shadow, where the configuration is read."""
    breaker = make()
    breaker.disable()
    assert (breaker.state, repr(breaker)) == (DISABLED, "<CircuitBreaker 'b' disabled, circuit closed>")
    breaker.shadow()
    assert (breaker.state, repr(breaker)) == (SHADOW, "<CircuitBreaker 'b' shadow, circuit closed>")
