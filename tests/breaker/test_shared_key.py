"""What a shared circuit leaves on Redis: for how long, and that nothing in it ever comes twice."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from servers import eventually

import aresilience as ar
from aresilience.breaker.machine import BreakerState
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    BreakerState.CLOSED,
    BreakerState.OPEN,
    BreakerState.HALF_OPEN,
    BreakerState.ISOLATED,
)
HOUR, DAY = 3_600_000, 86_400_000


async def fails() -> None:
    """What is down."""
    raise ConnectionError("down")


async def works() -> str:
    """What is up."""
    return "up"


async def opens(breaker: ar.CircuitBreaker) -> None:
    """Let it see the one failure that opens it."""
    with pytest.raises(ConnectionError):
        await breaker.call(fails)


@pytest.fixture
async def one(redis_server: RedisServer) -> AsyncIterator[Any]:
    """A backend."""
    async with ar.connect(redis_server.url, deadline=1.0) as backend:
        yield backend


@pytest.fixture
async def two(redis_server: RedisServer) -> AsyncIterator[Any]:
    """The backend of another process."""
    async with ar.connect(redis_server.url, deadline=1.0) as backend:
        yield backend


def breaker_on(backend: Any, **options: Any) -> ar.CircuitBreaker:
    """The breaker, as each process makes it."""
    options = {"failure_threshold": 1, "recovery_timeout": 0.02, "success_threshold": 1, **options}
    return ar.CircuitBreaker("b", backend=backend, **options)


def deaf(backend: Any) -> None:
    """No news for the breakers that are there: they look when the test says so."""
    backend.shared("breaker", "news", lambda: None)._stores.clear()


async def looked(breaker: ar.CircuitBreaker) -> None:
    """Let it read what is there now."""
    await breaker._store._read()  # type: ignore[attr-defined]


async def admitted(breaker: ar.CircuitBreaker) -> Any:
    """A permit, once its open time has passed by every clock: ours and the server's are two."""
    return await ar.Retry(on=ar.CircuitOpen, attempts=50).call(breaker.admit)


async def closes(breaker: ar.CircuitBreaker) -> None:
    """Let its open time pass, and the one probe succeed that closes it."""
    await breaker.record(await admitted(breaker))
    assert breaker.state is CLOSED


def kept(server: RedisServer) -> tuple[int, dict[str, Any]]:
    """The milliseconds that the one key has left, and what it holds."""
    (key,) = server.command("KEYS", "*")
    version, _, text = server.command("GET", key).partition("|")
    return int(server.command("PTTL", key)), {"version": int(version), **json.loads(text)}


async def test_a_closed_circuit_leaves_its_key_for_an_hour(one: Any, redis_server: RedisServer) -> None:
    """Seven days while it is open; an hour from when it closed."""
    breaker = breaker_on(one)
    await opens(breaker)
    assert kept(redis_server)[0] > 6 * DAY
    await closes(breaker)
    assert HOUR / 2 < kept(redis_server)[0] <= HOUR


async def test_a_closed_circuit_is_kept_for_as_long_as_its_rounds_count(
    one: Any, redis_server: RedisServer
) -> None:
    """A circuit that was open for two hours opens longer if it fails within two: so long its key stays."""
    breaker = breaker_on(one, recovery_timeout=7200.0)
    deaf(one)
    await opens(breaker)
    _, circuit = kept(redis_server)
    circuit["changed_at"] -= 7_200_000_000
    text = f"{circuit.pop('version') + 1}|{json.dumps(circuit)}"
    redis_server.command("SET", *redis_server.command("KEYS", "*"), text)
    await looked(breaker)
    await closes(breaker)
    assert kept(redis_server)[0] > 1.9 * HOUR


async def test_a_breaker_that_never_opened_has_no_key(one: Any, redis_server: RedisServer) -> None:
    """Made, used, looked at: nothing is written."""
    breaker = breaker_on(one)
    assert await breaker.call(works) == "up"
    await looked(breaker)
    assert redis_server.command("KEYS", "*") == []


async def test_the_end_of_a_closed_key_changes_nothing(
    one: Any, two: Any, redis_server: RedisServer
) -> None:
    """Gone after its hour: nobody writes it again, all stay closed, and it opens for all as ever."""
    first, second = breaker_on(one), breaker_on(two)
    told = Recorder()
    await opens(first)
    await closes(first)
    await eventually(lambda: second._store.circuit.generation == first._store.circuit.generation)
    first.listen(told)
    redis_server.command("FLUSHALL")
    await looked(first)
    await looked(second)
    assert redis_server.command("KEYS", "*") == []
    assert not told.of(ar.BreakerChanged)
    await opens(second)
    await eventually(lambda: first.state is not CLOSED)


