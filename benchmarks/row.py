"""A row: one decorated coroutine that succeeds, by this package, by its peers, and by nobody."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import (
    SEED,
    Call,
    Done,
    Settings,
    Slice,
    Spread,
    calibrate,
    interleave,
    of_calls,
    ok,
    ratios,
    short,
)
from benchmarks.results import Report, Verdict

__all__ = ["OURS", "Contestant", "Goal", "Overhead", "Row", "Under", "ours"]

OURS = "aresilience"
_BARE, _WRAPPER = "bare await", "plain wrapper, F over bare"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`make` gets the module and returns what to call: a function of no arguments that awaits `ok()`."""

    name: str
    make: Callable[[Any], Call | Awaitable[Call]]
    module: str
    package: str | None = None
    """The distribution, if it is not the standard library."""


def ours(make: Callable[[Any], Call | Awaitable[Call]], variant: str = "") -> Contestant:
    """A contestant of this package."""
    return Contestant(_ours(variant), make, "aresilience", "aresilience")


def _ours(variant: str) -> str:
    return f"{OURS}, {variant}" if variant else OURS


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds per call, by contestant and round."""

    taken: Mapping[str, Sequence[float]]

    def overhead(self, name: str) -> Spread:
        """What `name` adds to the bare await, as a multiple of what a plain wrapper adds."""
        return self.overhead_ratio(name, _WRAPPER)

    def overhead_ratio(self, name: str, reference: str) -> Spread:
        """What `name` adds to the bare await, as a multiple of what `reference` adds."""
        return Spread.of(ratios(self._added(name), self._added(reference)))

    def total(self, name: str, reference: str) -> Spread:
        """The whole call by `name`, bare await included, as a multiple of that by `reference`."""
        return Spread.of(ratios(self.taken[name], self.taken[reference]))

    def _added(self, name: str) -> list[float]:
        return [a - b for a, b in zip(self.taken[name], self.taken[_BARE], strict=True)]


@dataclass(frozen=True, slots=True)
class Goal(ABC):
    """What this package, or a variant of what it has in the row, should reach."""

    variant: str = ""

    @abstractmethod
    def judge(self, times: Times) -> Verdict:
        """By the medians."""

    @property
    def _name(self) -> str:
        return _ours(self.variant)

    def _verdict(self, goal: str, measured: str, *, met: bool | None) -> Verdict:
        return Verdict(f"{self.variant}: {goal}" if self.variant else goal, measured, met)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead(Goal):
    """An overhead of at most `limit` plain wrappers."""

    limit: float

    def judge(self, times: Times) -> Verdict:
        """Overhead by overhead."""
        found = times.overhead(self._name)
        met = found.median <= self.limit
        return self._verdict(f"overhead ≤ {self.limit:g} F", f"{found} F", met=met)


@dataclass(frozen=True, slots=True, kw_only=True)
class Under(Goal):
    """Faster than `peer`, `times` times or more."""

    peer: str
    times: float = 1.0

    def judge(self, times: Times) -> Verdict:
        """Total by total."""
        goal = f"total {'' if self.times == 1 else f'≥ {self.times:g}× '}under {self.peer}"
        if self.peer not in times.taken:
            return self._verdict(goal, "NOT MEASURED", met=None)
        found = times.total(self.peer, self._name)
        overheads = times.overhead_ratio(self.peer, self._name).median
        return self._verdict(
            goal, f"{found}×; overheads {short(overheads)}×", met=found.median >= self.times
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one process found: nanoseconds per call, and who could not be imported, and why."""

    taken: dict[str, list[float]]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """Contestants on the same work. The first one is ours, and the one compared with."""

    name: str
    title: str
    contestants: tuple[Contestant, ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()

    def measure(self, settings: Settings, done: Done) -> Report:
        """All contestants that are installed, beside the bare await and a plain wrapper around it."""
        report = Report(
            self.title,
            ("call of", "overhead, in F", f"total ÷ that of {OURS}", "total, ns, for orientation"),
            notes=list(self.notes),
        )
        taken: dict[str, list[float]] = {}
        missing: dict[str, str] = {}
        for part in range(settings.processes):
            sample: _Sample = in_fresh_process(self.name, part, settings)
            missing = sample.missing
            for name, each in sample.taken.items():
                taken.setdefault(name, []).extend(each)
            done((part + 1) / settings.processes)
        times = Times(taken)
        reference = self.contestants[0].name
        for name, each in taken.items():
            overhead = "–" if name == _BARE else "1" if name == _WRAPPER else str(times.overhead(name))
            total = "1" if name == reference else str(times.total(name, reference))
            report.rows.append((name, overhead, total, f"{Spread.of(each).median:,.0f}"))
        report.rows += ((name, "NOT INSTALLED", "", "") for name in missing)
        report.missing = [f"{name} is not installed ({why})" for name, why in missing.items()]
        report.packages = {c.package for c in self.contestants if c.package and c.name not in missing}
        report.verdicts = [goal.judge(times) for goal in self.goals]
        return report

    def sample(self, part: int, settings: Settings) -> _Sample:
        """One process's rounds."""
        return settings.run(self._sample(part, settings))

    async def _sample(self, part: int, settings: Settings) -> _Sample:
        slices: dict[str, Slice] = {_BARE: of_calls(ok), _WRAPPER: of_calls(_wrapped())}
        missing: dict[str, str] = {}
        for contestant in self.contestants:
            try:
                module = importlib.import_module(contestant.module)
            except ImportError as error:
                missing[contestant.name] = str(error)
                continue
            made = contestant.make(module)
            call = made if callable(made) else await made
            if await call() != 1:
                raise AssertionError(f"{self.name}: {contestant.name} does not return the result")
            slices[contestant.name] = of_calls(call)
        times = {name: await calibrate(run, settings.slice_ns) for name, run in slices.items()}
        return _Sample(await interleave(slices, times, settings.rounds, SEED + part), missing)


def _wrapped() -> Call:
    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return wrapper

    return decorate(ok)
