"""On a real server: uvicorn with h11 and with httptools, real sockets, real clients."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import aresilience as ar
from aresilience.asgi import (
    BulkheadMiddleware,
    ClientIP,
    DeadlineMiddleware,
    Limit,
    RateLimitMiddleware,
    RejectedMiddleware,
    deadline_headers,
)
from aresilience.limiter import RateLimiter

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest) -> str:
    """The two HTTP implementations of uvicorn."""
    name: str = request.param
    pytest.importorskip(name, reason=f"{name} is not installed: this server was NOT tested")
    return name


def url(port: int, path: str = "/") -> str:
    """Where the server is."""
    return f"http://127.0.0.1:{port}{path}"


def browser(**options: Any) -> httpx.AsyncClient:
    """A client; it need not load any certificates."""
    return httpx.AsyncClient(verify=False, **options)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def raw(port: int, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which these lines have been sent as a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "Host: x", "", ""]).encode())
    return reader, writer


class Hall:
    """An application in which requests stay until they are let out."""

    def __init__(self) -> None:
        self.inside = 0
        self.ended = 0
        self.out = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.inside += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await self.out.wait()
        await send({"type": "http.response.body", "body": b"last"})
        self.inside -= 1
        self.ended += 1


async def test_a_limit_on_the_wire(http: str, serve: Any, ok: Any) -> None:
    """200, 200, 429 with its headers, as a client sees them; the connection goes on."""
    app = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("2/min", name="api"), key=ClientIP())])
    async with serve(app, http=http) as port, browser() as client:
        answers = [await client.get(url(port)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["ratelimit"] == '"api";r=1;t=30'
        refused = answers[2]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["ratelimit-policy"] == '"api";q=2;w=60'
        assert refused.json()["violated-policies"] == ["api"]
        assert (await client.options(url(port))).status_code == 200


async def test_a_refused_upload(http: str, serve: Any, ok: Any) -> None:
    """A body that nobody reads does not harm the next request."""
    app = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("1/min"), key="", methods=["POST"])])
    async with serve(app, http=http) as port, browser() as client:
        for expected in (200, 429, 429):
            answer = await client.post(url(port), content=bytes(20_000))
            assert answer.status_code == expected
        assert (await client.get(url(port))).status_code == 200


async def test_t8_a_spoofed_header(http: str, serve: Any, ok: Any) -> None:
    """T8: X-Forwarded-For moves nobody into another's limit, unless a proxy is trusted to write it."""
    seen: list[str] = []

    def noting(client_ip: ClientIP) -> Any:
        def key(scope: Any) -> str:
            seen.append(client_ip(scope))
            return seen[-1]

        return RateLimitMiddleware(ok, limits=[Limit(RateLimiter("9/s"), key=key)])

    lines = [("X-Forwarded-For", "198.51.100.66"), ("X-Forwarded-For", "203.0.113.7")]
    for client_ip in (ClientIP(), ClientIP(trusted_hops=1), ClientIP(trusted_hops=2)):
        async with serve(noting(client_ip), http=http) as port, browser() as client:
            await client.get(url(port), headers=lines)
    assert seen == ["127.0.0.1", "203.0.113.7", "198.51.100.66"]


@pytest.mark.parametrize(
    ("believes", "keys"), [(False, ["127.0.0.1"] * 2), (True, ["127.0.0.1", "6.6.6.6"])]
)
async def test_a10_a_server_that_believes_the_header_itself(
    serve: Any, ok: Any, believes: bool, keys: list[str]
) -> None:
    """A10: without --no-proxy-headers uvicorn gives us, for what comes from the loopback, another peer than the
    one that connects: whom the header names. So the README says to switch it off."""
    seen: list[str] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(ClientIP()(scope))
        await ok(scope, receive, send)

    async with serve(noting, proxy_headers=believes) as port, browser() as client:
        for headers in ({}, {"x-forwarded-for": "6.6.6.6"}):
            await client.get(url(port), headers=headers)
    assert seen == keys


async def test_a3_a_client_that_leaves_frees_nothing(http: str, serve: Any) -> None:
    """A3: uvicorn neither cancels the app nor fails `send`: the permit goes back when the app ends."""
    hall, bulkhead = Hall(), ar.Bulkhead(1)
    async with serve(BulkheadMiddleware(hall, bulkhead=bulkhead), http=http) as port:
        reader, writer = await raw(port, "GET / HTTP/1.1")
        await reader.readuntil(b"first ")
        writer.close()
        await writer.wait_closed()
        async with browser() as client:
            assert (await client.get(url(port))).status_code == 503
            assert (hall.inside, bulkhead.running) == (1, 1)
            hall.out.set()
            await until(lambda: hall.ended == 1)
            await until(lambda: bulkhead.running == 0)
            assert (await client.get(url(port))).text == "first last"


