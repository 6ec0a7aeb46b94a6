"""Policies by name."""

from __future__ import annotations

import pytest

import aresilience as ar
from aresilience.testing import Recorder


async def fails() -> None:
    """What is down."""
    raise ConnectionError


def test_policies_are_found_by_name() -> None:
    """A policy is kept under its own name, or another; a name is given once."""
    policies = ar.Policies(ar.Bulkhead(1, name="exports"))
    retry = policies.add(ar.Retry(on=OSError), name="storage")
    assert policies["storage"] is retry
    assert list(policies) == ["exports", "storage"]
    assert len(policies) == 2
    assert "nothing" not in policies
    with pytest.raises(ValueError, match="a policy named 'exports' already"):
        policies.add(ar.Bulkhead(2, name="exports"))
    with pytest.raises(TypeError, match=r"got 5 \(int\)"):
        policies.add(5)  # type: ignore[type-var]


async def test_a_listener_hears_all_of_them_until_it_is_ended() -> None:
    """Also those that are added after it."""
    policies, seen = ar.Policies(), Recorder()
    end = policies.listen(seen)
    breaker = policies.add(ar.CircuitBreaker("x", failure_threshold=1))
    with pytest.raises(ConnectionError):
        await breaker.call(fails)
    assert [event.new for event in seen.of(ar.BreakerChanged)] == [ar.BreakerState.OPEN]
    end()
    await breaker.reset()
    assert len(seen.events) == 1
