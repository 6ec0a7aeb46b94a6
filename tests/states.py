"""The states that a Redis server can be in, each as a block: in it the server is so, after it all is well.

`STATES` says of each what a call meets in it. Who is to be asked is `APP`, a user of the server with all
rights, whose password and rights can be taken away.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from servers import RedisServer, eventually, until

from aresilience import ConfigurationError, CorruptState, NotSent, OutcomeUnknown, Refused
from aresilience.errors import BackendError

APP, PASSWORD = "app", "hunter2"
OPTIONS = ("--lua-time-limit", "20", "--dbfilename", "dump.rdb", "--maxclients", "20")
"""What a server needs so that all of these states can be brought about."""
EVENTS = ("--loading-process-events-interval-bytes", "1024")
"""One that loads answers now and then; so it answers often. Since Redis 7.0."""


def can_be_troubled(server: RedisServer) -> None:
    """Make the user `APP`."""
    assert server.command("ACL", "SETUSER", APP, "on", f">{PASSWORD}", "~*", "&*", "+@all") == "OK"


def app_url(server: RedisServer) -> str:
    """The server, as `APP`."""
    return server.url.replace("//", f"//{APP}:{PASSWORD}@")


def hang_up(server: RedisServer) -> None:
    """Close the connections of everybody, who will make new ones."""
    for kind in ("normal", "pubsub"):
        server.command("CLIENT", "KILL", "TYPE", kind)


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """LOADING: restarted, with its data, which it takes some seconds to read."""
    if EVENTS[0] not in server.options:
        pytest.skip("LOADING was NOT tested: a redis-server before 7.0 answers too seldom while it loads")
    server.command("EVAL", "for i = 1, 3000 do redis.call('SET', 'big' .. i, ('x'):rep(1100)) end", 0)
    server.command("CONFIG", "SET", "rdbcompression", "no")
    server.command("SAVE")
    server.kill()
    server.options += ["--key-load-delay", "2000"]
    server.start()
    can_be_troubled(server)
    try:
        assert server.info("loading") == "1"
        yield
    finally:
        del server.options[-2:]
        server.command("CONFIG", "SET", "key-load-delay", "0")
        until(lambda: server.info("loading") == "0")
        (server.folder / "dump.rdb").unlink()


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """BUSY: a script of somebody else's that does not end; with `--lua-time-limit`, it says so."""
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(b"EVAL 'while true do end' 0\r\n")
        until(lambda: str(server.command("PING")).startswith("-BUSY"))
        try:
            yield
        finally:
            server.command("SCRIPT", "KILL")
            other.recv(100)


@contextmanager
def configured(server: RedisServer, name: str, value: object, back: object) -> Iterator[None]:
    """CONFIG SET, and back."""
    assert server.command("CONFIG", "SET", name, value) == "OK"
    try:
        yield
    finally:
        assert server.command("CONFIG", "SET", name, back) == "OK"


def full(server: RedisServer) -> AbstractContextManager[None]:
    """OOM: no memory is left, and nothing may be thrown away."""
    return configured(server, "maxmemory", 1, 0)


@contextmanager
def demoted(server: RedisServer) -> Iterator[None]:
    """READONLY: a failover has made it a replica (of a master that is not there)."""
    server.command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def orphaned(server: RedisServer) -> Iterator[None]:
    """MASTERDOWN: a replica that has lost its master, and tells nothing old."""
    with configured(server, "replica-serve-stale-data", "no", "yes"), demoted(server):
        yield


@contextmanager
def unable_to_save(server: RedisServer) -> Iterator[None]:
    """MISCONF: the last save failed (there is a folder in the place of its file)."""
    taken = server.folder / server.command("CONFIG", "GET", "dbfilename")[1]
    taken.mkdir()
    server.command("CONFIG", "SET", "save", "3600 1000000")
    server.command("BGSAVE")
    try:
        until(lambda: server.info("rdb_last_bgsave_status") == "err")
        yield
    finally:
        server.command("CONFIG", "SET", "save", "")
        taken.rmdir()


def without_replicas(server: RedisServer) -> AbstractContextManager[None]:
    """NOREPLICAS: it takes writes only if somebody copies them."""
    return configured(server, "min-replicas-to-write", 1, 0)


@contextmanager
def without_scripts(server: RedisServer) -> Iterator[None]:
    """NOSCRIPT: it has forgotten all scripts."""
    server.command("SCRIPT", "FLUSH")
    yield


@contextmanager
def crowded(server: RedisServer) -> Iterator[None]:
    """Too many clients: everybody was disconnected, and others were quicker."""
    most = int(server.command("CONFIG", "GET", "maxclients")[1])
    others: list[socket.socket] = []
    hang_up(server)
    end = time.monotonic() + 5
    while len(others) < most and time.monotonic() < end:
        other = socket.create_connection(("127.0.0.1", server.port))
        other.sendall(b"PING\r\n")
        with contextlib.suppress(OSError):
            if other.recv(100) == b"+PONG\r\n":
                others.append(other)
                continue
        other.close()
        if len(others) >= most - 4:  # some places may be taken by who is to see that there is none
            break
    try:
        yield
    finally:
        for other in others:
            other.close()


@contextmanager
def locked(server: RedisServer) -> Iterator[None]:
    """NOAUTH: from now on there is a password that we were not told."""
    server.command("CONFIG", "SET", "requirepass", "new")
    server.password = "new"
    hang_up(server)
    try:
        yield
    finally:
        server.command("CONFIG", "SET", "requirepass", "")
        server.password = None


