"""Failures that are answers: stored by type and content, and raised again. No pickle.

A failure is stored as the name of its type, which has to be in `store_errors`, and what makes it anew: the
fields of a dataclass, else the arguments of the exception, as JSON. What would not come back equal is not
stored: it is done, and its answer is lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from aresilience.codecs import Codec, JsonCodec, NotStorable, pack, unpack
from aresilience.errors import CorruptState

__all__ = ["Failures", "StoreErrors"]

StoreErrors: TypeAlias = "Iterable[type[Exception]] | Mapping[type[Exception], Codec[Any] | None]"


_PLAIN: JsonCodec[Any] = JsonCodec()


class _Arguments:
    """The codec of an exception that is made of its arguments."""

    __slots__ = ("_kind",)

    name = "args"
    version = 1

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def encode(self, value: Exception) -> bytes:
        """Its arguments, if it can be made of them again."""
        data = _PLAIN.encode(list(value.args))
        _checked(
            self._kind,
            lambda: _all_of(self.decode(data)) == _all_of(value),
        )
        return data

    def decode(self, data: bytes) -> Exception:
        """Made anew."""
        try:
            return self._kind(*json.loads(data))
        except Exception as error:  # whatever a constructor raises that is given what it does not expect
            raise NotStorable(
                f"{self._kind.__name__} cannot be made of its arguments: pass a codec for it"
            ) from error


class _Fields:
    """The codec of an exception that is a dataclass: its fields, and how many of them are its arguments."""

    __slots__ = ("_json", "_kind")

    name = "fields"
    version = 1

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind
        self._json: JsonCodec[Any] = JsonCodec(kind)

    def encode(self, value: Exception) -> bytes:
        """Its fields."""
        data = b"%d:%s" % (len(value.args), self._json.encode(value))
        _checked(self._kind, lambda: self.decode(data).args == value.args)
        return data

    def decode(self, data: bytes) -> Exception:
        """Made anew."""
        count, _, rest = data.partition(b":")
        error: Exception = self._json.decode(rest)
        names = [field.name for field in dataclasses.fields(error) if field.init]  # type: ignore[arg-type]
        error.args = tuple(getattr(error, name) for name in names[: int(count) if count.isdigit() else 0])
        return error


def _checked(kind: type[Exception], same: Callable[[], bool]) -> None:
    """Raise `NotStorable` if an error, made anew, is another one, or cannot be made."""
    reason: Exception | None = None
    try:
        if same():
            return
    except Exception as error:  # noqa: BLE001
        reason = error
    raise NotStorable(f"{kind.__name__} would not come back as it is: pass a codec for it") from reason


def _all_of(error: Exception) -> tuple[tuple[Any, ...], str, dict[str, Any]]:
    return error.args, str(error), _facts(error)


def _facts(error: Exception) -> dict[str, Any]:
    """Its attributes, but for notes, which anybody may add on its way up."""
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


class Failures:
    """The types of failures that are stored, each with its codec."""

    __slots__ = ("_codecs", "_names")

    def __init__(self, where: str, spec: StoreErrors) -> None:
        given = spec if isinstance(spec, Mapping) else dict.fromkeys(_types(where, spec))
        self._codecs: dict[type[Exception], Codec[Any]] = {}
        self._names: dict[str, type[Exception]] = {}
        for kind, codec in given.items():
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                raise TypeError(f"{where} must be exception types, got {kind!r}")
            name = kind.__qualname__
            if name in self._names:
                raise ValueError(f"{where} has two types named {name!r}: they could not be told apart")
            self._names[name] = kind
            self._codecs[kind] = codec or (
                _Fields(kind) if dataclasses.is_dataclass(kind) else _Arguments(kind)
            )

    def __contains__(self, error: BaseException) -> bool:
        """Whether this failure is an answer: it is of one of the types, or of a subclass of one."""
        return isinstance(error, tuple(self._codecs))

    def pack(self, error: Exception, max_bytes: int) -> bytes:
        """What is kept of it. Raises `NotStorable`, for a subclass of a listed type too."""
        codec = self._codecs.get(type(error))
        if codec is None:
            raise NotStorable(f"{type(error).__name__} is not itself one of the types in store_errors")
        name = type(error).__qualname__.encode()
        return b"%d:%s%s" % (len(name), name, pack(codec, error, max_bytes=max_bytes))

    def unpack(self, data: bytes) -> Exception:
        """The failure. Raises `CorruptState` if it is not one of those that are listed."""
        size, _, rest = data.partition(b":")
        if not size.isdigit() or len(size) > 6:
            raise CorruptState("a stored failure is not one that we wrote")
        name = rest[: int(size)].decode("utf-8", "replace")
        kind = self._names.get(name)
        if kind is None:
            raise CorruptState(f"a stored failure, {name[:80]!r}, is not one of store_errors")
        try:
            error: Exception = unpack(self._codecs[kind], rest[int(size) :])
        except NotStorable as reason:
            raise CorruptState(str(reason)) from reason
        return error


def _types(where: str, spec: object) -> Iterable[Any]:
    if isinstance(spec, type) or not isinstance(spec, Iterable):
        raise TypeError(f"{where} must be a list of exception types, got {spec!r}")
    return spec
