"""IdempotencyMiddleware: what is not kept, who says so, and what becomes of the key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import IdempotencyMiddleware

App = Callable[..., Awaitable[None]]
OVERRIDE = b"X-Idempotency-Keep"


class Site:
    """An application that answers what it is told to, and counts."""

    def __init__(self, *parts: bytes, status: int = 200, headers: Any = (), file: bool = False) -> None:
        self.parts = parts or (b"x",)
        self.status = status
        self.headers = list(headers)
        self.file = file
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if self.file:
            await send({"type": "http.response.pathsend", "path": "/x"})
            return
        for place, part in enumerate(self.parts):
            more = place < len(self.parts) - 1
            await send({"type": "http.response.body", "body": part, "more_body": more})


def protect(app: App, *, max_bytes: int = 1_048_576, principal: Any = None, **options: Any) -> App:
    """With a key, once."""
    idem = ar.Idempotency(max_bytes=max_bytes)
    return IdempotencyMiddleware(app, idempotency=idem, principal=principal, **options)


@pytest.fixture
def twice(ask: Any) -> Callable[..., Awaitable[list[Any]]]:
    """Asks twice with one key."""

    async def asking(app: App, **more: Any) -> list[Any]:
        more.setdefault("headers", [("Idempotency-Key", "k")])
        more = {"method": "POST", "path": "/f", **more}
        return [await ask(app, **more) for _ in range(2)]

    return asking


STREAM = (b"content-type", b"text/event-stream")
PASSED = [
    Site(b"a", b"b", headers=[STREAM]),
    Site(b"a" * 20),
    Site(file=True),
]


@pytest.mark.parametrize("site", PASSED, ids=["stream", "long", "file"])
@pytest.mark.parametrize(("said", "then"), [(b"no", 200), (b"yes", 409), (None, 409)], ids=str)
async def test_what_is_passed_on_is_kept_or_not_as_the_application_says(
    twice: Any, site: Site, said: bytes | None, then: int
) -> None:
    """With "no" the next one runs; the header never reaches the client."""
    asked = [] if said is None else [(OVERRIDE, said)]
    mine = Site(*site.parts, headers=[*site.headers, *asked], file=site.file)
    one, two = await twice(protect(mine, max_response=10))
    assert (one.status, two.status) == (200, then)
    assert "x-idempotency-keep" not in {name.lower() for name in {**one.headers, **two.headers}}
    assert mine.runs == (2 if then == 200 else 1)


@pytest.mark.parametrize("keep", [True, False])
async def test_and_as_keep_says(twice: Any, keep: bool) -> None:
    """For what is passed on as for the rest."""
    site = Site(b"a", headers=[STREAM])
    await twice(protect(site, keep=lambda *_: keep))
    assert site.runs == (1 if keep else 2)


@pytest.mark.parametrize("unprotected", [{"headers": []}, {"who": None}], ids=["no key", "no principal"])
async def test_what_is_not_protected_shows_no_override_either(twice: Any, unprotected: Any) -> None:
    """It is between the application and the middleware."""
    site = Site(headers=[(OVERRIDE, b"no"), (b"x-other", b"1")])
    app = protect(site, principal=(lambda scope: None) if unprotected.pop("who", 0) is None else None)
    for answer in await twice(app, **unprotected):
        assert answer.headers == {"x-other": "1"}
    assert site.runs == 2


UNSTORABLE = [
    (Site(headers=[(b"location", b"/a\x7f")]), {}),
    (Site(b"a" * 95), {"max_bytes": 100}),
    (Site(b"a" * 101), {"max_bytes": 100}),
]


@pytest.mark.parametrize(("on_unkept", "then"), [("done", 409), ("release", 200)])
@pytest.mark.parametrize(("site", "options"), UNSTORABLE, ids=["header", "with its head", "body"])
async def test_what_cannot_be_stored_is_what_on_unkept_says(
    twice: Any, site: Site, options: Any, on_unkept: str, then: int
) -> None:
    """A header that could not be sent again, a head that does not fit with its body, a body too long."""
    site.runs = 0
    _, two = await twice(protect(site, on_unkept=on_unkept, **options))
    assert two.status == then
    assert site.runs == (2 if then == 200 else 1)


@pytest.mark.parametrize(("status", "runs"), [(201, 1), (503, 2)])
async def test_keep_that_raises_neither_hides_the_response_nor_runs_it_again(
    twice: Any, status: int, runs: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The work is done: the client hears so; the mistake is in the log. What is of the moment runs again."""

    def keep(*_: Any) -> bool:
        raise KeyError("oops")

    site = Site(status=status)
    with caplog.at_level(logging.ERROR, "aresilience"):
        one, two = await twice(protect(site, keep=keep))
    assert (one.status, one.body) == (status, b"x")
    assert two.status == (409 if runs == 1 else status)
    assert site.runs == runs
    assert "keep raised" in caplog.text


@pytest.mark.parametrize("raw", [b"/f/a%2Fb", b"/f//a/b", b"/f/./a/b/"])
async def test_another_spelling_of_a_path_gets_no_answer_of_this_one(ask: Any, raw: bytes) -> None:
    """An application may take them for two: neither replayed nor run."""
    site = Site()
    app = protect(site)
    key = [("Idempotency-Key", "k")]
    path = raw.decode().replace("%2F", "/")
    assert (await ask(app, method="POST", path=path, raw_path=raw, headers=key)).status == 200
    assert (await ask(app, method="POST", path="/f/a/b", raw_path=b"/f/a/b", headers=key)).status == 422
    again = await ask(app, method="POST", path=path, raw_path=raw, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert site.runs == 1


@pytest.mark.parametrize("length", [b"500", None])
async def test_the_replay_of_a_head_has_the_length_of_the_first(twice: Any, length: bytes | None) -> None:
    """It is that of what GET would get: it has no body of its own."""
    site = Site(b"", headers=[] if length is None else [(b"content-length", length)])
    one, two = await twice(protect(site, methods=["HEAD"]), method="HEAD")
    assert one.headers.get("content-length") == two.headers.get("content-length")
    assert two.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("answered", [False, True])
async def test_a_request_whose_backend_is_closed_is_answered_and_not_cancelled(
    ask: Any, caplog: pytest.LogCaptureFixture, answered: bool
) -> None:
    """503, or the response that it had; nobody has cancelled its client, nor its server's task."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if answered:
            await Site()(scope, receive, send)
        await asyncio.sleep(1000)

    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", backend=backend, finish_within=1)
    protected = IdempotencyMiddleware(app, idempotency=idem, principal=None)
    async with backend:
        asking = asyncio.create_task(ask(protected, method="POST", headers=[("Idempotency-Key", "k")]))
        await asyncio.sleep(1)
    await asyncio.wait([asking])
    assert asking.result().status == (200 if answered else 503)
    assert "the backend was closed" in caplog.text
