"""What the shop stands on: the inventory, which has the bad day, the ledger, and the
partners of its checkout."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from examples.shop.answers import CutOff
from examples.shop.joining import beating, registered
from examples.shop.ledger import Ledger
from examples.shop.partners import PARTNERS, Partner
from examples.shop.script import DAY, Ill, fate, phase_at
from examples.shop.serve import serve

__all__ = ["Inventory"]


class Inventory:
    """Knows how many there are of everything, and notes each call that reaches it.

    `POST /begin` with the moment on the shared clock at which the day begins; before that it is well,
    and notes nothing.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._begins: float | None = None
        self._calls: dict[str, list[float]] = {phase.name: [] for phase in DAY}

    async def begin(self, request: Request) -> Response:
        self._begins = float((await request.json())["at"])
        return Response(status_code=204)

    async def stats(self, request: Request) -> Response:
        """When calls came, by phase."""
        return JSONResponse(self._calls)

    async def stock(self, request: Request) -> Response:
        if self._begins is not None:
            t = time.monotonic() - self._begins
            phase, passed = phase_at(t)
            calls = self._calls[phase.name]
            calls.append(t)
            what = fate(phase, passed, len(calls), self._seed)
            if what.ill is Ill.HANG:
                return await _hang(request)
            await asyncio.sleep(what.latency)
            if what.ill is not None:
                return _ILL[what.ill]
        sku = request.path_params["sku"]
        return JSONResponse({"sku": sku, "left": len(sku), "cents": 100 * len(sku) + 99})

    def app(
        self, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None
    ) -> Starlette:
        return Starlette(
            lifespan=lifespan,
            routes=[
                Route("/stock/{sku}", self.stock),
                Route("/begin", self.begin, methods=["POST"]),
                Route("/stats", self.stats),
                *Ledger().routes(),
                *(route for name in PARTNERS for route in Partner(name, self._seed).routes()),
            ],
        )


_ILL = {
    Ill.BUSY: Response(status_code=503),
    Ill.BUSY_FOR_A_SECOND: Response(status_code=503, headers={"Retry-After": "1"}),
    Ill.CRASH: Response(status_code=500),
    Ill.CUT_OFF: CutOff(),
}


async def _hang(request: Request) -> Response:
    """No answer, for as long as the caller waits."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response(status_code=500)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--registry", help="where to make itself known, over HTTP")
    parser.add_argument("--url", help="or in the registry there")
    parser.add_argument("--prefix", default="shop", help="of its keys there")
    options = parser.parse_args()
    inventory = Inventory(options.seed)

    def make(port: int) -> ASGIApp:
        if options.url:
            return registered(inventory.app(), port, options.url, options.prefix)
        if options.registry:
            return inventory.app(lambda app: beating(options.registry, port))
        return inventory.app()

    serve(make)
