"""What all tests share: where the package under test comes from, and no blocking call in the loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

import aresilience
from aresilience.testing import SweepReport

# Tests import from it too, and from `servers` and `states`: see pythonpath in pyproject.toml.
pytest_plugins = ["redis_fixtures"]


class _Sweeps(logging.Handler):
    """Adds up the cancel sweeps of the session."""

    total = SweepReport()

    def emit(self, record: logging.LogRecord) -> None:
        self.total += record.sweep  # type: ignore[attr-defined]


_sweeps = _Sweeps()
logging.getLogger("aresilience.testing").addHandler(_sweeps)
logging.getLogger("aresilience.testing").setLevel(logging.INFO)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of several: send what was swept to the one that tells."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["swept"] = (_sweeps.total.points, _sweeps.total.runs)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes is done."""
    _sweeps.total += SweepReport(*getattr(node, "workeroutput", {}).get("swept", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was swept."""
    terminalreporter.write_line(str(_sweeps.total))


def pytest_report_header() -> str:
    """Say which package is being tested: the sources or the wheel."""
    return f"aresilience {aresilience.__version__} from {Path(aresilience.__file__).parent.name!r}, " + (
        "installed from the wheel" if "site-packages" in aresilience.__file__ else "the sources"
    )


@pytest.fixture(scope="session", autouse=True)
def _tests_the_wheel_when_asked() -> None:
    if os.environ.get("ARESILIENCE_FROM_WHEEL"):
        assert "site-packages" in aresilience.__file__, "the sources are in the way of the wheel"


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx("aresilience") as blockbuster:
        # A Lua file is read once, as part of importing the store that it belongs to.
        for name in ("io.TextIOWrapper.read", "io.BufferedReader.read"):
            blockbuster.functions[name].can_block_in("aresilience/backend/redis/scripts.py", "beside")
        yield blockbuster
