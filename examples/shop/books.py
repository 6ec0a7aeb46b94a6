"""The shop's periodic job: every quarter of a second its takings are booked. Three workers could do it.

Unprotected, each of them does, as a cron job does on three machines. Protected, they campaign for leadership:
the leader works, and writes each unit through the ledger's guard; when it is killed, one other goes on where
it stopped. With the state in memory the workers are three tasks; on Redis they are three processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import aresilience as ar
from examples.shop.script import LENGTH
from examples.shop.serve import serve

__all__ = ["TTL", "UNIT", "UNITS", "WORKERS", "Books"]

WORKERS = 3
UNIT = 0.25
"""Seconds whose takings are one unit."""
UNITS = math.floor(LENGTH / UNIT)
TTL = 1.5
"""Seconds for which a dead leader still counts as the leader."""


class Books:
    """Some workers, in one process."""

    def __init__(self, ledger_url: str, names: list[str], backend: ar.Backend, *, protected: bool) -> None:
        self._ledger = httpx.AsyncClient(base_url=ledger_url, timeout=2.0, trust_env=False)
        self._backend = backend
        self._work: Callable[[str], Coroutine[Any, Any, None]] = (
            self._by_election if protected else self._by_each
        )
        self._names = names
        self._began = 0.0
        self._workers: dict[str, asyncio.Task[None]] = {}

    async def _by_each(self, name: str) -> None:
        for unit in range(UNITS):
            await self._book(unit, name)

    async def _by_election(self, name: str) -> None:
        election = ar.LeaderElection("books", candidate=name, ttl=TTL, backend=self._backend)
        while True:
            with contextlib.suppress(ar.LockLost, ar.BackendError, httpx.HTTPError):
                async with election.campaign() as leadership:
                    # Whoever led before cannot book from here on, so what is the last unit stays the last.
                    answer = await self._ledger.get("/books/last", params={"fence": leadership.fence})
                    for unit in range(answer.raise_for_status().json()["last"] + 1, UNITS):
                        await self._book(unit, name, leadership)
                    return
            await asyncio.sleep(0.1)

    async def _book(self, unit: int, name: str, leadership: ar.Leadership | None = None) -> None:
        """Book a unit when it is over."""
        await asyncio.sleep(max(0.0, self._began + (unit + 1) * UNIT - time.monotonic()))
        if leadership is not None:
            leadership.check()
        fence = None if leadership is None else leadership.fence
        answer = await self._ledger.post("/books", json={"unit": unit, "by": name, "fence": fence})
        answer.raise_for_status()

    async def begin(self, request: Request) -> Response:
        self._began = float((await request.json())["at"])
        for name in self._names:
            self._workers[name] = asyncio.create_task(self._work(name), name=name)
        return Response(status_code=204)

    async def kill(self, request: Request) -> Response:
        """The end of one worker, where it is only a task."""
        self._workers[request.path_params["name"]].cancel()
        return Response(status_code=204)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._ledger, self._backend:
            yield
            for worker in self._workers.values():
                worker.cancel()
            await asyncio.gather(*self._workers.values(), return_exceptions=True)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/begin", self.begin, methods=["POST"]),
                Route("/kill/{name}", self.kill, methods=["POST"]),
            ],
            lifespan=self.lifespan,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--protected", action="store_true")
    parser.add_argument("--url", default="memory://", help="where state is kept")
    parser.add_argument("--prefix", default="shop", help="of its keys there")
    options = parser.parse_args()
    state = ar.connect(options.url, prefix=options.prefix)
    clerks = Books(options.ledger, options.names, state, protected=options.protected)
    serve(lambda port: clerks.app())
