"""The day of the breaker and of the leaders as lines of characters, with the phases under them."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from examples.shop.figures import Side
from examples.shop.script import DAY, LENGTH, span

__all__ = ["timeline"]

# Later in this list wins, where several states share a cell.
_LOOKS = {"closed": ("─", "green"), "open": ("█", "red"), "half-open": ("▒", "yellow")}


def timeline(console: Console, side: Side) -> None:
    """One character for each fraction of a second, as many as there is room for."""
    width = min(console.width, 100)
    line, names = Text(), Text(style="dim")
    spans = list(side.breaker(LENGTH))
    ranks = list(_LOOKS)
    for cell in range(width):
        begin, end = cell * LENGTH / width, (cell + 1) * LENGTH / width
        here = [state for since, until, state in spans if since < end and until > begin]
        line.append(*_LOOKS[max(here, key=ranks.index)])
    leaders = Text("·" * width, "dim")
    for name, begin, end in side.leaders():
        first, last = (min(width - 1, round(t * width / LENGTH)) for t in (begin, end))
        leaders = (
            leaders[:first] + Text(name[: last - first].ljust(last - first, "─"), "blue") + leaders[last:]
        )
    for phase in DAY:
        first, last = (round(t * width / LENGTH) for t in span(phase.name))
        names.append(f"│{phase.name}"[: last - first].ljust(last - first))
    legend = Text().append("the breaker: ", "bold")
    for state, (char, colour) in _LOOKS.items():
        legend.append(char, colour).append(f" {state}  ")
    console.print(
        legend, line, Text("who keeps the books:", "bold"), leaders, names, sep="\n", no_wrap=True
    )
