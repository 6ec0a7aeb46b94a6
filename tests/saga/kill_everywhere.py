"""kill -9 before and after every call of the backend: of a saga, and of the process that takes it over.

python kill_everywhere.py PORT STRIDE: prints, as JSON, how many processes were killed and how the sagas ended.
Each process is a fork that runs the same saga of five steps under the same id, and kills itself at the n-th
call: before the call leaves, or when its answer has come and nobody has seen it yet. `STRIDE`: of the kills in
the second process only every so-manieth is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from typing import Any

import aresilience as ar
from aresilience.backend.redis import RedisBackend
from aresilience.saga.redis import RedisSagaStore

STEPS = ("order", "stock", "bill", "pay", "ship")
EFFECT = "return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)"


class Mortal:
    """Counts the calls of a backend, and kills the process at one of them."""

    def __init__(self, backend: Any, number: int, after: bool) -> None:
        self.left = number
        self.after = after
        self._join, self._run = backend.join, backend.run
        backend.join, backend.run = self.join, self.run

    def calls(self) -> bool:
        """One more call; whether it is the last."""
        self.left -= 1
        if self.left == 0 and not self.after:
            die()
        return self.left == 0

    def join(self, script: Any, rider: Any, head: Any = ()) -> None:
        """A call that rides with others."""
        if self.calls():
            rider = Deadly(rider)
        self._join(script, rider, head)

    def run(self, *args: Any) -> asyncio.Future[Any]:
        """A call of its own."""
        last = self.calls()
        future: asyncio.Future[Any] = self._run(*args)
        if last:
            future.add_done_callback(lambda _: die())
        return future


class Deadly:
    """A rider whose answer kills."""

    def __init__(self, rider: Any) -> None:
        self._rider = rider
        self.keys = rider.keys

    def wanted(self) -> bool:
        """As it is."""
        return bool(self._rider.wanted())

    def args(self) -> Any:
        """As they are."""
        return self._rider.args()

    def answer(self, item: Any) -> None:
        """Nobody hears of it."""
        die()

    def fail(self, error: Exception) -> None:
        """As it is."""
        self._rider.fail(error)


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def declared(backend: Any, fails: str) -> ar.Saga:
    """Five steps; two of them side by side. The participant's effects are behind a barrier."""
    saga = ar.Saga("five", backend=backend, max_recoveries=10**6)
    barrier = ar.SagaBarrier("participant", backend=backend)

    async def effect(ctx: ar.SagaContext[str]) -> str:
        name = f"-{ctx.step}" if ctx.compensating else ctx.step
        if ctx.step == fails and not ctx.compensating:
            raise ar.Fail(fails)
        await barrier.run(ctx.idempotency_key, EFFECT, [f"effects:{ctx.id}"], [name])
        return ctx.step

    for name, after in (("order", []), ("stock", []), ("bill", ["order", "stock"])):

        @saga.step(name=name, after=after)
        async def act(ctx: ar.SagaContext[str]) -> str:
            return await effect(ctx)

        @act.compensate
        async def undo(ctx: ar.SagaContext[str], result: str | None) -> None:
            await effect(ctx)

    @saga.pivot
    async def pay(ctx: ar.SagaContext[str]) -> str:
        return await effect(ctx)

    @saga.retriable
    async def ship(ctx: ar.SagaContext[str]) -> str:
        return await effect(ctx)

    return saga


async def run(port: int, id: str, fails: str, number: int, after: bool) -> None:
    """Run the saga, or go on with it."""
    async with ar.connect(f"redis://127.0.0.1:{port}", deadline=5.0) as backend:
        Mortal(backend, number, after)
        try:
            await declared(backend, fails).run(id, id=id)
        except ar.SagaFailed:
            if not fails:
                raise


def forked(port: int, id: str, fails: str, number: int = 0, after: bool = False) -> bool:
    """Do that in a process of its own. True if it came to its end, False if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(run(port, id, fails, number, after))
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - said by the exit code
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert os.WEXITSTATUS(status) == 0, f"saga {id} {fails} {number} {after}"
    return True


class Server:
    """The server, as the judge sees it."""

    def __init__(self, port: int) -> None:
        self._file = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
        backend = ar.connect(f"redis://127.0.0.1:{port}")
        assert isinstance(backend, RedisBackend)
        self._store = RedisSagaStore(backend, "five")

    def command(self, *words: Any) -> list[str]:
        """The lines of the answer."""
        data = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._file.write(b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in data))
        self._file.flush()
        line = self._file.readline()
        if line[:1] == b"$":
            return [self._file.readline().strip().decode()] if line[1:2] != b"-" else []
        if line[:1] == b"*":
            found = []
            for _ in range(int(line[1:])):
                assert self._file.readline()[:1] == b"$"
                found.append(self._file.readline().strip().decode())
            return found
        return [line[1:].strip().decode()]

    def let_the_lease_end(self, id: str) -> None:
        """As if that much time had passed."""
        key = self._store._key(id)
        if self.command("EXISTS", key) == ["1"]:
            self.command("HSET", key, "l", 0)

    def judge(self, id: str) -> str:
        """How it ended: all or none, each at most once."""
        (state,) = self.command("HGET", self._store._key(id), "s")
        found = self.command("HGETALL", f"effects:{id}")
        effects = {name: int(times) for name, times in zip(found[::2], found[1::2], strict=True)}
        assert set(effects.values()) <= {1}, (id, effects)
        if state == "done":
            assert set(effects) == set(STEPS), (id, effects)
        else:
            assert state == "compensated", (id, state)
            assert all(f"-{step}" in effects for step in STEPS if step in effects), (id, effects)
            assert all(name[1:] in effects for name in effects if name[0] == "-"), (id, effects)
        return state


def main(port: int, stride: int) -> dict[str, Any]:
    """Kill everywhere, two deep."""
    server, ends = Server(port), Counter[str]()
    kills = points = runs = 0
    began = time.monotonic()
    for fails in ("", "pay"):
        number, over = 0, False
        while not over:
            number += 1
            for after in (False, True):
                second, whole = 0, False
                while not whole:  # 0: the recovery is not killed
                    id_ = f"{fails}-{number}-{after}-{second}"
                    over = forked(port, id_, fails, number, after)
                    if over:
                        ends[server.judge(id_)] += 1
                        break
                    kills += 1
                    points += second == 0
                    server.let_the_lease_end(id_)
                    at, late = divmod(second, 2)
                    whole = forked(port, id_, fails, at, bool(late))
                    if not whole:
                        kills += 1
                        server.let_the_lease_end(id_)
                        assert forked(port, id_, fails)
                    ends[server.judge(id_)] += 1
                    runs += 1
                    if second == 0:
                        whole, second = False, 2 + (number * 7 + after) % stride
                    else:
                        second += stride
    seconds = round(time.monotonic() - began, 1)
    return {"points": points, "kills": kills, "runs": runs, "ends": dict(ends), "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
