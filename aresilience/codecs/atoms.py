"""Shapes of values that have no parts: what JSON knows, and what is written as text."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

__all__ = ["ATOMS", "Shape", "UnfitError", "stepped", "unfit"]


class UnfitError(ValueError):
    """A value that is not of its shape. `where` is the way to it from the outermost value."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where

    def under(self, step: str) -> UnfitError:
        """The same, seen from one step further out."""
        return UnfitError(self.what, step + self.where)


class Shape(NamedTuple):
    """To JSON's own types, and back. Both raise `UnfitError`."""

    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]
    name: str = ""


def unfit(expected: str, value: object) -> UnfitError:
    """It should be something else."""
    return UnfitError(f"must be {expected}, is {type(value).__name__}")


def _exactly(name: str, *kinds: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise unfit(name, value)
        return value

    return check


def _finite(value: Any) -> Any:
    if type(value) not in (float, int):
        raise unfit("float", value)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise UnfitError("is larger than any float") from None
    if not finite:
        raise UnfitError("must be finite: JSON has neither infinity nor NaN")
    return value


def _plain(value: Any) -> Any:
    """What comes back from JSON as it was."""
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return value
    if kind is float:
        return _finite(value)
    if kind is list:
        return [stepped(f"[{i}]", _plain, item) for i, item in enumerate(value)]
    if kind is dict:
        entries = enumerate(value.items())  # by number: a key may be as secret as a value
        return {_plain_key(key): stepped(f"[item {i}]", _plain, item) for i, (key, item) in entries}
    raise UnfitError(
        f"is {kind.__name__}, which would not come back from JSON as it is: say the type in the annotation"
    )


def _plain_key(key: Any) -> Any:
    if type(key) is not str:
        raise UnfitError(f"has a key that is no text, but {type(key).__name__}: annotate the type")
    return key


def stepped(step: str, work: Callable[[Any], Any], value: Any) -> Any:
    """`work(value)`; an error in it is one step further in."""
    try:
        return work(value)
    except UnfitError as error:
        raise error.under(step) from None


def _text(name: str, kind: type, dump: Callable[[Any], str], load: Callable[[str], Any]) -> Shape:
    """A type that is written as text."""

    def dumped(value: Any) -> str:
        if type(value) is not kind:
            raise unfit(name, value)
        return dump(value)

    def loaded(value: Any) -> Any:
        if type(value) is not str:
            raise unfit(f"{name} as text", value)
        try:
            return load(value)
        except (ValueError, ArithmeticError, binascii.Error) as error:
            raise UnfitError(f"is no {name}") from error

    return Shape(dumped, loaded, name)


def _b64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise UnfitError("has a zone whose offset depends on the day: it would come back without it")
    return value.isoformat()


def _interval(value: Any) -> list[int]:
    if type(value) is not timedelta:
        raise unfit("timedelta", value)
    return [value.days, value.seconds, value.microseconds]


def _to_interval(value: Any) -> timedelta:
    if type(value) is not list or len(value) != 3 or any(type(part) is not int for part in value):
        raise unfit("timedelta as three numbers", value)
    return timedelta(*value)


_NONE = Shape(_exactly("None", type(None)), _exactly("None", type(None)), "None")
_ANY = Shape(_plain, lambda value: value, "Any")
ATOMS: dict[Any, Shape] = {
    Any: _ANY,
    object: _ANY,
    None: _NONE,
    type(None): _NONE,
    bool: Shape(_exactly("bool", bool), _exactly("bool", bool), "bool"),
    int: Shape(_exactly("int", int), _exactly("int", int), "int"),
    float: Shape(_finite, _finite, "float"),
    str: Shape(_exactly("str", str), _exactly("str", str), "str"),
    datetime: _text("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    date: _text("date", date, date.isoformat, date.fromisoformat),
    time: _text("time", time, _time, time.fromisoformat),
    UUID: _text("UUID", UUID, str, UUID),
    Decimal: _text("Decimal", Decimal, str, Decimal),
    bytes: _text("bytes", bytes, lambda value: base64.b64encode(value).decode("ascii"), _b64),
    timedelta: Shape(_interval, _to_interval, "timedelta"),
}
