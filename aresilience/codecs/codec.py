"""The protocol, the two codecs that need no library, and what is kept of a value."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from aresilience import arguments
from aresilience.codecs.atoms import UnfitError
from aresilience.codecs.shapes import shape_of
from aresilience.errors import AresilienceError, CorruptState

__all__ = [
    "MAX_BYTES",
    "BytesCodec",
    "Codec",
    "CodecChoice",
    "JsonCodec",
    "NotStorable",
    "checked_codec",
    "codec_for",
    "pack",
    "returned_by",
    "unpack",
]

T = TypeVar("T")

MAX_BYTES = 1_048_576
"""The most that is kept of one result, unless somebody says otherwise."""
_NAME = re.compile(r"[a-z0-9_.-]{1,32}")


class NotStorable(AresilienceError):
    """A value cannot be kept: not of its type, without a form, or too large. The message does not show it."""


class Codec(Protocol[T]):
    """`encode` raises `NotStorable`, `decode` `CorruptState`; neither does I/O."""

    @property
    def name(self) -> str:
        """1 to 32 lower-case letters, digits or `_ . -`."""

    @property
    def version(self) -> int:
        """Another one for another form of the bytes: what has been kept in the old form is not read."""

    def encode(self, value: T) -> bytes:
        """The value as bytes."""

    def decode(self, data: bytes) -> T:
        """The value that `encode` was given."""


CodecChoice = Callable[[Any], Codec[Any]]
"""Chooses the codec for the annotation of a result: `codec_for`, or that of an integration."""


class BytesCodec:
    """Bytes as they are."""

    __slots__ = ()

    name = "bytes"
    version = 1

    def encode(self, value: bytes) -> bytes:
        """Copies a bytearray or memoryview."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise NotStorable(f"BytesCodec keeps bytes, got {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes) -> bytes:
        """The same."""
        return bytes(data)

    def __repr__(self) -> str:
        return "BytesCodec()"


class JsonCodec(Generic[T]):
    """JSON, by the type of the value: dataclasses, dates, decimals, enums and what `shapes` lists.

    Without a type: what comes back from JSON as it was, and nothing else, so no tuple, no key that is no text.
    `version` is yours, for when the type changes so much that what is kept must not be read any more.
    Raises `TypeError` for a type whose values have no form.
    """

    __slots__ = ("_shape", "name", "version")

    def __init__(self, annotation: Any = Any, *, version: int = 1) -> None:
        self.name = "json"
        self.version = arguments.count("JsonCodec: version", version)
        self._shape = shape_of(annotation)

    def encode(self, value: T) -> bytes:
        """The value as UTF-8."""
        try:
            plain = self._shape.dump(value)
            text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except UnfitError as error:
            raise NotStorable(f"the result{error.where} {error.what}") from None
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; a list that holds itself
            raise NotStorable(f"the result has no form in JSON: {error}") from None
        return text.encode("utf-8", "surrogatepass")

    def decode(self, data: bytes) -> T:
        """The value that it was."""
        try:
            return self._shape.load(json.loads(data.decode("utf-8", "surrogatepass")))  # type: ignore[no-any-return]
        except UnfitError as error:
            raise CorruptState(f"the stored result{error.where} {error.what}") from None
        except (ValueError, RecursionError) as error:
            raise CorruptState(f"a stored result is no JSON: {type(error).__name__}") from None

    def __repr__(self) -> str:
        return f"JsonCodec({self._shape.name}, version={self.version})"


def codec_for(annotation: Any = inspect.Signature.empty) -> Codec[Any]:
    """The codec for results that are annotated so. Raises `TypeError` if there is none."""
    if annotation is bytes:
        return BytesCodec()
    if annotation is inspect.Signature.empty or isinstance(annotation, TypeVar):
        return JsonCodec()
    return JsonCodec(annotation)


def checked_codec(where: str, codec: object) -> None:
    """Raise if it is neither a codec nor a function that chooses one."""
    if not isinstance(codec, type) and hasattr(codec, "encode") and hasattr(codec, "decode"):
        if not _NAME.fullmatch(arguments.text(f"{where}.name", getattr(codec, "name", None))):
            raise ValueError(f"{where}.name must be 1 to 32 of a-z 0-9 _ . -, got {codec.name!r}")  # type: ignore[attr-defined]
        arguments.count(f"{where}.version", getattr(codec, "version", None))  # type: ignore[arg-type]
    elif isinstance(codec, type) or not callable(codec):
        raise TypeError(
            f"{where} must be a codec, or a function of the annotation that returns one, got {codec!r}"
        )


def returned_by(function: Callable[..., Any]) -> Any:
    """The annotation of what a function returns; `inspect.Signature.empty` if it has none.

    Raises `NameError` if it names what is not defined (yet).
    """
    while hasattr(function, "__wrapped__") or hasattr(function, "func"):
        function = getattr(function, "__wrapped__", None) or function.func  # type: ignore[attr-defined]
    if not inspect.isroutine(function):
        function = getattr(function, "__call__", function)  # noqa: B004
    annotation = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    if not isinstance(annotation, str):
        return annotation
    return typing.get_type_hints(function, include_extras=True)["return"]


def pack(codec: Codec[Any], value: Any, *, max_bytes: int = MAX_BYTES) -> bytes:
    """What is kept of a value. Raises `NotStorable`, also if it is larger than `max_bytes`."""
    body = codec.encode(value)
    if len(body) > max_bytes:
        raise NotStorable(f"a result of {len(body)} bytes is larger than what is kept, {max_bytes}")
    return b"%s/%d %s" % (codec.name.encode("ascii"), codec.version, body)


def unpack(codec: Codec[Any], data: bytes) -> Any:
    """The value of which `pack` made this. Raises `CorruptState`, also for whatever else `decode` raises."""
    tag, _, body = data.partition(b" ")
    if tag != b"%s/%d" % (codec.name.encode("ascii"), codec.version):
        shown = tag[:48].decode("ascii", "replace")
        raise CorruptState(
            f"a result was stored by the codec {shown!r}, and is to be read by {codec.name}/{codec.version}"
        )
    try:
        return codec.decode(body)
    except CorruptState:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise CorruptState(
            f"what was stored cannot be read by {codec.name}/{codec.version}: {kind}"
        ) from error
