"""When an instance is taken out of rotation: the options, and what is needed of a circuit breaker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from aresilience import arguments

__all__ = ["Breaker", "Breakers", "OutlierPolicy"]


class _State(Protocol):
    @property
    def value(self) -> Any: ...


class Breaker(Protocol):
    """What is needed of a circuit breaker: `ar.CircuitBreaker` has it."""

    @property
    def state(self) -> _State: ...

    async def admit(self) -> Any: ...

    async def record(self, permit: Any, error: BaseException | None = None) -> None: ...


class Breakers(Protocol):
    """A breaker for each key: `ar.CircuitBreakers` is one."""

    def __getitem__(self, key: str, /) -> Breaker: ...


class OutlierPolicy:
    """When an instance is taken out of rotation.

    - `failures` in a row (5) eject it, for `ejection` seconds (30) times the rounds that it was ejected lately,
      at most `max_ejection` (300), and up to a tenth longer by chance.
    - `breakers`: instead, a circuit breaker for each instance decides: `ar.CircuitBreakers("users", …)`. It is
      asked before each call of the instance and told how it ended.
    - At most a share of `max_ejected` (0.5) of all is out, one at least where there are `minimum_hosts` (2),
      and never the last. Where fewer than a share of `panic` (0.5) are good, the bad ones are called like the
      others; `panic=None`: they never are.
    """

    __slots__ = (
        "breakers",
        "ejection",
        "failures",
        "max_ejected",
        "max_ejection",
        "minimum_hosts",
        "panic",
    )

    def __init__(
        self,
        *,
        failures: int = 5,
        ejection: float | timedelta = 30.0,
        max_ejection: float | timedelta = 300.0,
        max_ejected: float = 0.5,
        minimum_hosts: int = 2,
        panic: float | None = 0.5,
        breakers: Breakers | None = None,
    ) -> None:
        where = "OutlierPolicy"
        self.failures = arguments.count(f"{where}: failures", failures)
        self.ejection = arguments.duration(f"{where}: ejection", ejection)
        self.max_ejection = arguments.duration(f"{where}: max_ejection", max_ejection)
        if self.max_ejection < self.ejection:
            raise ValueError(
                f"{where}: max_ejection must be at least ejection ({self.ejection:g}), got {max_ejection!r}"
            )
        self.max_ejected = arguments.fraction(f"{where}: max_ejected", max_ejected)
        self.minimum_hosts = arguments.count(f"{where}: minimum_hosts", minimum_hosts, least=2)
        self.panic = 0.0 if panic is None else arguments.fraction(f"{where}: panic", panic)
        if breakers is not None and not hasattr(breakers, "__getitem__"):
            raise TypeError(f"{where}: breakers must have a breaker for each key, got {breakers!r}")
        self.breakers = breakers

    def time_out(self, rounds: int, u: float) -> float:
        """Seconds that an ejection lasts."""
        return min(self.max_ejection, self.ejection * rounds) * (1 + u / 10)

    def most_out(self, many: int) -> int:
        """How many of so many may be out."""
        if many < self.minimum_hosts:
            return 0
        return min(many - 1, max(1, int(self.max_ejected * many)))
