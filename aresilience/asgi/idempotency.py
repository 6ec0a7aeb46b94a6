"""IdempotencyMiddleware: a request with an Idempotency-Key is done once, and its response is every retry's."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Literal, TypeAlias

from aresilience import arguments
from aresilience.asgi.answers import Answers, answers_for
from aresilience.asgi.idempotency_key import BadKeyError, key_of
from aresilience.asgi.kept import Kept, KeptCodec, never_kept, replayed_headers
from aresilience.asgi.keys import Value, settled
from aresilience.asgi.names import header_name
from aresilience.asgi.passage import passage
from aresilience.asgi.problem import Problem, problem_body
from aresilience.asgi.recording import Recording, without
from aresilience.asgi.routes import Routes, whole_path
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.codecs import NotStorable
from aresilience.errors import BackendError
from aresilience.idempotency import (
    Abandoned,
    AnswerLost,
    Claim,
    ClaimLost,
    Idempotency,
    InFlight,
    KeyReused,
    current_claim,
)

__all__ = ["IdempotencyMiddleware", "Principal"]

Principal: TypeAlias = Callable[[Scope], Value | Awaitable[Value]]
"""Who asks, from the scope: the user's id, say. None: this request is not protected."""
Keep: TypeAlias = Callable[[Scope, int, list[tuple[bytes, bytes]]], bool | None]

_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl", "application/grpc",
            "multipart/x-mixed-replace")  # fmt: skip
_REFUSALS = (InFlight, KeyReused, Abandoned, AnswerLost, ClaimLost, BackendError)
_MEBI = 1_048_576
_log = logging.getLogger("aresilience")


class IdempotencyMiddleware:
    """Answers a request that comes again with the response of the first one.

        IdempotencyMiddleware(app, idempotency=ar.Idempotency(name="api", backend=backend),
                              principal=lambda scope: scope["user"].id)         # inside the authentication

    A key belongs to a principal, a method and a path; used again for another query or body, or with the path
    spelt otherwise, it is refused with 422. While the first request is at work another one waits, or gets 409
    with Retry-After, as `idempotency` says. A bad key gets 400. Replays have `Idempotent-Replayed: true`, the
    status, the body to the byte, and those headers that are about what was done.

    - `principal`: a function of the scope, plain or async. Two clients of one principal share their keys; None
      in its place says that all clients are one. A request for which it returns None is not protected. There is
      no default: an address is not a principal.
    - `header`, `longest_key`; `required`: answer 400 to a request without a key. `methods`, `paths`, `exempt`:
      which requests; by default POST and PATCH. Others pass, with a key or without.
    - `replay_headers`: names of headers to send again besides the usual ones; never cookies and the like.
    - What is stored: statuses from 200 to 499, but for 307, 308, 401, 403, 408, 409, 421, 423, 425, 429 and
      refusals of this package; after any other the key is free again. `keep(scope, status, headers)` says
      otherwise, with True or False; so does the application, with a response header `override_header` of "yes"
      or "no", which is taken off. Where `keep` raises, that is logged, and what would have been stored is done
      without an answer.
    - `max_request`: a longer body is refused with 413, for it cannot be compared.
    - `max_response`: a longer response is passed on as it comes, and not stored; so are streams (`streams`, by
      content type) and files that the server sends. By default 1 MiB, or what `idempotency` keeps if that is
      less. `on_unkept` says what becomes of the key of these, and of any response that cannot be stored: "done"
      (a retry gets 409 and runs nothing) or "release" (it runs again).
    - `fingerprint(scope, body)`: bytes that must be the same, instead of query, content type and body.

    A client that leaves changes nothing, unless its response is passed on: the request is done, and its
    response stored. A request whose body breaks off never reaches the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        idempotency: Idempotency,
        principal: Principal | None,
        header: str = "Idempotency-Key",
        longest_key: int = 255,
        required: bool = False,
        methods: Collection[str] = ("POST", "PATCH"),
        paths: Collection[str] | None = None,
        exempt: Collection[str] = (),
        replay_headers: Collection[str] = (),
        keep: Keep | None = None,
        override_header: str = "X-Idempotency-Keep",
        max_request: int = _MEBI,
        max_response: int | None = None,
        streams: Collection[str] = _STREAMS,
        on_unkept: Literal["done", "release"] = "done",
        fingerprint: Callable[[Scope, bytes], bytes] | None = None,
        default_retry_after: float | timedelta = 1.0,
    ) -> None:
        kind = "IdempotencyMiddleware"
        if not isinstance(idempotency, Idempotency):
            raise TypeError(f"{kind}: idempotency must be an ar.Idempotency, got {idempotency!r}")
        if principal is not None and not callable(principal):
            raise TypeError(
                f"{kind}: principal must be a function of the scope, or None, got {principal!r}"
            )
        arguments.choice(f"{kind}: on_unkept", on_unkept, ("done", "release"))
        self.app = app
        self.idempotency = idempotency
        self._principal = principal
        self._header = header_name(f"{kind}: header", header).encode("ascii")
        self._longest = arguments.count(f"{kind}: longest_key", longest_key)
        self._required = required
        self._routes = Routes(kind, methods=methods, paths=paths, exempt=exempt)
        self._names = replayed_headers(f"{kind}: replay_headers", replay_headers)
        self._keep = None if keep is None else arguments.plain_function(f"{kind}: keep", keep)
        self._override = header_name(f"{kind}: override_header", override_header).encode("ascii")
        self._max_request = arguments.count(f"{kind}: max_request", max_request, least=0)
        self._max_response = _largest(f"{kind}: max_response", max_response, idempotency.max_bytes)
        self._streams = frozenset(stream.lower().encode("latin-1") for stream in streams)
        self._done = on_unkept == "done"
        self._fingerprint = (
            None if fingerprint is None else arguments.plain_function(f"{kind}: fingerprint", fingerprint)
        )
        self._answers = Answers(kind, default_retry_after=default_retry_after)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._routes.include(scope):
            await self.app(scope, receive, send)
            return
        passed = passage(scope)
        if passed.claimed:  # mounted twice: the outer one has it
            await self.app(scope, receive, send)
            return
        try:
            key = key_of(scope, self._header, self._longest)
            if key is None and self._required:
                raise BadKeyError("This request needs an idempotency key.")
        except BadKeyError as error:
            await _refused(400, str(error))(scope, receive, send)
            return
        who = None if key is None else await self._who(scope)
        if key is None or who is None:
            await self.app(scope, receive, without(self._override, send))
            return
        body = await _whole_body(receive, self._max_request)
        if body is None:
            return  # it broke off: there is nobody to answer, and nothing to run
        if len(body) > self._max_request:
            text = f"The body of a request with an idempotency key has at most {self._max_request} bytes."
            await _refused(413, text)(scope, receive, send)
            return
        passed.claimed = True
        try:
            await self._once(
                (who, scope["method"], _digest(whole_path(scope)), key), body, scope, receive, send
            )
        finally:
            passed.claimed = False

    async def _once(
        self, key: tuple[str, ...], body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        recording = Recording(
            body,
            receive,
            send,
            limit=self._max_response,
            streams=self._streams,
            override=self._override,
        )
        request = _Request(self, scope, recording)
        marks = _fingerprint(scope, body) if self._fingerprint is None else self._fingerprint(scope, body)
        try:
            kept = await self.idempotency.once(
                key, request.run, codec=_CODEC, operation=_operation(scope), fingerprint=marks
            )
        except _REFUSALS as error:
            if request.raised is error or recording.passes:
                raise
            await answers_for(scope, self._answers)(error, scope, receive, send)
        else:
            if request.task is None:
                await kept.send(send, head=scope["method"] == "HEAD")
            else:
                await recording.answer()
        await request.rest()

    async def _who(self, scope: Scope) -> str | None:
        """The principal, hashed."""
        if self._principal is None:
            return "everybody"
        value = self._principal(scope)
        known = value if isinstance(value, str) else await settled(value)
        return None if known is None else _digest(known)

    def ends(self, claim: Claim[Kept], scope: Scope, recording: Recording) -> Kept:
        """What is stored of a response; or the claim is told that nothing is."""
        kept = Kept(recording.status or 500, (), b"")
        if not recording.whole.is_set():
            claim.release()
            return kept
        try:
            counts, answers = self._keeps(scope, recording), not recording.passes
        except Exception:  # noqa: BLE001 - the work is done, and its response is sent all the same
            _log.exception("IdempotencyMiddleware: keep raised; the response is not kept")
            if _of_the_moment(scope, recording):
                claim.release()
            else:
                claim.complete_without_answer()
            return kept
        if counts and answers:
            whole = recording.kept(self._names, head=scope["method"] == "HEAD")
            if self._done or self._storable(whole):
                return whole
        if counts and self._done:
            claim.complete_without_answer()
        else:
            claim.release()
        return kept

    def _keeps(self, scope: Scope, recording: Recording) -> bool:
        """Whether a whole response counts: it is stored, if it can be."""
        said = recording.said
        if said is None and self._keep is not None:
            said = self._keep(scope, recording.status or 500, recording.headers)
        return not _of_the_moment(scope, recording) if said is None else said

    def _storable(self, kept: Kept) -> bool:
        try:
            return len(_CODEC.encode(kept)) <= self.idempotency.max_bytes
        except NotStorable:
            return False

    @property
    def kept_headers(self) -> frozenset[str]:
        """The names of the headers that are sent again."""
        return self._names

    def __repr__(self) -> str:
        return f"<IdempotencyMiddleware {self.idempotency!r}>"


class _Request:
    """One run of the application, for a claim: the claim ends with the response, the application may go on."""

    __slots__ = ("_middleware", "_recording", "_scope", "raised", "task")

    def __init__(self, middleware: IdempotencyMiddleware, scope: Scope, recording: Recording) -> None:
        self._middleware = middleware
        self._scope = scope
        self._recording = recording
        self.task: asyncio.Task[None] | None = None
        self.raised: BaseException | None = None

    async def run(self) -> Kept:
        """Until the response is whole, or there will be none."""
        recording, idempotency = self._recording, self._middleware.idempotency
        app = self._middleware.app(self._scope, recording.receive, recording.send)
        task = self.task = idempotency.go_on(_awaited(app))
        whole = asyncio.ensure_future(recording.whole.wait())
        try:
            await asyncio.wait([task, whole], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            whole.cancel()
        if not recording.whole.is_set():
            self.raised = None if task.cancelled() else task.exception()
            task.result()
        return self._middleware.ends(current_claim(), self._scope, recording)

    async def rest(self) -> None:
        """What the application does after its response: background tasks. Raises what it raises."""
        task = self.task
        if task is None:
            return
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if self._middleware.idempotency.finishes:
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            else:
                task.cancel()
                await asyncio.wait([task])
            raise
        if task.cancelled() and task.cancelling():  # not by us: the backend was closed
            _log.warning("IdempotencyMiddleware: the backend was closed while a request was at work")
            return
        task.result()


_CODEC = KeptCodec()


async def _awaited(app: Awaitable[None]) -> None:
    await app


async def _whole_body(receive: Receive, most: int) -> bytes | None:
    """The request's body; None if it broke off. One of more than `most` is not read to its end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if not message.get("more_body", False) or size > most:
            return b"".join(parts)


