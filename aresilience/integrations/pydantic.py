"""Results as pydantic keeps them: models, and every type that pydantic knows.

    idem = ar.Idempotency(ttl=86_400, codec=aresilience.integrations.pydantic.codec_for)

Needs pydantic 2, which whoever returns models has.
"""

from __future__ import annotations

import inspect
from typing import Any, Generic, TypeVar

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from aresilience import arguments
from aresilience.codecs import BytesCodec, Codec, JsonCodec, NotStorable
from aresilience.errors import CorruptState

__all__ = ["PydanticCodec", "codec_for"]

T = TypeVar("T")


class PydanticCodec(Generic[T]):
    """JSON by pydantic. What it writes it can read, or it is refused at once: it is validated when stored."""

    __slots__ = ("_adapter", "name", "version")

    def __init__(self, annotation: Any, *, version: int = 1) -> None:
        self.name = "pydantic"
        self.version = arguments.count("PydanticCodec: version", version)
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise TypeError(f"pydantic knows no form for {annotation!r}: {error}") from error

    def encode(self, value: T) -> bytes:
        """The value as JSON. Raises `NotStorable` if it would not come back as it is."""
        try:
            data = self._adapter.dump_json(value, by_alias=True, warnings="error")
            again = self._adapter.validate_json(data)
        except (PydanticSerializationError, ValidationError, ValueError) as error:
            raise NotStorable(f"pydantic cannot store the result: {type(error).__name__}") from None
        if type(again) is not type(value) or again != value:
            raise NotStorable(f"the result, {type(value).__name__}, would come back as something else")
        return data

    def decode(self, data: bytes) -> T:
        """The value that it was."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise CorruptState(
                f"a stored result does not fit its model: {error.error_count()} errors"
            ) from None

    def __repr__(self) -> str:
        return f"PydanticCodec({self._adapter!r}, version={self.version})"


def codec_for(annotation: Any = inspect.Signature.empty) -> Codec[Any]:
    """The codec for results that are annotated so."""
    if annotation is bytes:
        return BytesCodec()
    if annotation in (inspect.Signature.empty, Any):
        return JsonCodec()
    return PydanticCodec(annotation)
