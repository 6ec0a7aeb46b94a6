"""The ledger: where the takings of every quarter of a second are to be booked, once."""

from __future__ import annotations

import time
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import aresilience as ar
from examples.shop.figures import Entry

__all__ = ["Ledger"]


class Ledger:
    """Writes down what it is told. Who says under which fence it works is refused (409) once somebody with a
    higher one has been here, be it only to look."""

    def __init__(self) -> None:
        self._guard = ar.FencedGuard("books")
        self._entries: list[Entry] = []

    async def last(self, request: Request) -> Response:
        """The last unit that was booked, for who goes on with the next: from now on that is for him alone."""
        fence = request.query_params.get("fence")
        if fence is not None:
            try:
                self._guard.admit(int(fence))
            except ar.StaleFence as error:
                return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({"last": self._entries[-1].unit if self._entries else -1})

    async def book(self, request: Request) -> Response:
        said = await request.json()
        if said["fence"] is not None:
            try:
                self._guard.admit(said["fence"])
            except ar.StaleFence as error:
                return JSONResponse({"error": str(error)}, status_code=409)
        self._entries.append(Entry(said["unit"], said["by"], said["fence"], time.monotonic()))
        return Response(status_code=204)

    async def entries(self, request: Request) -> Response:
        return JSONResponse([asdict(entry) for entry in self._entries])

    def routes(self) -> list[Route]:
        return [
            Route("/books/last", self.last),
            Route("/books", self.book, methods=["POST"]),
            Route("/books", self.entries),
        ]
