"""Named policies in one place: an object that you make and pass, never a global.

policies = ar.Policies()
payments = policies.add(ar.Pipeline(retry, breaker, name="payments"))
...
policies["payments"]                      # elsewhere, by name
policies.listen(ar.LoggingListener())     # everything, also what is added later
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from aresilience.events import Listener
from aresilience.policy import Policy

__all__ = ["Policies"]

A = TypeVar("A", bound=Policy)


class Policies(Mapping[str, Policy]):
    """Policies by name: a mapping to read from, `add` to put into."""

    __slots__ = ("_listeners", "_policies")

    def __init__(self, *policies: Policy) -> None:
        self._policies: dict[str, Policy] = {}
        self._listeners: dict[Listener, list[Callable[[], None]]] = {}
        for policy in policies:
            self.add(policy)

    def add(self, policy: A, *, name: str | None = None) -> A:
        """Keep a policy under its name, or another; returns it. A name is given once."""
        if not isinstance(policy, Policy):
            raise TypeError(f"Policies.add takes a policy, got {policy!r} ({type(policy).__name__})")
        known = name or policy.name
        if known in self._policies:
            raise ValueError(
                f"Policies: there is a policy named {known!r} already: {self._policies[known]!r}"
            )
        self._policies[known] = policy
        for listener, ends in self._listeners.items():
            ends.append(policy.listen(listener))
        return policy

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` the events of all, those added later too; the function returned ends it."""
        self._listeners[listener] = [policy.listen(listener) for policy in self._policies.values()]

        def end() -> None:
            for stop in self._listeners.pop(listener, []):
                stop()

        return end

    def __getitem__(self, name: str) -> Policy:
        return self._policies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)

    def __repr__(self) -> str:
        return f"Policies({', '.join(map(repr, self._policies.values()))})"
