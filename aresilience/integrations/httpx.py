"""httpx: requests to a service by its name, each to an instance that is likely to answer.

    async with httpx.AsyncClient(transport=ResilientTransport(registry)) as client:
        response = await client.get("http://user-service/users/1", timeout=...)

What it is for: `http://user-service/...` is resolved through the registry, balanced for each attempt, and
protected: a deadline for all attempts together, retries of what is safe to repeat, a budget for them, a
circuit breaker for each instance, a hedge if asked for. A host that is no service name (it has a dot, a port,
or is `localhost`) goes through as it is.

What is repeated: requests whose method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) or that carry an
Idempotency-Key, after a connection error, a timeout or an answer of 502, 503 or 504; any other request only
if it did not get as far as a connection. Never a body that cannot be read twice. A retry avoids the instances
that were tried.

What counts: connection errors, timeouts and answers of 500 and above are failures of the instance; other
answers are its successes; cancellations nothing.

Events: those of the registry, the retry, the hedge and the breakers, to `listeners`.

When the registry is down, the instances known last are called. `NoInstances` when there are none, and
`DeadlineExceeded` or `TimedOut` when it took too long, are raised as they are; the errors of httpx too.

What not to do: put retries around it too; leave responses of `client.stream` unread and open: until they are
closed their call is in flight.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import timedelta
from types import TracebackType

import httpx

from aresilience import arguments
from aresilience.backoff import Backoff
from aresilience.breaker import CircuitBreakers
from aresilience.budget import RetryBudget
from aresilience.deadline import deadline as limit_to
from aresilience.deadline import time_remaining
from aresilience.events import Listener
from aresilience.hedge import Hedge
from aresilience.percentile import Percentile
from aresilience.pipeline import Pipeline
from aresilience.policy import Policy
from aresilience.registry import Balancer, Instance, OutlierPolicy, Pick, Service, ServiceRegistry
from aresilience.retry import Retry
from aresilience.timeout import Timeout

__all__ = ["ResilientTransport"]

_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_READING = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_OURS = (httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.ProxyError)
_SERVER_ERROR = 500


class ResilientTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient` that finds services in a registry.

    - `transport`: what sends (an `httpx.AsyncHTTPTransport`, unless said); closed with this one.
    - `services`: the names that are services; unless said, every host without a dot and a port.
    - `balancer`, `zone`, `slow_start`: as for `ServiceRegistry.service`. `outliers`: unless said, a circuit
      breaker for each instance (5 failures in a row, 10 s).
    - `deadline`: seconds for a request, retries and waits together, until its headers are there; the ambient
      deadline counts too. `attempt_timeout`: seconds for each attempt.
    - `attempts` (3) in all, `backoff` between them, `retry_statuses` (502, 503, 504), and a `budget` for the
      extra ones, hedges included.
    - `hedge`: seconds, or a `Percentile`, after which a second attempt is begun beside the first; for requests
      that only read.
    - `key`: of a request, for `Rendezvous`.
    - `deadline_header`: the header in which each attempt says how many seconds it has; None: in none.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        services: Collection[str] | None = None,
        balancer: Balancer | None = None,
        outliers: OutlierPolicy | None = None,
        zone: str = "",
        slow_start: float | timedelta = 10.0,
        deadline: float | timedelta | None = None,
        attempt_timeout: float | timedelta | None = None,
        attempts: int = 3,
        backoff: Backoff | None = None,
        retry_statuses: Collection[int] = (502, 503, 504),
        budget: RetryBudget | None = None,
        hedge: float | timedelta | Percentile | None = None,
        key: Callable[[httpx.Request], str | None] | None = None,
        deadline_header: str | None = "X-Request-Timeout",
        name: str = "httpx",
        listeners: Iterable[Listener] = (),
    ) -> None:
        where = "ResilientTransport"
        if not isinstance(registry, ServiceRegistry):
            raise TypeError(f"{where}: registry must be an ar.ServiceRegistry, got {registry!r}")
        if transport is not None and not isinstance(transport, httpx.AsyncBaseTransport):
            raise TypeError(f"{where}: transport must be an httpx.AsyncBaseTransport, got {transport!r}")
        if isinstance(services, str):
            raise TypeError(f"{where}: services must be a list of names, got {services!r}")
        listeners = tuple(listeners)
        self._registry = registry
        self._inner = transport or httpx.AsyncHTTPTransport()
        self._names = None if services is None else frozenset(services)
        self._options = {
            "balancer": balancer,
            "zone": zone,
            "slow_start": slow_start,
            "outliers": outliers or _breakers(name, listeners),
            "failure_on": _of_the_instance,
        }
        self._services: dict[str, Service] = {}
        self._deadline = None if deadline is None else arguments.duration(f"{where}: deadline", deadline)
        self._statuses = frozenset(retry_statuses)
        self._key = None if key is None else arguments.plain_function(f"{where}: key", key)
        self._header = deadline_header
        budget = budget or RetryBudget()
        backoff = backoff or Backoff.exponential(initial=0.05, maximum=1.0)
        limit = (
            None if attempt_timeout is None else Timeout(attempt_timeout, name=name, listeners=listeners)
        )
        self._send_to = self._send if limit is None else limit.wrap(self._send)
        again = Retry(
            on=_may_be_repeated,
            until=lambda response: response.status_code not in self._statuses,
            dispose=_close,
            attempts=attempts,
            backoff=backoff,
            budget=budget,
            max_retry_after=5.0,
            name=name,
            listeners=listeners,
        )
        careful = Retry(
            on=_NOT_SENT, attempts=attempts, backoff=backoff, budget=budget, name=name, listeners=listeners
        )
        reading: Policy = again
        if hedge is not None:
            aside = Hedge(delay=hedge, budget=budget, dispose=_close, name=name, listeners=listeners)
            reading = Pipeline(again, aside)
        self._read = reading.wrap(self._attempt)
        self._repeat = again.wrap(self._attempt)
        self._care = careful.wrap(self._attempt)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request: to an instance, if its host is a service."""
        host = request.url.host
        if not self._is_service(request):
            return await self._inner.handle_async_request(request)
        users = self._services.get(host)
        if users is None:
            users = self._services[host] = self._registry.service(host, **self._options)  # type: ignore[arg-type]
        call = _Call(request, users, None if self._key is None else self._key(request))
        send = self._attempt
        if isinstance(request.stream, httpx.ByteStream):
            if request.method in _READING:
                send = self._read
            elif request.method in _REPEATABLE or "idempotency-key" in request.headers:
                send = self._repeat
            else:
                send = self._care
        if self._deadline is None:
            return await send(call)
        with limit_to(self._deadline):
            return await send(call)

    async def _attempt(self, call: _Call) -> httpx.Response:
        pick = call.users.pick(call.key, avoid=tuple(call.tried))
        instance = await pick.__aenter__()
        call.tried.append(instance.id)
        response: httpx.Response | None = None
        try:
            response = await self._send_to(call.request, instance)
            if response.status_code >= _SERVER_ERROR:
                pick.failed(f"status {response.status_code}")
            await pick.settle()
        except BaseException as error:
            try:
                if response is None:
                    await pick.settle(error)
                else:
                    await response.aclose()
            finally:
                pick.release()
            raise
        if response.is_closed:  # its body is there already
            pick.release()
        else:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _Body(response.stream, pick)
        return response

    async def _send(self, request: httpx.Request, instance: Instance) -> httpx.Response:
        """The Host header, and the name that the certificate is to have, stay the service's."""
        headers = request.headers
        left = time_remaining()
        if self._header is not None and left is not None and self._header not in headers:
            headers = headers.copy()
            headers[self._header] = f"{math.floor(left * 1000) / 1000:.3f}"
        addressed = httpx.Request(
            request.method,
            request.url.copy_with(host=instance.host, port=instance.port),
            headers=headers,
            stream=request.stream,
            extensions={"sni_hostname": request.url.host, **request.extensions},
        )
        return await self._inner.handle_async_request(addressed)

    def _is_service(self, request: httpx.Request) -> bool:
        host = request.url.host
        if self._names is not None:
            return host in self._names
        return "." not in host and ":" not in host and host != "localhost" and request.url.port is None

    async def aclose(self) -> None:
        """Close what sends. The registry is not concerned."""
        await self._inner.aclose()

    async def __aenter__(self) -> ResilientTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        return f"<ResilientTransport {len(self._services)} services, {self._registry!r}>"


class _Call:
    """One request, and who was tried with it."""

    __slots__ = ("key", "request", "tried", "users")

    def __init__(self, request: httpx.Request, users: Service, key: str | None) -> None:
        self.request = request
        self.users = users
        self.key = key
        self.tried: list[str] = []


class _Body(httpx.AsyncByteStream):
    """A response's body; the call is in flight until it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, pick: Pick) -> None:
        self._stream = stream
        self._pick = pick

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._pick.release()


def _breakers(name: str, listeners: Iterable[Listener]) -> OutlierPolicy:
    breakers = CircuitBreakers(
        name, failure_threshold=5, recovery_timeout=10.0, success_threshold=1, listeners=listeners
    )
    return OutlierPolicy(breakers=breakers)


def _of_the_instance(error: Exception) -> bool:
    """Whether an error says that the instance does not work."""
    return isinstance(error, httpx.TransportError | TimeoutError) and not isinstance(error, _OURS)


def _may_be_repeated(error: Exception) -> bool:
    """Whether another instance may do better."""
    return _of_the_instance(error) or isinstance(error, httpx.PoolTimeout)


async def _close(response: httpx.Response) -> None:
    await response.aclose()
