"""The pytest plugin: async tests in virtual time, on top of pytest-asyncio.

@pytest.mark.virtual_time              # this test; (seed=7) also shuffles what is ready
@pytest.mark.real_time                 # not this one, where the configuration says virtual_time = true
@pytest.mark.quick_retries(attempts=1) # retries do not wait, and end after so many attempts

Of several, the nearest holds: a test's own before its class's, its class's before its module's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from functools import partial

import pytest

from aresilience.testing.retries import rehearse
from aresilience.testing.virtual import VirtualLoop

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]
_OURS = ("virtual_time", "real_time")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("virtual_time", "run async tests in virtual time by default", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time(seed=None): run this async test in virtual time")
    config.addinivalue_line(
        "markers", "quick_retries(attempts=None): retries do not wait, and end after so many attempts"
    )
    config.addinivalue_line("markers", "real_time: run this async test on a real clock")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Generator[None, _Factories | None, _Factories]:
    factories = yield
    marker = next((mark for mark in item.iter_markers() if mark.name in _OURS), None)
    virtual = config.getini("virtual_time") if marker is None else marker.name == "virtual_time"
    if not virtual:
        chosen = factories or {"asyncio": asyncio.new_event_loop}
    else:
        make = VirtualLoop if marker is None else partial(VirtualLoop, *marker.args, **marker.kwargs)
        chosen = {"virtual": make}
    quick = item.get_closest_marker("quick_retries")
    if quick is None:
        return chosen
    return {name: partial(_rehearsing, make, quick) for name, make in chosen.items()}


def _rehearsing(
    make: Callable[[], asyncio.AbstractEventLoop], mark: pytest.Mark
) -> asyncio.AbstractEventLoop:
    loop = make()
    rehearse(loop, *mark.args, **mark.kwargs)
    return loop
