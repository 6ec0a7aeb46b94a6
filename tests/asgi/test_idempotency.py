"""IdempotencyMiddleware: a request that comes again is answered with the response of the first one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import BulkheadMiddleware, IdempotencyMiddleware, Limit, RateLimitMiddleware
from aresilience.asgi.idempotency import Principal
from aresilience.testing import FaultyBackend
from aresilience.testing.faulty import Fault

App = Callable[..., Awaitable[None]]
KEY = ("Idempotency-Key", '"8e03978e-40d5"')


class Shop:
    """An application that makes orders, each with a number, and remembers what it was asked."""

    def __init__(
        self, status: int = 201, *, takes: float = 0.0, headers: Any = (), parts: Any = None
    ) -> None:
        self.status = status
        self.takes = takes
        self.headers = [(n.encode(), v.encode()) for n, v in headers]
        self.parts = parts
        self.asked: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            if not message.get("more_body"):
                break
        self.asked.append(body)
        await asyncio.sleep(self.takes)
        number = len(self.asked)
        headers = [
            (b"content-type", b"application/json"),
            (b"location", b"/orders/%d" % number),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        parts = self.parts or [b'{"order":', b"%d}" % number]
        for place, part in enumerate(parts):
            more = place < len(parts) - 1
            await send({"type": "http.response.body", "body": part, "more_body": more})


def user(scope: Any) -> str | None:
    """The user of a request, from a header that stands for authentication."""
    for name, value in scope["headers"]:
        if name == b"x-user":
            return str(value.decode())
    return "alice"


def protect(app: App, principal: Principal | None = user, **options: Any) -> IdempotencyMiddleware:
    """With a key, once."""
    own = ("on_cancel", "on_abandoned", "in_flight")
    idem = ar.Idempotency(**{name: options.pop(name) for name in own if name in options})
    return IdempotencyMiddleware(app, idempotency=idem, principal=principal, **options)


@pytest.fixture
def post(ask: Any) -> Callable[..., Awaitable[Any]]:
    """Posts an order."""

    async def posting(app: App, body: bytes = b'{"sku":1}', *headers: tuple[str, str], **more: Any) -> Any:
        more.setdefault("path", "/orders")
        more.setdefault("method", "POST")
        return await ask(app, headers=[*headers, KEY] if headers != (("none", ""),) else [],
                         parts=more.pop("parts", (body,)), **more)  # fmt: skip

    return posting


def problem(answer: Any) -> dict[str, Any]:
    """What a refusal says; checks that it is one."""
    assert answer.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = json.loads(answer.body)
    assert content["status"] == answer.status
    return content


# Replays


async def test_a_retry_gets_the_first_response_to_the_byte(post: Any) -> None:
    """Status, headers that are about what was done, bytes; and that it is a replay; one run."""
    headers = [("etag", '"1"'), ("link", "</a>"), ("x-trace", "1"), ("set-cookie", "s=1"), ("date", "now")]
    shop = Shop(headers=headers)
    app = protect(shop)
    first, second, third = [await post(app) for _ in range(3)]
    assert first.status == second.status == third.status == 201
    assert first.body == second.body == third.body == b'{"order":1}'
    assert first.headers["set-cookie"] == "s=1"
    assert "idempotent-replayed" not in first.headers
    assert second.headers == {
        "content-type": "application/json",
        "location": "/orders/1",
        "etag": '"1"',
        "link": "</a>",
        "content-length": "11",
        "idempotent-replayed": "true",
    }
    assert len(shop.asked) == 1


async def test_concurrent_requests_run_once(post: Any) -> None:
    """A hundred at once, each waits for the one."""
    shop = Shop(takes=5.0)
    app = protect(shop)
    answers = await asyncio.gather(*(post(app) for _ in range(100)))
    assert {answer.body for answer in answers} == {b'{"order":1}'}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 99
    assert len(shop.asked) == 1


async def test_i3_or_are_told_to_come_back(post: Any) -> None:
    """I3: 409 with Retry-After while the first is at work; after that the replay."""
    shop = Shop(takes=5.0)
    app = protect(shop, in_flight="raise")
    first = asyncio.create_task(post(app))
    await asyncio.sleep(2.5)
    second = await post(app)
    assert second.status == 409
    assert second.headers["retry-after"] == "3"
    assert problem(second)["detail"] == "A request with this idempotency key is being worked on."
    await first
    assert (await post(app)).status == 201


async def test_i2_another_request_with_the_key_is_refused(post: Any) -> None:
    """I2: another body, query or kind of content: 422, in flight and done; not another spelling of the same."""
    shop = Shop(takes=1.0)
    app = protect(shop)
    json_type, form = ("content-type", "application/json"), ("content-type", "text/plain")
    first = asyncio.create_task(post(app, b"a", json_type))
    await asyncio.sleep(0.5)
    for _ in range(2):
        for refused in (
            await post(app, b"b", json_type),
            await post(app, b"a", form),
            await post(app, b"a", json_type, query_string=b"x=1"),
        ):
            assert refused.status == 422
            assert problem(refused)["detail"] == "This idempotency key was used for another request."
        await first
    again = await post(app, b"a", ("content-type", "Application/JSON; charset=utf-8"))
    assert again.status == 201
    assert len(shop.asked) == 1


async def test_i1_keys_belong_to_principals_methods_and_paths(post: Any) -> None:
    """I1: another user, method or path with the same key: its own request, its own response."""
    shop = Shop()
    app = protect(shop, methods=["*"])
    variants: list[tuple[Any, dict[str, Any]]] = [
        ((), {}),
        ((("x-user", "bob"),), {}),
        ((), {"path": "/payments"}),
        ((), {"method": "PATCH"}),
        ((), {"root_path": "/v2"}),
    ]
    for _ in range(2):
        bodies = [(await post(app, b"x", *headers, **more)).body for headers, more in variants]
        assert bodies == [b'{"order":%d}' % n for n in range(1, 6)]


@pytest.mark.parametrize("path", ["/orders/", "//orders", "/./orders", "/a/../orders"])
async def test_a12_one_path_is_one_path_however_it_is_spelt(post: Any, path: str) -> None:
    """A12: another spelling does not slip by; nor is it answered with what may be for another."""
    shop = Shop()
    app = protect(shop)
    await post(app)
    assert (await post(app, path=path)).status == 422
    assert (await post(app)).headers["idempotent-replayed"] == "true"
    assert len(shop.asked) == 1


async def test_principals_may_come_later_and_may_be_none(post: Any) -> None:
    """An async function; None: this request is not protected; `None` in its place: all clients are one."""

    async def later(scope: Any) -> str | None:
        await asyncio.sleep(0.1)
        return user(scope) if user(scope) != "nobody" else None

    shop = Shop()
    app = protect(shop, principal=later)
    assert (await post(app)).body == (await post(app)).body
    assert (await post(app, b"", ("x-user", "nobody"))).body != (
        await post(app, b"", ("x-user", "nobody"))
    ).body
    everybody = protect(shop, principal=None)
    assert (await post(everybody)).body == (await post(everybody, b'{"sku":1}', ("x-user", "bob"))).body


# Keys


GOOD = [
    '"abc"',
    "abc",
    '"a b"',
    r'"a\"b\\c"',
    "x" * 255,
    '"' + "x" * 255 + '"',
    "!#$%&'()*+-./:;<=>?@[]^_`{|}~",
    " abc\t",
]
BAD = [
    "", '""', " ", '"', '"abc', 'abc"', 'a"b', '"a""b"', "a b", "a,b", '"a", "b"', '"a";q=1', "x" * 256,
    '"' + "x" * 256 + '"', "\xff", '"\xe9"', "a\x00", "a\x7f", "\x1b", '"a\\b"', "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("value", GOOD)
async def test_keys_that_are_taken(ask: Any, value: str) -> None:
    """Quoted and bare, up to 255 characters."""
    shop = Shop()
    app = protect(shop)
    for _ in range(2):
        answer = await ask(app, "/", "POST", headers=[("Idempotency-Key", value)])
        assert answer.status == 201
    assert len(shop.asked) == 1


@pytest.mark.parametrize("value", BAD)
async def test_i10_keys_that_are_none(ask: Any, value: str) -> None:
    """I10: empty, too long, control characters, not ASCII, two in one: 400; the application is not asked."""
    shop = Shop()
    answer = await ask(protect(shop), "/", "POST", headers=[("Idempotency-Key", value)])
    assert answer.status == 400
    shown = problem(answer)
    assert set(shown) == {"type", "title", "status", "detail"}
    assert len(value) < 3 or value not in answer.body.decode()
    assert shop.asked == []


async def test_i10_two_headers_are_refused(ask: Any) -> None:
    """I10: also if they say the same."""
    shop = Shop()
    answer = await ask(protect(shop), "/", "POST", headers=[KEY, KEY])
    assert answer.status == 400
    assert problem(answer)["detail"] == "There is more than one idempotency key."
    assert shop.asked == []


async def test_the_two_forms_of_a_key_are_one(ask: Any) -> None:
    """Quoted by one client library, bare by another."""
    shop = Shop()
    app = protect(shop)
    for value in ("abc", '"abc"'):
        await ask(app, "/", "POST", headers=[("Idempotency-Key", value)])
    assert len(shop.asked) == 1


async def test_which_requests_need_a_key(ask: Any, post: Any) -> None:
    """Without one they pass, or with `required` get 400; I11: GET passes with a key; paths by choice."""
    shop = Shop()
    app = protect(shop)
    for _ in range(2):
        assert (await post(app, b"x", ("none", ""))).status == 201
        assert (await ask(app, "/", "GET", headers=[KEY])).status == 201
    assert len(shop.asked) == 4
    strict = protect(shop, required=True, paths=["/orders/*"], exempt=["/orders/free"])
    refused = await post(strict, b"x", ("none", ""))
    assert (refused.status, problem(refused)["detail"]) == (400, "This request needs an idempotency key.")
    assert (await post(strict, b"x", ("none", ""), path="/other")).status == 201
    assert (await post(strict, b"x", ("none", ""), path="/orders/free")).status == 201


async def test_another_name_for_the_header(ask: Any) -> None:
    """`header`, in any case."""
    shop = Shop()
    app = protect(shop, header="X-Request-Key")
    for _ in range(2):
        await ask(app, "/", "POST", headers=[("x-request-key", "k")])
    assert len(shop.asked) == 1


# What is stored


@pytest.mark.parametrize("status", [200, 201, 202, 204, 301, 302, 303, 400, 402, 404, 410, 422, 451])
async def test_answers_are_stored(post: Any, status: int) -> None:
    """2xx, 3xx, and what of 4xx is about the request itself."""
    shop = Shop(status)
    app = protect(shop)
    first, second = await post(app), await post(app)
    assert (first.status, first.body) == (second.status, second.body)
    assert len(shop.asked) == 1
    assert ("content-length" in second.headers) is (status != 204)


@pytest.mark.parametrize("status", [307, 308, 401, 403, 408, 409, 421, 423, 425, 429, 500, 502, 503, 504])
async def test_answers_of_the_moment_are_not(post: Any, status: int) -> None:
    """The key is free again: the retry runs."""
    shop = Shop(status)
    app = protect(shop)
    assert [(await post(app)).status for _ in range(2)] == [status, status]
    assert len(shop.asked) == 2


async def test_the_application_may_say_otherwise(post: Any) -> None:
    """For one response, by a header that is taken off; for all, by a function. The header wins."""
    for status, said, runs in ((500, "yes", 1), (201, "no", 2), (201, "No ", 2), (201, "maybe", 1)):
        shop = Shop(status, headers=[("x-idempotency-keep", said)])
        app = protect(shop)
        first, _ = await post(app), await post(app)
        assert len(shop.asked) == runs, (status, said)
        assert "x-idempotency-keep" not in first.headers

    def keep(scope: Any, status: int, headers: Any) -> bool | None:
        return {404: False, 503: True}.get(status)

    for status, runs in ((404, 2), (503, 1), (201, 1), (500, 2)):
        shop = Shop(status)
        app = protect(shop, keep=keep)
        await post(app), await post(app)
        assert len(shop.asked) == runs, status
    shop = Shop(404, headers=[("x-idempotency-keep", "yes")])
    app = protect(shop, keep=keep)
    await post(app), await post(app)
    assert len(shop.asked) == 1


async def test_our_own_refusals_are_never_stored(post: Any) -> None:
    """A limiter's 429, a bulkhead's 503, a refusal that is answered with another status: the retry runs."""
    from aresilience.asgi import RejectedMiddleware

    async def full(scope: Any, receive: Any, send: Any) -> None:
        raise ar.BulkheadFull("full", retry_after=1.0)

    limited = RateLimitMiddleware(Shop(), limits=[Limit(ar.RateLimiter("1/min"), key="")])
    bulkhead = ar.Bulkhead(1)
    crowded = BulkheadMiddleware(Shop(), bulkhead=bulkhead)
    odd = RejectedMiddleware(full, statuses={ar.BulkheadFull: 418})
    idem = protect(limited)
    assert (await post(idem, b"", ("x-user", "bob"))).status == 201
    assert [(await post(idem)).status for _ in range(2)] == [429, 429]
    idem = protect(crowded)
    async with bulkhead:
        assert (await post(idem)).status == 503
    assert (await post(idem)).status == 201
    asked = protect(odd)
    for _ in range(2):
        answer = await post(asked)
        assert answer.status == 418
        assert "idempotent-replayed" not in answer.headers


async def test_an_error_releases_the_key(post: Any) -> None:
    """I5: the application raises: the error passes, and the retry runs."""
    runs: list[int] = []

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ZeroDivisionError
        await Shop()(scope, receive, send)

    app = protect(broken)
    with pytest.raises(ZeroDivisionError):
        await post(app)
    assert (await post(app)).status == 201


async def test_an_error_of_the_applications_own_stays_one(post: Any) -> None:
    """`InFlight` from a call inside the application is not this middleware's to answer."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise ar.InFlight("inside", retry_after=1.0)

    with pytest.raises(ar.InFlight, match="inside"):
        await post(protect(inner))


