"""On fakeredis, and in virtual time: for the tests of those who have no server at hand."""

from __future__ import annotations

import asyncio

import fakeredis
import pytest

from aresilience import CorruptState
from aresilience.backend.redis import RedisBackend, Script

COUNT = Script("count", "return {tonumber(ARGV[1]), redis.call('INCR', KEYS[1])}")


async def test_a_fake_client_is_a_client() -> None:
    """Scripts, errors and messages on fakeredis; its data are those of the client that was handed in."""
    client = fakeredis.FakeAsyncRedis()
    await client.ping()  # it reads files of its own the first time
    async with RedisBackend(client) as backend:
        assert [await backend.run(COUNT, [b"ar:n"], []) for _ in range(2)] == [[1], [2]]
        assert await client.get("ar:n") == b"2"
        await client.rpush("ar:list", "x")
        with pytest.raises(CorruptState):
            await backend.run(COUNT, [b"ar:list"], [])
        heard: list[bytes] = []
        resynced = asyncio.Event()
        backend.listen("news", heard.append, resynced.set)
        await resynced.wait()
        await client.publish("ar:news", "x")
        await asyncio.sleep(1)
        assert heard == [b"x"]
    await client.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
