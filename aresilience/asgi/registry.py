"""RegistryApp: the registry over HTTP, for neighbours that are not written in Python.

    GET    /health                     200, or 503 if the registry does not answer
    GET    /services                   {"services": ["user-service", …]}
    GET    /services/user-service      {"service": …, "revision": …, "age": …, "stale": …, "instances": […]}
           ?since=REVISION&wait=30     when there is another revision, or after so many seconds
    PUT    /services/user-service/ID   {"host": …, "port": …, "ttl": 10, …}: 201, and {"token": …, "ttl": …}
    POST   /services/user-service/ID   a heartbeat: 204; 404: register again
    DELETE /services/user-service/ID   204; 404 if it is not there

The last three only with `writable=True`. Their token goes in the Registration-Token header; with it a PUT
changes the facts. Without one a heartbeat or a DELETE is for whoever has that id. There is no more protection
than that: whoever reaches it can register. A service that has never registered is 404.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from aresilience import arguments
from aresilience.asgi.problem import Problem, problem_body
from aresilience.asgi.types import ASGIApp, Receive, Scope, Send
from aresilience.deadline import deadline
from aresilience.errors import BackendError, DeadlineExceeded
from aresilience.registry import Instance, InstanceState, ServiceRegistry, Watch
from aresilience.registry.record import service_name

__all__ = ["RegistryApp"]

_MOST_BODY = 32_768
_MOST_TTL = 3600.0
_FACTS = frozenset(("host", "port", "zone", "version", "weight", "metadata", "state"))
_TOKEN = re.compile(r"[0-9A-Za-z]{0,64}")
_log = logging.getLogger("aresilience")


class RegistryApp:
    """An ASGI application over a registry; see the module's description.

    `writable`: whether neighbours may register. `max_wait`: the longest that a GET waits, in seconds.
    """

    def __init__(
        self, registry: ServiceRegistry, *, writable: bool = False, max_wait: float | timedelta = 60.0
    ) -> None:
        if not isinstance(registry, ServiceRegistry):
            raise TypeError(f"RegistryApp: registry must be an ar.ServiceRegistry, got {registry!r}")
        self._registry = registry
        self._writable = writable
        self._max_wait = arguments.duration("RegistryApp: max_wait", max_wait, zero=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await _problem(404)(scope, receive, send)
            return  # a server takes that for: no lifespan
        try:
            answer = await self._answer(scope, receive)
        except _Refused as refused:
            answer = _problem(refused.status, *refused.headers)
        except BackendError as error:
            _log.warning("the registry does not answer: %s", type(error).__name__)
            answer = _problem(503, ("retry-after", "1"))
        if scope["method"] == "HEAD" and isinstance(answer, Problem):
            answer = Problem(answer.status, answer.headers, b"")
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        path = scope["path"].removeprefix(scope.get("root_path", "")).strip("/").split("/")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if path == ["health"]:
            _allow(method, "GET")
            await self._registry.services()
            return _json(200, {"status": "ok"})
        if path == ["services"]:
            _allow(method, "GET")
            return _json(200, {"services": await self._registry.services()})
        if len(path) == 2 and path[0] == "services":
            _allow(method, "GET")
            return await self._service(_name(path[1]), scope)
        if len(path) == 3 and path[0] == "services" and self._writable:
            _allow(method, "PUT", "POST", "DELETE")
            return await self._change(method, _name(path[1]), path[2], scope, receive)
        raise _Refused(404)

    async def _service(self, name: str, scope: Scope) -> ASGIApp:
        asked = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        since, wait = _number(asked.get("since"), -1), _number(asked.get("wait"), 0)
        if not self._registry.follows(name) and name not in await self._registry.services():
            raise _Refused(404)  # what nobody has registered is not watched because somebody asks
        await self._registry.discover(name)
        if wait > 0 and self._registry.snapshot(name).revision == since:
            try:
                with deadline(min(wait, self._max_wait)):
                    await self._other(self._registry.watch(name), name, since)
            except DeadlineExceeded:
                _log.debug("nothing new of %s", name)
        snapshot = self._registry.snapshot(name)
        found = {
            "service": name,
            "revision": snapshot.revision,
            "age": snapshot.age,
            "stale": snapshot.stale,
            "healthy": snapshot.healthy,
            "instances": [_facts(instance, snapshot.held) for instance in snapshot.instances],
        }
        return _json(200, found)

    async def _other(self, watch: Watch, name: str, since: float) -> None:
        async for _ in watch:
            if self._registry.snapshot(name).revision != since:
                return

    async def _change(self, method: str, name: str, who: str, scope: Scope, receive: Receive) -> ASGIApp:
        headers = dict(scope["headers"])
        token = headers.get(b"registration-token", b"").decode("latin-1")
        if not _TOKEN.fullmatch(token):
            raise _Refused(400)
        if method == "PUT":
            facts = await _body(receive)
            ttl = _number(facts.pop("ttl", None), self._registry.ttl)
            if not 0 < ttl <= _MOST_TTL or not facts.keys() <= _FACTS:
                raise _Refused(422)
            token = await self._registry.announce(_instance(name, who, facts), ttl=ttl, token=token)
            return _json(201, {"token": token, "ttl": ttl})
        if method == "POST":
            asked = await _body(receive, empty=True)
            ttl = _number(asked.get("ttl"), self._registry.ttl)
            if not 0 < ttl <= _MOST_TTL:
                raise _Refused(422)
            there = await self._registry.heartbeat(name, who, ttl=ttl, token=token)
        else:
            there = await self._registry.deregister(name, who, token=token)
        if not there:
            raise _Refused(404)
        return Problem(204, (), b"")

    def __repr__(self) -> str:
        return f"<RegistryApp {self._registry!r}{' writable' if self._writable else ''}>"


class _Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, *headers: tuple[str, str]) -> None:
        self.status = status
        self.headers = headers


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise _Refused(405, ("allow", ", ".join(allowed)))


def _name(text: str) -> str:
    try:
        return service_name("service", text)
    except ValueError:
        raise _Refused(404) from None


def _instance(name: str, who: str, facts: dict[str, Any]) -> Instance:
    try:
        state = InstanceState(facts.pop("state", "up"))
        host, port = facts.pop("host"), facts.pop("port")
        return Instance(name, host, port, id=who, state=state, **facts)
    except (ValueError, TypeError, KeyError):
        raise _Refused(422) from None


def _facts(instance: Instance, held: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": instance.id,
        "host": instance.host,
        "port": instance.port,
        "zone": instance.zone,
        "version": instance.version,
        "weight": instance.weight,
        "metadata": dict(instance.metadata),
        "held": instance.id in held,
    }


def _number(value: object, otherwise: float) -> float:
    if value is None:
        return otherwise
    try:
        number = float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        raise _Refused(400) from None
    if not abs(number) < 2**53:  # nor not a number
        raise _Refused(400)
    return number


async def _body(receive: Receive, *, empty: bool = False) -> dict[str, Any]:
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused(400)
        data += message.get("body", b"")
        if len(data) > _MOST_BODY:
            raise _Refused(413)
        if not message.get("more_body", False):
            break
    if empty and not data:
        return {}
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        raise _Refused(400) from None
    if not isinstance(facts, dict):
        raise _Refused(422)
    return facts


def _json(status: int, content: dict[str, Any]) -> Problem:
    body = json.dumps(content).encode()
    headers = (
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
    )
    return Problem(status, headers, body)


def _problem(status: int, *more: tuple[str, str]) -> Problem:
    body = problem_body(HTTPStatus(status))
    return Problem(
        status,
        (
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            *more,
        ),
        body,
    )
