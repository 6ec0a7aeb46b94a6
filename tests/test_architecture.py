"""The rules of the house, kept by reading the code: who may import whom, and what nobody may call."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aresilience

ROOT = Path(aresilience.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}

FLOOR = {
    "arguments", "backoff", "budget", "chance", "clock", "codecs", "deadline", "dispose", "errors", "events",
    "outcome", "percentile", "pipeline", "policies", "policy", "timers", "backend",
}  # fmt: skip
NEIGHBOURS = {"bulkhead", "fallback", "hedge", "timeout"}
PATTERNS = {"retry", "breaker", "limiter", "lock", "idempotency", "saga", "registry"}
RIM = {"asgi", "integrations", "testing"}

MACHINES = {
    "gcra", "machine", "judge", "window", "plan", "record", "balance", "history",
    "choices", "damping", "known", "outliers", "pace", "rotation", "zones",
}  # fmt: skip
"""Files in a pattern's folder that decide: told the time and given chance, they do no I/O."""
IMPURE = {"asyncio", "time", "random", "secrets", "anyio", "redis", "socket", "threading", "os"}


def room(module: str) -> str:
    """The first part of a module's name: which room of the house it is in."""
    return module.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            yield module
            if module == "aresilience":
                yield from (f"aresilience.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """The rooms of this package that a file imports."""
    return {
        room(name.removeprefix("aresilience.")) for name in imports(path) if name.startswith("aresilience.")
    }


def foreign(path: Path) -> set[str]:
    """The third-party packages that a file imports."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"aresilience", "__future__", "_thread"}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Every dotted name that a file reads, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node), node.lineno


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_each_room_imports_only_what_it_may(path: Path) -> None:
    """The floor imports the floor; a pattern imports the floor and itself; nothing imports the rim."""
    here = room(MODULES[path])
    if here == "__init__":
        allowed = FLOOR | NEIGHBOURS | PATTERNS
    elif here in FLOOR:
        allowed = FLOOR
    elif here in NEIGHBOURS | PATTERNS:
        allowed = FLOOR | {here}
    else:
        assert here in RIM, f"{here} is no room that DESIGN knows"
        allowed = FLOOR | NEIGHBOURS | PATTERNS | {here}
    assert own(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_third_party_libraries_stay_at_the_rim(path: Path) -> None:
    """Only integrations import libraries other than redis and anyio, and only the plugin imports pytest."""
    module = MODULES[path]
    allowed = {"redis", "hiredis"} if module.startswith("backend.redis") else {"anyio"}
    if module == "testing.plugin":
        allowed = {"pytest"}
    if room(module) == "integrations":
        return
    assert foreign(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_machines_are_pure(path: Path) -> None:
    """A machine imports no clock, no chance, no loop and no I/O: these are its arguments."""
    module = MODULES[path]
    if room(module) in PATTERNS and module.split(".")[-1] in MACHINES:
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & IMPURE
        assert not own(path) & {"clock", "chance"}


FORBIDDEN = re.compile(
    r"^(asyncio\.wait_for|time\.(time|time_ns|sleep)|uuid\.\w+|pickle\.\w+|datetime\.utcnow)$"
)
SEAMS = {
    r"^(time\.monotonic|datetime\.now)$": {"clock"},
    r"^(random\.(random|Random)|secrets\.\w+|os\.urandom)$": {"chance", "testing.virtual"},
}


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_time_chance_and_identity_have_one_seam_each(path: Path) -> None:
    """The clock is read in clock.py, chance drawn in chance.py, and some calls are made nowhere."""
    for name, line in calls(path):
        assert not FORBIDDEN.match(name), f"{path.name}:{line} calls {name}"
        for pattern, seams in SEAMS.items():
            if re.match(pattern, name):
                assert MODULES[path] in seams, f"{path.name}:{line} calls {name}"


@pytest.mark.parametrize("path", FILES, ids=MODULES.get)
def test_no_error_is_swallowed(path: Path) -> None:
    """No bare except; an except that takes every exception re-raises, logs, keeps or hands it on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno}: bare except"
            if ast.unparse(node.type) in ("Exception", "BaseException"):
                body = [n for n in node.body if not isinstance(n, ast.Pass | ast.Continue)]
                assert body, f"{path.name}:{node.lineno}: swallowed"


def test_nothing_optional_is_imported_with_the_package() -> None:
    """Importing aresilience imports neither its rim nor anything that an extra brings."""
    top = ROOT / "__init__.py"
    assert not own(top) & RIM


def test_no_room_for_leftovers() -> None:
    """Nothing is called utils, common, helpers, base or manager."""
    names = {part for module in MODULES.values() for part in module.split(".")}
    assert not names & {"utils", "common", "helpers", "base", "manager"}


def test_files_are_small_enough_to_read() -> None:
    """Nine files in ten are under 250 lines; one over 400 says why in its first lines."""
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[len(lengths) * 9 // 10] < 250
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 400 or "long because" in "\n".join(lines[:15]), path.name
