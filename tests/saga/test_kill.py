"""kill -9 before and after every call of the backend, of a saga and of its recovery."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]


async def kill_everywhere(server: RedisServer, stride: int) -> dict[str, object]:
    """Run the script; what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("kill_everywhere.py")),
        str(server.port),
        str(stride),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()[-3000:]
    return dict(json.loads(said))


@pytest.mark.timeout(120)
async def test_killed_anywhere_it_ends_all_or_none(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """G1: at every call of a saga of five steps; and for each of these at some of those of its recovery."""
    said = await kill_everywhere(redis_server, 13)
    with capsys.disabled():
        print(f"\nkill -9: {said}", end="")
    assert said["points"] >= 40  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_anywhere_twice(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """G1, two deep: at every call, and at every call of the process that takes over."""
    said = await kill_everywhere(redis_server, 1)
    with capsys.disabled():
        print(f"\nkill -9, two deep: {said}", end="")
    assert said["kills"] > 500  # type: ignore[operator]
