"""Results as msgspec keeps them, in MessagePack: structs, and every type that msgspec knows.

    idem = ar.Idempotency(ttl=86_400, codec=aresilience.integrations.msgspec.codec_for)

Needs msgspec, which whoever returns structs has.
"""

from __future__ import annotations

import inspect
from typing import Any, Generic, TypeVar

import msgspec

from aresilience import arguments
from aresilience.codecs import BytesCodec, Codec, JsonCodec, NotStorable
from aresilience.errors import CorruptState

__all__ = ["MsgspecCodec", "codec_for"]

T = TypeVar("T")


class MsgspecCodec(Generic[T]):
    """MessagePack by msgspec. What would not come back is refused at once: it is decoded when stored."""

    __slots__ = ("_decoder", "_encoder", "name", "version")

    def __init__(self, annotation: Any, *, version: int = 1) -> None:
        self.name = "msgspec"
        self.version = arguments.count("MsgspecCodec: version", version)
        self._encoder = msgspec.msgpack.Encoder()
        try:
            self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(annotation)
        except TypeError as error:
            raise TypeError(f"msgspec knows no form for {annotation!r}: {error}") from error

    def encode(self, value: T) -> bytes:
        """The value as MessagePack. Raises `NotStorable` if it would not come back as it is."""
        try:
            data = self._encoder.encode(value)
            again = self._decoder.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise NotStorable(f"msgspec cannot store the result: {type(error).__name__}") from None
        if type(again) is not type(value) or again != value:
            raise NotStorable(f"the result, {type(value).__name__}, would come back as something else")
        return data

    def decode(self, data: bytes) -> T:
        """The value that it was."""
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise CorruptState(f"a stored result does not fit its type: {type(error).__name__}") from None

    def __repr__(self) -> str:
        return f"MsgspecCodec({self._decoder!r}, version={self.version})"


def codec_for(annotation: Any = inspect.Signature.empty) -> Codec[Any]:
    """The codec for results that are annotated so."""
    if annotation is bytes:
        return BytesCodec()
    if annotation in (inspect.Signature.empty, Any):
        return JsonCodec()
    return MsgspecCodec(annotation)
