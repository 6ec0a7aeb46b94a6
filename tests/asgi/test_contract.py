"""What every middleware here keeps of the ASGI contract."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import aresilience as ar
import aresilience.asgi
from aresilience.asgi import (
    BulkheadMiddleware,
    ClientIP,
    DeadlineMiddleware,
    IdempotencyMiddleware,
    Limit,
    RateLimitMiddleware,
    RejectedMiddleware,
)
from aresilience.limiter import RateLimiter

App = Callable[..., Awaitable[None]]
Wrap = Callable[[App], App]


def limited(app: App) -> App:
    """Within a generous limit, told in no header."""
    limits = [Limit(RateLimiter("1000/s"), key=ClientIP())]
    return RateLimitMiddleware(app, limits=limits, headers=False)


EACH: dict[str, Wrap] = {
    "rejected": RejectedMiddleware,
    "rate limit": limited,
    "bulkhead": lambda app: BulkheadMiddleware(app, bulkhead=ar.Bulkhead(100), websockets=True),
    "deadline": lambda app: DeadlineMiddleware(app, maximum=60),
    "idempotency": lambda app: IdempotencyMiddleware(
        app, idempotency=ar.Idempotency(), principal=None, methods=["*"]
    ),
}
EACH["all"] = lambda app: EACH["rejected"](
    EACH["deadline"](EACH["rate limit"](EACH["bulkhead"](EACH["idempotency"](app))))
)
every = pytest.mark.parametrize("wrap", EACH.values(), ids=EACH.keys())


@every
@pytest.mark.parametrize("kind", ["lifespan", "websocket", "webtransport", "pokemon"])
async def test_a1_every_kind_of_scope_reaches_the_application(wrap: Wrap, kind: str, line: Any) -> None:
    """A1: lifespan and websocket scopes pass or are handled explicitly; an unknown scope passes."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        await send({"type": f"{kind}.anything"})

    client = line()
    scope = {"type": kind, "path": "/", "headers": []} if kind == "websocket" else {"type": kind}
    await wrap(app)(scope, client.receive, client.send)
    assert [kind] == seen
    assert [f"{kind}.anything"] == client.answer.kinds


def test_a2_no_framework_and_no_base_class() -> None:
    """A2: no BaseHTTPMiddleware: each is a class of its own with two methods, and nothing is imported."""
    for middleware in (RejectedMiddleware, RateLimitMiddleware, BulkheadMiddleware, DeadlineMiddleware):
        assert (middleware, object) == middleware.__mro__
    assert aresilience.asgi.__file__ is not None
    for path in Path(aresilience.asgi.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("starlette", "fastapi", "litestar", "uvicorn", "httpx")


_variable: ContextVar[str] = ContextVar("_variable", default="unset")


@every
async def test_a2_the_application_runs_in_its_callers_task_and_context(wrap: Wrap, ask: Any) -> None:
    """A2: context variables set outside are seen inside, and those set inside are seen outside."""
    tasks = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        assert _variable.get() == "outside"
        _variable.set("inside")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    _variable.set("outside")
    await ask(wrap(app))
    assert _variable.get() == "inside"
    assert [asyncio.current_task()] == tasks


@every
async def test_a2_what_runs_after_the_response_does_not_delay_it(
    wrap: Wrap, line: Any, scope_of: Any
) -> None:
    """A2: the response has gone out while a background task of the application still runs."""
    client = line()
    finished = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await finished.wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wrap(app)(scope_of(), client.receive, client.send))
        await asyncio.sleep(1)
        assert client.answer.body == b"done"
        assert not task.done()
        finished.set()


@every
async def test_a4_an_application_that_sends_nothing_leaves_nothing_behind(
    wrap: Wrap, line: Any, scope_of: Any
) -> None:
    """A4: app never calls send: it ends as it did, nothing is sent in its place: the server's 500 it is."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    client = line()
    await wrap(app)(scope_of(), client.receive, client.send)
    assert client.answer.messages == []


@every
async def test_a5_messages_out_of_order_pass_through(wrap: Wrap, ask: Any) -> None:
    """A5: app sends twice, or a body before the start: passed on as it is, for the server to judge."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"early"})
        for _ in range(2):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})

    answer = await ask(wrap(app))
    start, body = "http.response.start", "http.response.body"
    assert [body, start, body, start, body] == answer.kinds


@every
async def test_a6_nothing_of_a_stream_is_held(wrap: Wrap, scope_of: Any) -> None:
    """A6: body streaming 10 GB: each part reaches the other side before the next is asked for."""
    part, parts = bytes(1_000_000), 10_000
    given, taken = 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal given
        assert given == taken
        given += 1
        return {"type": "http.request", "body": part, "more_body": given < parts}

    async def send(message: dict[str, Any]) -> None:
        nonlocal taken
        taken += message["type"] == "http.response.body"

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            assert message["body"] is part
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    await wrap(echo)(scope_of("/upload", "POST"), receive, send)
    assert parts == given == taken


@every
async def test_a8_a_client_that_leaves_in_the_middle_of_its_body_is_the_applications_to_see(
    wrap: Wrap, line: Any, scope_of: Any
) -> None:
    """A8: http.disconnect in the middle of the body reaches the application, which stops."""
    client = line([b"first", b"second"])
    client._messages[-1:] = [{"type": "http.disconnect"}]
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            seen.append(message["body"])

    await wrap(app)(scope_of("/", "POST"), client.receive, client.send)
    assert seen == [b"first"]


@every
async def test_a16_messages_of_extensions_pass_unchanged(wrap: Wrap, ask: Any) -> None:
    """A16: early hints, trailers, pathsend, push and whatever comes next pass, in order, as they are."""
    messages = [
        {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]},
        {"type": "http.response.push", "path": "/a", "headers": []},
        {"type": "http.response.debug", "info": {"template": "x"}},
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")], "trailers": True},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
        {"type": "http.response.pathsend", "path": "/tmp/file"},
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    answer = await ask(wrap(app))
    assert messages == answer.messages


def test_reprs_show_what_is_configured() -> None:
    """Each says what it does; nothing of a request is in it."""
    assert [repr(wrap(None)) for name, wrap in EACH.items() if name != "all"] == [  # type: ignore[arg-type]
        "<RejectedMiddleware for Rejected>",
        "<RateLimitMiddleware <Limit 'RateLimiter' by ClientIP(trusted_hops=0, ipv6_prefix=64, "
        "header='x-forwarded-for')>>",
        "<BulkheadMiddleware <Bulkhead 'Bulkhead' 0/100 running, 0/0 waiting>>",
        "<DeadlineMiddleware header='x-request-timeout' default=None maximum=60.0>",
        "<IdempotencyMiddleware <Idempotency 'Idempotency' ttl 86400 s, lease 30 s>>",
    ]


@every
async def test_what_the_application_writes_into_the_scope_is_seen_outside(
    wrap: Wrap, scope_of: Any
) -> None:
    """The scope is not copied: tracing outside reads the route that a router inside has put there."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = "/orders/{id}"

    scope = scope_of()
    await wrap(app)(scope, None, None)
    assert scope["route"] == "/orders/{id}"


@every
@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_errors_that_are_no_refusals_pass_as_they_are(
    wrap: Wrap, error: BaseException, line: Any, scope_of: Any
) -> None:
    """An error, a cancel, an interrupt of the application leaves every middleware as the same object."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    client = line()
    with pytest.raises(type(error)) as raised:
        await wrap(app)(scope_of(), client.receive, client.send)
    assert error is raised.value
    assert client.answer.messages == []
