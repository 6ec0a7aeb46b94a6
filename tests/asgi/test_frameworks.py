"""In frameworks: Starlette, FastAPI and Litestar, on a real server, asked by a real client."""

from __future__ import annotations

import asyncio
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
    as_problem,
)
from aresilience.limiter import RateLimiter

pytestmark = pytest.mark.real_time


def url(port: int, path: str) -> str:
    """Where the server is."""
    return f"http://127.0.0.1:{port}{path}"


def browser(**options: Any) -> httpx.AsyncClient:
    """A client; it need not load any certificates."""
    return httpx.AsyncClient(verify=False, **options)


async def answers_of(serve: Any, app: Any, *paths: str) -> list[httpx.Response]:
    """The answers to requests for these paths, one after the other; only /slow is in a hurry."""
    async with serve(app) as port, browser() as client:
        return [
            await client.get(
                url(port, path), headers={"X-Request-Timeout": "0.1"} if path == "/slow" else {}
            )
            for path in paths
        ]


async def statuses(serve: Any, app: Any, *paths: str) -> list[int]:
    """Their statuses."""
    return [answer.status_code for answer in await answers_of(serve, app, *paths)]


def by_client(rate: str, **options: Any) -> Limit:
    """A limit by address."""
    return Limit(RateLimiter(rate), key=ClientIP(), **options)


# Starlette


def starlette(*middleware: Any, **options: Any) -> Any:
    """An application with an endpoint for each way to end."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route

    async def hello(request: Any) -> Any:
        return PlainTextResponse("hello")

    async def refused(request: Any) -> Any:
        raise ar.CircuitOpen(retry_after=7)

    async def slow(request: Any) -> Any:
        await asyncio.Event().wait()

    async def stream(request: Any) -> Any:
        async def parts() -> Any:
            for part in ("a", "b", "c"):
                await asyncio.sleep(0)
                yield part

        return StreamingResponse(parts(), background=BackgroundTask(lambda: None))

    routes = [Route(f"/{each.__name__}", each) for each in (hello, refused, slow, stream)]
    sub = Mount("/sub", routes=[Route("/hello", hello)], middleware=options.pop("mounted", None))
    stack = [Middleware(kind, **given) for kind, given in middleware]
    return Starlette(routes=[*routes, sub], middleware=stack, **options)


async def test_starlette_middleware(serve: Any) -> None:
    """Added as middleware, refusals of endpoints and of the door are answered, streams pass."""
    bulkhead = ar.Bulkhead(3)
    app = starlette(
        (RejectedMiddleware, {"default_retry_after": 2}),
        (DeadlineMiddleware, {"maximum": 30}),
        (RateLimitMiddleware, {"limits": [by_client("5/min", exempt=["/stream"])]}),
        (BulkheadMiddleware, {"bulkhead": bulkhead}),
    )
    paths = ["/hello", "/refused", "/slow", "/nowhere", "/sub/hello", "/hello", "/stream"]
    assert await statuses(serve, app, *paths) == [200, 503, 504, 404, 200, 429, 200]
    assert bulkhead.running == 0


async def test_starlette_mounts(serve: Any) -> None:
    """A15: around the whole and around a mount: a request is counted once; paths are the mount's own."""
    from starlette.middleware import Middleware

    limiter = RateLimiter("3/min")
    whole = {"limits": [Limit(limiter, key=ClientIP())]}
    mounted = {"limits": [Limit(limiter, key=ClientIP()), by_client("1/min", paths=["/hello"])]}
    app = starlette((RateLimitMiddleware, whole), mounted=[Middleware(RateLimitMiddleware, **mounted)])
    paths = ["/sub/hello", "/sub/hello", "/hello", "/hello"]
    assert await statuses(serve, app, *paths) == [200, 429, 200, 429]


