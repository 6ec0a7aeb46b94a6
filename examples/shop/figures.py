"""What was measured, and the numbers that can be had from it."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import accumulate, pairwise

__all__ = [
    "Account",
    "Answer",
    "Entry",
    "Kind",
    "Knock",
    "Order",
    "Side",
    "Window",
    "fullest",
    "percentile",
    "share",
]


class Kind(enum.Enum):
    """What a visitor got."""

    FRESH = "fresh"
    DEGRADED = "degraded"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """A visitor who came at second `at` of the day got this after `took` seconds.

    `late`: how much of that passed before we even sent the request, because this process was busy.
    """

    at: float
    took: float
    kind: Kind
    late: float


@dataclass(frozen=True, slots=True)
class Knock:
    """One request of the greedy user, from when to when, in seconds of the day."""

    sent: float
    answered: float
    status: int
    """0 if there was no answer."""
    told: int
    """The Retry-After of the answer, 0 without."""
    obedient: bool
    """Sent exactly when the refusal before it had said."""

    @property
    def refused(self) -> bool:
        """Refused by a limit."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def let_in(self) -> bool:
        """Let in at the door, whatever came of it."""
        return self.status != 0 and not self.refused


@dataclass(frozen=True, slots=True)
class Entry:
    """A unit of the shop's takings was booked at `at`, by whom and under which fence."""

    unit: int
    by: str
    fence: int | None
    at: float


@dataclass(slots=True)
class Order:
    """What a customer wants, how often he sent it, and the answers that he got: receipts, or "" for a no."""

    ref: str
    sku: str
    sent: int = 0
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Account:
    """What a partner did and undid, order by order."""

    done: dict[str, int]
    undone: dict[str, int]

    def left(self, order: str) -> int:
        """How often it did it and has not undone it."""
        return self.done.get(order, 0) - self.undone.get(order, 0)


@dataclass(frozen=True, slots=True)
class Window:
    """Some time in which so many were let in, where `allowed` were allowed."""

    seconds: float
    let_in: int
    allowed: float


@dataclass(slots=True)
class Side:
    """All that is known of one shop's day. Times are seconds of the day."""

    name: str
    answers: list[Answer] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=dict)
    """The calls that reached its inventories, by phase."""
    newcomer: int = 0
    """How many of them reached the inventory that was added."""
    states: list[tuple[float, str]] = field(default_factory=list)
    """When its breaker changed, and to what."""
    retries: int = 0
    degraded_by: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    """How often it went on without its store."""
    knocks: list[Knock] = field(default_factory=list)
    """What the greedy user did."""
    books: list[Entry] = field(default_factory=list)
    """What was booked, in that order,"""
    killed: tuple[float, str] = (math.nan, "")
    """and when which of the workers was killed."""

    orders: list[Order] = field(default_factory=list)
    """What customers wanted,"""
    accounts: dict[str, Account] = field(default_factory=dict)
    """and what the partners did for them."""

    def add_calls(self, calls: dict[str, list[float]]) -> None:
        """Add what one inventory has seen."""
        for phase, times in calls.items():
            self.calls[phase] = sorted([*self.calls.get(phase, []), *times])

    def standing(self, order: Order) -> tuple[int, ...]:
        """How often each partner did its part, and has not undone it: 1, 1, 1 is an order, 0, 0, 0 none."""
        return tuple(account.left(order.ref) for account in self.accounts.values())

    def between(self, begin: float, end: float) -> list[Answer]:
        """The answers to those who came then, whenever they were answered."""
        return [answer for answer in self.answers if begin <= answer.at < end]

    def wasted(self) -> float:
        """Seconds that visitors waited for something that was not fresh."""
        return sum(answer.took for answer in self.answers if answer.kind is not Kind.FRESH)

    def breaker(self, end: float) -> Iterator[tuple[float, float, str]]:
        """From when to when its breaker was in which state, up to `end`."""
        changes = [(0.0, "closed"), *self.states, (end, "")]
        for (begin, state), (until, _) in pairwise(changes):
            yield begin, until, state

    def leaders(self) -> list[tuple[str, float, float]]:
        """Who kept the books from when to when, one after the other."""
        terms: list[tuple[str, float, float]] = []
        for entry in self.books:
            if terms and terms[-1][0] == entry.by:
                terms[-1] = (entry.by, terms[-1][1], entry.at)
            else:
                terms.append((entry.by, entry.at, entry.at))
        return terms

    def peak(self) -> int:
        """The most visitors that waited at once."""
        steps = [(a.at, 1) for a in self.answers] + [(a.at + a.took, -1) for a in self.answers]
        return max(accumulate(step for _, step in sorted(steps)), default=0)


def share(answers: Iterable[Answer], *kinds: Kind) -> float:
    """The share of these kinds; nan if there are no answers."""
    hits = [answer.kind in kinds for answer in answers]
    return sum(hits) / len(hits) if hits else math.nan


def percentile(answers: Iterable[Answer], p: float) -> float:
    """The time within which `p` of the answers came (nearest rank); nan if there are none."""
    times = sorted(answer.took for answer in answers)
    return times[math.ceil(p * len(times)) - 1] if times else math.nan


def fullest(knocks: Iterable[Knock], allowed: Callable[[float], float]) -> Window | None:
    """Of all windows the one in which the largest share of what is `allowed` in so many seconds was let in.

    When exactly a request was let in is not known, only that it was between its being sent and answered: it
    counts for the windows that hold all of that.
    """
    let_in = [knock for knock in knocks if knock.let_in]
    windows = []
    for begin in {knock.sent for knock in let_in}:
        ends = sorted(knock.answered for knock in let_in if knock.sent >= begin)
        windows += [Window(end - begin, n, allowed(end - begin)) for n, end in enumerate(ends, 1)]
    return max(windows, key=lambda window: window.let_in / window.allowed, default=None)
