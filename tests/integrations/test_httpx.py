"""httpx over the registry: by name, balanced, repeated where that is safe, and nothing left in flight."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

import aresilience as ar
from aresilience.backend import MemoryBackend
from aresilience.integrations.httpx import ResilientTransport
from aresilience.testing import FaultyBackend, Recorder, cancel_sweep
from aresilience.testing.faulty import Fault


class Body(httpx.AsyncByteStream):
    """A body that comes when it is read."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.text.encode()

    async def aclose(self) -> None:
        """As a connection would be given back."""


class Fleet:
    """Instances of user-service behind one handler, and a client that knows them by name."""

    def __init__(self, many: int = 3, **options: Any) -> None:
        self.registry = ar.ServiceRegistry(ttl=1e6, resync=1e6, backend=MemoryBackend())
        self.many = many
        self.requests: list[httpx.Request] = []
        self.calls: Counter[str] = Counter()
        self.status: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self.delays: dict[str, float] = {}
        self.headers: dict[str, str] = {}
        self.transport = ResilientTransport(
            self.registry, **{"transport": httpx.MockTransport(self.answer), **options}
        )
        self.client = httpx.AsyncClient(transport=self.transport)

    async def start(self) -> Fleet:
        """All are up, and known."""
        for n in range(self.many):
            await self.registry.announce(ar.Instance("user-service", f"10.0.0.{n}", 8080, id=f"i{n}"))
        await self.registry.discover("user-service")
        return self

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """What an instance does."""
        who = request.url.host.replace("10.0.0.", "i")
        self.requests.append(request)
        self.calls[who] += 1
        await asyncio.sleep(self.delays.get(who, 0.01))
        if who in self.errors:
            raise self.errors[who]
        return httpx.Response(self.status.get(who, 200), stream=Body(who), headers=self.headers)

    @property
    def users(self) -> ar.Service:
        """What the transport knows of them."""
        return self.transport._services["user-service"]

    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return sum(node.in_flight for node in self.users._chooser._nodes.values())


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Three instances."""
    fleet = await Fleet().start()
    async with fleet.client:
        yield fleet


async def test_a_service_is_found_by_its_name(fleet: Fleet) -> None:
    """The request goes to an instance; its Host, path, query and body are what the caller wrote."""
    response = await fleet.client.put("http://user-service/users/1?deep=1", json={"a": 1})
    assert response.status_code == 200
    (request,) = fleet.requests
    assert str(request.url).startswith("http://10.0.0.")
    assert str(request.url).endswith(":8080/users/1?deep=1")
    assert request.headers["host"] == "user-service"
    assert request.extensions["sni_hostname"] == "user-service"
    assert await request.aread() == b'{"a":1}'
    assert fleet.in_flight() == 0


async def test_the_calls_are_spread(fleet: Fleet) -> None:
    """Thirty at once, ten for each."""
    await asyncio.gather(*[fleet.client.get("http://user-service/") for _ in range(30)])
    assert max(fleet.calls.values()) <= 14
    assert fleet.calls.total() == 30


@pytest.mark.parametrize(
    "url", ["http://example.com/", "http://10.0.0.9/", "http://localhost/", "http://user-service:80001/x"]
)
async def test_what_is_no_service_goes_through(fleet: Fleet, url: str) -> None:
    """Hosts with a dot, with a port, localhost: sent as they are, once, whatever the answer."""
    url = url.replace("80001", "8001")
    fleet.status = dict.fromkeys(["i9", "example.com", "localhost", "user-service"], 503)
    assert (await fleet.client.get(url)).status_code == 503
    assert [str(request.url) for request in fleet.requests] == [url]
    assert fleet.transport._services == {}


async def test_only_the_services_that_are_named() -> None:
    """`services=`: another name goes through, and a dot is no hindrance."""
    fleet = await Fleet(services=["user-service", "a.b"]).start()
    await fleet.client.get("http://other/")
    assert str(fleet.requests[0].url) == "http://other/"
    with pytest.raises(ar.NoInstances):
        await fleet.client.get("http://a.b/")


async def test_nobody_is_up_is_no_instances() -> None:
    """A refusal, at once, without an attempt."""
    fleet = Fleet()
    with pytest.raises(ar.NoInstances, match="no instance of 'orders' is up"):
        await fleet.client.get("http://orders/")
    assert asyncio.get_running_loop().time() < 0.1


async def test_a_retry_goes_to_another_instance(fleet: Fleet) -> None:
    """Two of three refuse connections, or answer 503: every GET is answered, none tried the same one twice."""
    fleet.errors["i0"] = httpx.ConnectError("refused")
    fleet.status["i1"] = 503
    for _ in range(20):
        response = await fleet.client.get("http://user-service/")
        assert (response.status_code, response.text) == (200, "i2")
    assert fleet.in_flight() == 0


async def test_all_fail_and_the_last_answer_or_error_is_what_the_caller_gets(fleet: Fleet) -> None:
    """After three attempts: the answer of 503 itself, readable; or the error itself."""
    fleet.status = dict.fromkeys(["i0", "i1", "i2"], 503)
    response = await fleet.client.get("http://user-service/")
    assert (response.status_code, response.text[0]) == (503, "i")
    assert fleet.calls == {"i0": 1, "i1": 1, "i2": 1}
    fleet.errors = {who: httpx.ReadError("cut") for who in fleet.calls}
    with pytest.raises(httpx.ReadError):
        await fleet.client.get("http://user-service/")
    assert fleet.calls.total() == 6
    assert fleet.in_flight() == 0


@pytest.mark.parametrize(
    ("method", "headers", "error", "attempts"),
    [
        ("GET", {}, httpx.ReadTimeout("late"), 3),
        ("DELETE", {}, httpx.ReadError("cut"), 3),
        ("POST", {}, httpx.ReadError("cut"), 1),
        ("POST", {}, httpx.ReadTimeout("late"), 1),
        ("PATCH", {}, httpx.WriteError("cut"), 1),
        ("POST", {}, httpx.ConnectError("refused"), 3),
        ("POST", {}, httpx.ConnectTimeout("black hole"), 3),
        ("POST", {"Idempotency-Key": "k1"}, httpx.ReadError("cut"), 3),
        ("GET", {}, httpx.LocalProtocolError("mine"), 1),
        ("GET", {}, ValueError("a bug"), 1),
    ],
)
async def test_only_what_is_safe_is_repeated(
    fleet: Fleet, method: str, headers: dict, error: Exception, attempts: int
) -> None:
    """What may have happened is repeated only if it is idempotent, or has a key; the same key each time."""
    fleet.errors = dict.fromkeys(["i0", "i1", "i2"], error)
    with pytest.raises(type(error)):
        await fleet.client.request(method, "http://user-service/", headers=headers)
    assert len(fleet.requests) == attempts
    assert {request.headers.get("idempotency-key") for request in fleet.requests} == {
        headers.get("Idempotency-Key")
    }


async def test_an_answer_to_a_post_is_not_asked_for_again(fleet: Fleet) -> None:
    """503 to a POST without a key: it may have happened."""
    fleet.status = dict.fromkeys(["i0", "i1", "i2"], 503)
    assert (await fleet.client.post("http://user-service/")).status_code == 503
    assert len(fleet.requests) == 1


async def test_a_body_that_cannot_be_read_twice_is_sent_once(fleet: Fleet) -> None:
    """A stream: one attempt, whatever the method."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    fleet.errors = dict.fromkeys(["i0", "i1", "i2"], httpx.ConnectError("refused"))
    with pytest.raises(httpx.ConnectError):
        await fleet.client.put("http://user-service/", content=body())
    assert len(fleet.requests) == 1


