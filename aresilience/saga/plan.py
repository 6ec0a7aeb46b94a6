"""What a saga consists of: steps, their kinds, and which wait for which. Checked as it is declared.

    compensable … compensable ──▶ pivot ──▶ retriable … retriable
      (undone if the saga fails)   (the point of no return)   (forward only)

Among the compensable steps, and among the retriable ones, `after` makes a graph; the pivot waits for all
compensable steps, and every retriable one for the pivot. Without a pivot the point of no return is where all
compensable steps are done.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Kind", "Plan", "StepPlan"]


class Kind(enum.Enum):
    """What may become of a step."""

    COMPENSABLE = "compensable"
    """It can be undone."""
    PIVOT = "pivot"
    """The point of no return: when it has happened, the saga goes on to its end."""
    RETRIABLE = "retriable"
    """It comes after the point of no return, and is tried until it works."""


@dataclass(slots=True)
class StepPlan:
    """One step. `after`: the steps that it waits for. `undoable`: it has a compensation. `parks`: if it
    cannot be found out whether it happened, a person decides, and nothing is undone."""

    name: str
    kind: Kind
    after: tuple[str, ...]
    undoable: bool = False
    on_exhausted: str | None = None

    @property
    def parks(self) -> bool:
        """Forward only, or the pivot without a compensation: nothing else would be right."""
        if self.kind is Kind.RETRIABLE or (self.kind is Kind.PIVOT and not self.undoable):
            return True
        return self.on_exhausted == "park"


class Plan:
    """The definition of a saga, as data."""

    __slots__ = (
        "_fingerprint",
        "compensable",
        "dependents",
        "name",
        "pivot",
        "retriable",
        "steps",
        "version",
    )

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.steps: dict[str, StepPlan] = {}
        self.dependents: dict[str, list[str]] = {}
        self.compensable: list[str] = []
        self.pivot: str | None = None
        self.retriable: list[str] = []
        self._fingerprint: str | None = None

    def add(
        self, name: str, kind: Kind, after: Iterable[str] | None, on_exhausted: str | None = None
    ) -> StepPlan:
        """Declare a step. Without `after` it waits for the step of its part that was declared before it."""
        where = f"saga {self.name!r}, step {name!r}"
        if name in self.steps:
            raise ValueError(f"{where}: there is a step of that name already; pass name=")
        if kind is not Kind.RETRIABLE and (self.pivot is not None or self.retriable):
            raise ValueError(
                f"{where}: after the pivot there is no way back, so all steps are retriable; "
                "declare it before the pivot, or with @saga.retriable"
            )
        if kind is Kind.RETRIABLE and on_exhausted == "compensate":
            raise ValueError(f"{where}: a retriable step is never compensated; leave on_exhausted out")
        part = {Kind.COMPENSABLE: self.compensable, Kind.RETRIABLE: self.retriable}.get(kind, [])
        if kind is Kind.PIVOT and after is not None:
            raise ValueError(f"{where}: the pivot waits for all steps before it; leave after out")
        if after is None:
            waits_for: tuple[str, ...] = tuple(part[-1:])
        else:
            waits_for = tuple(dict.fromkeys(self._known(where, after)))
        step = self.steps[name] = StepPlan(name, kind, waits_for, on_exhausted=on_exhausted)
        self.dependents[name] = []
        for other in waits_for:
            self.dependents[other].append(name)
        part.append(name)
        if kind is Kind.PIVOT:
            self.pivot = name
        self._fingerprint = None
        return step

    def _known(self, where: str, after: Iterable[str]) -> Iterable[str]:
        for other in after:
            if other not in self.steps:
                raise ValueError(f"{where}: after names {other!r}, which is not declared before it")
            yield other

    def add_undo(self, name: str) -> None:
        """The step has a compensation."""
        step = self.steps[name]
        where = f"saga {self.name!r}, step {name!r}"
        if step.kind is Kind.RETRIABLE:
            raise ValueError(f"{where}: it comes after the pivot, so it is never compensated")
        if step.undoable:
            raise ValueError(f"{where}: it has a compensation already")
        step.undoable = True
        self._fingerprint = None

    @property
    def fingerprint(self) -> str:
        """A hash of the steps: names, kinds, order and which can be undone. Not of their code."""
        if self._fingerprint is None:
            text = "\n".join(
                f"{step.kind.value} {step.undoable} {len(step.name)}:{step.name} "
                + ",".join(f"{len(other)}:{other}" for other in step.after)
                for step in self.steps.values()
            )
            self._fingerprint = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._fingerprint
