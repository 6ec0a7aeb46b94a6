"""Keys: which requests share one limit."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aresilience.asgi.client_ip import ClientIP
from aresilience.asgi.names import header_name
from aresilience.asgi.types import Scope

__all__ = ["Header", "Key", "Value", "checked_key", "settled"]

Value: TypeAlias = str | int | None
Key: TypeAlias = str | Callable[[Scope], Value | Awaitable[Value]]
"""A text, for all requests alike, or a function of the scope, plain or async: the user's id, say. None: the
limit does not apply to this request."""

_PEER = ClientIP()


class Header:
    """The value of a header as a key: hashed, for it may be a secret, and may be long.

    `otherwise` is the key of requests without that header: the peer's address, or another key. With None they
    are not limited, and leaving the header out is a way around the limit.

    Whoever may make values up (of a token that nobody has checked yet, of Host) has a fresh limit with each:
    put a limit by address beside it. How many keys are kept is the limiter's to bound (`max_keys`).
    """

    __slots__ = ("_name", "_otherwise")

    def __init__(self, name: str, *, otherwise: Key | None = _PEER) -> None:
        self._name = header_name("Header: name", name).encode("ascii")
        self._otherwise = None if otherwise is None else checked_key("Header: otherwise", otherwise)

    def __call__(self, scope: Scope) -> Value | Awaitable[Value]:
        values = [value for name, value in scope["headers"] if name == self._name]
        if not values:
            otherwise = self._otherwise
            return otherwise(scope) if callable(otherwise) else otherwise
        digest = hashlib.sha256(self._name)
        for value in values:
            digest.update(b"%d:" % len(value) + value)
        return "sha256:" + digest.hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Header({self._name.decode()!r}, otherwise={self._otherwise!r})"


def checked_key(where: str, key: Key) -> Key:
    """The key, if it is one."""
    if not isinstance(key, str) and not callable(key):
        raise TypeError(f"{where} must be a string or a function of the scope, got {key!r}")
    return key


async def settled(value: Value | Awaitable[Value]) -> str | None:
    """What a key function returned, as limiters know keys; None if there is no key."""
    if inspect.isawaitable(value):
        value = await value
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a key must be a string, a whole number or None, got {type(value).__name__}")
