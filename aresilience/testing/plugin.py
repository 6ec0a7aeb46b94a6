"""The pytest plugin: async tests in virtual time, on top of pytest-asyncio.

@pytest.mark.virtual_time              # this test; (seed=7) also shuffles what is ready
@pytest.mark.real_time                 # not this one, where the configuration says virtual_time = true
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

import pytest

from aresilience.testing.virtual import VirtualLoop

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("virtual_time", "run async tests in virtual time by default", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time(seed=None): run this async test in virtual time")
    config.addinivalue_line("markers", "real_time: run this async test on a real clock")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Generator[None, _Factories | None, _Factories]:
    factories = yield
    marker = item.get_closest_marker("virtual_time")
    if marker is None and (not config.getini("virtual_time") or item.get_closest_marker("real_time")):
        return factories or {"asyncio": asyncio.new_event_loop}
    options: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    return {"virtual": partial(VirtualLoop, **options)}
