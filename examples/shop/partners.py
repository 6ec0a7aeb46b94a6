"""Those whom a checkout needs: the warehouse, the bank and the carrier. They are well all day, but one answer
in eight is lost on the way; and one order in six the carrier does not take."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.shop.answers import CutOff
from examples.shop.figures import Account

__all__ = ["PARTNERS", "Partner"]

PARTNERS = ("warehouse", "bank", "carrier")
_TAKES = 0.03
_LOST = 1 / 8
_NOT_TAKEN = 6


class Partner:
    """Does its part for an order each time that it is asked to, and undoes it as often.

    Asked with an Idempotency-Key it does each once; and what was undone before it was done, because the request
    to do it is late, it does no more.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._chance = random.Random(f"{seed} {name}")
        self._done: Counter[str] = Counter()
        self._undone: Counter[str] = Counter()
        self._answers: dict[str, Response] = {}

    async def do(self, request: Request) -> Response:
        order = (await request.json())["order"]
        key = request.headers.get("idempotency-key", "")
        if key not in self._answers or not key:
            self._answers[key] = self._do(order, with_key=bool(key))
        return await self._answered(self._answers[key])

    def _do(self, order: str, *, with_key: bool) -> Response:
        if self._name == "carrier" and zlib.crc32(order.encode()) % _NOT_TAKEN == 0:
            return JSONResponse({"error": "nobody goes there"}, status_code=422)
        if with_key and self._undone[order]:
            return JSONResponse({"error": "undone already"}, status_code=409)
        self._done[order] += 1
        return JSONResponse({"receipt": f"{self._name}-{self._done.total()}"}, status_code=201)

    async def undo(self, request: Request) -> Response:
        order = (await request.json())["order"]
        key = request.headers.get("idempotency-key", "")
        if key not in self._answers or not key:
            self._answers[key] = Response(status_code=204)
            if key and not self._done[order]:
                self._done[order] = self._undone[order] = 1  # as if it had been done, and undone
            else:
                self._undone[order] += 1
        return await self._answered(self._answers[key])

    async def _answered(self, answer: Response) -> Response:
        await asyncio.sleep(_TAKES)
        return CutOff() if self._chance.random() < _LOST else answer

    async def account(self, request: Request) -> Response:
        """What was done and undone, order by order."""
        return JSONResponse(asdict(Account(dict(self._done), dict(self._undone))))

    def routes(self) -> list[Route]:
        return [
            Route(f"/{self._name}", self.do, methods=["POST"]),
            Route(f"/{self._name}/undo", self.undo, methods=["POST"]),
            Route(f"/{self._name}", self.account),
        ]
