"""How an inventory makes itself known: in the registry on Redis; or, where that lives in the shop's memory,
over HTTP, as a neighbour does that is not written in Python."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

import aresilience as ar
from aresilience.asgi import RegistryLifespan

__all__ = ["SERVICE", "TTL", "beating", "registered"]

SERVICE = "inventory"
TTL = 1.2
"""Seconds after which one that died is not called any more, whoever has not found out before."""


def registered(app: Starlette, port: int, url: str, prefix: str) -> ASGIApp:
    """With `RegistryLifespan`, for as long as it serves."""
    backend = ar.connect(url, prefix=prefix)
    registry = ar.ServiceRegistry(ttl=TTL, backend=backend)
    me = ar.Instance(SERVICE, "127.0.0.1", port)
    return RegistryLifespan(app, registry=registry, instance=me, propagation=0.0, resources=[backend])


@contextlib.asynccontextmanager
async def beating(registry_url: str, port: int) -> AsyncIterator[None]:
    """With three requests in each ttl, for as long as the body runs."""
    async with httpx.AsyncClient(base_url=registry_url, timeout=TTL / 3, trust_env=False) as client:
        beat = asyncio.create_task(_beat(client, port))
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.wait([beat])


async def _beat(client: httpx.AsyncClient, port: int) -> None:
    path = f"/services/{SERVICE}/127.0.0.1:{port}"
    me = {"host": "127.0.0.1", "port": port, "ttl": TTL}
    known = False
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = await (client.post(path, json={"ttl": TTL}) if known else client.put(path, json=me))
            known = answer.is_success
        await asyncio.sleep(TTL / 3)
