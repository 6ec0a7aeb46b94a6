"""Idempotency on real servers: uvicorn with h11 and httptools, FastAPI and Starlette, raw sockets, Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

import aresilience as ar
from aresilience.asgi import IdempotencyMiddleware, RejectedMiddleware

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.real_time, pytest.mark.redis]
KEY = {"Idempotency-Key": '"8e03978e"'}


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest) -> str:
    """The two HTTP implementations of uvicorn."""
    name: str = request.param
    pytest.importorskip(name, reason=f"{name} is not installed: this server was NOT tested")
    return name


def browser(port: int) -> httpx.AsyncClient:
    """A client of that server."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


class Till:
    """What was charged, behind a FastAPI or a Starlette application."""

    def __init__(self, backend: ar.Backend) -> None:
        self.charged: list[Any] = []
        self.out = asyncio.Event()
        self.after: list[str] = []
        self.idem = ar.Idempotency(name="till", wait=5.0, backend=backend)

    async def charge(self, body: Any) -> dict[str, Any]:
        """Charge, when let to."""
        self.charged.append(body)
        await self.out.wait()
        return {"charge": len(self.charged), "body": body}

    def fastapi(self) -> Any:
        """With a dependency, a response header, a background task, an error handler."""
        app = fastapi.FastAPI()
        app.add_middleware(IdempotencyMiddleware, idempotency=self.idem, principal=self.who)

        @app.post("/charges", status_code=201)
        async def charges(
            request: fastapi.Request, response: fastapi.Response, tasks: fastapi.BackgroundTasks
        ) -> Any:
            tasks.add_task(self.after.append, "later")
            response.headers["Location"] = "/charges/1"
            response.set_cookie("session", "secret")
            return await self.charge(await request.json())

        @app.post("/declined")
        async def declined() -> Any:
            self.charged.append("declined")
            raise fastapi.HTTPException(402, "no funds")

        @app.post("/broken")
        async def broken() -> Any:
            self.charged.append("broken")
            raise ZeroDivisionError

        return app

    def starlette(self) -> Any:
        """Mounted, with streams."""

        async def charges(request: Request) -> JSONResponse:
            answer = await self.charge(await request.json())
            task = BackgroundTask(self.after.append, "later")
            headers = {"Location": "/charges/1", "Set-Cookie": "session=secret"}
            return JSONResponse(answer, 201, headers, background=task)

        async def declined(request: Request) -> JSONResponse:
            self.charged.append("declined")
            return JSONResponse({"detail": "no funds"}, 402)

        async def broken(request: Request) -> JSONResponse:
            self.charged.append("broken")
            raise ZeroDivisionError

        async def stream(request: Request) -> StreamingResponse:
            async def parts() -> Any:
                for number in range(3):
                    yield b"%d" % number
                    await asyncio.sleep(0.01)
                self.charged.append("streamed")

            return StreamingResponse(parts(), media_type=request.query_params["type"])

        routes = [Route(f"/{f.__name__}", f, methods=["POST"]) for f in (charges, declined, broken, stream)]
        inner = Starlette(routes=routes)
        protect = Middleware(IdempotencyMiddleware, idempotency=self.idem, principal=self.who)
        return Starlette(routes=[Mount("/", inner)], middleware=[Middleware(RejectedMiddleware), protect])

    @staticmethod
    def who(scope: Any) -> str:
        """The user, from what stands for authentication."""
        return dict(scope["headers"]).get(b"authorization", b"nobody").decode()


@pytest.fixture
async def till(redis_url: str) -> Any:
    """A till on Redis."""
    async with ar.connect(redis_url, deadline=2.0) as backend:
        till = Till(backend)
        till.out.set()
        yield till


FRAMEWORKS = pytest.mark.parametrize("framework", ["fastapi", "starlette"])


@FRAMEWORKS
async def test_a_retry_on_the_wire(serve: Any, http: str, till: Till, framework: str) -> None:
    """The first response to the byte, its location and no cookie; stored once; the background task ran once."""
    async with serve(getattr(till, framework)(), http=http) as port, browser(port) as client:
        first, second = [
            await client.post("/charges", json={"sku": "ü"}, headers=KEY, follow_redirects=False)
            for _ in range(2)
        ]
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.content == second.content
        assert first.json() == {"charge": 1, "body": {"sku": "ü"}}
        assert second.headers["location"] == "/charges/1"
        assert second.headers["idempotent-replayed"] == "true"
        assert "set-cookie" in first.headers
        assert "set-cookie" not in second.headers
        other = await client.post("/charges", json={"sku": 2}, headers=KEY)
        assert other.status_code == 422
        bob = await client.post("/charges", json={"sku": "ü"}, headers={**KEY, "Authorization": "bob"})
        assert bob.json()["charge"] == 2
    assert till.after == ["later", "later"]


@FRAMEWORKS
async def test_declined_is_an_answer_and_broken_is_none(
    serve: Any, http: str, till: Till, framework: str
) -> None:
    """402 is replayed; a 500 is not stored, and the retry runs."""
    async with serve(getattr(till, framework)(), http=http) as port, browser(port) as client:
        declined = [await client.post("/declined", headers=KEY) for _ in range(2)]
        assert [r.status_code for r in declined] == [402, 402]
        assert declined[0].content == declined[1].content
        assert [(await client.post("/broken", headers=KEY)).status_code for _ in range(2)] == [500, 500]
    assert till.charged == ["declined", "broken", "broken"]