@contextmanager
def another_password(server: RedisServer) -> Iterator[None]:
    """WRONGPASS: ours was changed, and we were disconnected."""
    server.command("ACL", "SETUSER", APP, "resetpass", ">new")
    hang_up(server)
    try:
        yield
    finally:
        server.command("ACL", "SETUSER", APP, "resetpass", f">{PASSWORD}")


def without_rights(*rights: str) -> Callable[[RedisServer], AbstractContextManager[None]]:
    """NOPERM: rights of ours were taken away."""

    @contextmanager
    def state(server: RedisServer) -> Iterator[None]:
        server.command("ACL", "SETUSER", APP, *(f"-{right}" for right in rights))
        try:
            yield
        finally:
            server.command("ACL", "SETUSER", APP, "+@all")

    return state


@contextmanager
def silent(server: RedisServer) -> Iterator[None]:
    """SIGSTOP: it hears, and does not answer."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def dead(server: RedisServer) -> Iterator[None]:
    """SIGKILL; then started again, empty."""
    server.kill()
    try:
        yield
    finally:
        server.start()
        can_be_troubled(server)


@contextmanager
def flushed(server: RedisServer) -> Iterator[None]:
    """FLUSHALL: all keys are gone."""
    server.command("FLUSHALL")
    yield


def evicting(policy: str) -> Callable[[RedisServer], AbstractContextManager[None]]:
    """Too little memory for what is there: it has thrown away our keys, as this maxmemory-policy lets it."""

    @contextmanager
    def state(server: RedisServer) -> Iterator[None]:
        ours = [key for key in server.command("KEYS", "*") if not key.startswith("big")]
        used = int(server.info("used_memory"))
        server.command("CONFIG", "SET", "maxmemory-policy", policy)
        server.command("CONFIG", "SET", "maxmemory", used + 3_000_000)
        fill = "for i = 1, 50 do redis.call('SET', 'big' .. ARGV[1] .. i, ('x'):rep(20000), 'PX', 9e9) end"
        try:
            for n in range(500):
                server.command("EVAL", fill, 0, f"{n}:")
                if not server.command("EXISTS", *ours):
                    break
            assert not server.command("EXISTS", *ours)
            yield
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)
            server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")

    return state


def holding(garbage: str | None) -> Callable[[RedisServer], AbstractContextManager[None]]:
    """Our keys hold something else: text of somebody else's, or (None) a list."""

    @contextmanager
    def state(server: RedisServer) -> Iterator[None]:
        for key in server.command("KEYS", "*"):
            server.command("DEL", key)
            server.command(*(("RPUSH", key, "x") if garbage is None else ("SET", key, garbage)))
        yield
        server.command("FLUSHALL")

    return state


@dataclass(frozen=True)
class State:
    """A state, and what a call meets that needs an answer of the server.

    - `errors`: one of these, or none if the server answers all the same;
    - `code`: what the error says;
    - `keeps`: whether the keys are still there afterwards;
    - `hangs_up`: whether it begins by closing our connections, as clients notice a little later.
    """

    name: str
    begin: Callable[[RedisServer], AbstractContextManager[None]]
    errors: tuple[type[BackendError], ...] = ()
    code: str = ""
    keeps: bool = True
    hangs_up: bool = False
    as_app: bool = True


_AWAY = (NotSent, OutcomeUnknown)

STATES = (
    State("LOADING", loading, (Refused,), "LOADING", hangs_up=True),
    State("BUSY", busy, (Refused,), "BUSY"),
    State("OOM", full, (Refused,), "OOM"),
    State("READONLY", demoted, (Refused,), "READONLY"),
    State("MASTERDOWN", orphaned, (Refused,), "MASTERDOWN"),
    State("MISCONF", unable_to_save, (Refused,), "MISCONF"),
    State("NOREPLICAS", without_replicas, (Refused,), "NOREPLICAS"),
    State("NOSCRIPT", without_scripts),
    State("maxclients", crowded, (NotSent,), hangs_up=True),
    State("NOAUTH", locked, (ConfigurationError,), "does not let us", hangs_up=True, as_app=False),
    State("WRONGPASS", another_password, (ConfigurationError,), "does not let us in", hangs_up=True),
    State("NOPERM", without_rights("evalsha", "eval"), (ConfigurationError,), "does not let us"),
    State("NOPERM-in-a-script", without_rights("get"), (ConfigurationError,), "does not let us"),
    State("SIGSTOP", silent, _AWAY),
    State("killed", dead, _AWAY, keeps=False),
    State("FLUSHALL", flushed, keeps=False),
    State("allkeys-lru", evicting("allkeys-lru"), keeps=False),
    State("allkeys-random", evicting("allkeys-random"), keeps=False),
    State("volatile-ttl", evicting("volatile-ttl"), keeps=False),
    State("WRONGTYPE", holding(None), (CorruptState,), keeps=False),
    State("garbage", holding("garbage"), (CorruptState,), keeps=False),
)
BY_NAME = {state.name: state for state in STATES}


@asynccontextmanager
async def begun(state: State, server: RedisServer, *backends: Any) -> AsyncIterator[None]:
    """In the state, once these backends have noticed that they were hung up on."""
    with state.begin(server):
        if state.hangs_up:
            await eventually(lambda: all(" idle" in repr(b._routes.link()) for b in backends))
        yield
