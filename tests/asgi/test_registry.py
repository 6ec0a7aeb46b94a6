"""A service that registers with its lifespan, and the registry over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import RegistryApp, RegistryLifespan
from aresilience.backend import MemoryBackend
from aresilience.testing import FaultyBackend
from aresilience.testing.faulty import Fault

ME = ar.Instance("users", "10.0.0.1", 8080, id="users-1")


class Server:
    """A server's side of the lifespan."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.sent: list[str] = []
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Until the application says that it is ready."""
        await self._messages.put({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.ensure_future(self.app(scope, self._messages.get, self._send))
        await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Until it has shut down."""
        await self._messages.put({"type": "lifespan.shutdown"})
        assert self.task is not None
        await self.task

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message["type"])


class App:
    """An application that says what happens to it, and what is registered at that moment."""

    def __init__(self, registry: ar.ServiceRegistry) -> None:
        self.registry = registry
        self.seen: list[str] = []
        self.release = asyncio.Event()

    async def note(self, what: str) -> None:
        """Write down what happens."""
        changes = await self.registry._store().changes("users", -1, -1, 10)
        states = [json.loads(c.value)["state"] for c in changes.changes if c.value is not None]
        self.seen.append(f"{what}: {' '.join(states) or 'nobody'}")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Lifespan, and requests that take their time."""
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            await self.note("startup")
            await send({"type": "lifespan.startup.complete"})
            await self.note("started")
            assert (await receive())["type"] == "lifespan.shutdown"
            await self.note("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def registry() -> ar.ServiceRegistry:
    """A registry in memory."""
    return ar.ServiceRegistry(backend=MemoryBackend())


async def test_registered_when_ready_and_gone_before_the_shutdown(registry: ar.ServiceRegistry) -> None:
    """Nobody during the startup; up when it is complete; withdrawn before the application shuts down."""
    app = App(registry)
    server = Server(RegistryLifespan(app, registry=registry, instance=lambda: ME))
    await server.start()
    assert server.app.registration.registered
    await server.stop()
    assert app.seen == ["startup: nobody", "started: up", "shutdown: nobody"]
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asyncio.get_running_loop().time() == pytest.approx(1.01)


async def test_until_the_server_knows_it_is_starting(registry: ar.ServiceRegistry) -> None:
    """What the server hears as "complete" comes before the rotation, and after the first registration."""
    app = App(registry)
    lifespan = RegistryLifespan(app, registry=registry, instance=ME)
    server = Server(lifespan)
    told: list[str] = []

    async def send(message: dict[str, Any]) -> None:
        await app.note(message["type"])
        told.append(app.seen[-1])

    server._send = send  # type: ignore[method-assign]
    await server.start()
    await server.stop()
    assert told[0] == "lifespan.startup.complete: starting"


async def test_requests_in_flight_are_waited_for(
    registry: ar.ServiceRegistry, ask: Callable[..., Awaitable[Any]]
) -> None:
    """Draining: out of rotation, still serving; withdrawn when the last request has ended."""
    app = App(registry)
    lifespan = RegistryLifespan(app, registry=registry, instance=ME, drain_timeout=60)
    server = Server(lifespan)
    await server.start()
    asking = asyncio.ensure_future(ask(lifespan))
    await asyncio.sleep(1)
    assert lifespan.in_flight == 1
    stopping = asyncio.ensure_future(server.stop())
    await asyncio.sleep(20)
    await app.note("in flight")
    app.release.set()
    await stopping
    assert (await asking).status == 200
    assert app.seen[-2:] == ["in flight: draining", "shutdown: nobody"]
    assert asyncio.get_running_loop().time() == pytest.approx(21.01)


async def test_the_drain_is_bounded(
    registry: ar.ServiceRegistry, ask: Callable[..., Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """A request that never ends: withdrawn after `drain_timeout`, and that is logged."""
    app = App(registry)
    lifespan = RegistryLifespan(app, registry=registry, instance=ME, drain_timeout=5)
    server = Server(lifespan)
    await server.start()
    asking = asyncio.ensure_future(ask(lifespan))
    await asyncio.sleep(0)
    await server.stop()
    assert asyncio.get_running_loop().time() == pytest.approx(6.01)
    assert "1 requests are still in flight" in caplog.text
    asking.cancel()


@pytest.mark.parametrize("how", ["raises", "raises after receive", "returns"])
async def test_an_application_without_lifespan_is_registered_too(
    registry: ar.ServiceRegistry, how: str
) -> None:
    """It raises at the unknown scope, or returns: it is ready as it is, and the server hears so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if how == "raises after receive":
            await receive()
        if how != "returns":
            raise AssertionError("http only")

    server = Server(RegistryLifespan(app, registry=registry, instance=ME))
    await server.start()
    assert server.app.registration.registered
    await server.stop()
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert await registry.discover("users") == ()