async def test_generations_and_versions_never_come_again(
    one: Any, two: Any, redis_server: RedisServer
) -> None:
    """Flushed, and opened as often as before by somebody who knows nothing: all its numbers are new ones."""
    first = breaker_on(one)
    seen = []
    for _ in range(3):
        await opens(first)
        seen.append(kept(redis_server)[1])
        await first.reset()
        seen.append(kept(redis_server)[1])
    redis_server.command("FLUSHALL")
    second = breaker_on(two)
    for _ in range(3):
        await opens(second)
        seen.append(kept(redis_server)[1])
        await second.reset()
    for what in ("generation", "version"):
        numbers = [each[what] for each in seen]
        assert numbers == sorted(set(numbers))
        assert all(abs(n / 1e6 - int(redis_server.command("TIME")[0])) < 60 for n in numbers)


async def test_a_probe_of_before_the_loss_is_nobodys(one: Any, two: Any, redis_server: RedisServer) -> None:
    """A probe that began before the key was lost ends in a circuit that others have opened since: no effect."""
    first, second = breaker_on(one), breaker_on(two, probe_timeout=60)
    await opens(first)
    await eventually(lambda: first.state is HALF_OPEN)
    old = await admitted(first)
    await eventually(lambda: second._store.circuit.state is HALF_OPEN)
    redis_server.command("FLUSHALL")
    await second.reset()
    await opens(second)
    await eventually(lambda: second.state is HALF_OPEN)
    new = await admitted(second)
    assert old is not None
    assert new is not None
    assert old.probe is not None
    assert new.probe is not None
    assert (new.probe.id, new.probe.generation) != (old.probe.id, old.probe.generation)
    await first.record(old)
    await looked(second)
    assert (second.state, second.snapshot().probes) == (HALF_OPEN, 1)
    await second.record(new)
    assert second.state is CLOSED


async def test_two_alone_do_not_share_a_probe(redis_server: RedisServer) -> None:
    """Two processes admit a probe each while Redis is away: the end of one is never taken for the other's."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with ar.connect(url, deadline=0.1) as left, ar.connect(url, deadline=0.1) as right:
            both = [breaker_on(each, probe_timeout=60) for each in (left, right)]
            await opens(both[0])
            await eventually(lambda: both[1].state is HALF_OPEN)
            proxy.refuse()
            proxy.cut()
            permits = [await admitted(breaker) for breaker in both]
            ids = {permit.probe.id for permit in permits if permit is not None and permit.probe is not None}
            assert len(ids) == 2


async def test_who_finds_no_key_soon_puts_his_state_back(one: Any, redis_server: RedisServer) -> None:
    """Open, and the key is gone although it was there a moment ago: it was lost, and is put back."""
    breaker = breaker_on(one, recovery_timeout=30.0)
    deaf(one)
    await opens(breaker)
    redis_server.command("FLUSHALL")
    await looked(breaker)
    assert breaker.state is OPEN
    assert kept(redis_server)[1]["state"] == "open"


@pytest.mark.parametrize(("away", "state"), [(3500.0, OPEN), (3700.0, CLOSED)])
async def test_who_was_away_for_an_hour_takes_no_key_as_closed(
    one: Any, redis_server: RedisServer, away: float, state: BreakerState
) -> None:
    """Cut off while it was open: after an hour others may have closed it, and its key may be gone for that."""
    breaker = breaker_on(one, recovery_timeout=30_000.0)
    deaf(one)
    told = Recorder()
    await opens(breaker)
    breaker.listen(told)
    redis_server.command("FLUSHALL")
    store: Any = breaker._store
    store._met -= away
    await looked(breaker)
    assert breaker.state is state
    assert [e.new for e in told.of(ar.BreakerChanged)] == ([] if state is OPEN else [CLOSED])
    assert len(redis_server.command("KEYS", "*")) == (state is OPEN)


async def test_what_was_isolated_by_hand_stays_so(one: Any, redis_server: RedisServer) -> None:
    """Isolated, and Redis came back empty after a day: put back; after `reset` the key stays for seven days."""
    breaker = breaker_on(one)
    deaf(one)
    await breaker.isolate()
    redis_server.command("FLUSHALL")
    store: Any = breaker._store
    store._met -= 86_400.0
    await looked(breaker)
    assert breaker.state is ISOLATED
    assert kept(redis_server)[1]["state"] == "isolated"
    await breaker.reset()
    assert kept(redis_server)[0] > 6 * DAY


async def test_what_was_decided_alone_last_holds(redis_server: RedisServer, two: Any) -> None:
    """Cut off, one opens many times; then another is isolated by hand: the last holds, not who changed most."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as cut:
            alone, other = breaker_on(cut), breaker_on(two)
            await looked(alone)
            proxy.refuse()
            proxy.cut()
            for _ in range(4):
                await opens(alone)
                await closes(alone)
            await other.isolate()
            await proxy.heal()
            await eventually(lambda: alone.state is ISOLATED)
            assert other.state is ISOLATED


