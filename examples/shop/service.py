"""The shop front: shows products, and asks the inventory for what it shows."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

import aresilience as ar
from aresilience.asgi import RegistryApp
from examples.shop.joining import SERVICE, TTL
from examples.shop.protection import Journal, LastKnown, Stock, door, finding, inventory_pipeline
from examples.shop.serve import serve

__all__ = ["Shop"]


class Shop:
    """One shop, protected or not: the difference is the pipeline around `ask`, and the door."""

    def __init__(self, inventory_url: str, backend: ar.Backend, *, protected: bool) -> None:
        registry = ar.ServiceRegistry(ttl=TTL, backend=backend)
        # As most services have it: the defaults of httpx, 5 s and 100 connections.
        self._inventory = httpx.AsyncClient(
            base_url=f"http://{SERVICE}" if protected else inventory_url,
            transport=finding(registry) if protected else None,
            trust_env=False,
        )
        self._routes: list[BaseRoute] = [
            Route("/products/{sku}", self.product),
            Route("/events", self.events),
        ]
        if protected:
            self._routes.append(Mount("/registry", RegistryApp(registry, writable=True)))
        self._backend = backend
        self._last_known = LastKnown()
        self._journal = Journal()
        self._stock_of: Callable[[str], Awaitable[Stock]] = self.ask
        self._door: list[Middleware] = []
        if protected:
            pipeline = inventory_pipeline(self._last_known, backend)
            pipeline.listen(self._journal)
            self._stock_of = pipeline.wrap(self.ask)
            self._door = door(backend, self._journal)

    async def ask(self, sku: str) -> Stock:
        """What the inventory says, from the inventory."""
        response = await self._inventory.get(f"/stock/{sku}")
        stock = Stock(**response.raise_for_status().json())
        self._last_known.keep(stock)
        return stock

    async def product(self, request: Request) -> Response:
        try:
            stock = await self._stock_of(request.path_params["sku"])
        except httpx.HTTPError as error:
            return JSONResponse({"error": type(error).__name__}, status_code=502)
        return JSONResponse(asdict(stock))

    async def events(self, request: Request) -> Response:
        return JSONResponse(asdict(self._journal))

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._inventory, self._backend:
            yield

    def app(self) -> Starlette:
        return Starlette(
            routes=self._routes,
            middleware=self._door,
            lifespan=self.lifespan,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--inventory", default="", help="its address, if it is not looked up")
    parser.add_argument("--protected", action="store_true")
    parser.add_argument("--url", default="memory://", help="where state is kept")
    parser.add_argument("--prefix", default="shop", help="of its keys there")
    options = parser.parse_args()
    backend = ar.connect(options.url, prefix=options.prefix)
    shop = Shop(options.inventory, backend, protected=options.protected)
    serve(lambda port: shop.app())