async def test_a_startup_that_fails_registers_nobody(registry: ar.ServiceRegistry) -> None:
    """startup.failed passes; an error after it too."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = Server(RegistryLifespan(app, registry=registry, instance=ME))
    await server.start()
    assert server.task is not None
    await server.task
    assert server.sent == ["lifespan.startup.failed"]
    assert await registry.services() == ()


async def test_a_cancelled_lifespan_withdraws(registry: ar.ServiceRegistry) -> None:
    """The server gives up: no task left, nobody registered."""
    server = Server(RegistryLifespan(App(registry), registry=registry, instance=ME, propagation=60))
    await server.start()
    draining = asyncio.ensure_future(server.app.drain())
    await asyncio.sleep(1)
    assert server.task is not None
    server.task.cancel()
    await asyncio.wait([server.task, draining])
    assert await registry.discover("users") == ()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_resources_are_entered_before_and_left_after(registry: ar.ServiceRegistry) -> None:
    """The backend is open before the application starts, and until it has ended."""
    backend = MemoryBackend()
    mine = ar.ServiceRegistry(backend=backend)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert repr(backend).endswith("open>")
        await App(mine)(scope, receive, send)
        assert repr(backend).endswith("open>")

    server = Server(RegistryLifespan(app, registry=mine, instance=ME, resources=[backend]))
    await server.start()
    await server.stop()
    assert repr(backend).endswith("closed>")


@pytest.mark.real_time
async def test_a_signal_drains_before_the_server_hears_it(registry: ar.ServiceRegistry) -> None:
    """SIGTERM: out of rotation first; the server's own handler after that; at once for a second one."""
    heard: list[str] = []
    app = App(registry)

    def stop(number: int, frame: object) -> None:
        heard.append(lifespan.registration.instance.state.value)  # type: ignore[union-attr]

    before = signal.signal(signal.SIGTERM, stop)
    try:
        lifespan = RegistryLifespan(
            app, registry=registry, instance=ME, propagation=0.05, signals=[signal.SIGTERM]
        )
        server = Server(lifespan)
        await server.start()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == []
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.01)
        assert heard == ["draining"]
        assert signal.getsignal(signal.SIGTERM) is stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["draining", "draining"]
        await server.stop()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.real_time
async def test_on_a_real_server(registry: ar.ServiceRegistry, serve: Callable[..., Any]) -> None:
    """uvicorn: up while it serves, gone when it has shut down."""
    lifespan = RegistryLifespan(
        App(registry), registry=registry, instance=ME, propagation=0.01, drain_timeout=0.01
    )
    async with serve(lifespan, lifespan="on"):
        async with asyncio.timeout(5):
            while not await registry.discover("users"):
                await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert await registry.discover("users") == ()