async def test_the_budget_bounds_the_extra_load() -> None:
    """Everything is down: two hundred requests cost a fifth more attempts, and the floor, not three times."""
    budget = ar.RetryBudget(ratio=0.2, floor=1.0)
    fleet = await Fleet(
        budget=budget, backoff=ar.Backoff.constant(0.001), outliers=ar.OutlierPolicy()
    ).start()
    fleet.status = dict.fromkeys(["i0", "i1", "i2"], 503)
    for _ in range(200):
        await fleet.client.get("http://user-service/")
    assert 200 < len(fleet.requests) <= 200 * 1.2 + 10


async def test_retry_after_is_kept(fleet: Fleet) -> None:
    """An answer of 503 that says when: not before."""
    fleet.status = dict.fromkeys(["i0", "i1", "i2"], 503)
    fleet.headers["Retry-After"] = "2"
    await fleet.client.get("http://user-service/")
    assert asyncio.get_running_loop().time() >= 4.0


async def test_each_instance_has_a_breaker(fleet: Fleet) -> None:
    """One instance fails: after five failures it gets no calls, then one probe every ten seconds."""
    recorder = Recorder()
    fleet = await Fleet(balancer=ar.Random(), listeners=[recorder]).start()
    fleet.status["i1"] = 500
    for _ in range(100):
        await fleet.client.get("http://user-service/")
    assert fleet.calls["i1"] == 5
    assert fleet.users.ejected == ("i1",)
    assert [event.new for event in recorder.of(ar.BreakerChanged)] == [ar.BreakerState.OPEN]
    await asyncio.sleep(12)
    fleet.status.clear()
    for _ in range(20):
        await fleet.client.get("http://user-service/")
    assert fleet.users.ejected == ()