@pytest.mark.parametrize(
    "garbage",
    [
        "garbage",
        "5|",
        "5|[]",
        "5|{}",
        '5|{"state":"open","generation":"x","changed_at":0,"open_for":0,"rounds":0,"probes":[],"last_probe":0,"successes":0}',
        '5|{"state":"open","generation":7,"changed_at":0,"open_for":0,"rounds":0,"probes":[],"last_probe":0,"successes":0}',
        '5|{"state":"open","generation":7,"changed_at":Infinity,"open_for":null,"rounds":0,"probes":{},"last_probe":0,"successes":0}',
    ],
)
async def test_s26_garbage_in_the_key_leaves_each_to_itself(
    one: Any, redis_server: RedisServer, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S26: whatever somebody wrote there, the circuit goes on alone and tells; once it is gone, for all."""
    breaker = breaker_on(one)
    seen = Recorder()
    breaker.listen(seen)
    await looked(breaker)
    redis_server.command("SET", breaker._store.key.decode(), garbage)  # type: ignore[attr-defined]
    news: Any = one.shared("breaker", "news", lambda: None)
    await news._compare()
    await opens(breaker)
    assert breaker.state is not CLOSED
    assert {type(e.error) for e in seen.of(ar.StoreDegraded)} == {ar.CorruptState}
    redis_server.command("FLUSHALL")
    await looked(breaker)
    assert kept(redis_server)[1]["state"] == "open"
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_shared_breaker_can_be_forgotten(one: Any, redis_server: RedisServer) -> None:
    """Nothing holds a breaker that its program has dropped: neither its store, nor the news, nor a cycle."""
    breaker = breaker_on(one)
    await opens(breaker)
    await looked(breaker)
    gone, store = weakref.ref(breaker), breaker._store
    gc.disable()
    try:
        del breaker
        assert gone() is None
        await store.reset()  # a verb that was on its way
    finally:
        gc.enable()


async def test_an_old_copy_does_not_bring_an_ended_probe_back(
    one: Any, two: Any, redis_server: RedisServer
) -> None:
    """Lost, and put back by somebody who has not heard that a probe has ended: who ended it says so again."""
    first, second = breaker_on(one, success_threshold=2, probe_timeout=60), breaker_on(two)
    await opens(first)
    await eventually(lambda: second.state is HALF_OPEN)
    permit = await admitted(first)
    await eventually(lambda: second.snapshot().probes == 1)
    deaf(two)
    await first.record(permit)
    assert kept(redis_server)[1]["probes"] == {}
    redis_server.command("FLUSHALL")
    await looked(second)
    await eventually(lambda: kept(redis_server)[1]["probes"] == {})
    assert kept(redis_server)[1]["successes"] == 1
    await eventually(lambda: first.snapshot().probes == 0)
    assert first.state is HALF_OPEN


async def test_only_so_many_ended_probes_are_remembered(
    one: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A circuit whose probes are all cancelled stays half-open; what it remembers of them is bounded."""
    breaker = breaker_on(one)
    await opens(breaker)
    await eventually(lambda: breaker.state is HALF_OPEN)
    store: Any = breaker._store
    monkeypatch.setattr("aresilience.breaker.redis._REMEMBERED", 3)
    for _ in range(10):
        await breaker.record(await admitted(breaker), asyncio.CancelledError())
        await eventually(lambda: breaker.snapshot().probes == 0)
    assert len(store._ended) <= 4
    assert breaker.state is HALF_OPEN
