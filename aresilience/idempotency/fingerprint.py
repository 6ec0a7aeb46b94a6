"""Fingerprints: what tells two pieces of work apart that came with the same key. And the ids of keys.

A fingerprint is "2:" and a digest, where 2 is the version of what follows here. Two of different versions
cannot be compared, and are taken for the same.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

__all__ = ["Key", "derived", "fingerprint_of", "record_id"]

_VERSION = "2"
_LONGEST = 65_536

Key: TypeAlias = "str | int | UUID | tuple[str | int | UUID, ...]"
"""Text, a number, a UUID, or several: ("tenant-1", order_id)."""


def record_id(name: str, key: Key) -> str:
    """The digest that stands for a key of a name. Raises `TypeError` or `ValueError` for what is no key."""
    parts = key if isinstance(key, tuple) else (key,)
    if not parts:
        raise ValueError("an idempotency key must not be empty, got ()")
    return _digest(name, *(_text(part) for part in parts))


def fingerprint_of(operation: str, content: object) -> str:
    """The fingerprint of an operation and what it is called with: bytes, or what JSON and dataclasses can hold.

    None is no content: the operation alone. Equal numbers are the same, 1 and 1.0, and so are equal decimals.
    Raises `TypeError` for what has no one form, `ValueError` for a number that is none.
    """
    if content is None:
        return f"{_VERSION}:{_digest(operation, 'none', b'')}"
    if isinstance(content, bytes):
        return f"{_VERSION}:{_digest(operation, 'bytes', content)}"
    return f"{_VERSION}:{_digest(operation, 'json', _canonical(content))}"


def derived(name: str, ident: str, fingerprint: str, label: str) -> str:
    """A key for others, made of ours: the same for every attempt at the same work, and no hint at ours."""
    return _digest("downstream", name, ident, fingerprint, label)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def _text(part: object) -> str:
    if isinstance(part, bool) or not isinstance(part, str | int | UUID):
        raise TypeError(
            "an idempotency key must be a string, a whole number, a UUID or a tuple of them, "
            f"got {type(part).__name__}"
        )
    text = str(part)
    if not text or len(text) > _LONGEST:
        raise ValueError(
            f"an idempotency key must have 1 to {_LONGEST} characters, this one has {len(text)}"
        )
    return text


def _canonical(content: object) -> str:
    """One text for equal contents, whatever the order of their dicts."""
    try:
        return json.dumps(_plain(content), sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise TypeError("a fingerprint's content must not contain itself") from None


def _plain(value: object) -> Any:
    """What JSON has. All that is more than text, a number or an object is a list that begins with its kind."""
    kind = type(value)
    if value is None or kind in (str, bool):
        return value
    if isinstance(value, enum.Enum):
        return ["enum", kind.__qualname__, value.name]
    if isinstance(value, str):  # a subclass: as what it is
        return str.__str__(value)
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, UUID | date | time | timedelta):
        return ["atom", kind.__qualname__, str(value)]
    if isinstance(value, list | tuple):
        return ["list", *(_plain(item) for item in value)]
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return ["fields", kind.__qualname__, _plain(fields)]
    dumped = getattr(value, "model_dump", None)
    if callable(dumped):  # a pydantic model
        return ["fields", kind.__qualname__, _plain(dumped(mode="json"))]
    raise TypeError(
        f"a fingerprint cannot be made of {kind.__name__}: pass bytes, or what JSON and dataclasses can hold"
    )


def _number(value: float | Decimal) -> Any:
    """One form for equal numbers of a kind; whole floats are whole numbers."""
    if isinstance(value, int):
        return ["int", hex(value)]  # of any size
    if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
        raise ValueError("a fingerprint cannot be made of a number that is infinite, or none (NaN)")
    if isinstance(value, float):
        return ["int", hex(int(value))] if value.is_integer() else ["float", value.hex()]
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    shown = text.rstrip("0")
    if not shown:
        return ["decimal", "0"]
    return ["decimal", f"{'-' * sign}{shown}e{int(exponent) + len(text) - len(shown)}"]


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a fingerprint's content has a key that is no text, but {type(key).__name__}")
    return key
