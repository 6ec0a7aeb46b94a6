"""What all tests share: where the package under test comes from, and no blocking call in the loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

import aresilience


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
        yield blockbuster
