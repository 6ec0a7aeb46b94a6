"""The Idempotency-Key header: what a client may send in it.

Two forms: the string of draft-ietf-httpapi-idempotency-key-header, `"8e03978e-40d5"` in quotes (a structured
field, RFC 9651), and the bare one that most clients send. The key is what is inside the quotes, so that both
forms of one key are the same. A bare key has no comma, which would be two headers that a proxy joined.
"""

from __future__ import annotations

import re

from aresilience.asgi.types import Scope

__all__ = ["BadKeyError", "key_of"]

_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(rb"[!#-+\--~]+")


class BadKeyError(Exception):
    """The header is there, and no key. The message is for the client, with nothing of what it sent."""


def key_of(scope: Scope, header: bytes, longest: int) -> str | None:
    """The request's key; None if it has none. `header` is in lower case."""
    values = [value for name, value in scope["headers"] if name.lower() == header]
    if not values:
        return None
    if len(values) > 1:
        raise BadKeyError("There is more than one idempotency key.")
    value = values[0].strip(b" \t")
    if value.startswith(b'"'):
        quoted = _QUOTED.fullmatch(value)
        key = None if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted[1])
    else:
        key = value if not value or _BARE.fullmatch(value) else None
    if key is None:
        raise BadKeyError("The idempotency key has characters that are not allowed.")
    if not key:
        raise BadKeyError("The idempotency key is empty.")
    if len(key) > longest:
        raise BadKeyError(f"The idempotency key is longer than {longest} characters.")
    return key.decode("ascii")
