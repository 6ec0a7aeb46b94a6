"""The servers, also where `tests/conftest.py` has not loaded them; and a proxy in front of one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from servers import RedisServer

for _name in ("servers", "fixtures"):
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).parents[1] / f"{_name}.py")
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
        if _name == "fixtures":  # as if they stood here
            globals().update({n: v for n, v in vars(sys.modules[_name]).items() if not n.startswith("__")})


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    """In front of `redis_server`."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: FaultProxy) -> AsyncIterator[RedisBackend]:
    """An open backend whose only connection goes through `proxy`; its deadline is 0.2 s."""
    backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.2)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend
