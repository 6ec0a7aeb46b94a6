"""Other ways to the server: unix sockets, TLS (V7), a user with few rights (V6); what travels there (V5)."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import redis.asyncio
from redis_fixtures import both_versions
from servers import RedisServer, eventually, free_port

from aresilience import ConfigurationError, NotSent
from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend, Script

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

ECHO = Script("echo", "return {tonumber(ARGV[1]), ARGV[2]}")
COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")
Start = Callable[..., RedisServer]


def on(url: str, **options: float | str) -> RedisBackend:
    """A backend, not yet open."""
    backend = connect(url, **{"deadline": 1.0, **options})
    assert isinstance(backend, RedisBackend)
    return backend


@both_versions
async def test_over_a_unix_socket(start_redis: Start, tmp_path: Path) -> None:
    """unix:// and a client with unix_socket_path: scripts, messages, and a silent reconnect."""
    path = tmp_path / "r s.sock"
    server = start_redis("--unixsocket", str(path))
    client = redis.asyncio.Redis(unix_socket_path=str(path))
    for backend in (on(f"unix://{quote(str(path))}?db=1"), RedisBackend(client, deadline=1.0)):
        async with backend:
            assert await backend.run(ECHO, [], ["x"]) == [b"x"]
            heard: list[bytes] = []
            resynced = asyncio.Event()
            backend.listen("news", heard.append, resynced.set)
            await resynced.wait()
            server.command("PUBLISH", "ar:news", "x")
            await eventually(lambda heard=heard: heard == [b"x"])
    await client.aclose()
    nobody = on(f"unix://{path}.none")
    async with nobody:
        with pytest.raises(NotSent):
            await nobody.ping()


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for `localhost`, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("NOT TESTED: TLS; there is no openssl to make a certificate with")
    made = tmp_path / "cert.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture
def tls_redis(start_redis: Start, certificate: Path) -> RedisServer:
    """A server that speaks TLS on a second port, which is its `tls_port`."""
    port = free_port()
    try:
        server = start_redis(
            "--tls-port", str(port),
            "--tls-cert-file", str(certificate),
            "--tls-key-file", str(certificate.with_name("key.pem")),
            "--tls-auth-clients", "no",
        )  # fmt: skip
    except RuntimeError:
        pytest.skip("NOT TESTED: TLS; this redis-server was built without it")
    server.tls_port = port
    return server


async def test_v7_tls_is_verified_unless_told_not_to(tls_redis: RedisServer, certificate: Path) -> None:
    """V7 a certificate that we do not know, or for another name: NOT_SENT, and it says why; with the authority
    named, or verification switched off: it works."""
    port = tls_redis.tls_port
    async with on(f"rediss://localhost:{port}") as stranger:
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.ping()
    async with on(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}") as misnamed:
        with pytest.raises(NotSent, match="IP address mismatch"):
            await misnamed.ping()
    async with on(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as good:
        assert await good.run(ECHO, [], ["x"]) == [b"x"]
        assert "rediss" in repr(good)
    async with on(f"rediss://localhost:{port}?ssl_cert_reqs=none") as careless:
        assert await careless.ping() > 0
    async with on(f"redis://localhost:{port}", deadline=0.3) as plain:
        with pytest.raises(NotSent):
            await plain.ping()


async def test_tls_connections_are_dropped_and_made_anew(tls_redis: RedisServer, certificate: Path) -> None:
    """Over TLS: a large value, a killed connection, a stopped server; nothing is left open."""
    async with on(
        f"rediss://localhost:{tls_redis.tls_port}?ssl_ca_certs={certificate}", deadline=0.5
    ) as backend:
        assert await backend.command("SET", "ar:big", b"x" * 3_000_000) == b"OK"
        assert len(await backend.command("GET", "ar:big")) == 3_000_000
        tls_redis.command("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: " idle" in repr(backend._routes.link()))
        assert await backend.ping() > 0
        tls_redis.pause()
        try:
            for _ in range(3):
                with pytest.raises(Exception, match="Redis"):
                    await backend.command("SET", "ar:big", b"x" * 3_000_000)
        finally:
            tls_redis.resume()
        await eventually(lambda: len(tls_redis.clients()) <= 1)


# Rights

MINIMAL = "resetchannels &{prefix}:* ~{prefix}:* -@all +ping +evalsha +eval +subscribe +unsubscribe"
"""The least that the backend itself needs; and what the patterns' scripts call, of course."""


@both_versions
async def test_v6_the_least_rights_are_enough(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    """V6 under the minimal rule: scripts, messages, ping; other keys and commands are ConfigurationErrors."""
    server = start_redis()
    rule = MINIMAL.format(prefix="mine").split()
    called = ["+incr"]
    assert server.command("ACL", "SETUSER", "u", "on", ">pw", *rule, *called) == "OK"
    url = server.url.replace("//", "//u:pw@")
    async with on(url, prefix="mine") as backend:
        key = backend.key("n", "1")
        assert await backend.ping() > 0
        assert [await backend.run(COUNT, [key], []) for _ in range(2)] == [[1], [2]]
        resyncs: list[None] = []
        heard: list[bytes] = []
        end = backend.listen("news", heard.append, lambda: resyncs.append(None))
        await eventually(lambda: resyncs)
        server.command("PUBLISH", "mine:news", "x")
        await eventually(lambda: heard == [b"x"])
        end()
        other = backend.listen("other", heard.append, lambda: resyncs.append(None))
        await eventually(lambda: len(resyncs) == 2)
        other()
        assert backend.health.version == ()  # INFO is not among them
        with pytest.raises(ConfigurationError, match=r"NOPERM|can't"):
            await backend.run(COUNT, [b"yours:n"], [])
        with pytest.raises(ConfigurationError):
            await backend.run(
                Script("other", "redis.call('GET', KEYS[1]) return {tonumber(ARGV[1])}"), [key], []
            )
    assert not [record for record in caplog.records if record.name == "aresilience"]
    assert server.command("ACL", "LOG") == [] or "u" in str(server.command("ACL", "LOG"))


@both_versions
@pytest.mark.parametrize("without", ["+ping", "+evalsha", "+eval"])
async def test_v6_every_right_of_the_minimal_rule_is_needed(start_redis: Start, without: str) -> None:
    """V6 each right left out of the minimal rule is missed, as a ConfigurationError."""
    server = start_redis()
    rule = [word for word in MINIMAL.format(prefix="ar").split() if word != without]
    server.command("ACL", "SETUSER", "u", "on", ">pw", *rule, "+incr")
    with pytest.raises(ConfigurationError):
        async with on(server.url.replace("//", "//u:pw@")) as backend:
            await backend.run(COUNT, [backend.key("n", "1")], [])


@both_versions
async def test_v5_a_script_is_one_text_whatever_the_data(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """V5 data only as KEYS and ARGV: after calls with all sorts of data the server knows one script, ours."""
    for word in ("", "'; return 1 --", "]]", "\r\n$5\r\n", "\0", "ä" * 1000, "x" * 100_000):
        assert await redis_backend.run(ECHO, [word.encode()], [word]) == [word.encode()]
    assert redis_server.info("number_of_cached_scripts") == "1"
    assert redis_server.command("SCRIPT", "EXISTS", ECHO.sha) == [1]
    assert ECHO.sha == hashlib.sha1(ECHO.text.encode()).hexdigest()
