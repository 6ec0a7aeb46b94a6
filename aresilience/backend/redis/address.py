"""Where Redis is: from a URL, or from a client that the user already has, to ways of connecting.

Connections are redis-py's, for TCP, TLS and unix sockets, credentials and their providers; its retries, its
timeouts and its maintenance notifications are off (they send again what may have run, lose cancels, and
hand out other callers' replies), and the protocol is RESP2. Reading from replicas is off as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Connection, Redis, RedisCluster, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from aresilience.errors import ConfigurationError

__all__ = ["Address", "from_client", "from_url", "hang_up"]

_OURS: dict[str, Any] = {
    "protocol": 2,
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
    "health_check_interval": 0,
    "decode_responses": False,
    "maint_notifications_config": None,
    "maint_notifications_pool_handler": None,
    "oss_cluster_maint_notifications_handler": None,
}
_OF_POOLS = {"max_connections", "timeout"}
"""What URLs say of pools: there is none here."""
_FORMS = (
    "redis://[user:password@]host:6379/0, unix://[user:password@]/path?db=0, "
    "redis+sentinel://h1:26379,h2:26379/mymaster/0, redis+cluster://h1:7000,h2:7001, "
    "with whatever means something in a URL written as %xx"
)
_SCHEMES = "redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// (and rediss+… with TLS)"


@dataclass(frozen=True)
class Address:
    """How to reach a Redis; no part of it is ever shown but `shown`."""

    kind: str
    """single, sentinel or cluster"""
    shown: str
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    connection_class: type[AbstractConnection] = Connection
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_class: type[AbstractConnection] = Connection
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def connection(self, host: str | None = None, port: int | None = None) -> AbstractConnection:
        """A new connection object, not yet connected."""
        place = {} if host is None else {"host": host, "port": port}
        return _new(self.connection_class, {**self.options, **place})

    def sentinel(self, host: str, port: int) -> AbstractConnection:
        """The same, to a sentinel."""
        return _new(self.sentinel_class, {**self.sentinel_options, "host": host, "port": port})


def hang_up(connection: AbstractConnection) -> None:
    """At once: whatever waits to be written is thrown away, and nothing is waited for.

    (`disconnect` would leave a socket whose peer reads no more open until the kernel gives up.)
    """
    writer: Any = getattr(connection, "_writer", None)
    if writer is not None:
        transport = getattr(writer, "transport", None)
        writer.close() if transport is None else transport.abort()
    connection._writer = connection._reader = None
    connection._parser.on_disconnect()  # type: ignore[no-untyped-call]


def from_url(url: str) -> Address:
    """The address in a URL. Raises `ConfigurationError`, without the URL in it: it may hold a password."""
    try:
        parts = urlsplit(url)
        path = [unquote(part) for part in parts.path.split("/") if part]
        query = parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(f"cannot read this URL; its form is {_FORMS}") from None
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise ConfigurationError(f"the URL's scheme must be one of {_SCHEMES}")
    if (scheme == "unix" and kind) or parts.fragment or "@" in parts.path:
        raise ConfigurationError(f"cannot read this {parts.scheme}:// URL; its form is {_FORMS}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    if scheme == "unix":
        options = _read(f"unix://{credentials}@{hosts}{parts.path}", query, UnixDomainSocketConnection)
        shown = f"unix://{options.get('path')} db {options.get('db', 0)}"
        return Address("single", shown, (), "", UnixDomainSocketConnection, options)
    nodes = tuple(_node(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
    service = path.pop(0) if path and kind == "sentinel" else ""
    if len(nodes) > 1 and not kind:
        raise ConfigurationError(
            f"several hosts are sentinels or nodes of a cluster; the URL's form is {_FORMS}"
        )
    if kind == "sentinel" and not service:
        raise ConfigurationError(f"a sentinel URL names the service: {_FORMS}")
    if path and (kind == "cluster" or len(path) > 1 or not path[0].isdecimal()):
        raise ConfigurationError(
            f"the path of this {parts.scheme}:// URL is no database; its form is {_FORMS}"
        )
    connection_class = SSLConnection if scheme == "rediss" else Connection
    of_sentinels = [(n.removeprefix("sentinel_"), v) for n, v in query if n.startswith("sentinel_")]
    rest = [(n, v) for n, v in query if not n.startswith("sentinel_")]
    options = _read(f"{scheme}://{credentials}@h/{''.join(path)}", rest, connection_class)
    options.update(host=nodes[0][0], port=nodes[0][1])
    listed = _places(nodes)
    if kind == "sentinel":
        sentinel_options = _read(f"{scheme}://h", of_sentinels, connection_class)
        shown = f"{parts.scheme}://{listed}/{service}/{options.get('db', 0)}"
        return Address(
            kind, shown, nodes, service, connection_class, options, connection_class, sentinel_options
        )
    if of_sentinels:
        raise ConfigurationError("sentinel_… options belong to redis+sentinel:// URLs")
    if kind == "cluster":
        return Address(kind, f"{parts.scheme}://{listed}", nodes, "", connection_class, options)
    return Address(
        "single", f"{scheme}://{listed}/{options.get('db', 0)}", (), "", connection_class, options
    )


def from_client(client: object) -> Address:
    """The address of a client that the user has: its connections are not shared, only their settings."""
    if isinstance(client, RedisCluster):
        options = dict(client.connection_kwargs)
        connection_class = options.pop("connection_class", Connection)
        options.pop("redis_connect_func", None)  # it would allow a node to answer as a replica
        options = {n: v for n, v in options.items() if n in _parameters(connection_class)}
        nodes = tuple((node.host, int(node.port)) for node in client.nodes_manager.startup_nodes.values())
        shown = f"{_scheme(connection_class)}+cluster://{_places(nodes)}"
        return Address("cluster", shown, nodes, "", connection_class, options)
    if not isinstance(client, Redis):
        kind = type(client)
        raise TypeError(
            f"RedisBackend needs a redis.asyncio client, got {kind.__module__}.{kind.__qualname__}: "
            "a synchronous client would block the event loop"
        )
    pool = client.connection_pool
    options = dict(pool.connection_kwargs)
    connection_class = pool.connection_class
    if isinstance(pool, SentinelConnectionPool):
        connection_class = SSLConnection if issubclass(connection_class, SSLConnection) else Connection
        options.pop("connection_pool", None)
        pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
        nodes = tuple(
            (str(p.connection_kwargs["host"]), int(p.connection_kwargs.get("port", 26379))) for p in pools
        )
        listed = _places(nodes)
        shown = (
            f"{_scheme(connection_class)}+sentinel://{listed}/{pool.service_name}/{options.get('db') or 0}"
        )
        return Address(
            "sentinel",
            shown,
            nodes,
            pool.service_name,
            connection_class,
            options,
            pools[0].connection_class,
            dict(pools[0].connection_kwargs),
        )
    db = options.get("db") or 0
    if "path" in options:
        shown = f"unix://{options['path']} db {db}"
    else:
        where = (str(options.get("host", "localhost")), int(options.get("port", 6379)))
        shown = f"{_scheme(connection_class)}://{_places([where])}/{db}"
    return Address("single", shown, (), "", connection_class, options)


def _new(connection_class: type[AbstractConnection], options: Mapping[str, Any]) -> AbstractConnection:
    ours = {**_OURS, "retry": Retry(NoBackoff(), 0)}
    if "driver_info" not in options:  # making one would read files, in the loop, for each connection
        ours["driver_info"] = None
    known = _parameters(connection_class)  # some of ours are of later versions of redis-py
    return connection_class(**{**options, **{n: v for n, v in ours.items() if n in known or n in options}})


def _read(
    url: str, query: list[tuple[str, str]], connection_class: type[AbstractConnection]
) -> dict[str, Any]:
    """redis-py's reading of a URL's credentials, database and options, all of them known."""
    try:
        options: dict[str, Any] = dict(parse_url(f"{url}?{urlencode(query)}"))
    except (ValueError, TypeError):
        raise ConfigurationError(f"cannot read this URL; its form is {_FORMS}") from None
    options.pop("connection_class", None)
    known = _parameters(connection_class)
    for name in options.keys() - known - _OF_POOLS:
        raise ConfigurationError(f"the URL has an option that means nothing: {name}")
    if issubclass(connection_class, SSLConnection):
        options.setdefault("ssl_check_hostname", True)  # not the default of every redis-py
    return {name: value for name, value in options.items() if name not in _OF_POOLS}


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "localhost", parts.port or default_port
    except ValueError:  # without the text: it may be a part of a password
        raise ConfigurationError(f"cannot read the hosts of this URL; its form is {_FORMS}") from None


def _places(nodes: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes)


def _scheme(connection_class: type[AbstractConnection]) -> str:
    return "rediss" if issubclass(connection_class, SSLConnection) else "redis"


def _parameters(connection_class: type) -> set[str]:
    """What its constructor and those of its bases take."""
    names: set[str] = set()
    for each in connection_class.__mro__:
        init = each.__dict__.get("__init__")
        if init is not None and each is not object:
            names.update(inspect.signature(init).parameters)
    return names - {"self", "args", "kwargs"}
