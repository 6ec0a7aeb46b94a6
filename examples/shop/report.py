"""What the day was like, in tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from examples.shop.books import UNITS
from examples.shop.figures import Answer, Kind, Knock, Side, percentile, share
from examples.shop.promises import Promise
from examples.shop.protection import AT_ONCE, PER_MINUTE
from examples.shop.script import DAY, OUTAGE, span

__all__ = ["books", "by_phase", "events", "greed", "orders", "promised", "punctuality", "side_by_side"]


def side_by_side(console: Console, sides: list[Side]) -> None:
    """The whole day of both shops."""
    table = Table(title="the whole day", title_justify="left", title_style="bold")
    table.add_column("")
    for side in sides:
        table.add_column(side.name, justify="right")

    def count(side: Side, kind: Kind) -> str:
        return str(sum(answer.kind is kind for answer in side.answers))

    rows = {
        "visitors": [str(len(side.answers)) for side in sides],
        "  fresh": [count(side, Kind.FRESH) for side in sides],
        "  degraded (from memory)": [count(side, Kind.DEGRADED) for side in sides],
        "  failed": [count(side, Kind.FAILED) for side in sides],
        "  refused": [count(side, Kind.REFUSED) for side in sides],
        "answered": [f"{share(side.answers, Kind.FRESH, Kind.DEGRADED):.1%}" for side in sides],
        "p50": [_ms(percentile(side.answers, 0.5)) for side in sides],
        "p99": [_ms(percentile(side.answers, 0.99)) for side in sides],
        "time wasted (no fresh answer came of it)": [f"{side.wasted():.0f} s" for side in sides],
        "time waited in all": [f"{sum(answer.took for answer in side.answers):.0f} s" for side in sides],
        "most visitors waiting at once": [str(side.peak()) for side in sides],
        "calls that reached the inventory": [str(sum(map(len, side.calls.values()))) for side in sides],
        "  of these while it was down": [str(len(side.calls[OUTAGE])) for side in sides],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.print(table)


def by_phase(console: Console, sides: list[Side]) -> None:
    """Phase by phase: who came then, and what they got."""
    table = Table(
        title="phase by phase: fresh / degraded / failed", title_justify="left", title_style="bold"
    )
    table.add_column("")
    for side in sides:
        table.add_column(side.name, justify="right")
        table.add_column("p99", justify="right")
    for phase in DAY:
        cells = []
        for side in sides:
            came = side.between(*span(phase.name))
            cells += [_shares(came), _ms(percentile(came, 0.99))]
        table.add_row(phase.name, *cells)
    console.print(table)


def greed(console: Console, sides: list[Side]) -> None:
    """What the greedy user did, and got."""
    title = f"the greedy user (protected: {AT_ONCE} at once, {PER_MINUTE} a minute)"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for side in sides:
        table.add_column(side.name, justify="right")
    rows: dict[str, Callable[[Knock], bool]] = {
        "requests": lambda knock: True,
        "  let in": lambda knock: knock.let_in,
        "  refused (429)": lambda knock: knock.refused,
        "came back exactly when told": lambda knock: knock.obedient,
        "  let in then": lambda knock: knock.obedient and knock.let_in,
    }
    for name, of_these in rows.items():
        table.add_row(name, *(str(sum(map(of_these, side.knocks))) for side in sides))
    console.print(table)


def books(console: Console, sides: list[Side]) -> None:
    """What the periodic job did."""
    table = Table(title=f"the books: {UNITS} units", title_justify="left", title_style="bold")
    table.add_column("")
    for side in sides:
        table.add_column(side.name, justify="right")
    rows: dict[str, Callable[[Side], object]] = {
        "booked": lambda side: len({entry.unit for entry in side.books}),
        "booked again": lambda side: len(side.books) - len({e.unit for e in side.books}),
        "killed": lambda side: f"{side.killed[1]} at {side.killed[0]:.1f} s",
    }
    for name, cell in rows.items():
        table.add_row(name, *(str(cell(side)) for side in sides))
    console.print(table)


def orders(console: Console, sides: list[Side]) -> None:
    """What became of the orders."""
    table = Table(title="the orders", title_justify="left", title_style="bold")
    table.add_column("")
    for side in sides:
        table.add_column(side.name, justify="right")
    rows: dict[str, Callable[[Side], object]] = {
        "orders": lambda side: len(side.orders),
        "sent": lambda side: sum(order.sent for order in side.orders),
        "complete": lambda side: sum(set(side.standing(order)) == {1} for order in side.orders),
        "undone": lambda side: sum(set(side.standing(order)) == {0} for order in side.orders),
        "half done, or done again": lambda side: sum(
            set(side.standing(order)) not in ({0}, {1}) for order in side.orders
        ),
        "charged in vain": lambda side: sum(
            max(0, side.accounts["bank"].left(order.ref) - (0 not in side.standing(order)))
            for order in side.orders
        ),
        "customers who were told two things": lambda side: sum(
            len(set(order.answers)) > 1 for order in side.orders
        ),
    }
    for name, cell in rows.items():
        table.add_row(name, *(str(cell(side)) for side in sides))
    console.print(table)


def events(console: Console, side: Side) -> None:
    """What its policies did."""
    why = ", ".join(f"{error} {count}" for error, count in side.degraded_by.most_common())
    told = f"{side.retries} retries; from memory because of {why or 'nothing'}"
    console.print(f"[bold]{side.name}:[/] {told}", highlight=False)
    if side.alone:
        console.print(f"[yellow]it decided {side.alone} times without Redis[/]", highlight=False)


def punctuality(console: Console, sides: list[Side]) -> None:
    """Whether the visitors were sent on time; if not, the machine is what was measured."""
    late = sorted(answer.late for side in sides for answer in side.answers)
    p99 = late[int(0.99 * len(late))]
    console.print(f"visitors were sent on time: 99 of 100 within {_ms(p99)}", highlight=False)
    if p99 > 0.1:
        console.print("[yellow]this machine was too busy to measure well: the waits are partly its own[/]")


def promised(console: Console, promises: Iterable[Promise]) -> None:
    """Each promise, with ✓ or ✗."""
    table = Table(title="promises", title_justify="left", title_style="bold", box=None, show_header=False)
    for promise in promises:
        mark = "[green]✓[/]" if promise.kept else "[red]✗[/]"
        table.add_row(mark, promise.text, promise.measured)
    console.print(table)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _shares(answers: list[Answer]) -> str:
    colours = {Kind.FRESH: "green", Kind.DEGRADED: "yellow", Kind.FAILED: "red"}
    parts = [f"[{colour}]{share(answers, kind):4.0%}[/]" for kind, colour in colours.items()]
    return " / ".join(parts)