async def test_a9_a_header_that_could_break_out_is_not_stored(post: Any) -> None:
    """A9: line ends and NUL in a header: the response is the first client's; a retry hears that it was done."""
    for value in ("x\r\nset-cookie: a=b", "x\x00"):
        shop = Shop(headers=[("etag", value)])
        app = protect(shop)
        assert (await post(app)).status == 201
        again = await post(app)
        assert again.status == 409
        assert (
            problem(again)["detail"]
            == "The request with this idempotency key was done; its response was not kept."
        )
        assert len(shop.asked) == 1


async def test_i13_what_is_sent_again_is_a_choice_but_for_some() -> None:
    """I13: more headers by name; never cookies, credentials, hop-by-hop."""
    shop = Shop()
    for name in ("Set-Cookie", "authorization", "Connection", "Transfer-Encoding", "date"):
        with pytest.raises(ValueError, match="never sent again"):
            protect(shop, replay_headers=[name])
    with pytest.raises(ValueError, match="must be the name of a header"):
        protect(shop, replay_headers=["a b"])
    assert protect(shop, replay_headers=["X-Trace"]).kept_headers >= {"x-trace", "location"}


# Bodies


async def test_a_body_in_parts_is_one_body(post: Any) -> None:
    """Chunks are put together, for the fingerprint and for the application; nothing is parsed."""
    shop = Shop()
    app = protect(shop)
    first = await post(app, parts=(b'{"a"', b"", b":1", b"}"))
    assert (await post(app, b'{"a":1}')).body == first.body
    assert shop.asked == [b'{"a":1}']


async def test_i16_a_body_that_breaks_off_runs_nothing(line: Any, scope_of: Any, post: Any) -> None:
    """I16: the client leaves in the middle: the application is not asked, nothing is stored or claimed."""
    shop = Shop()
    app = protect(shop, in_flight="raise")
    client = line([b'{"sku":1', b"}"])
    client._messages.pop()
    client.leave()
    await app(scope_of("/orders", "POST", headers=[KEY]), client.receive, client.send)
    assert client.answer.messages == []
    assert shop.asked == []
    assert (await post(app)).status == 201


async def test_a_body_that_is_too_long_is_refused(post: Any) -> None:
    """413, before the application; up to the limit it passes."""
    shop = Shop()
    app = protect(shop, max_request=10)
    assert (await post(app, b"x" * 10)).status == 201
    refused = await post(app, parts=(b"x" * 6, b"x" * 5, b"never read"))
    assert refused.status == 413
    assert "at most 10 bytes" in problem(refused)["detail"]
    assert len(shop.asked) == 1


async def test_a_fingerprint_of_ones_own(post: Any) -> None:
    """For bodies that differ where it does not matter: a multipart boundary, a time stamp."""
    shop = Shop()
    app = protect(shop, fingerprint=lambda scope, body: json.dumps(json.loads(body)["sku"]).encode())
    first = await post(app, b'{"sku":1,"at":1}')
    assert (await post(app, b'{"sku":1,"at":2}')).body == first.body
    assert (await post(app, b'{"sku":2,"at":2}')).status == 422


@pytest.mark.parametrize(("on_unkept", "then", "runs"), [("done", 409, 1), ("release", 201, 2)])
async def test_i8_a_response_that_is_too_long_is_passed_on(
    post: Any, on_unkept: str, then: int, runs: int
) -> None:
    """I8: as it comes, to the byte, not stored; the next one is told so, or runs."""
    parts = [b"a" * 6, b"b" * 4, b"c", b"", b"d" * 100]
    shop = Shop(parts=parts)
    app = protect(shop, max_response=10, on_unkept=on_unkept)
    first = await post(app)
    assert first.body == b"".join(parts)
    assert len(first.messages) == 6
    again = await post(app)
    assert again.status == then
    assert len(shop.asked) == runs
    fits = protect(Shop(parts=parts[:2]), max_response=10)
    assert (await post(fits)).body == (await post(fits)).body == b"a" * 6 + b"b" * 4


async def test_i8_streams_are_passed_on_as_they_come(line: Any, scope_of: Any) -> None:
    """I8: an event stream reaches the client part by part, and ends when the client leaves."""
    ended: list[str] = []

    async def events(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        leaving = asyncio.ensure_future(receive())
        number = 0
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            number += 1
            await asyncio.wait([leaving], timeout=1.0)
        ended.append(leaving.result()["type"])

    app = protect(events, on_unkept="release")
    client = line()
    task = asyncio.create_task(app(scope_of("/", "POST", headers=[KEY]), client.receive, client.send))
    await asyncio.sleep(3.5)
    assert client.answer.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
    client.leave()
    await task
    assert ended == ["http.disconnect"]


async def test_files_that_the_server_sends_and_trailers_are_passed_on(post: Any) -> None:
    """`http.response.pathsend`, trailers: what is not a body of ours cannot be kept; early hints pass."""

    async def file(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/x"})

    async def trailers(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": []})

    app = protect(file)
    kinds = (await post(app)).kinds
    assert kinds == ["http.response.early_hint", "http.response.start", "http.response.pathsend"]
    assert (await post(app)).status == 409
    app = protect(trailers)
    kinds = (await post(app)).kinds
    assert kinds == ["http.response.start", "http.response.body", "http.response.trailers"]
    assert (await post(app)).status == 409


# Clients that leave, servers that cancel, stores that fail


async def test_i6_a_client_that_leaves_changes_nothing(line: Any, scope_of: Any, post: Any) -> None:
    """I6: the application does not hear of it; the work is done and stored."""
    heard: list[str] = []

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait([leaving], timeout=5.0)
        heard.append("left" if leaving.done() else "nothing")
        leaving.cancel()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    app = protect(listening)
    client = line()
    task = asyncio.create_task(app(scope_of("/orders", "POST", headers=[KEY]), client.receive, client.send))
    await asyncio.sleep(1)
    client.leave()
    await task
    assert heard == ["nothing"]
    assert (await post(app, b"")).body == b"done"
    assert heard == ["nothing"]


@pytest.mark.parametrize(("on_cancel", "runs"), [("finish", 1), ("release", 2), ("unknown", 2)])
async def test_i7_a_request_that_is_cancelled_can_be_made_again(
    post: Any, on_cancel: str, runs: int
) -> None:
    """I7: by a server that cancels: finished and stored, or cancelled; never 409 for ever."""
    shop = Shop(takes=5.0)
    app = protect(shop, on_cancel=on_cancel)
    task = asyncio.create_task(post(app))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answer = await post(app)
    assert answer.status == 201
    assert ("idempotent-replayed" in answer.headers) is (on_cancel == "finish")
    assert len(shop.asked) == runs


async def test_what_runs_after_the_response_holds_nobody_up(line: Any, scope_of: Any, post: Any) -> None:
    """Background tasks: the response is stored and sent first; their errors are raised after it."""
    done: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Shop()(scope, receive, send)
        await asyncio.sleep(10)
        done.append(asyncio.get_running_loop().time())
        raise ZeroDivisionError("in the background")

    protected = protect(app)
    client = line([b'{"sku":1}'])
    scope = scope_of("/orders", "POST", headers=[KEY])
    task = asyncio.create_task(protected(scope, client.receive, client.send))
    await asyncio.sleep(1)
    assert client.answer.status == 201
    assert (await post(protected)).headers["idempotent-replayed"] == "true"
    with pytest.raises(ZeroDivisionError):
        await task
    assert done == [10.0]


@pytest.mark.parametrize("on_cancel", ["finish", "release"])
async def test_what_runs_after_the_response_when_the_server_cancels(
    line: Any, scope_of: Any, on_cancel: str
) -> None:
    """It goes on, or is cancelled; the response is stored by then."""
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Shop()(scope, receive, send)
        try:
            await asyncio.sleep(10)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    client = line()
    protected = protect(app, on_cancel=on_cancel)
    task = asyncio.create_task(protected(scope_of("/", "POST", headers=[KEY]), client.receive, client.send))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(20)
    assert ended == ["done" if on_cancel == "finish" else "cancelled"]


async def test_a_response_that_is_never_ended_is_passed_on(post: Any) -> None:
    """The application returns in the middle: what there is of it reaches the server, and the key is free."""

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    app = protect(half)
    for _ in range(2):
        answer = await post(app)
        assert answer.messages[-1] == {"type": "http.response.body", "body": b"half", "more_body": True}

    async def nothing(scope: Any, receive: Any, send: Any) -> None: ...

    assert (await post(protect(nothing))).messages == []


async def test_a_store_that_fails_is_503_before_anything_runs(post: Any) -> None:
    """And 201 with `on_store_error="run"`, unprotected: a choice."""
    backend = FaultyBackend()
    shop = Shop()
    idem = ar.Idempotency(name="x", backend=backend)
    app = IdempotencyMiddleware(shop, idempotency=idem, principal=user)
    backend.plan(Fault.NOT_SENT, verb="claim")
    refused = await post(app)
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert shop.asked == []
    backend.plan(Fault.LOST_REPLY, verb="settle")
    assert (await post(app)).status == 201  # the answer is the client's; the store is told again
    assert (await post(app)).headers["idempotent-replayed"] == "true"
    assert len(shop.asked) == 1
    free = ar.Idempotency(name="y", on_store_error="run", backend=backend)
    backend.plan(Fault.NOT_SENT, verb="claim")
    assert (await post(IdempotencyMiddleware(shop, idempotency=free, principal=user))).status == 201


async def test_work_that_nobody_knows_of_is_409(post: Any) -> None:
    """`refuse`: the client is told that the outcome is not known, without a time to come back."""
    shop = Shop(takes=5.0)
    app = protect(shop, on_cancel="unknown", on_abandoned="refuse")
    task = asyncio.create_task(post(app))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    answer = await post(app)
    assert answer.status == 409
    assert "not known" in problem(answer)["detail"]
    assert "retry-after" not in answer.headers


async def test_mounted_twice_it_is_one(post: Any) -> None:
    """The outer one has the claim; the inner one lets the request pass."""
    shop = Shop()
    app = protect(protect(shop))
    assert (await post(app)).body == (await post(app)).body
    assert len(shop.asked) == 1


async def test_the_application_sees_its_claim(post: Any) -> None:
    """`ar.current_claim()` in a handler: fence, attempt, and keys for downstream."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(ar.current_claim().downstream_key("stripe"))
        await Shop(500)(scope, receive, send)

    protected = protect(app)
    await post(protected), await post(protected)
    assert len(seen) == 2
    assert len(set(seen)) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"idempotency": "x"}, TypeError, "idempotency must be an ar.Idempotency"),
        ({"principal": "alice"}, TypeError, "principal must be a function of the scope, or None"),
        ({"header": "a b"}, ValueError, "header must be the name of a header"),
        ({"longest_key": 0}, ValueError, "longest_key must be"),
        ({"methods": []}, ValueError, "methods must not be empty"),
        ({"paths": ["orders"]}, ValueError, "paths must begin with"),
        ({"replay_headers": "etag"}, TypeError, "replay_headers must be a list"),
        ({"on_unkept": "keep"}, ValueError, "on_unkept must be one of 'done', 'release'"),
        ({"keep": 1}, TypeError, "keep must be a function"),
        ({"max_response": -1}, ValueError, "max_response must be"),
        ({"max_response": 1_048_577}, ValueError, "max_response must be at most the max_bytes"),
        ({"fingerprint": b""}, TypeError, "fingerprint must be a function"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """When it is made, with a message that names them."""
    given = {"idempotency": ar.Idempotency(), "principal": None, **options}
    with pytest.raises(error, match=message):
        IdempotencyMiddleware(Shop(), **given)
