"""How long to wait before the next try: the n-th delay, as a function of n and of chance.

With h(n) the delay of the schedule, capped, and u uniform in [0, 1):

- no jitter: h(n)
- "full": u · h(n)
- "equal": h(n)/2 + u · h(n)/2
- "decorrelated": min(maximum, initial + u · (3 · previous − initial))

(AWS Architecture Blog, "Exponential Backoff And Jitter", 2015.) The cap comes first, then the jitter,
so no delay ever exceeds `maximum`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

from aresilience import arguments

__all__ = ["Backoff", "Jitter"]

Jitter: TypeAlias = Literal["full", "equal", "decorrelated"] | None
_JITTERS = ("full", "equal", "decorrelated", None)


class Backoff:
    """A schedule of delays. Make one with `exponential`, `linear`, `constant` or `sequence`."""

    __slots__ = ("_initial", "_jitter", "_maximum", "_schedule", "_text")

    def __init__(
        self,
        schedule: Callable[[int], float],
        *,
        initial: float,
        maximum: float,
        jitter: Jitter,
        text: str,
    ) -> None:
        if jitter not in _JITTERS:
            raise ValueError(
                f"{text}: jitter must be 'full', 'equal', 'decorrelated' or None, got {jitter!r}"
            )
        self._schedule = schedule
        self._initial = initial
        self._maximum = maximum
        self._jitter = jitter
        self._text = text

    def delay(self, n: int, u: float, previous: float | None = None) -> float:
        """Seconds before try n + 1, for n = 1, 2, … failed tries; u is a random number in [0, 1).

        `previous` is the delay before this one, which only decorrelated jitter looks at.
        """
        if self._jitter == "decorrelated":
            last = self._initial if previous is None else previous
            spread = max(0.0, 3.0 * last - self._initial)
            return min(self._maximum, self._initial + u * spread)
        h = min(self._maximum, self._schedule(n))
        if self._jitter == "full":
            return u * h
        if self._jitter == "equal":
            return h / 2 + u * h / 2
        return h

    @property
    def maximum(self) -> float:
        """No delay is longer than this, in seconds."""
        return self._maximum

    def __repr__(self) -> str:
        return self._text

    @classmethod
    def exponential(
        cls,
        *,
        initial: float | timedelta = 0.1,
        multiplier: float = 2.0,
        maximum: float | timedelta = 10.0,
        jitter: Jitter = "full",
    ) -> Backoff:
        """initial · multiplier^(n − 1), at most `maximum`: 0.1, 0.2, 0.4 … 10 s before jitter."""
        where = "Backoff.exponential"
        first = arguments.duration(f"{where}: initial", initial)
        factor = arguments.number(f"{where}: multiplier", multiplier, "at least 1")
        if factor < 1:
            raise ValueError(f"{where}: multiplier must be at least 1, got {multiplier!r}")
        cap = _cap(where, maximum, first)

        def schedule(n: int) -> float:
            try:
                return first * factor ** (n - 1)
            except OverflowError:  # far over the cap
                return cap

        text = f"{where}(initial={first:g}, multiplier={factor:g}, maximum={cap:g}, {jitter=})"
        return cls(schedule, initial=first, maximum=cap, jitter=jitter, text=text)

    @classmethod
    def linear(
        cls,
        *,
        initial: float | timedelta = 0.1,
        increment: float | timedelta = 0.1,
        maximum: float | timedelta = 10.0,
        jitter: Jitter = "full",
    ) -> Backoff:
        """initial + (n − 1) · increment, at most `maximum`."""
        where = "Backoff.linear"
        first = arguments.duration(f"{where}: initial", initial)
        step = arguments.duration(f"{where}: increment", increment)
        cap = _cap(where, maximum, first)
        text = f"{where}(initial={first:g}, increment={step:g}, maximum={cap:g}, {jitter=})"
        return cls(lambda n: first + (n - 1) * step, initial=first, maximum=cap, jitter=jitter, text=text)

    @classmethod
    def constant(cls, delay: float | timedelta, *, jitter: Jitter = None) -> Backoff:
        """The same delay each time; 0 means at once."""
        return cls._listed("Backoff.constant", (delay,), jitter)

    @classmethod
    def sequence(cls, *delays: float | timedelta, jitter: Jitter = None) -> Backoff:
        """These delays, in order; the last one repeats."""
        if not delays:
            raise ValueError("Backoff.sequence needs at least one delay, got none")
        return cls._listed("Backoff.sequence", delays, jitter)

    @classmethod
    def _listed(cls, where: str, delays: tuple[float | timedelta, ...], jitter: Jitter) -> Backoff:
        if jitter == "decorrelated":
            raise ValueError(
                f"{where}: jitter must be 'full', 'equal' or None, got 'decorrelated', which makes "
                "a schedule of its own; write Backoff.exponential(jitter='decorrelated')"
            )
        listed = [arguments.duration(f"{where}: delay", d, zero=True) for d in delays]
        shown = ", ".join(f"{d:g}" for d in listed)
        return cls(
            lambda n: listed[min(n, len(listed)) - 1],
            initial=listed[0],
            maximum=max(listed),
            jitter=jitter,
            text=f"{where}({shown}, {jitter=})",
        )


def _cap(where: str, maximum: float | timedelta, first: float) -> float:
    cap = arguments.duration(f"{where}: maximum", maximum)
    if cap < first:
        raise ValueError(f"{where}: maximum must be at least initial ({first:g}), got {maximum!r}")
    return cap
