"""When to tell that the store fails: as it begins, not for each of the thousands of answers without it."""

from __future__ import annotations

__all__ = ["Outage"]

_OVER = 10.0
_AGAIN = 60.0


class Outage:
    """The failures that go on, by their type. One has ended when there was none for ten seconds."""

    __slots__ = ("_going_on",)

    def __init__(self) -> None:
        self._going_on: dict[type[Exception], tuple[float, float]] = {}

    def is_news(self, error: Exception, now: float) -> bool:
        """Whether a failure is the first of its kind, or the first for a minute."""
        last, told = self._going_on.get(type(error), (-_AGAIN, -_AGAIN))
        news = not 0 <= now - last < _OVER or now - told >= _AGAIN
        self._going_on[type(error)] = now, now if news else told
        return news