def test_options_are_checked(registry: ar.ServiceRegistry) -> None:
    """When it is made."""
    with pytest.raises(TypeError, match="registry must be"):
        RegistryLifespan(App(registry), registry="x", instance=ME)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="instance must be"):
        RegistryLifespan(App(registry), registry=registry, instance="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="registry must be"):
        RegistryApp("x")  # type: ignore[arg-type]


# Over HTTP


Asking = Callable[..., Awaitable[Any]]


def body(**facts: Any) -> list[bytes]:
    """A request's body."""
    return [json.dumps({"host": "10.0.0.7", "port": 80, **facts}).encode()]


async def test_a_neighbour_looks_a_service_up(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """Names, then instances with their facts, revision, age."""
    await registry.announce(ME.but(zone="a", metadata={"team": "x"}))
    app = RegistryApp(registry)
    assert json.loads((await ask(app, "/services")).body) == {"services": ["users"]}
    answer = await ask(app, "/services/users")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = json.loads(answer.body)
    assert found["instances"] == [
        {
            "id": "users-1",
            "host": "10.0.0.1",
            "port": 8080,
            "zone": "a",
            "version": "",
            "weight": 1.0,
            "metadata": {"team": "x"},
            "held": False,
        }
    ]
    assert (found["stale"], found["healthy"], found["age"]) == (False, True, 0.0)
    assert (await ask(app, "/health")).status == 200
    head = await ask(app, "/services/users", "HEAD")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(answer.body)))


