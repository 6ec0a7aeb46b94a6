"""A family of breakers, one per key: the same options, bounded, told apart by key only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aresilience import (
    BreakerChanged,
    BreakerState,
    CircuitBreaker,
    CircuitBreakers,
    CircuitOpen,
    Pipeline,
    Retry,
)
from aresilience.testing import Recorder

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def make(**options: Any) -> CircuitBreakers:
    """A family of breakers that open on one failure for 10 s."""
    return CircuitBreakers("hosts", **{"failure_threshold": 1, "recovery_timeout": 10} | options)


async def fetch(host: str, *, up: bool = True) -> str:
    """The call that is guarded."""
    if not up:
        raise ConnectionError(host)
    return host


async def open_it(breakers: CircuitBreakers, key: object) -> None:
    """Open the breaker of a key."""
    with pytest.raises(ConnectionError):
        await breakers[key].call(fetch, str(key), up=False)
    assert breakers[key].state is OPEN


async def test_each_key_has_its_own_circuit() -> None:
    """What opens one key's circuit leaves the others closed; a key's breaker is always the same."""
    breakers = make()
    await open_it(breakers, "a")
    with pytest.raises(CircuitOpen):
        await breakers["a"].call(fetch, "a")
    assert await breakers["b"].call(fetch, "b") == "b"
    assert breakers["a"] is breakers["a"]
    assert isinstance(breakers["a"], CircuitBreaker)
    assert ("a" in breakers, "c" in breakers, len(breakers)) == (True, False, 2)


async def test_the_family_is_a_policy() -> None:
    """`key=` picks the breaker from the arguments of each call; the signature stays."""
    breakers = make(key=lambda host, **_: host, success_threshold=1)
    guarded = breakers(fetch)
    assert guarded.__name__ == "fetch"
    with pytest.raises(ConnectionError):
        await guarded("a", up=False)
    with pytest.raises(CircuitOpen):
        await guarded("a")
    assert await guarded("b") == await breakers.call(fetch, "b") == "b"
    assert list(breakers) == ["a", "b"]
    await asyncio.sleep(10)
    assert await guarded("a") == "a"
    assert breakers["a"].state is CLOSED


async def test_the_family_judges_results() -> None:
    """`failure_if` sees what the wrapped function returns, in closed and half-open."""
    breakers = make(key=lambda host: host, failure_if=lambda result: result == "bad", failure_threshold=2)
    guarded = breakers(fetch)
    assert [await guarded(host) for host in ("bad", "bad")] == ["bad", "bad"]
    assert breakers["bad"].state is OPEN
    await asyncio.sleep(10)
    assert await guarded("bad") == "bad"
    assert breakers["bad"].state is OPEN


async def test_without_key_there_is_nothing_to_choose_by() -> None:
    """A family without `key=` cannot wrap a function, and says what to write."""
    with pytest.raises(TypeError, match=r"CircuitBreakers: to wrap a function it needs key="):
        make()(fetch)


async def test_the_family_goes_into_a_pipeline() -> None:
    """As a policy it takes its place inside a retry, which sees each attempt's own error."""
    breakers = make(key=lambda host, **_: host)
    pipeline = Pipeline(Retry(on=ConnectionError, attempts=5), breakers)
    with pytest.raises(CircuitOpen):
        await pipeline.call(fetch, "a", up=False)
    assert breakers["a"].snapshot().rounds == 1


async def test_events_carry_the_familys_name() -> None:
    """The key, which a user may have sent, is in no event and in no message; one listener hears all keys."""
    first, later = Recorder(), Recorder()
    breakers = make(listeners=[first])
    await open_it(breakers, "key-of-a-user")
    breakers.listen(later)
    await open_it(breakers, "other")
    with pytest.raises(CircuitOpen) as refusal:
        await breakers["key-of-a-user"].call(asyncio.sleep, 0)
    assert [e.policy for e in first.of(BreakerChanged)] == ["hosts", "hosts"]
    assert len(later.of(BreakerChanged)) == 1
    assert str(refusal.value).startswith("circuit 'hosts' is open for another 10 s")
    assert "key-of-a-user" not in repr(breakers) + repr(breakers["key-of-a-user"])


async def test_the_longest_unused_goes_first() -> None:
    """Beyond `max_keys` the key that was unused longest is dropped; using one makes it young."""
    breakers = make(max_keys=3)
    for key in "abc":
        breakers[key]
    breakers["a"]
    breakers["d"]
    assert list(breakers) == ["c", "a", "d"]
    breakers["e"]
    assert list(breakers) == ["a", "d", "e"]


@pytest.mark.parametrize("state", ["open", "isolated", "disabled", "half-open"])
async def test_closed_ones_go_before_others(state: str) -> None:
    """What a breaker knows is kept as long as there is a closed one, which knows little, to drop."""
    breakers = make(max_keys=3)
    if state == "isolated":
        await breakers["a"].isolate()
    elif state == "disabled":
        breakers["a"].disable()
    else:
        await open_it(breakers, "a")
        await asyncio.sleep(10 * (state == "half-open"))
    for key in "bcde":
        breakers[key]
    assert list(breakers) == ["a", "d", "e"]
    assert breakers["a"].state.value == state


@pytest.mark.parametrize("max_keys", [1, 3, 20])
async def test_a_new_key_always_gets_its_place(max_keys: int) -> None:
    """Where all are open, the oldest goes; the new key's breaker stays and can open."""
    breakers = make(max_keys=max_keys)
    for key in range(max_keys):
        await open_it(breakers, key)
    await open_it(breakers, "new")
    assert list(breakers) == [*range(1, max_keys), "new"]


async def test_iterating_makes_no_breaker() -> None:
    """Iterating gives the keys that there are, oldest first, also while they change."""
    breakers = make(max_keys=5)
    for key in "abc":
        breakers[key]
    assert [key for key in breakers if breakers[key]] == ["a", "b", "c"]
    assert len(breakers) == 3
    assert repr(breakers) == "<CircuitBreakers 'hosts' 3 of at most 5 keys>"


async def test_a_call_on_its_way_survives_the_dropping_of_its_breaker() -> None:
    """A call through a breaker that was dropped meanwhile ends as it would have."""
    breakers = make(max_keys=1, key=lambda host: host)
    gate = asyncio.Event()

    async def wait(host: str) -> str:
        await gate.wait()
        return host

    call = asyncio.ensure_future(breakers.call(wait, "a"))
    await asyncio.sleep(0)
    breakers["b"]
    gate.set()
    assert await call == "a"
    assert list(breakers) == ["b"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_keys": 0}, ValueError, "CircuitBreakers: max_keys must be a whole number of at least 1"),
        ({"key": "host"}, TypeError, "CircuitBreakers: key must be a function, got 'host'"),
        ({"key": fetch}, TypeError, "CircuitBreakers: key must be a plain function"),
        ({"failure_threshold": 0}, ValueError, "CircuitBreaker: failure_threshold must be a whole number"),
        ({"threshold": 5}, TypeError, "unexpected keyword argument 'threshold'"),
    ],
)
def test_wrong_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Wrong options raise when the family is made, not when a key is first used."""
    with pytest.raises(error, match=message):
        make(**options)


async def test_a_key_must_be_hashable() -> None:
    """An unhashable key is an error of the caller, and nothing is kept of it."""
    breakers = make(key=lambda host: [host])
    with pytest.raises(TypeError, match="unhashable"):
        await breakers.call(fetch, "a")
    assert len(breakers) == 0
