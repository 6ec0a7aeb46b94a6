"""Where orders are placed. Each needs the warehouse, the bank and the carrier: all of them, or none.

Unprotected, every request is an order, and what went wrong is undone as well as it goes. Protected, the
Idempotency-Key of a request makes it one order however often it is sent, and to whichever process; and the
order is a saga, which another process brings to its end if this one dies.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

import aresilience as ar
from aresilience.asgi import IdempotencyMiddleware, RejectedMiddleware
from examples.shop.partners import PARTNERS
from examples.shop.serve import serve

__all__ = ["Cart", "Partners", "PlainCheckout", "SafeCheckout"]

_LEASE = 1.0
"""Seconds after which the order of a process that died is taken over."""
_KEPT = 300.0
"""Seconds for which what became of an order is kept: a shop that is not a demo would say days."""


@dataclass(frozen=True, slots=True)
class Cart:
    """What is ordered."""

    order: str
    sku: str


class NotTakenError(Exception):
    """A partner says no, and means it."""


class Partners:
    """The three of them, over HTTP."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=0.5, trust_env=False)

    async def ask(self, path: str, cart: Cart, key: str = "") -> str:
        """Have it done; returns a receipt. Raises `NotTakenError`, and `httpx.HTTPError` if nobody knows."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.client.post(path, json=asdict(cart), headers=headers)
        if answer.status_code in (httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.CONFLICT):
            raise NotTakenError(answer.json()["error"])
        answer.raise_for_status()
        return str(answer.json()["receipt"]) if answer.content else ""


class PlainCheckout:
    """One after the other, and back if one says no."""

    def __init__(self, partners: Partners) -> None:
        self._partners = partners

    async def place(self, cart: Cart) -> str:
        """Raises `NotTakenError`, `httpx.HTTPError`."""
        done: list[str] = []
        receipt = ""
        try:
            for name in PARTNERS:
                receipt = await self._partners.ask(f"/{name}", cart)
                done.append(name)
        except NotTakenError:
            for name in reversed(done):
                await self._partners.ask(f"/{name}/undo", cart)
            raise
        return receipt

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield


class SafeCheckout:
    """A saga with a step for each partner."""

    def __init__(self, partners: Partners, backend: ar.Backend) -> None:
        self._backend = backend
        self.saga = saga = ar.Saga("checkout", version=1, lease=_LEASE, retention=_KEPT, backend=backend)
        backoff = ar.Backoff.exponential(initial=0.05, maximum=0.5)

        def add(name: str) -> None:
            @saga.step(name=name, attempts=5, backoff=backoff)
            async def do(ctx: ar.SagaContext[Cart]) -> str:
                try:
                    return await partners.ask(f"/{name}", ctx.input, ctx.idempotency_key)
                except NotTakenError as error:
                    raise ar.Fail(str(error)) from error

            @do.compensate(backoff=backoff)
            async def undo(ctx: ar.SagaContext[Cart], receipt: str | None) -> None:
                await partners.ask(f"/{name}/undo", ctx.input, ctx.idempotency_key)

        for name in PARTNERS:
            add(name)

    async def place(self, cart: Cart) -> str:
        """Raises `NotTakenError`."""
        claim = ar.current_claim()
        try:
            result = await self.saga.run(cart, id=claim.downstream_key("checkout"))
        except ar.SagaFailed as error:
            raise NotTakenError(str(error)) from error
        return str(result.last)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self._backend, self.saga.worker():
            yield


class Door:
    """POST /orders."""

    def __init__(self, checkout: PlainCheckout | SafeCheckout, partners: Partners) -> None:
        self._checkout = checkout
        self._partners = partners

    async def order(self, request: Request) -> Response:
        try:
            receipt = await self._checkout.place(Cart(**await request.json()))
        except NotTakenError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        except httpx.HTTPError as error:
            return JSONResponse({"error": type(error).__name__}, status_code=502)
        return JSONResponse({"receipt": receipt}, status_code=201)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._partners.client, self._checkout.open():
            yield

    def app(self, middleware: list[Middleware]) -> Starlette:
        route = Route("/orders", self.order, methods=["POST"])
        return Starlette(routes=[route], middleware=middleware, lifespan=self.lifespan)


def _customer(scope: Scope) -> str:
    """Who orders; the gateway in front of a shop has made sure of it."""
    return next((value.decode() for name, value in scope["headers"] if name == b"x-user"), "")


def safe_door(backend: ar.Backend) -> list[Middleware]:
    """A request that comes again gets the answer of the first."""
    orders = ar.Idempotency(name="orders", ttl=_KEPT, lease=_LEASE, wait=3.0, backend=backend)
    return [
        Middleware(RejectedMiddleware),
        Middleware(IdempotencyMiddleware, idempotency=orders, principal=_customer, required=True),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--partners", required=True)
    parser.add_argument("--protected", action="store_true")
    parser.add_argument("--url", default="memory://", help="where state is kept")
    parser.add_argument("--prefix", default="shop", help="of its keys there")
    options = parser.parse_args()
    others = Partners(options.partners)
    if options.protected:
        state = ar.connect(options.url, prefix=options.prefix)
        serve(lambda port: Door(SafeCheckout(others, state), others).app(safe_door(state)))
    else:
        serve(lambda port: Door(PlainCheckout(others), others).app([]))
