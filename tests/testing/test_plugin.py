"""The pytest plugin, in test suites of its own: who gets virtual time, and with which seed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import asyncio
import json
from pathlib import Path
import pytest
import pytest_asyncio
from aresilience.testing import VirtualLoop

@pytest.fixture(scope="session")
def notes():
    notes = {}
    yield notes
    Path("seen.json").write_text(json.dumps(notes))

@pytest.fixture
def note(notes, request):
    def note(text=None):
        if text is None:
            loop = asyncio.get_running_loop()
            text = f"virtual {loop.seed}" if isinstance(loop, VirtualLoop) else type(loop).__name__
        notes[request.node.nodeid.split("::", 1)[1]] = text
    return note

@pytest_asyncio.fixture
async def loop_of_fixture():
    return asyncio.get_running_loop()

async def test_unmarked(note):
    note()

@pytest.mark.virtual_time
async def test_virtual(note):
    await asyncio.sleep(3600)
    note()

@pytest.mark.virtual_time(seed=7)
async def test_seed(note):
    note()

@pytest.mark.virtual_time(8)
async def test_seed_without_its_name(note):
    note()

@pytest.mark.real_time
async def test_real(note):
    note()

@pytest.mark.virtual_time(sead=7)
async def test_misspelt(note):
    note()

@pytest.mark.virtual_time
async def test_fixture(note, loop_of_fixture):
    assert loop_of_fixture is asyncio.get_running_loop()
    note()

@pytest.mark.virtual_time
def test_sync(note):
    note("no loop")

@pytest.mark.virtual_time
async def test_deadlock():
    await asyncio.Event().wait()

@pytest.mark.real_time
class TestReal:
    async def test_of_class(self, note):
        note()

    @pytest.mark.virtual_time(seed=9)
    async def test_own_before_class(self, note):
        note()

@pytest.mark.virtual_time(seed=3)
class TestVirtual:
    async def test_of_class(self, note):
        note()

    @pytest.mark.virtual_time(seed=4)
    async def test_own_before_class(self, note):
        note()

    @pytest.mark.real_time
    async def test_real(self, note):
        note()
"""

CONFTEST = """
import asyncio

class OurLoop(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories():
    return {"ours": OurLoop}
"""

Suites = dict[str, tuple[dict[str, str], str]]


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Suites:
    """What each test of the suite saw, and what pytest printed, with two configurations."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    runs: dict[str, tuple[Path, subprocess.Popen[str]]] = {}
    for name, ini, conftest in (
        ("by default", "virtual_time = true", ""),
        ("on demand", "", CONFTEST),
    ):
        folder = tmp_path_factory.mktemp("suite")
        (folder / "test_it.py").write_text(SUITE)
        (folder / "conftest.py").write_text(conftest)
        (folder / "pytest.ini").write_text(
            f"[pytest]\n{ini}\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
            "addopts = --strict-markers --strict-config --tb=short -p no:cacheprovider"
            " -p pytest_asyncio.plugin -p aresilience.testing.plugin\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        runs[name] = folder, run
    results: Suites = {}
    for name, (folder, run) in runs.items():
        printed, _ = run.communicate(timeout=50)
        results[name] = json.loads((folder / "seen.json").read_text()), printed
    return results


@pytest.mark.parametrize(
    ("suite", "unmarked", "real"),
    [
        ("by default", "virtual None", "_UnixSelectorEventLoop"),
        ("on demand", "OurLoop", "OurLoop"),
    ],
)
def test_the_nearest_mark_chooses_the_loop(suites: Suites, suite: str, unmarked: str, real: str) -> None:
    """A test's own mark goes before its class's, that before the configuration or another plugin's loops."""
    seen, _ = suites[suite]
    assert seen == {
        "test_unmarked": unmarked,
        "test_virtual": "virtual None",
        "test_seed": "virtual 7",
        "test_seed_without_its_name": "virtual 8",
        "test_real": real,
        "test_fixture": "virtual None",
        "test_sync": "no loop",
        "TestReal::test_of_class": real,
        "TestReal::test_own_before_class": "virtual 9",
        "TestVirtual::test_of_class": "virtual 3",
        "TestVirtual::test_own_before_class": "virtual 4",
        "TestVirtual::test_real": real,
    }


def test_a_misspelt_mark_is_an_error(suites: Suites) -> None:
    """An option that the mark does not have is refused, not passed over."""
    for _, printed in suites.values():
        assert "unexpected keyword argument 'sead'" in printed
        assert re.search(r"1 failed, 12 passed, .*1 error", printed)


def test_a_hang_fails_the_test(suites: Suites) -> None:
    """A test that can never end fails with `Deadlock`, which says who waits and where."""
    for _, printed in suites.values():
        assert "Deadlock: nothing can happen any more:" in printed
        assert re.search(r"Task-\d+ waits in (Event\.wait|test_deadlock):\d+", printed)