async def test_a_neighbour_registers_beats_and_leaves(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """PUT, POST within the ttl, DELETE; with its token, and not with another."""
    app = RegistryApp(registry, writable=True)
    answer = await ask(app, "/services/users/go-1", "PUT", parts=body(ttl=5, weight=2))
    assert answer.status == 201
    token = json.loads(answer.body)["token"]
    mine, other = [("Registration-Token", token)], [("Registration-Token", "0" * 32)]
    await asyncio.sleep(4)
    assert (
        await ask(app, "/services/users/go-1", "POST", headers=mine, parts=[b'{"ttl": 5}'])
    ).status == 204
    assert (await ask(app, "/services/users/go-1", "POST", headers=other)).status == 404
    await asyncio.sleep(4)
    (found,) = json.loads((await ask(app, "/services/users")).body)["instances"]
    assert (found["id"], found["weight"]) == ("go-1", 2.0)
    changed = await ask(app, "/services/users/go-1", "PUT", headers=mine, parts=body(weight=3))
    assert json.loads(changed.body)["token"] == token
    assert (await ask(app, "/services/users/go-1", "DELETE", headers=other)).status == 404
    assert (await ask(app, "/services/users/go-1", "DELETE", headers=mine)).status == 204
    assert (await ask(app, "/services/users/go-1", "DELETE", headers=mine)).status == 404
    await asyncio.sleep(0.1)
    assert json.loads((await ask(app, "/services/users")).body)["instances"] == []


async def test_a_neighbour_waits_for_news(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """`since` and `wait`: at once where there is news, when there is, or after so many seconds."""
    await registry.announce(ME, ttl=600)
    app = RegistryApp(registry, max_wait=30)
    first = json.loads((await ask(app, "/services/users")).body)
    loop = asyncio.get_running_loop()
    query = f"since={first['revision']}&wait=10".encode()
    waiting = asyncio.ensure_future(ask(app, "/services/users", query_string=query))
    await asyncio.sleep(3)
    assert not waiting.done()
    await registry.announce(ar.Instance("users", "h", 1), ttl=600)
    found = json.loads((await waiting).body)
    assert len(found["instances"]) == 2
    assert loop.time() == pytest.approx(3.0, abs=0.1)
    query = f"since={found['revision']}&wait=500".encode()
    assert json.loads((await ask(app, "/services/users", query_string=query)).body) | {
        "age": 0
    } == found | {"age": 0}
    assert loop.time() == pytest.approx(33.0, abs=0.1)
    assert json.loads((await ask(app, "/services/users", query_string=b"since=1&wait=9")).body) | {
        "age": 0
    } == found | {"age": 0}


@pytest.mark.parametrize(
    ("path", "method", "parts", "status"),
    [
        ("/", "GET", [b""], 404),
        ("/services/nobody", "GET", [b""], 404),
        ("/services/a%0ab", "GET", [b""], 404),
        ("/services/users/x/y", "PUT", [b""], 404),
        ("/services", "POST", [b""], 405),
        ("/services/users/x", "GET", [b""], 405),
        ("/services/users/x", "PUT", [b""], 400),
        ("/services/users/x", "PUT", [b"[]"], 422),
        ("/services/users/x", "PUT", [b"{"], 400),
        ("/services/users/x", "PUT", [b"[" * 30_000], 400),
        ("/services/users/x", "PUT", [b"x" * 20_000] * 4, 413),
        ("/services/users/x", "PUT", body(host="a\r\nb"), 422),
        ("/services/users/x", "PUT", body(host="file://x"), 422),
        ("/services/users/x", "PUT", body(port="80"), 422),
        ("/services/users/x", "PUT", body(ttl=0), 422),
        ("/services/users/x", "PUT", body(ttl=1e9), 422),
        ("/services/users/x", "PUT", body(ttl="NaN"), 400),
        ("/services/users/x", "PUT", body(id="other"), 422),
        ("/services/users/x", "PUT", body(life="mine"), 422),
        ("/services/users/x", "PUT", body(state="bored"), 422),
        ("/services/users/x", "PUT", body(metadata={"a": "x" * 9000}), 422),
        ("/services/users/" + "x" * 200, "PUT", body(), 422),
        ("/services/users/x", "POST", [b""], 404),
    ],
)
async def test_what_is_wrong_is_refused(
    registry: ar.ServiceRegistry, ask: Asking, path: str, method: str, parts: list[bytes], status: int
) -> None:
    """Hostile facts, unknown paths and methods: a problem, with a fixed text, and nothing registered."""
    app = RegistryApp(registry, writable=True)
    answer = await ask(app, path, method, parts=parts)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert await registry.services() == ()


async def test_a_token_is_no_place_for_tricks(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """Bars and line ends in the token header are refused."""
    app = RegistryApp(registry, writable=True)
    for token in ("a|b", "a b", "x" * 65):
        answer = await ask(app, "/services/users/x", "DELETE", headers=[("Registration-Token", token)])
        assert answer.status == 400


async def test_read_only_unless_asked(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """Nobody registers over HTTP by default."""
    assert (await ask(RegistryApp(registry), "/services/users/x", "PUT", parts=body())).status == 404


async def test_asking_for_what_is_not_there_watches_nothing(
    registry: ar.ServiceRegistry, ask: Asking
) -> None:
    """A thousand made-up names cost nothing."""
    app = RegistryApp(registry)
    for n in range(100):
        assert (await ask(app, f"/services/name-{n}")).status == 404
    assert registry._feeds == {}


async def test_a_registry_that_is_away_is_503(ask: Asking) -> None:
    """With Retry-After; what is known is served all the same."""
    backend = FaultyBackend()
    registry = ar.ServiceRegistry(backend=backend)
    await registry.announce(ME)
    app = RegistryApp(registry)
    assert (await ask(app, "/services/users")).status == 200
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    await asyncio.sleep(60)
    for path in ("/health", "/services"):
        answer = await ask(app, path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    found = json.loads((await ask(app, "/services/users")).body)
    assert found["instances"]
    assert (found["stale"], found["healthy"]) == (True, False)


async def test_other_scopes(registry: ar.ServiceRegistry, ask: Asking) -> None:
    """A websocket is refused; a lifespan is none of its business."""
    app = RegistryApp(registry)
    assert (await ask(app, kind="websocket")).kinds == ["websocket.close"]
    assert (await ask(app, kind="lifespan")).kinds == []
    assert repr(app).startswith("<RegistryApp <ServiceRegistry")
