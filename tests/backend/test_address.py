"""URLs and what may be said about them: V3, V4, V7 as far as no server is needed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import Sentinel

from aresilience import ConfigurationError
from aresilience.backend import Backend, MemoryBackend, connect
from aresilience.backend.redis import RedisBackend
from aresilience.backend.redis.address import from_client, from_url

SECRET = "pa%2Fss%40w%23rd"
PLAIN = "pa/ss@w#rd"


@pytest.mark.parametrize(
    ("url", "kind", "shown", "options"),
    [
        ("redis://localhost", "single", "redis://localhost:6379/0", {"host": "localhost", "port": 6379}),
        ("redis://", "single", "redis://localhost:6379/0", {"host": "localhost", "port": 6379}),
        ("redis://h:7000/3", "single", "redis://h:7000/3", {"host": "h", "port": 7000, "db": 3}),
        ("redis://h/?db=4", "single", "redis://h:6379/4", {"db": 4}),
        ("redis://[::1]:7000", "single", "redis://[::1]:7000/0", {"host": "::1", "port": 7000}),
        (f"redis://u:{SECRET}@h", "single", "redis://h:6379/0", {"username": "u", "password": PLAIN}),
        (f"redis://:{SECRET}@h", "single", "redis://h:6379/0", {"password": PLAIN}),
        ("redis://h?client_name=a&max_connections=5", "single", "redis://h:6379/0", {"client_name": "a"}),
        ("rediss://h:1", "single", "rediss://h:1/0", {"port": 1, "ssl_check_hostname": True}),
        ("rediss://h?ssl_check_hostname=no", "single", "rediss://h:6379/0", {"ssl_check_hostname": False}),
        ("rediss://h?ssl_ca_certs=/x.pem", "single", "rediss://h:6379/0", {"ssl_ca_certs": "/x.pem"}),
        (
            f"unix://u:{SECRET}@/r.sock?db=2",
            "single",
            "unix:///r.sock db 2",
            {"password": PLAIN, "db": 2},
        ),
        ("unix:///run/r.sock", "single", "unix:///run/r.sock db 0", {"path": "/run/r.sock"}),
        ("redis+sentinel://a,b:1/m", "sentinel", "redis+sentinel://a:26379,b:1/m/0", {}),
        (
            f"redis+sentinel://u:{SECRET}@a/m/2",
            "sentinel",
            "redis+sentinel://a:26379/m/2",
            {"password": PLAIN},
        ),
        (
            "rediss+sentinel://a/m",
            "sentinel",
            "rediss+sentinel://a:26379/m/0",
            {"ssl_check_hostname": True},
        ),
        ("redis+cluster://a:7000,b", "cluster", "redis+cluster://a:7000,b:6379", {}),
        (f"rediss+cluster://:{SECRET}@a", "cluster", "rediss+cluster://a:6379", {"password": PLAIN}),
    ],
)
def test_a_url_says_where_and_how(url: str, kind: str, shown: str, options: dict[str, Any]) -> None:
    """Hosts, database, credentials and options as they are meant; what is shown has no secret."""
    address = from_url(url)
    assert (address.kind, address.shown) == (kind, shown)
    assert options == {name: address.options[name] for name in options}
    for text in (repr(address), str(address), repr(connect(url))):
        assert PLAIN not in text
        assert SECRET not in text


def test_the_options_of_sentinels_are_their_own() -> None:
    """sentinel_… options go to the sentinels and the rest to Redis; TLS goes to both."""
    address = from_url(
        "rediss+sentinel://u:p@a/m?sentinel_password=s&sentinel_ssl_cert_reqs=none&client_name=c"
    )
    assert address.sentinel_options["password"] == "s"
    assert address.sentinel_options["ssl_cert_reqs"] == "none"
    assert address.options["client_name"] == "c"
    assert "username" not in address.sentinel_options
    assert (address.connection_class, address.sentinel_class) == (SSLConnection, SSLConnection)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@h",
        "redis+http://u:hunter2@h",
        "unix+cluster:///hunter2",
        "hunter2",
        "redis://u:hunter2@h:port",
        "redis://u:hun/ter2@h",
        "redis://u:1#hunter2@h",
        "redis://u:1?hunter2@h",
        "redis://u:hunter2@[::1",
        "redis://u:hunter2@h/name",
        "redis://u:hunter2@h/1/2",
        "redis://u:hunter2@a,b",
        "redis://u:hunter2@h?db=x",
        "redis://u:hunter2@h?no_such_option=1",
        "redis://u:hunter2@h?sentinel_password=hunter2",
        "rediss://u:hunter2@h?ssl_min_version=hunter2",
        "redis://u:hunter2",
        "redis+sentinel://u:hunter2/m",
        "redis+sentinel://u:hunter2@h",
        "redis+sentinel://u:hunter2@h/m/x",
        "redis+sentinel://u:hunter2@h/m/1/2",
        "redis+sentinel://u:hun/ter2@h/m",
        "redis+cluster://u:hunter2@h/1",
        "redis+cluster://u:hunter2@h:99999",
    ],
)
def test_v4_a_url_that_cannot_be_read_is_not_told(url: str) -> None:
    """V4 a wrong URL: ConfigurationError that says what is right, and nothing of what was given."""
    with pytest.raises(ConfigurationError) as met:
        connect(url)
    error: BaseException | None = met.value
    assert "redis://" in str(error) or "option" in str(error)
    while error is not None:
        for piece in ("hunter2", "hun", "ter2"):
            assert piece not in str(error).replace("sentinel_", "")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_memory_url_has_nothing_more() -> None:
    """memory:// is the memory backend; with anything behind it, a mistake."""
    assert isinstance(connect(), MemoryBackend)
    with pytest.raises(ConfigurationError):
        connect("memory://x")


