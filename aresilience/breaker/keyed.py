"""One circuit breaker per key: per host, per tenant."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.breaker.breaker import CircuitBreaker
from aresilience.breaker.facts import CircuitOpen
from aresilience.breaker.machine import BreakerState
from aresilience.events import Listener
from aresilience.policy import Layer, Policy

__all__ = ["CircuitBreakers"]

P = ParamSpec("P")
T = TypeVar("T")

_LOOKED_AT = 16


class CircuitBreakers(Policy):
    """Breakers with the same options, made when their key is first used.

    `breakers[key]` is the key's breaker. As a policy, `key` says which one a call belongs to, from its
    arguments: `@ar.CircuitBreakers(key=lambda url: urlsplit(url).netloc)`. The other options are those of
    `CircuitBreaker`.

    At most `max_keys` are kept. Beyond, the one that was unused longest goes, closed ones before others.
    Events carry the family's name, not the key.
    """

    __slots__ = ("_backend", "_breakers", "_key", "_max_keys", "_pattern")

    layer = Layer.BREAKER
    refusal = CircuitOpen

    def __init__(
        self,
        name: str | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 10_000,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
        **options: Any,
    ) -> None:
        super().__init__(name, listeners)
        self._key = None if key is None else arguments.plain_function("CircuitBreakers: key", key)
        self._max_keys = arguments.count("CircuitBreakers: max_keys", max_keys)
        self._pattern = CircuitBreaker(self.name, **options)
        self._pattern._listeners = self._listeners
        if backend is not None and name is None:
            raise ValueError(
                "CircuitBreakers: name is needed with a backend: it is what processes share by"
            )
        self._backend = backend
        self._breakers: OrderedDict[Hashable, CircuitBreaker] = OrderedDict()

    def __getitem__(self, key: Hashable) -> CircuitBreaker:
        breaker = self._breakers.get(key)
        if breaker is None:
            if len(self._breakers) >= self._max_keys:
                self._drop_one()  # before the new one comes, which is closed and must not be it
            breaker = self._breakers[key] = self._pattern.sibling(self._backend, self._shared_key(key))
        else:
            self._breakers.move_to_end(key)
        return breaker

    def __len__(self) -> int:
        return len(self._breakers)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._breakers

    def __iter__(self) -> Iterator[Hashable]:
        """The keys, the one that was unused longest first."""
        return iter(tuple(self._breakers))

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        choose = self._key
        if choose is None:
            raise TypeError(
                "CircuitBreakers: to wrap a function it needs key=, which picks the breaker from "
                "the arguments; or use breakers[key] as the policy"
            )

        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self[choose(*args, **kwargs)].around(fn)(*args, **kwargs)

        return guarded

    def _shared_key(self, key: Hashable) -> str | None:
        if self._backend is None:
            return None
        if not isinstance(key, str):
            raise TypeError(f"CircuitBreakers: with a backend keys must be strings, got {key!r}")
        return key

    def _drop_one(self) -> None:
        """The longest unused that is closed, among the oldest few, so that the cost is bounded."""
        oldest = [key for key, _ in zip(self._breakers, range(_LOOKED_AT), strict=False)]
        for key in oldest:
            if self._breakers[key].state is BreakerState.CLOSED:
                del self._breakers[key]
                return
        del self._breakers[oldest[0]]

    def __repr__(self) -> str:
        return f"<CircuitBreakers {self.name!r} {len(self)} of at most {self._max_keys} keys>"
