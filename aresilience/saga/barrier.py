"""The barrier: for whoever is called by a step, so that repeated, null and hanging calls are harmless.

- A *repeated* call: the answer was lost, and it is made again.
- A *null* compensation: it comes, but the action never did.
- A *hanging* action: it was on its way so long that its compensation came first; it must not act any more.

A row for each direction of each step, in the same transaction as the participant's own write: the compensation
also inserts the row of the action. If that was not there, there is nothing to undo; and the action, if it
comes after all, finds its row taken. (As in dtm: `barrier.go`.) The key is the step's `ctx.idempotency_key`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from aresilience import arguments
from aresilience.backend import Backend

if TYPE_CHECKING:
    from aresilience.backend.redis import Script

__all__ = ["BarrierAnswer", "SagaBarrier", "sql_barrier"]

_KEY = re.compile(r"([0-9a-f]{32})-(do|undo)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,62}")


@dataclass(frozen=True, slots=True)
class BarrierAnswer:
    """Whether the body ran, and what it returned; if not: "repeated" (a hanging action, too) or "null"."""

    ran: bool
    result: Any = None
    why: Literal["", "repeated", "null"] = ""


class SagaBarrier:
    """On Redis: `answer = await barrier.run(key, script, keys, args)`, one script call for the barrier and the
    participant's write.

    `ttl`: seconds for which rows are kept; longer than the longest saga may take. `tag`: in a Cluster the
    keys of the body must be in the slot of the barrier's: give them all `{tag}`.
    """

    SQL_TABLE = """\
CREATE TABLE IF NOT EXISTS saga_barrier (
    step VARCHAR(32) NOT NULL,
    direction VARCHAR(4) NOT NULL,
    inserted_by VARCHAR(4) NOT NULL,
    created TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (step, direction)
)"""
    """The table of `sql_barrier`. Delete rows that are older than your longest saga."""

    def __init__(
        self,
        name: str,
        *,
        backend: Backend,
        ttl: float | timedelta = 30 * 86_400.0,
        tag: str | None = None,
    ) -> None:
        self.name = arguments.text("SagaBarrier: name", name)
        from aresilience.backend.redis import RedisBackend, Script  # who has no Redis needs no client

        if not isinstance(backend, RedisBackend):
            raise TypeError(f"SagaBarrier: backend must be a Redis backend, got {backend!r}")
        self._backend = backend
        self._ttl = max(1, round(arguments.duration("SagaBarrier: ttl", ttl) * 1000))
        self._tag = tag
        self._around = Script.beside("aresilience.saga", "barrier.lua")
        self._scripts: dict[str, Script] = {}

    async def run(
        self,
        key: str,
        script: str,
        keys: Sequence[str | bytes] = (),
        args: Sequence[str | bytes | int] = (),
    ) -> BarrierAnswer:
        """Run the body of a Lua script, which sees `keys` and `args` as KEYS and ARGV, unless it must not run.

        If it raises or returns an error its row is taken back, and `Refused` is raised; what it wrote before
        that stays written. Use a few constant scripts: each is kept, here and by the server. Raises
        `ValueError` for a key that is no step's, a `BackendError`; after `OutcomeUnknown` call it again.
        """
        step, way = _parts(key)
        tag = step if self._tag is None else self._tag
        rows = [self._backend.key("barrier", self.name, step, each, tag=tag) for each in ("do", "undo")]
        words = [each.encode() if isinstance(each, str) else each for each in keys]
        said = await self._backend.run(self._script(script), [*rows, *words], [way, self._ttl, *args])
        if said[0]:
            return BarrierAnswer(True, said[1])
        return BarrierAnswer(False, why="null" if said[1] == b"null" else "repeated")

    def _script(self, body: str) -> Script:
        found = self._scripts.get(body)
        if found is None:
            text = self._around.text.replace("--<the body>--", body)
            found = self._scripts[body] = type(self._around)("barrier", text)
        return found

    def __repr__(self) -> str:
        return f"<SagaBarrier {self.name!r}>"


Execute = Callable[[str, tuple[str, ...]], Awaitable[int | str]]


async def sql_barrier(
    execute: Execute,
    key: str,
    *,
    table: str = "saga_barrier",
    placeholders: Literal["?", "%s", "$1"] = "?",
    dialect: Literal["standard", "mysql"] = "standard",
) -> bool:
    """Whether the participant should do its write: call it first, in the same transaction.

        async with connection.transaction():
            if await sql_barrier(execute, key):
                await connection.execute("UPDATE stock SET …")

    `execute(statement, parameters)` runs one statement in that transaction and returns how many rows it
    inserted, as a number or as asyncpg's text ("INSERT 0 1"). `placeholders` are those of your driver. The
    table is `SagaBarrier.SQL_TABLE`. Raises `ValueError` for a key that is no step's, and if `execute` does not
    say how many (-1).
    """
    step, way = _parts(key)
    if not _NAME.fullmatch(table):
        raise ValueError(f"sql_barrier: table must be a plain name, got {table!r}")
    arguments.choice("sql_barrier: placeholders", placeholders, ("?", "%s", "$1"))
    arguments.choice("sql_barrier: dialect", dialect, ("standard", "mysql"))
    marks = "$1, $2, $3" if placeholders == "$1" else ", ".join([placeholders] * 3)
    ignore, conflict = ("IGNORE ", "") if dialect == "mysql" else ("", " ON CONFLICT DO NOTHING")
    statement = f"INSERT {ignore}INTO {table} (step, direction, inserted_by) VALUES ({marks}){conflict}"  # noqa: S608
    never_happened = way == "undo" and _rows(await execute(statement, (step, "do", way))) > 0
    first = _rows(await execute(statement, (step, way, way))) > 0
    return first and not never_happened


def _rows(said: int | str) -> int:
    rows = int(said.rsplit(" ", 1)[-1]) if isinstance(said, str) else said
    if rows < 0:  # a driver's "not known": taken for 0, no write would ever be done
        raise ValueError(f"sql_barrier: execute must return how many rows it inserted, got {said!r}")
    return rows


def _parts(key: str) -> tuple[str, str]:
    found = _KEY.fullmatch(key) if isinstance(key, str) else None
    if found is None:
        raise ValueError(f"a barrier's key must be the ctx.idempotency_key of a step, got {key!r:.80}")
    return found[1], found[2]