async def test_a8_a_client_that_leaves_the_queue(http: str, serve: Any) -> None:
    """A8: who leaves while waiting gives up the place, and its request never runs."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=1)
    async with serve(BulkheadMiddleware(hall, bulkhead=bulkhead), http=http) as port:
        reader, writer = await raw(port, "GET / HTTP/1.1")
        await reader.readuntil(b"first ")
        for body in ([], ["Content-Length: 5"]):  # the second one's body never comes
            _, waiting = await raw(port, "POST / HTTP/1.1", *body)
            await until(lambda: bulkhead.waiting == 1)
            waiting.close()
            await waiting.wait_closed()
            await until(lambda: bulkhead.waiting == 0)
        hall.out.set()
        await reader.readuntil(b"last")
        writer.close()
        await writer.wait_closed()
        await until(lambda: bulkhead.running == 0)
        assert hall.ended == 1


async def test_a8_those_who_wait_keep_their_body(http: str, serve: Any) -> None:
    """A8: a body that was read ahead while its request waited arrives whole, a long one too."""
    bulkhead = ar.Bulkhead(1, max_waiting=9)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    contents = [b"", b"short", bytes(range(256)) * 4000]
    async with serve(BulkheadMiddleware(echo, bulkhead=bulkhead), http=http) as port:
        async with browser() as client, asyncio.TaskGroup() as group, bulkhead:
            tasks = [group.create_task(client.post(url(port), content=each)) for each in contents]
            await until(lambda: bulkhead.waiting == 3)
        assert [task.result().content for task in tasks] == contents
    assert bulkhead.running == 0


async def test_a4_an_application_that_never_answers(http: str, serve: Any) -> None:
    """A4: app never calls send → slot freed, 500."""
    bulkhead = ar.Bulkhead(1)

    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    app = RejectedMiddleware(BulkheadMiddleware(silent, bulkhead=bulkhead))
    async with serve(app, http=http, lifespan="off") as port, browser() as client:
        for _ in range(2):
            assert (await client.get(url(port))).status_code == 500
    assert bulkhead.running == 0


async def test_a5_an_application_that_answers_in_disorder(http: str, serve: Any) -> None:
    """A5: body before start: uvicorn refuses it inside the application, which is a 500 and no crash."""

    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"early"})

    limits = [Limit(RateLimiter("9/s"), key="")]
    app = RejectedMiddleware(RateLimitMiddleware(early, limits=limits))
    async with serve(app, http=http, lifespan="off") as port, browser() as client:
        assert (await client.get(url(port))).status_code == 500


async def test_a16_pipelined_requests(http: str, serve: Any, ok: Any) -> None:
    """A16: two requests in one packet: each is counted, and the answers come in order."""
    app = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("1/min"), key="")])
    async with serve(app, http=http) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = (await reader.read()).decode()
        assert answer.index("HTTP/1.1 200") < answer.index("HTTP/1.1 429")
        writer.close()
        await writer.wait_closed()


async def test_a12_encoded_paths(http: str, serve: Any, ok: Any) -> None:
    """A12: however the client spells the path on the wire, it is one path."""
    app = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("1/min"), key="", paths=["/a/b"])])
    async with serve(app, http=http) as port:
        statuses = []
        for path in ("/a/b", "/a%2fb", "/a%2Fb/", "//a//b", "/%61/b", "/a/b?x=1", "/a/c"):
            reader, writer = await raw(port, f"GET {path} HTTP/1.1", "Connection: close")
            statuses.append((await reader.read()).split()[1])
            writer.close()
            await writer.wait_closed()
    assert statuses == [b"200", *[b"429"] * 5, b"200"]


async def test_a_deadline_on_the_wire(http: str, serve: Any) -> None:
    """504 before the start, a broken connection after it, and the deadline handed on to the next service."""
    left: list[float | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left.append(ar.time_remaining())
        if scope["path"] == "/next":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
            return
        if scope["path"] == "/slow":
            await client.get(url(port, "/next"), headers=deadline_headers())
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.Event().wait()

    serving = serve(DeadlineMiddleware(app, maximum=30), http=http, lifespan="off")
    async with serving as port, browser() as client:
        answer = await client.get(url(port, "/slow"), headers={"X-Request-Timeout": "0.5"})
        assert answer.status_code == 504
        first, second = left
        assert first is not None
        assert second is not None
        assert 0 < second <= first <= 0.5
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url(port, "/stream"), headers={"X-Request-Timeout": "0.5"})


async def test_all_together_under_load(http: str, serve: Any) -> None:
    """Many clients at once: each is answered with what it was due, and everything is given back."""
    bulkhead = ar.Bulkhead(5, max_waiting=20)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        if scope["path"] == "/open":
            raise ar.CircuitOpen(retry_after=3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    limited = RateLimitMiddleware(
        BulkheadMiddleware(app, bulkhead=bulkhead), limits=[Limit(RateLimiter("40/day"), key="")]
    )
    wrapped = RejectedMiddleware(DeadlineMiddleware(limited, maximum=30))
    ten = httpx.Limits(max_connections=10)
    async with serve(wrapped, http=http, lifespan="off") as port, browser(limits=ten) as client:
        paths = ["/open", "/", "/"] * 20
        answers = await asyncio.gather(*(client.get(url(port, path)) for path in paths))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) + statuses.count(503) == 40
    assert statuses.count(429) == 20
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


# Websockets


@pytest.fixture
def connect() -> Any:
    """A client for websockets."""
    pytest.importorskip("websockets", reason="websockets is not installed: a real one was NOT tested")
    return importlib.import_module("websockets.asyncio.client").connect


async def test_a_websocket_is_refused_with_429(serve: Any, connect: Any) -> None:
    """The handshake of the second in a minute is answered with a problem; the first one talks."""
    from websockets.exceptions import InvalidStatus

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await receive()

    bulkhead = ar.Bulkhead(1)
    limited = RateLimitMiddleware(
        BulkheadMiddleware(app, bulkhead=bulkhead, websockets=True),
        limits=[Limit(RateLimiter("2/min"), key=ClientIP())],
    )
    async with serve(limited, ws="websockets-sansio", lifespan="off") as port:
        address = f"ws://127.0.0.1:{port}/"
        async with connect(address) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            with pytest.raises(InvalidStatus) as full:
                await connect(address)
        with pytest.raises(InvalidStatus) as refused:
            await connect(address)
    assert [error.value.response.status_code for error in (full, refused)] == [503, 429]
    response = refused.value.response
    assert response.headers["retry-after"] == "30"
    assert json.loads(response.body)["status"] == 429
    assert bulkhead.running == 0