@FRAMEWORKS
async def test_concurrent_requests_on_the_wire(serve: Any, http: str, till: Till, framework: str) -> None:
    """Fifty connections at once: one charge, fifty equal answers."""
    till.out.clear()
    async with serve(getattr(till, framework)(), http=http) as port, browser(port) as client:
        tasks = [asyncio.create_task(client.post("/charges", json=1, headers=KEY)) for _ in range(50)]
        await until(lambda: till.charged)
        await asyncio.sleep(0.1)
        till.out.set()
        answers = await asyncio.gather(*tasks)
    assert {answer.content for answer in answers} == {answers[0].content}
    assert {answer.status_code for answer in answers} == {201}
    assert len(till.charged) == 1


@FRAMEWORKS
async def test_i6_a_client_that_hangs_up(serve: Any, http: str, till: Till, framework: str) -> None:
    """I6: a raw socket is reset while the charge is on its way: it is made, stored, and the retry's answer."""
    till.out.clear()
    async with serve(getattr(till, framework)(), http=http) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = 'POST /charges HTTP/1.1\r\nHost: x\r\nIdempotency-Key: "8e03978e"\r\n'
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1".encode())
        await until(lambda: till.charged)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        till.out.set()
        await until(lambda: till.after)
        async with browser(port) as client:
            answer = await client.post("/charges", json=1, headers=KEY)
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.json() == {"charge": 1, "body": 1}
    assert till.charged == [1]


async def test_i16_a_body_that_breaks_off_on_the_wire(serve: Any, http: str, till: Till) -> None:
    """I16: less than Content-Length, or half of the chunks, then gone: nothing runs, nothing is claimed."""
    heads = ("Content-Length: 100\r\n\r\n{", 'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n')
    async with serve(till.fastapi(), http=http) as port:
        for head in heads:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            first = "POST /charges HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
            writer.write((first + head).encode())
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert till.charged == []
        assert await till.idem.in_flight() == []


async def test_chunked_bodies_whole_and_in_pieces(serve: Any, http: str, till: Till) -> None:
    """The same body in one chunk, in many, and with a length is the same request."""

    async def pieces() -> Any:
        for letter in b'{"sku": 1}':
            yield bytes([letter])

    async with serve(till.fastapi(), http=http) as port, browser(port) as client:
        headers = {**KEY, "Content-Type": "application/json"}
        answers = [
            await client.post("/charges", content=pieces(), headers=headers),
            await client.post("/charges", content=b'{"sku": 1}', headers=headers),
        ]
    assert answers[0].content == answers[1].content
    assert len(till.charged) == 1


@pytest.mark.parametrize(("kind", "then"), [("text/event-stream", 409), ("text/plain", 200)])
async def test_streams_on_the_wire(serve: Any, http: str, till: Till, kind: str, then: int) -> None:
    """An event stream passes as it comes, and a retry is told so; a body in parts is kept, to the byte."""
    async with serve(till.starlette(), http=http) as port, browser(port) as client:
        answers = [await client.post("/stream", params={"type": kind}, headers=KEY) for _ in range(2)]
        assert (answers[0].status_code, answers[0].content) == (200, b"012")
        assert answers[1].status_code == then
        if then == 200:
            assert answers[1].content == b"012"
    assert till.charged == ["streamed"]


async def test_i10_hostile_headers_on_the_wire(serve: Any, http: str, till: Till) -> None:
    """I10: two headers, too long, not ASCII: 400 as problem+json, whatever the server made of them."""
    rows = [
        "Idempotency-Key: a\r\nIdempotency-Key: a",
        f"Idempotency-Key: {'x' * 256}",
        "idempotency-key: \xe9",
    ]
    async with serve(till.fastapi(), http=http) as port:
        for row in rows:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /charges HTTP/1.1\r\nHost: x\r\n{row}\r\nContent-Length: 1\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n1".encode("latin-1"))
            answer = await reader.read()
            assert b" 400 " in answer.split(b"\r\n")[0], row
            assert b"application/problem+json" in answer
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    assert till.charged == []


async def test_two_servers_share_one_redis(
    serve: Any, http: str, till: Till, redis_server: RedisServer
) -> None:
    """The retry arrives at another process's server: the same answer, and 409 while the first is at work."""
    async with ar.connect(redis_server.url, deadline=2.0) as backend:
        other = Till(backend)
        other.idem = ar.Idempotency(name="till", in_flight="raise", backend=backend)
        till.out.clear()
        async with (
            serve(till.fastapi(), http=http) as one,
            serve(other.starlette(), http=http) as two,
            browser(one) as first,
            browser(two) as second,
        ):
            task = asyncio.create_task(first.post("/charges", json=1, headers=KEY))
            await until(lambda: till.charged)
            busy = await second.post("/charges", json=1, headers=KEY)
            assert (busy.status_code, busy.headers["retry-after"]) == (409, "1")
            till.out.set()
            answer = await task
            replay = await second.post("/charges", json=1, headers=KEY)
            assert replay.content == answer.content
    assert other.charged == []
