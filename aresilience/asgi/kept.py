"""Kept: a response that is stored, and how it is sent again."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from aresilience import arguments
from aresilience.asgi.names import TOKEN, header_name
from aresilience.asgi.types import Send
from aresilience.codecs import NotStorable
from aresilience.errors import CorruptState

__all__ = ["HEADERS", "Headers", "Kept", "KeptCodec", "never_kept", "replayed_headers"]

Headers = Iterable[tuple[bytes, bytes]]

HEADERS = (
    "accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-language",
    "content-location", "content-type", "deprecation", "etag", "expires", "last-modified", "link", "location",
    "sunset", "vary",
)  # fmt: skip
"""The header fields of a response that are sent again with it: those that are about what was done."""
_NEVER = frozenset((
    "authorization", "connection", "content-length", "cookie", "date", "keep-alive", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "server", "set-cookie", "te", "trailer", "transfer-encoding",
    "upgrade", "www-authenticate",
))  # fmt: skip
"""Those that are about one client, one connection or one moment."""
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OF_THE_MOMENT = frozenset((307, 308, 401, 403, 408, 409, 421, 423, 425, 429))
_REPLAYED = (b"idempotent-replayed", b"true")
_WITHOUT_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole response. Of its headers, those that are kept."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    length: int | None = None
    """The content-length of an answer to HEAD, which has no body."""

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Answer with it, and say that it is a replay. `head`: to HEAD."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        length = self.length if head else len(self.body)
        if self.status not in _WITHOUT_BODY and length is not None:
            headers.append((b"content-length", b"%d" % length))
        headers.append(_REPLAYED)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class KeptCodec:
    """A line of JSON, and the body as it is. What could break out of a header is refused, written or read."""

    __slots__ = ()

    name = "http"
    version = 1

    def encode(self, value: Kept) -> bytes:
        """The response as bytes."""
        if not _sound(value):
            raise NotStorable("the response has a header that cannot be sent again")
        parts = [value.status, value.headers, *(() if value.length is None else (value.length,))]
        head = json.dumps(parts, separators=(",", ":"))
        return head.encode("ascii") + b"\n" + value.body

    def decode(self, data: bytes) -> Kept:
        """The response that it was."""
        head, _, body = data.partition(b"\n")
        try:
            status, headers, *more = json.loads(head)
            fields = tuple((str(name), str(value)) for name, value in headers)
            kept = Kept(int(status), fields, body, int(more[0]) if more else None)
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptState(f"a stored response is none of ours: {type(error).__name__}") from None
        if not _sound(kept):
            raise CorruptState("a stored response has a header that cannot be sent")
        return kept


def never_kept(status: int) -> bool:
    """Whether a response with that status is of this moment, or sends the request elsewhere: it is not stored,
    for asking again may help."""
    return status in _OF_THE_MOMENT or not 200 <= status < 500


def replayed_headers(where: str, extra: Collection[str]) -> frozenset[str]:
    """The names of the headers that are sent again, the usual ones and these."""
    if isinstance(extra, str) or not isinstance(extra, Collection):
        raise TypeError(f"{where} must be a list of names, got {extra!r}")
    names = frozenset(header_name(where, arguments.text(where, name)) for name in extra)
    if forbidden := names & _NEVER:
        raise ValueError(f"{where}: {min(forbidden)!r} is never sent again: it belongs to one answer")
    return names | frozenset(HEADERS)


def _sound(kept: Kept) -> bool:
    return 100 <= kept.status <= 599 and all(
        TOKEN.fullmatch(name) and name.lower() not in _NEVER and not _UNSAFE.search(value)
        for name, value in kept.headers
    )
