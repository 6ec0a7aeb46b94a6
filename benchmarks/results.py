"""What was found: to the terminal, and into RESULTS.md."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Report", "Verdict", "show", "show_goals", "write"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal, and whether it was reached."""

    goal: str
    measured: str
    met: bool | None
    """None if it could not be measured."""

    @property
    def mark(self) -> str:
        """✓ or ✗, or ? for nobody knows."""
        return "?" if self.met is None else "✓" if self.met else "✗"


@dataclass(slots=True)
class Report:
    """What one benchmark found."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    """The distributions that took part."""
    missing: list[str] = field(default_factory=list)
    """The peers that should have taken part."""


_GOALS = ("what", "goal", "measured", "")


def _goals(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    return [(r.title, v.goal, v.measured, v.mark) for r in reports for v in r.verdicts]


def _environment(packages: Iterable[str], *, loop: str) -> list[tuple[str, str]]:
    """Where and when this was measured, without anything that names the machine."""
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", _commit()),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("event loop", loop),
        ("platform", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ("packages", ", ".join(f"{name} {metadata.version(name)}" for name in sorted(packages))),
    ]


def _commit() -> str:
    head = _git("rev-parse", "--short", "HEAD")
    if head.returncode != 0:
        return "unknown"
    changed = _git("diff", "--quiet", "HEAD", "--", "aresilience").returncode != 0
    return head.stdout.strip() + (", with changes to aresilience" if changed else "")


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "--no-optional-locks", *words]
    try:
        return subprocess.run(command, cwd=_HERE.parent, capture_output=True, text=True, check=False)
    except OSError as error:  # no git here
        return subprocess.CompletedProcess(words, 127, "", str(error))


def show(console: Console, report: Report) -> None:
    """One report, to the terminal."""
    _table(console, report.title, report.header, report.rows)
    for note in report.notes:
        console.print(f"[dim]{note}[/]")
    for peer in report.missing:
        console.print(f"[bold red]NOT MEASURED: {peer}")
    for verdict in report.verdicts:
        colour = "green" if verdict.met else "red"
        console.print(f"[{colour}]{verdict.mark} {verdict.goal}: {verdict.measured}")
    console.print()


def show_goals(console: Console, reports: Sequence[Report]) -> None:
    """All goals, to the terminal."""
    _table(console, "Goals", _GOALS, _goals(reports))


def _table(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write(reports: Sequence[Report], *, method: str, loop: str) -> Path:
    """All reports, into RESULTS.md; for another loop than asyncio's, into a file of its own."""
    path = _HERE / ("RESULTS.md" if loop == "asyncio" else f"RESULTS-{loop}.md")
    packages = {"aresilience"}.union(*(report.packages for report in reports))
    if loop != "asyncio":
        packages.add(loop)
    lines = ["# Results", "", "Written by `make bench`; not to be edited.", ""]
    lines += _markdown(("", ""), _environment(packages, loop=loop))
    for report in reports:
        lines += (f"**NOT MEASURED: {peer}**\n" for peer in report.missing)
    lines += ["## Goals", "", *_markdown(_GOALS, _goals(reports))]
    lines += ["## Method", "", method, ""]
    for report in reports:
        lines += [f"## {report.title}", "", *_markdown(report.header, report.rows)]
        for note in report.notes:
            lines += [note, ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in table] + [""]
