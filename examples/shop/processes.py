"""The processes of the demo: started together, ended together, whatever happens."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType

__all__ = ["Processes"]

_START = 15.0
_END = 3.0


class Processes:
    """`async with Processes() as processes`: at the end of the block none of them is left."""

    def __init__(self) -> None:
        self._running: list[Process] = []
        self._serving: dict[str, Process] = {}

    async def __aenter__(self) -> Processes:
        return self

    async def start(self, module: str, *arguments: str) -> str:
        """Start `python -m module …`, and return the address that it serves."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is for us alone; we end them
        )
        self._running.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(_START):
            port = await process.stdout.readline()
        if not port:
            raise RuntimeError(f"{module} ended before it served anything")
        url = f"http://127.0.0.1:{int(port)}"
        self._serving[url] = process
        return url

    def kill(self, url: str) -> None:
        """End a process at once: nothing of what it would do at its end is done."""
        self._serving[url].kill()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*map(_ended, self._running))


async def _ended(process: Process) -> None:
    try:
        async with asyncio.timeout(_END):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
