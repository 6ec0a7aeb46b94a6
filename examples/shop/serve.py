"""How each service of the shop runs: uvicorn, in a process of its own, on a port that the system picks."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

__all__ = ["serve"]


def serve(make: Callable[[int], ASGIApp]) -> None:
    """Serve what is made for a port, until standard input ends, which it also does when the parent dies."""
    # With its protocol named: else asyncio sets no TCP_NODELAY, and each answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        make(port),
        loop="asyncio",  # its clock is time.monotonic(), which all processes share
        http="h11",
        log_level="critical",
        timeout_keep_alive=60,  # or idle connections would break under the clients that measure
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    # It listens already: whoever connects from now on is served as soon as the app is up.
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


def _end_with_input(server: uvicorn.Server) -> None:
    os.read(sys.stdin.fileno(), 1)
    server.should_exit = True
