"""Codecs: how results are kept as bytes, and come back as what they were. No pickle.

`codec_for(annotation)` chooses: `bytes` as they are, everything else as JSON, by its type (see `shapes`).
What is kept begins with the codec's name and version, so that nothing is ever read by another one:

    json/1 {"id":"r-1","amount":"9.90"}

A codec of your own has a `name`, a `version`, `encode` and `decode`. Those for pydantic and msgspec are in
`aresilience.integrations`.
"""

from aresilience.codecs.codec import (
    MAX_BYTES,
    BytesCodec,
    Codec,
    CodecChoice,
    JsonCodec,
    NotStorable,
    checked_codec,
    codec_for,
    pack,
    returned_by,
    unpack,
)

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