async def test_a_deadline_for_everything_and_a_limit_for_each_attempt() -> None:
    """Hung instances: each attempt is cut, another one asked; in the end the deadline, told to each attempt."""
    fleet = await Fleet(
        deadline=2.0, attempt_timeout=0.5, backoff=ar.Backoff.constant(0.1), attempts=9
    ).start()
    fleet.delays = dict.fromkeys(["i0", "i1"], 60.0)
    response = await fleet.client.get("http://user-service/")
    assert response.text == "i2"
    fleet.delays["i2"] = 60.0
    fleet.requests.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ar.TimedOut):
        await fleet.client.get("http://user-service/")
    assert loop.time() - began <= 2.0
    told = [request.headers["x-request-timeout"] for request in fleet.requests]
    assert told[:3] == ["0.500", "0.500", "0.500"]
    assert float(told[-1]) <= 0.5
    assert fleet.in_flight() == 0


async def test_the_ambient_deadline_is_passed_on_and_nobody_elses_overwritten(fleet: Fleet) -> None:
    """`X-Request-Timeout` says what is left; a caller's own header stays; without a deadline there is none."""
    await fleet.client.get("http://user-service/")
    with ar.deadline(3.0):
        await fleet.client.get("http://user-service/")
        await fleet.client.get("http://user-service/", headers={"X-Request-Timeout": "1"})
    told = [request.headers.get("x-request-timeout") for request in fleet.requests]
    assert told == [None, "3.000", "1"]


async def test_a_hedge_asks_another_instance() -> None:
    """The first is late: a second one, elsewhere, answers; the loser is cancelled, and nothing is in flight."""
    fleet = await Fleet(hedge=0.05, balancer=ar.RoundRobin()).start()
    fleet.delays["i0"] = 60.0
    for _ in range(6):
        assert (await fleet.client.get("http://user-service/")).text in ("i1", "i2")
    assert fleet.calls["i0"] >= 1
    assert asyncio.get_running_loop().time() < 1.0
    assert fleet.in_flight() == 0
    fleet.calls.clear()
    fleet.delays = dict.fromkeys(["i0", "i1", "i2"], 0.2)
    await fleet.client.post("http://user-service/")
    assert fleet.calls.total() == 1, "a POST is not hedged"


async def test_a_hedge_whose_loser_has_answered_too_is_closed() -> None:
    """Both answer in the same moment: one is returned, the other closed."""
    fleet = await Fleet(hedge=0.05, balancer=ar.RoundRobin()).start()
    fleet.delays = {"i0": 0.15, "i1": 0.1, "i2": 0.1}
    for _ in range(9):
        await fleet.client.get("http://user-service/")
    assert fleet.in_flight() == 0