def _largest(where: str, max_response: int | None, max_bytes: int) -> int:
    if max_response is None:
        return min(_MEBI, max_bytes)
    if arguments.count(where, max_response, least=0) > max_bytes:
        raise ValueError(
            f"{where} must be at most the max_bytes of the idempotency, {max_bytes}, got {max_response}"
        )
    return max_response


def _of_the_moment(scope: Scope, recording: Recording) -> bool:
    return never_kept(recording.status or 500) or passage(scope).refused


def _operation(scope: Scope) -> str:
    """The path as it was written: an application may tell spellings apart that are one path for us."""
    raw = scope.get("raw_path")
    path = scope["path"] if raw is None else bytes(raw).partition(b"?")[0].decode("latin-1")
    return f"http {path}"


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    """What must be the same besides the key: query, kind of content and body, each with its length."""
    types = [value for name, value in scope["headers"] if name.lower() == b"content-type"]
    kind = b",".join(value.split(b";")[0].strip().lower() for value in types)
    parts = (bytes(scope.get("query_string", b"")), kind, body)
    return b"".join(b"%d:%s" % (len(part), part) for part in parts)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _refused(status: int, detail: str) -> Problem:
    body = problem_body(status, detail=detail)
    headers = (
        ("content-type", "application/problem+json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
    )
    return Problem(status, headers, body)
