"""Percentile: the nearest rank, exactly, of the last calls; and a hedge delay that follows them."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.testing import Recorder, run_virtual


@pytest.mark.parametrize(
    ("fraction", "latencies", "expected"),
    [
        (0.5, [1, 2, 3, 4], 2),
        (0.5, [1, 2, 3, 4, 5], 3),
        (0.95, range(1, 21), 19),
        (0.95, range(1, 101), 95),
        (0.951, range(1, 101), 96),
        (1, range(1, 101), 100),
        (0.001, range(1, 101), 1),
        (0.55, range(1, 101), 55),  # the float 0.55 * 100 is more than 55
        (0.07, range(1, 101), 7),  # 0.07 * 100 too
        (0.9, [5] * 99 + [7], 5),
        (0.99, [5] * 99 + [7], 5),
        (0.995, [5] * 99 + [7], 7),
    ],
)
def test_the_nearest_rank(fraction: float, latencies: list[int], expected: int) -> None:
    """The smallest latency that at least this share of the calls did not exceed (nearest rank)."""
    percentile = ar.Percentile(fraction, minimum_calls=1)
    for latency in reversed(latencies):
        percentile.add(latency)
    assert percentile.delay() == expected


@given(
    percent=st.integers(1, 1000),
    size=st.integers(1, 30),
    minimum=st.integers(1, 30),
    latencies=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.30000000000000004, 1.0, 5.0]), max_size=80),
)
@settings(max_examples=60, deadline=None)
def test_it_is_that_of_a_sorted_list(percent: int, size: int, minimum: int, latencies: list[float]) -> None:
    """Against a model that sorts the last `size` latencies each time, for every share in tenths of 1 %."""
    size = max(size, minimum)
    percentile = ar.Percentile(percent / 1000, initial=9.0, minimum_calls=minimum, size=size)
    for known in range(len(latencies) + 1):
        window = sorted(latencies[:known][-size:])
        if len(window) < minimum:
            expected = 9.0
        else:
            reached = [
                latency
                for latency in window
                if Fraction(sum(other <= latency for other in window), len(window))
                >= Fraction(percent, 1000)
            ]
            expected = min(reached)
        assert percentile.delay() == expected
        if known < len(latencies):
            percentile.add(latencies[known])


async def test_without_enough_calls_there_is_no_hedge() -> None:
    """Until `minimum_calls` are known no hedge starts, or one after `initial`."""
    calls = 0

    async def call(takes: float) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(takes)

    for initial, made in ((None, 1), (2.0, 2)):
        calls = 0
        percentile = ar.Percentile(0.5, initial=initial, minimum_calls=2)
        await ar.Hedge(delay=percentile).call(call, 5.0)
        assert calls == made
        assert percentile.delay() == initial


async def test_the_delay_follows_the_calls() -> None:
    """The delay of a hedge is the percentile of the calls before it."""
    percentile = ar.Percentile(0.75, minimum_calls=4, size=4)
    hedge = ar.Hedge(delay=percentile)
    for takes in (1.0, 2.0, 3.0, 4.0):
        await hedge.call(asyncio.sleep, takes)
    assert percentile.delay() == 3.0
    assert repr(hedge) == "<Hedge 'Hedge' after Percentile(0.75: 3.0 s from 4 calls), at most 1>"
    await hedge.call(asyncio.sleep, 0.5)  # 2 3 4 0.5
    assert percentile.delay() == 3.0
    await hedge.call(asyncio.sleep, 0.5)  # 3 4 0.5 0.5
    assert percentile.delay() == 3.0
    await hedge.call(asyncio.sleep, 0.5)  # 4 0.5 0.5 0.5
    assert percentile.delay() == 0.5


async def test_what_a_hedge_overtook_counts_with_the_time_it_took() -> None:
    """A slow first call counts as at least the time until it was overtaken; failed ones do not count."""
    percentile = ar.Percentile(1.0, initial=1.0, minimum_calls=2)
    hedge = ar.Hedge(delay=percentile)
    loop = asyncio.get_running_loop()
    plan = iter([60.0, 0.5, 0.25])
    started = loop.time()
    await hedge.call(lambda: asyncio.sleep(next(plan)))  # overtaken after 1.5 s
    assert loop.time() - started == 1.5
    await hedge.call(lambda: asyncio.sleep(next(plan)))  # 0.25 s
    assert percentile.delay() == 1.5

    async def fail(takes: float) -> None:
        await asyncio.sleep(takes)
        raise ValueError

    with pytest.raises(ValueError):
        await hedge.call(fail, 0.5)
    failing_first = iter([fail(2.0), asyncio.sleep(9.0)])
    await hedge.call(lambda: next(failing_first))
    assert repr(percentile) == "Percentile(1: 1.5 s from 2 calls)"


def test_the_extra_load_is_the_share_that_was_asked_for() -> None:
    """Percentile(0.8) hedges one call in five, also where one in ten is far slower and never ends.

    Where only finished calls count, the slow ones drop out of sight, the delay sinks, and load grows.
    """

    async def main() -> int:
        seen: set[int] = set()

        async def call(n: int) -> None:
            first = n not in seen
            seen.add(n)
            await asyncio.sleep(0.5 if not first else 60.0 if n % 10 == 3 else 1.0 + (n * 7 % 100) / 100)

        recorder = Recorder()
        hedge = ar.Hedge(delay=ar.Percentile(0.8, size=200), listeners=[recorder])
        for n in range(500):
            await hedge.call(call, n)
        return len(recorder.of(ar.HedgeStarted))

    assert 95 <= run_virtual(main()) <= 105