@pytest.mark.parametrize("url", ["", 5, None])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    """TypeError or ValueError before anything else."""
    with pytest.raises((TypeError, ValueError)):
        connect(url)


@pytest.mark.parametrize("prefix", ["", "a b", "{x}", "ä", "x" * 65, "a\r\n"])
def test_v3_a_prefix_that_could_confuse_is_refused(prefix: str) -> None:
    """V3 prefix: letters, digits and a few signs, for no brace may move a key to another slot."""
    with pytest.raises(ValueError, match=r"prefix|empty"):
        connect("redis://localhost", prefix=prefix)


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(deadline: float) -> None:
    """A deadline is a finite number of seconds greater than 0."""
    with pytest.raises(ValueError, match="deadline"):
        connect("redis://localhost", deadline=deadline)


def keys_of(backend: Backend) -> RedisBackend:
    """For the type checker."""
    assert isinstance(backend, RedisBackend)
    return backend


def test_v3_no_two_names_have_one_key() -> None:
    """V3 "a:b" + "c" is not "a" + "b:c", nor is anything else that users may write; all are short and plain."""
    backend = keys_of(connect("redis://localhost", prefix="p"))
    parts = [
        ("a:b", "c"), ("a", "b:c"), ("a", "b", "c"), ("abc",), ("",), ("", ""), ("1:a",), ("a", ""), ("{a}",),
        ("}{",), ("\r\n",), ("\0",), ("ä",), ("a\u0308",), ("\ud800",), ("x" * 10_000_000,), ("x" * 9_999_999,),
    ]  # fmt: skip
    keys = [backend.key("kind", *each) for each in parts]
    assert len(set(keys)) == len(parts)
    assert all(key.startswith(b"p:kind:{") and len(key) < 60 and key.isascii() for key in keys)
    assert backend.key("kind", "a") != backend.key("other", "a")
    assert backend.key("kind", "a") != keys_of(connect("redis://localhost", prefix="q")).key("kind", "a")


def test_s13_keys_with_one_tag_share_a_slot_whatever_is_in_them() -> None:
    """S13 the hash tag is ours: braces in names, and in the tag itself, change nothing."""
    backend = keys_of(connect("redis://localhost"))
    for tag in ("t", "", "}", "a}b{c", "{}", "ü" * 1000):
        slots = {redis.crc.key_slot(backend.key("k", part, tag=tag)) for part in ("a", "{b}", "}c{", "")}
        assert len(slots) == 1


def test_v7_certificates_and_host_names_are_verified() -> None:
    """V7 TLS verification is on unless the URL says otherwise, for every kind of URL."""
    for url in ("rediss://h", "rediss+sentinel://h/m", "rediss+cluster://h"):
        connection: Any = from_url(url).connection("h", 1)
        assert connection.ssl_context.get().check_hostname is True
        assert connection.ssl_context.get().verify_mode.name == "CERT_REQUIRED"
    sentinel: Any = from_url("rediss+sentinel://h/m").sentinel("h", 1)
    assert sentinel.ssl_context.get().check_hostname is True


async def test_clients_are_described_without_their_secrets() -> None:
    """V4 of every kind of client: where it is, and with TLS if it has; never a password."""
    options: dict[str, Any] = {"password": PLAIN, "username": "u"}
    clients = [
        (redis.asyncio.Redis(**options), "redis://localhost:6379/0"),
        (redis.asyncio.Redis(ssl=True, db=1, **options), "rediss://localhost:6379/1"),
        (redis.asyncio.Redis(unix_socket_path="/r.sock", **options), "unix:///r.sock db 0"),
        (Sentinel([("a", 1), ("b", 2)], **options).master_for("m"), "redis+sentinel://a:1,b:2/m/0"),
        (Sentinel([("a", 1)]).master_for("m", ssl=True, **options), "rediss+sentinel://a:1/m/0"),
        (redis.asyncio.RedisCluster(host="a", port=1, **options), "redis+cluster://a:1"),
        (redis.asyncio.RedisCluster(host="a", port=1, ssl=True, **options), "rediss+cluster://a:1"),
    ]
    for client, shown in clients:
        address = from_client(client)
        assert address.shown == shown
        connection: Any = address.connection(*(("h", 1) if address.kind != "single" else ()))
        assert (connection.password, connection.username, connection.protocol) == (PLAIN, "u", 2)
        assert issubclass(address.connection_class, SSLConnection) is shown.startswith("rediss")
        assert isinstance(connection, UnixDomainSocketConnection) is shown.startswith("unix")
        assert connection.retry.get_retries() == 0
        assert PLAIN not in f"{RedisBackend(client)!r} {address!r} {connection!r}"


@pytest.mark.real_time
async def test_v4_neither_errors_nor_logs_tell_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """V4 secrets from the URL, when nobody is there: in no error, no log, no repr."""
    caplog.set_level(logging.DEBUG)
    for kind in (
        "redis://u:{0}@127.0.0.1:1",
        "redis+cluster://u:{0}@127.0.0.1:1",
        "redis+sentinel://u:{0}@127.0.0.1:1/m",
    ):
        backend = keys_of(connect(kind.format(SECRET), deadline=0.1))
        async with backend:
            backend.listen("news", lambda message: None, lambda: None)
            with pytest.raises(Exception, match=r"no connection|not sent") as met:
                await backend.ping()
            link = backend._routes.link()
            said = f"{met.value!r} {met.value.__cause__!r} {met.value.__context__!r} {backend!r} {link!r}"
        assert PLAIN not in said + caplog.text
        assert SECRET not in said + caplog.text