async def test_a_stream_is_in_flight_until_it_is_closed(fleet: Fleet) -> None:
    """`client.stream`: recorded with its headers, in flight to the end of its body."""
    async with fleet.client.stream("GET", "http://user-service/") as response:
        assert fleet.in_flight() == 1
        await response.aread()
        assert fleet.in_flight() == 0
    async with fleet.client.stream("GET", "http://user-service/"):
        assert fleet.in_flight() == 1
    assert fleet.in_flight() == 0


async def test_the_same_key_goes_to_the_same_instance() -> None:
    """`key=` of a request, by `Rendezvous`."""
    fleet = await Fleet(balancer=ar.Rendezvous(), key=lambda request: request.headers.get("x-user")).start()
    found = {
        (await fleet.client.get("http://user-service/", headers={"x-user": "ada"})).text for _ in range(9)
    }
    assert len(found) == 1


def test_a_cancel_at_any_await_leaves_nothing_in_flight() -> None:
    """Attempts, waits, hedges, bodies, cut anywhere: no call in flight, no probe, no task."""

    async def make() -> Fleet:
        fleet = await Fleet(hedge=0.05, deadline=5.0, attempt_timeout=1.0).start()
        fleet.transport._services["user-service"] = users = fleet.registry.service(
            "user-service", **fleet.transport._options
        )
        await users._chooser.known()
        return fleet

    async def use(fleet: Fleet) -> None:
        fleet.delays, fleet.status = {"i0": 0.2}, {"i1": 503}
        for method in ("GET", "POST", "PUT"):
            await fleet.client.request(method, "http://user-service/")

    def check(fleet: Fleet) -> None:
        assert fleet.in_flight() == 0
        policy: Any = fleet.transport._options["outliers"]
        assert all(policy.breakers[key].snapshot().probes == 0 for key in policy.breakers)

    report = cancel_sweep(use, make=make, check=check)
    assert report.points > 5


async def test_a_registry_that_is_away_is_no_reason_to_stop() -> None:
    """The instances known last are called."""
    backend = FaultyBackend()
    fleet = Fleet()
    fleet.registry = ar.ServiceRegistry(ttl=10, backend=backend)
    fleet.transport._registry = fleet.registry
    await fleet.start()
    backend.rate, backend.faults = 1.0, (Fault.NOT_SENT,)
    await asyncio.sleep(600)
    assert (await fleet.client.get("http://user-service/")).status_code == 200


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"registry": "redis://"}, "registry must be an ar"),
        ({"transport": object()}, "transport must be an httpx"),
        ({"services": "user-service"}, "services must be a list of names"),
    ],
)
def test_options_are_checked(options: dict, complaint: str) -> None:
    """When the transport is made."""
    with pytest.raises(TypeError, match=complaint):
        ResilientTransport(**{"registry": ar.ServiceRegistry(), **options})


@pytest.mark.real_time
async def test_real_servers_over_a_real_socket() -> None:
    """Two servers and a port where nobody listens: every request is answered, by name, with keep-alive."""
    seen: Counter[str] = Counter()
    handlers: list[Any] = []

    def served_by(name: str) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen["connections"] += 1
            while request := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
                seen[name] += 1
                seen["host"] += b"Host: user-service\r\n" in request
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + name.encode())

        async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handlers.append(asyncio.current_task())
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(reader, writer)
            writer.close()
            await writer.wait_closed()

        return quietly

    registry = ar.ServiceRegistry(backend=MemoryBackend())
    servers = [await asyncio.start_server(served_by(name), "127.0.0.1", 0) for name in "ab"]
    for port in (*(server.sockets[0].getsockname()[1] for server in servers), 1):
        await registry.announce(ar.Instance("user-service", "127.0.0.1", port))
    transport = ResilientTransport(registry, balancer=ar.RoundRobin())
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        for _ in range(30):
            assert (await client.get("http://user-service/x")).status_code == 200
    await asyncio.gather(*handlers)
    for server in servers:
        server.close()
        await server.wait_closed()
    assert (seen["host"], seen["connections"]) == (30, 2)
    assert seen["a"] >= 10
    assert seen["b"] >= 10
