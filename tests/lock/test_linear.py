"""Lock histories over a bad line are linearisable: some order of the operations explains every answer.

Wing and Gong's search with Lowe's memory: what was answered must have happened between its call and its answer;
what was not answered (`OutcomeUnknown`) may have happened at any time after its call, or never.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import aresilience as ar
from aresilience.lock.desk import desk_of
from aresilience.lock.machine import Ask
from aresilience.lock.store import Grant
from aresilience.testing import FaultProxy, FaultyBackend
from aresilience.testing.faulty import Fault

INFINITY = float("inf")
TOO_MANY = 30_000
State = tuple[str, int, int]
"""Who holds it (nobody: ""), under which fence (0: not known), and the highest fence that was answered."""


@dataclass(frozen=True)
class Operation:
    """What was asked when, and what was answered until when."""

    verb: str
    token: str
    call: float
    answered: float
    answer: Any
    """A fence, "busy", True, False; None: no answer came."""


def after(state: State, operation: Operation) -> State | None:
    """The state after it, or None if it could not have had this answer."""
    holder, fence, highest = state
    token, answer = operation.token, operation.answer
    mine = holder == token
    if operation.verb == "release":
        if answer is not None and answer != mine:
            return None
        return ("", 0, highest) if mine else state
    if answer == "busy":
        return state if holder and not mine else None
    if holder and not mine:
        return state if answer is None else None
    if answer is None:
        return state if mine else (token, 0, highest)
    if mine and fence:
        return state if answer == fence else None
    return (token, answer, answer) if answer > highest else None


def is_linearisable(history: list[Operation]) -> bool | None:
    """Whether some order explains it; None if there are too many to tell."""
    operations = sorted(history, key=lambda o: o.call)
    known = sum(1 << n for n, o in enumerate(operations) if o.answer is not None)
    seen: set[tuple[int, State]] = set()
    open_ends: list[tuple[int, State]] = [(0, ("", 0, 0))]
    while open_ends:
        if len(seen) > TOO_MANY:
            return None
        done, state = open_ends.pop()
        if done & known == known:
            return True
        likely, unlikely = [], []
        for number, operation, following in possible(operations, done, state):
            end = (done | 1 << number, following)
            if (
                operation.answer is not None and following == state
            ):  # it changes nothing: now is as good as later
                likely, unlikely = [end], []
                break
            (unlikely if operation.answer is None else likely).append(end)
        for end in (
            *reversed(unlikely),
            *reversed(likely),
        ):  # what is known first; the last one is tried first
            if end not in seen:
                seen.add(end)
                open_ends.append(end)
    return False


def possible(
    operations: list[Operation], done: int, state: State
) -> Iterator[tuple[int, Operation, State]]:
    """What may have happened next, and the state after it."""
    first_answer = INFINITY
    for number, operation in enumerate(operations):
        if operation.call > first_answer:
            return
        if done >> number & 1:
            continue
        first_answer = min(first_answer, operation.answered)
        following = after(state, operation)
        if following is not None and (operation.answer is not None or following != state):
            yield number, operation, following


async def client(backend: ar.Backend, chance: random.Random, history: list[Operation], count: int) -> None:
    """Acquire and release with a token of its own, whatever comes back; a new one after each that is over."""
    store = desk_of(backend, "Lock").store
    loop = asyncio.get_running_loop()
    ask: Ask = ar.Lock("a", ttl=60.0, backend=backend)._ask()
    done = 0
    while done < count:
        verb = chance.choice(("acquire", "release"))
        call = loop.time()
        try:
            said = await (store.acquire(ask, False) if verb == "acquire" else store.release(ask))
        except ar.OutcomeUnknown:
            history.append(Operation(verb, ask.token, call, INFINITY, None))
            continue
        except ar.BackendError:
            await asyncio.sleep(0.005)  # nothing happened
            continue
        done += 1
        answer = (said.fence if isinstance(said, Grant) else "busy") if verb == "acquire" else bool(said)
        history.append(Operation(verb, ask.token, call, loop.time(), answer))
        if verb == "release" and answer:
            ask = ar.Lock("a", ttl=60.0, backend=backend)._ask()
        await asyncio.sleep(chance.random() * 0.002)


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize("seed", range(10))
async def test_histories_over_a_bad_line_are_linearisable(
    proxy: FaultProxy, seed: int, publish: Callable[[str], None]
) -> None:
    """Rung 11: six clients of three processes; requests and replies late, lost, cut: the checker says yes."""
    chance = random.Random(seed)
    history: list[Operation] = []
    backends = [ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.04) for _ in range(3)]

    async def spoil() -> None:
        while True:
            await asyncio.sleep(0.02 + chance.random() * 0.1)
            way = chance.choice((proxy.requests, proxy.replies))
            fault = chance.choice(("swallow", "delay", "reset", "cut"))
            if fault == "swallow":
                way.swallow()
            elif fault == "delay":
                way.delay(0.02 + 0.04 * chance.random())
            elif fault == "reset":
                way.reset(after=chance.randrange(4))
            else:
                proxy.cut()

    for backend in backends:
        await backend.__aenter__()
    spoiler = asyncio.ensure_future(spoil())
    await asyncio.gather(*(client(backends[n % 3], chance, history, 20) for n in range(6)))
    spoiler.cancel()
    await asyncio.wait([spoiler])
    await proxy.heal()
    for backend in backends:
        await backend.__aexit__(None, None, None)
    unknown = sum(o.answer is None for o in history)
    assert len(history) >= 120
    verdict = is_linearisable(history)
    assert verdict is not False
    said = "linearisable" if verdict else "too many orders to tell"
    publish(f"lock history over a bad line: {len(history)} operations, {unknown} without an answer: {said}")


def grants(*rows: tuple[str, str, float, float, Any]) -> list[Operation]:
    """A history by hand."""
    return [Operation(*row) for row in rows]


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        (
            grants(("acquire", "a", 0, 1, 5), ("acquire", "b", 2, 3, "busy"), ("release", "a", 4, 5, True)),
            True,
        ),
        (grants(("acquire", "a", 0, 1, 5), ("acquire", "b", 2, 3, 6)), False),  # two holders
        (grants(("acquire", "a", 0, 1, 5), ("acquire", "a", 2, 3, 6)), False),  # another fence
        (grants(("acquire", "a", 0, 1, 5), ("release", "b", 2, 3, True)), False),  # released by another
        (
            grants(("acquire", "a", 0, 1, 5), ("release", "a", 2, 3, True), ("acquire", "b", 4, 5, 4)),
            False,  # a fence that went back
        ),
        (grants(("acquire", "a", 0, INFINITY, None), ("acquire", "b", 2, 3, "busy")), True),  # it was held
        (grants(("acquire", "a", 0, INFINITY, None), ("acquire", "b", 2, 3, 9)), True),  # it never was
        (
            grants(
                ("acquire", "a", 0, INFINITY, None),
                ("release", "a", 2, 3, False),
                ("acquire", "b", 4, 5, "busy"),
            ),
            True,  # it was, later
        ),
        (grants(("acquire", "b", 2, 3, "busy")), False),  # by whom?
        (grants(("acquire", "a", 0, 4, 5), ("acquire", "b", 1, 3, 4), ("release", "b", 2, 5, True)), True),
    ],
)
def test_the_checker_sees(history: list[Operation], verdict: bool) -> None:
    """Planted faults: two holders, a second fence, a stolen release, a fence that goes back."""
    assert is_linearisable(history) is verdict


async def test_histories_in_memory_are_linearisable() -> None:
    """The same clients in memory, with every fault of the faulty backend, in virtual time."""
    faults = [fault for fault in Fault if fault is not Fault.TWICE]  # nothing is ever sent again
    for seed in range(20):
        history: list[Operation] = []
        chance = random.Random(seed)
        async with FaultyBackend(seed=seed, rate=0.2, faults=faults) as backend:
            await asyncio.gather(*(client(backend, chance, history, 25) for _ in range(6)))
            await backend.settle()
        assert is_linearisable(history) is not False, seed
