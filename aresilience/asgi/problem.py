"""Problem: a refusal as an HTTP response, `application/problem+json` (RFC 9457).

Its text is fixed by the status: nothing of the request, and nothing of the error, is in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aresilience.asgi.passage import passage
from aresilience.asgi.types import Receive, Scope, Send

__all__ = ["Problem", "problem_body"]

_TYPES = "https://iana.org/assignments/http-problem-types#"
_DENIAL = "websocket.http.response"
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013


@dataclass(frozen=True, slots=True)
class Problem:
    """A response that any framework can send: `status`, `headers`, `body`; and an ASGI application, so that
    an exception handler may return it where the framework allows that (Starlette, FastAPI)."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A websocket that is not accepted yet is refused with it, or closed: with 1008 for a
        limit and 1013 for the rest, where the server cannot send a response to a handshake."""
        passage(scope).refused = True
        kind = "http.response"
        if scope["type"] == "websocket":
            kind = _DENIAL
            if _DENIAL not in (scope.get("extensions") or {}):
                code = (
                    _POLICY_VIOLATION if self.status == HTTPStatus.TOO_MANY_REQUESTS else _TRY_AGAIN_LATER
                )
                await send({"type": "websocket.close", "code": code, "reason": _phrase(self.status)})
                return
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        await send({"type": f"{kind}.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": self.body})


def problem_body(status: int, violated: Sequence[str] = (), detail: str = "") -> bytes:
    """The body for a status. `violated` are the names of the limits that refused, as they are advertised;
    `detail` a sentence of ours."""
    content: dict[str, object] = {"type": "about:blank", "title": _phrase(status), "status": status}
    if detail:
        content["detail"] = detail
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        content["type"] = f"{_TYPES}quota-exceeded"
        content["title"] = "Request cannot be satisfied as assigned quota has been exceeded"
        if violated:
            content["violated-policies"] = list(violated)
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        content["type"] = f"{_TYPES}temporary-reduced-capacity"
        content["title"] = "Request cannot be satisfied due to temporary server capacity constraints"
    return json.dumps(content).encode()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
