"""What a million keys of a rate limiter take, and that there are no more of them."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aresilience as ar
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Done, Settings
from benchmarks.results import Report, Verdict

__all__ = ["COUNTS"]

_MANY = 1_000_000
_MORE = 100_000
_LIMIT = 150
_MIB = 2**20
_RATE = "10/h"
"""So slow that no key is full again, and forgotten, before the last one has come."""

_STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory that this process takes; the most that it ever took, where nothing else is told."""
    if _STATM.exists():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


_Ask = Callable[[str], Awaitable[Any]]


def _limiter() -> _Ask:
    return ar.RateLimiter(_RATE, max_keys=_MANY).try_acquire


def _dict() -> _Ask:
    table: dict[str, int] = {}

    async def ask(key: str) -> bool:
        if len(table) >= _MANY:
            return False
        table[key] = 10**12 + len(table)
        return True

    return ask


_KINDS: tuple[tuple[str, Callable[[], _Ask]], ...] = (
    ("RateLimiter", _limiter),
    ("control: a dict of as many numbers", _dict),
)


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one process found, in bytes, and how many of those who came too late were admitted."""

    full: int
    over_full: int
    admitted: int


@dataclass(frozen=True, slots=True)
class Million:
    """Resident memory: what the operating system has to give."""

    name: str = "memory-limiter"
    title: str = f"Memory: {_MANY:,} keys of a RateLimiter"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Each kind in a process of its own."""
        header = ("kind", "MiB", "bytes per key", f"MiB more after {_MORE:,} keys more", "of them admitted")
        notes = [
            "Resident memory, the strings that are the keys included, as they are kept by nobody else."
        ]
        report = Report(self.title, header, notes=notes)
        for part, (kind, _) in enumerate(_KINDS):
            found: _Sample = in_fresh_process(self.name, part, settings)
            mib, more = found.full / _MIB, (found.over_full - found.full) / _MIB
            each = f"{found.full / _MANY:,.0f}"
            report.rows.append((kind, f"{mib:.0f}", each, f"{more:.1f}", str(found.admitted)))
            if part == 0:
                within = Verdict(f"{kind}: ≤ {_LIMIT} MiB", f"{mib:.0f} MiB", mib <= _LIMIT)
                bounded = f"{found.admitted} admitted beyond max_keys"
                report.verdicts = [within, Verdict(f"{kind}: bounded", bounded, found.admitted == 0)]
            done((part + 1) / len(_KINDS))
        return report

    def sample(self, part: int, settings: Settings) -> _Sample:
        """One kind."""
        return settings.run(_measured(_KINDS[part][1]()))


async def _measured(ask: _Ask) -> _Sample:
    await ask("first")
    gc.collect()
    before = resident()
    for number in range(_MANY - 1):
        if not await ask(f"tenant-{number}"):
            raise AssertionError(f"key {number:,} was refused")
    gc.collect()
    full = resident()
    admitted = sum([bool(await ask(f"late-{number}")) for number in range(_MORE)])
    gc.collect()
    return _Sample(full - before, resident() - before, admitted)


COUNTS = (Million(),)