async def test_starlette_users(serve: Any) -> None:
    """Inside the authentication a limit can go by user."""
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware.authentication import AuthenticationMiddleware

    class ByHeader(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            name = conn.headers.get("x-user")
            return None if name is None else (AuthCredentials(), SimpleUser(name))

    def user(scope: Any) -> str | None:
        return scope["user"].display_name or None

    app = starlette(
        (AuthenticationMiddleware, {"backend": ByHeader()}),
        (RateLimitMiddleware, {"limits": [Limit(RateLimiter("1/min"), key=user)]}),
    )
    async with serve(app) as port, browser() as client:
        answers = []
        for name in ("alice", "alice", "bob", None, None):
            headers = {} if name is None else {"x-user": name}
            answers.append((await client.get(url(port, "/hello"), headers=headers)).status_code)
    assert answers == [200, 429, 200, 200, 200]


async def test_starlette_with_a_base_http_middleware_between(serve: Any) -> None:
    """Somebody else's BaseHTTPMiddleware inside or outside changes nothing of that."""
    from starlette.middleware.base import BaseHTTPMiddleware

    class Between(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    bulkhead = ar.Bulkhead(1, max_waiting=1)  # an answer may arrive before its application has ended
    app = starlette(
        (Between, {}),
        (RejectedMiddleware, {}),
        (Between, {}),
        (DeadlineMiddleware, {"maximum": 30}),
        (RateLimitMiddleware, {"limits": [by_client("5/min")]}),
        (Between, {}),
        (BulkheadMiddleware, {"bulkhead": bulkhead}),
        (Between, {}),
    )
    paths = ["/hello", "/refused", "/slow", "/stream", "/hello", "/hello"]
    assert await statuses(serve, app, *paths) == [200, 503, 504, 200, 200, 429]
    assert bulkhead.running == 0


async def test_starlette_requests_that_wait_under_a_base_http_middleware(serve: Any) -> None:
    """A8: looking out for the client goes through it too, and loses no body."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    class Between(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    async def echo(request: Any) -> Any:
        return Response(await request.body())

    bulkhead = ar.Bulkhead(1, max_waiting=9)
    stack = [
        Middleware(Between),
        Middleware(BulkheadMiddleware, bulkhead=bulkhead),
        Middleware(Between),
    ]
    app = Starlette(routes=[Route("/", echo, methods=["POST"])], middleware=stack)
    contents = [b"", b"short", bytes(range(256)) * 1000]
    async with serve(app) as port, browser() as client, asyncio.TaskGroup() as group:
        async with bulkhead:
            tasks = [group.create_task(client.post(url(port, "/"), content=each)) for each in contents]
            async with asyncio.timeout(5):
                while bulkhead.waiting < len(contents):
                    await asyncio.sleep(0)
        answers = [await task for task in tasks]
    assert [answer.content for answer in answers] == contents
    assert bulkhead.running == 0


async def test_starlette_exception_handlers(serve: Any) -> None:
    """as_problem as what an exception handler returns, without any middleware."""

    async def handler(request: Any, error: Any) -> Any:
        return as_problem(error)

    app = starlette(exception_handlers={ar.AresilienceError: handler})
    async with serve(app) as port, browser() as client:
        answer = await client.get(url(port, "/refused"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_starlette_lifespan(serve: Any) -> None:
    """A1: startup and shutdown run under all of them, around the application."""
    from contextlib import asynccontextmanager

    seen = []

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        seen.append("up")
        yield
        seen.append("down")

    app = RejectedMiddleware(
        BulkheadMiddleware(starlette(lifespan=lifespan), bulkhead=ar.Bulkhead(9), websockets=True)
    )
    assert await statuses(serve, app, "/hello") == [200]
    assert seen == ["up", "down"]


# FastAPI


async def test_fastapi(serve: Any) -> None:
    """Endpoints async and plain, dependencies, routers: refusals are answered, the deadline is known inside."""
    fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed: it was NOT tested")
    bulkhead, exports = ar.Bulkhead(5), ar.Bulkhead(1)
    app = fastapi.FastAPI()
    left = []

    async def limited() -> None:
        left.append(ar.time_remaining())

    @app.get("/hello", dependencies=[fastapi.Depends(limited)])
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.get("/threaded")
    def threaded() -> dict[str, str]:
        raise ar.CircuitOpen(retry_after=7)

    @app.get("/grouped")
    async def grouped() -> dict[str, str]:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(exports.call(asyncio.sleep, 0))
        return {}

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    app.add_middleware(BulkheadMiddleware, bulkhead=bulkhead, exempt=["/health"])
    app.add_middleware(RateLimitMiddleware, limits=[by_client("6/min", name="api")])
    app.add_middleware(DeadlineMiddleware, maximum=30)
    app.add_middleware(RejectedMiddleware)
    paths = ["/hello", "/threaded", "/grouped", "/slow", "/nowhere", "/openapi.json", "/hello"]
    answers = await answers_of(serve, app, *paths)
    assert [answer.status_code for answer in answers] == [200, 503, 503, 504, 404, 200, 429]
    assert answers[0].json() == {"hello": "world"}
    assert answers[0].headers["ratelimit"].startswith('"api";r=5;')
    assert answers[1].headers["retry-after"] == "7"
    assert left[0] is not None
    assert 0 < left[0] <= 30
    assert (bulkhead.running, exports.running) == (0, 0)


# Litestar


async def test_litestar(serve: Any) -> None:
    """As middleware of the application; what handlers raise goes through an exception handler."""
    litestar = pytest.importorskip("litestar", reason="litestar is not installed: it was NOT tested")
    from litestar.middleware import DefineMiddleware

    bulkhead = ar.Bulkhead(5)

    @litestar.get("/hello")
    async def hello() -> str:
        return "hello"

    @litestar.get("/refused")
    async def refused() -> str:
        raise ar.CircuitOpen(retry_after=7)

    @litestar.get("/slow")
    async def slow() -> str:
        await asyncio.Event().wait()
        return ""

    def on_refusal(request: Any, error: Any) -> Any:
        problem = as_problem(error)
        return litestar.Response(problem.body, status_code=problem.status, headers=dict(problem.headers))

    app = litestar.Litestar(
        [hello, refused, slow],
        middleware=[
            DefineMiddleware(DeadlineMiddleware, maximum=30),
            DefineMiddleware(RateLimitMiddleware, limits=[by_client("5/min", name="api")]),
            DefineMiddleware(BulkheadMiddleware, bulkhead=bulkhead),
        ],
        exception_handlers={ar.Rejected: on_refusal},
    )
    paths = ["/hello", "/refused", "/slow", "/hello", "/hello", "/hello"]
    answers = await answers_of(serve, RejectedMiddleware(app), *paths)
    assert [answer.status_code for answer in answers] == [200, 503, 504, 200, 200, 429]
    assert (answers[0].text, answers[0].headers["ratelimit"][:9]) == ("hello", '"api";r=4')
    assert answers[1].headers["retry-after"] == "7"
    assert answers[1].headers["content-type"].startswith("application/problem+json")
    assert answers[1].json()["status"] == 503
    assert bulkhead.running == 0
