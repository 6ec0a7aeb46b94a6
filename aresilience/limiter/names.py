"""Names of keys on the server: digests, so they are remembered for keys that are asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Names"]


class Names:
    """What `make(meter, key)` says. When `kept` are known, they become the old ones, and those that nobody asks
    for until the next time are forgotten."""

    __slots__ = ("_known", "_make", "_new", "_old", "kept")

    def __init__(self, make: Callable[[str, str], bytes], kept: int = 10_000) -> None:
        self._make = make
        self._known: dict[str, dict[str, bytes]] = {}
        self._old: dict[str, dict[str, bytes]] = {}
        self._new = 0
        self.kept = kept

    def of(self, meter: str, keys: Iterable[str]) -> list[bytes]:
        """The names of keys of one meter."""
        known = self._known.get(meter, {})
        return [known.get(key) or self._learnt(meter, key) for key in keys]

    def _learnt(self, meter: str, key: str) -> bytes:
        name = self._old.get(meter, {}).get(key) or self._make(meter, key)
        if self._new >= self.kept:
            self._old, self._known, self._new = self._known, {}, 0
        self._known.setdefault(meter, {})[key] = name
        self._new += 1
        return name
