"""The seams: chance and time come from the running loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

import aresilience as ar
from aresilience.chance import Entropy, SeededEntropy, entropy
from aresilience.clock import LoopClock, reader, wall
from aresilience.testing import VirtualLoop, run_virtual


def draw(source: Entropy) -> str:
    """A number and a token."""
    return f"{source.random()} {source.token()}"


def in_a_child(work: Callable[[], str]) -> str:
    """What `work` answers in a forked process."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            os.write(there, work().encode())
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_v13() -> None:
    """Fork/spawn: tokens differ in the child (entropy re-seeded)."""
    draw(Entropy())  # the parent has a state that a child could inherit
    answers = [in_a_child(lambda: draw(Entropy())) for _ in range(2)] + [draw(Entropy())]
    numbers, tokens = zip(*(answer.split() for answer in answers), strict=True)
    assert len(set(numbers)) == len(set(tokens)) == 3


@pytest.mark.parametrize("source", [Entropy(), SeededEntropy(3)])
def test_a_number_is_under_one_and_a_token_has_128_bits(source: Entropy) -> None:
    """0 ≤ u < 1, and a token is 32 hexadecimal digits, never the same."""
    assert all(0 <= source.random() < 1 for _ in range(100))
    tokens = {source.token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


def test_a_seed_repeats() -> None:
    """The same seed gives the same numbers and tokens, another seed others."""
    one, same, other = SeededEntropy(1), SeededEntropy(1), SeededEntropy(2)
    drawn = [draw(one) for _ in range(5)]
    assert [draw(same) for _ in range(5)] == drawn
    assert [draw(other) for _ in range(5)] != drawn


async def test_chance_comes_from_the_loop() -> None:
    """A loop that carries an `entropy` decides; the virtual loop does, seeded."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    assert entropy() is loop.entropy
    loop.entropy = SeededEntropy(5)
    assert entropy().random() == SeededEntropy(5).random()


@pytest.mark.parametrize("attribute", [None, "chance", object()])
async def test_what_is_no_entropy_is_disregarded(attribute: object) -> None:
    """Somebody else's attribute of that name is none of ours: chance is the system's."""
    asyncio.get_running_loop().entropy = attribute  # type: ignore[attr-defined]
    assert type(entropy()) is Entropy


@pytest.mark.real_time
async def test_chance_is_the_systems_by_default() -> None:
    """On a loop that says nothing, chance is the operating system's."""
    assert type(entropy()) is Entropy


def delays_with(seed: int) -> list[float]:
    """When a retried call is made, with chance seeded so."""
    at: list[float] = []

    async def down() -> None:
        at.append(asyncio.get_running_loop().time())
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await ar.Retry(on=ConnectionError, attempts=6).call(down)

    run_virtual(main(), seed=seed)
    return at


def test_y8() -> None:
    """Jitter from seeded entropy → same seed, same delays."""
    assert delays_with(1) == delays_with(1)
    assert delays_with(1) != delays_with(2)


async def test_the_clock_is_the_loops() -> None:
    """Time is what the running loop says: virtual here."""
    clock = LoopClock()
    assert clock.read() == 0.0
    await asyncio.sleep(3600)
    assert clock.read() == 3600.0
    assert clock.now() == 3600.0


def test_a_clock_outlives_a_loop() -> None:
    """An object that is used on one loop after another follows the one that runs."""
    clock = LoopClock()

    async def read_after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return clock.read()

    assert [run_virtual(read_after(s)) for s in (5.0, 1.0, 0.0)] == [5.0, 1.0, 0.0]
    before = time.monotonic()
    assert before <= asyncio.run(read_after(0.0)) <= time.monotonic()


def test_without_a_loop_there_is_no_time() -> None:
    """Reading the clock outside of a loop is an error, also after a loop has ended."""
    clock = LoopClock()
    with pytest.raises(RuntimeError, match="no running event loop"):
        clock.read()
    asyncio.run(read(clock))
    with pytest.raises(RuntimeError, match="no running event loop"):
        clock.read()


async def read(clock: LoopClock) -> float:
    """Read it on this loop."""
    return clock.read()


class OwnClock(asyncio.SelectorEventLoop):
    """A loop with a clock of its own."""

    def time(self) -> float:
        return super().time() + 1e6


def test_the_reader_takes_no_short_cut_past_a_loops_own_clock() -> None:
    """time.monotonic stands in for loop.time only where that is what it would call."""
    with asyncio.Runner() as runner:
        assert reader(runner.get_loop()) is time.monotonic
    with asyncio.Runner(loop_factory=OwnClock) as runner:
        assert runner.run(read(LoopClock())) > 1e6


def test_the_wall_clock_is_in_utc() -> None:
    """Dates that servers send are compared with an aware time in UTC."""
    before = datetime.now(UTC)
    assert before <= wall() <= datetime.now(UTC)
    assert wall().tzinfo is UTC
