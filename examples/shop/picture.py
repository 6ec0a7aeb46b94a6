"""The day as a picture: what visitors saw, what the breaker did, who led, what the inventory had to bear."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.shop.figures import Kind, Side
from examples.shop.promises import P99
from examples.shop.script import DAY, LENGTH, Phase, span
from examples.shop.traffic import PATIENCE

__all__ = ["draw"]

_RED, _AMBER, _GREEN, _BLUE, _INK = "#cf3440", "#e09f1f", "#3a9e66", "#2f6db3", "#30343b"
_KINDS = {Kind.FRESH: _BLUE, Kind.DEGRADED: _AMBER, Kind.FAILED: _RED}
_STATES = {"closed": _GREEN, "half-open": _AMBER, "open": _RED}
_SIDES = (_RED, _BLUE)
_STEP = 0.5
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#9aa0a8",
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def draw(plain: Side, protected: Side, path: Path) -> None:
    """Draw both sides into `path`; its suffix says whether PNG or SVG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 9.7), layout="constrained")
        rows = figure.subplots(6, 1, sharex=True, height_ratios=[4, 4, 0.55, 0.55, 0.55, 2.2])
        for axes in rows:
            _shade(axes)
        _name_phases(rows[0])
        for axes, side in zip(rows, (plain, protected), strict=False):
            _answers(axes, side)
        _breaker(rows[2], protected)
        _greed(rows[3], protected)
        _leaders(rows[4], protected)
        _calls(rows[5], (plain, protected))
        rows[5].set_xlabel("seconds of the day")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)


def _shade(axes: Axes) -> None:
    axes.set_xlim(0, LENGTH)
    for phase in DAY:
        begin, end = span(phase.name)
        axes.axvspan(begin, end, color=_RED, alpha=0.16 * _trouble(phase), zorder=0, linewidth=0)
        axes.axvline(begin, color="#00000022", linewidth=0.8, zorder=0)


def _trouble(phase: Phase) -> float:
    """From 0 (well) to 1 (every call is ill)."""
    slower = phase.latency[1] > phase.latency[0]
    return max(sum(phase.ills.values()), 0.5 if slower else 0.0)


def _name_phases(axes: Axes) -> None:
    for phase in DAY:
        begin, end = span(phase.name)
        weight = "bold" if _trouble(phase) else "normal"
        where = ((begin + end) / 2, 1.17)
        axes.annotate(phase.name, where, xycoords=("data", "axes fraction"), ha="center", weight=weight)


def _answers(axes: Axes, side: Side) -> None:
    """A dot for each visitor."""
    for kind, colour in _KINDS.items():
        these = [answer for answer in side.answers if answer.kind is kind]
        axes.scatter(
            [answer.at for answer in these],
            [answer.took for answer in these],
            s=10,
            color=colour,
            alpha=0.5,
            linewidths=0,
            label=f"{len(these)} {kind.value}",
        )
    axes.axhline(P99, color=_INK, linewidth=0.8, linestyle=(0, (6, 4)))
    axes.text(0.15, P99 * 1.2, "the protected shop promises: 99 of 100 within this", fontsize=8.5)
    axes.set_yscale("log")
    axes.set_ylim(0.002, PATIENCE * 1.5)
    axes.set_yticks([0.01, 0.1, 1, 10], ["10 ms", "100 ms", "1 s", "10 s"])
    axes.minorticks_off()
    axes.grid(axis="y", color="#00000014")
    axes.set_title(f"{side.name}: how long visitors waited", loc="left", weight="bold", fontsize=11)
    _legend(axes)


def _breaker(axes: Axes, side: Side) -> None:
    for begin, end, state in side.breaker(LENGTH):
        axes.axvspan(begin, end, color=_STATES[state], linewidth=0, label=state)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title("the breaker of the protected shop", loc="left", weight="bold", fontsize=11)
    _legend(axes)


def _greed(axes: Axes, side: Side) -> None:
    """A stroke for each request of the greedy user, up if it was let in, down if not; and its waits."""
    for before, back in pairwise(side.knocks):
        if back.obedient:
            wait = (before.answered, back.sent)
            axes.hlines(0, *wait, color=_AMBER, linewidth=4, label="waiting as told")
    for let_in, colour, name in ((True, _BLUE, "let in"), (False, _RED, "refused")):
        times = [knock.sent for knock in side.knocks if knock.let_in is let_in]
        axes.vlines(
            times, 0, 1 if let_in else -1, color=colour, linewidth=1.2, label=f"{len(times)} {name}"
        )
    axes.set_ylim(-1.1, 1.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title("the greedy user at the protected shop", loc="left", weight="bold", fontsize=11)
    _legend(axes)


def _leaders(axes: Axes, side: Side) -> None:
    """Who kept the books, a stroke for each unit; and when the leader was killed."""
    colours = (_BLUE, _AMBER, _GREEN)
    for n, (name, begin, end) in enumerate(side.leaders()):
        times = [entry.at for entry in side.books if begin <= entry.at <= end]
        axes.vlines(times, 0, 1, color=colours[n % 3], linewidth=2.4, label=f"{name}: {len(times)}")
    died, _ = side.killed
    axes.plot([died], [0.5], "x", color=_RED, markersize=5, markeredgewidth=1.8, label="leader killed")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    title = "the protected shop's books: one worker at a time"
    axes.set_title(title, loc="left", weight="bold", fontsize=11)
    _legend(axes)


def _calls(axes: Axes, sides: tuple[Side, Side]) -> None:
    edges = [step * _STEP for step in range(int(LENGTH / _STEP) + 1)]
    for side, colour in zip(sides, _SIDES, strict=True):
        times = [t for calls in side.calls.values() for t in calls]
        rates = [sum(a <= t < a + _STEP for t in times) / _STEP for a in edges[:-1]]
        axes.stairs(rates, edges, color=colour, alpha=0.18, fill=True)
        axes.stairs(rates, edges, color=colour, linewidth=1.4, baseline=None, label=side.name)
    axes.set_ylim(0)
    axes.grid(axis="y", color="#00000014")
    axes.set_title("calls that reached the inventory, per second", loc="left", weight="bold", fontsize=11)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the right corner, each name once."""
    handles, names = axes.get_legend_handles_labels()
    known = dict(zip(names, handles, strict=True))
    axes.legend(
        known.values(),
        known.keys(),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.1,
        ncols=len(known),
        frameon=False,
        markerscale=2,
    )
