"""The machine that decides what is served of what the registry says: it adds at once, and removes with care.

    unknown ──put──▶ SERVED ──withdraw, or it says that it drains──▶ unknown      (its own word, at once)
                      │  ▲
               vanish │  │ put
                      ▼  │
                     HELD ──the source has answered for `grace`, and the share allows it──▶ unknown
                          ──`hold` is over, and the source has answered for `grace`───────▶ unknown

Who vanishes without a word (its time ran out, the store lost its data) may be dead, or the registry may be
wrong. While the source does not answer nobody is removed, nor for `grace` seconds after it came back, in
which the living can register again. In any `window` at most a `share` of those served is removed, one at
least; the last one is not removed by that at all. Whoever is held for `hold` seconds goes all the same: small
clusters do not keep their dead for ever; and for three times that, even if the source comes and goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Damping", "Served"]

T = TypeVar("T")
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Damping:
    """How much care is taken, in seconds and as a share of those served."""

    grace: float
    hold: float
    share: float
    window: float


class Served(Generic[T]):
    """What is served, by id, in the order in which it came."""

    __slots__ = ("_budget", "_healthy_since", "_held", "_items", "_rules", "_window_ends")

    def __init__(self, rules: Damping) -> None:
        self._rules = rules
        self._items: dict[str, T] = {}
        self._held: dict[str, float] = {}  # since when, the first first
        self._healthy_since: float | None = None
        self._window_ends = 0.0
        self._budget = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, who: str) -> bool:
        return who in self._items

    def get(self, who: str) -> T | None:
        """What is served under that id."""
        return self._items.get(who)

    def values(self) -> Iterator[T]:
        """All that is served."""
        return iter(self._items.values())

    @property
    def held(self) -> tuple[str, ...]:
        """Who has vanished and is served all the same."""
        return tuple(self._held)

    @property
    def healthy(self) -> bool:
        """Whether the source answers."""
        return self._healthy_since is not None

    def answered(self, now: float) -> None:
        """The source answers: its grace begins, if it did not before."""
        if self._healthy_since is None:
            self._healthy_since = now

    def failed(self) -> None:
        """The source does not answer."""
        self._healthy_since = None

    def disturbed(self, now: float) -> None:
        """The source answers, and has lost its thread: its grace begins anew."""
        self._healthy_since = now

    def put(self, who: str, item: T) -> None:
        """Somebody is there, or there with other facts."""
        self._held.pop(who, None)
        self._items[who] = item

    def withdraw(self, who: str) -> bool:
        """Somebody has said that it is gone."""
        self._held.pop(who, None)
        return self._items.pop(who, None) is not None

    def vanish(self, who: str, now: float) -> bool:
        """Somebody is gone without a word; True if that is news."""
        if who not in self._items or who in self._held:
            return False
        self._held[who] = now
        return True

    def settle(self, now: float) -> list[str]:
        """Remove who is to be removed by now, and say who that was."""
        removed: list[str] = []
        if not self._held or self._healthy_since is None:
            return removed
        if self._removes_from() > now:
            for who, since in list(self._held.items()):
                if since + _PATIENCE * self._rules.hold > now:
                    break
                del self._held[who], self._items[who]
                removed.append(who)
            return removed
        if now >= self._window_ends:
            self._window_ends = now + self._rules.window
            self._budget = max(1, int(self._rules.share * len(self._items)))
        for who, since in list(self._held.items()):
            if since + self._rules.hold > now:
                if not self._budget or len(self._items) == 1:
                    break
                self._budget -= 1
            del self._held[who], self._items[who]
            removed.append(who)
        return removed

    def next_at(self, now: float) -> float | None:
        """When to settle again; None: when something happens."""
        if not self._held or self._healthy_since is None:
            return None
        since = next(iter(self._held.values()))
        first = since + self._rules.hold
        if len(self._items) > 1 and not (self._budget == 0 and self._window_ends > now):
            first = min(first, now)
        elif len(self._items) > 1:
            first = min(first, self._window_ends)
        return min(max(first, self._removes_from()), since + _PATIENCE * self._rules.hold)

    def _removes_from(self) -> float:
        """From when on anybody is removed."""
        if self._healthy_since is None:
            return float("inf")
        return self._healthy_since + self._rules.grace
