"""Who decides over Redis: this package and its peers, each with a limit that admits everything.

One token comes back each second (or what is nearest to it), so that keys are there when they are asked for
again, as those of busy users are. All that go by redis-py have a pool of at most `POOL` connections, as
it takes one for each command in flight.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool

__all__ = ["CLIENTS", "GLIDE", "LIMITS", "OURS", "REDIS_PY", "SAME_KEY", "Client", "Decide"]

Decide: TypeAlias = Callable[[str], Awaitable[object]]
"""True if the key is admitted."""

POOL = 100

_PLENTY = 10**9
_STEP_US = 10**6
_PATIENCE = 10.0
"""Seconds for an answer, for those who would otherwise give up: the machine may be busy."""

_GCRA = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
if tat < now then tat = now end
local new = tat + tonumber(ARGV[1])
if new - now > tonumber(ARGV[2]) then return {0, new - now - tonumber(ARGV[2])} end
redis.call('SET', KEYS[1], new, 'PX', math.ceil((new - now) / 1000) + 1)
return {1, 0}
"""


@dataclass(frozen=True, slots=True)
class Client:
    """`open` gets the module, the server's URL and the number of callers, connects, and gives the decision."""

    name: str
    open: Callable[[Any, str, int], AbstractAsyncContextManager[Decide]]
    module: str
    package: str
    one_key: bool = False
    """Whether all callers ask for the same key."""


@asynccontextmanager
async def _ours(ar: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    async with ar.connect(url, deadline=_PATIENCE) as backend:
        yield ar.RateLimiter(
            "1/s", burst=_PLENTY, name="bench", backend=backend, on_store_error="raise"
        ).try_acquire


def _pool(url: str, callers: int) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(url, max_connections=min(callers, POOL))


@asynccontextmanager
async def _redis_py(m: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    async with m.Redis.from_pool(_pool(url, callers)) as client:
        sha = await client.script_load(_GCRA)

        async def decide(key: str) -> object:
            reply = await client.evalsha(sha, 1, key, _STEP_US, _STEP_US * _PLENTY)
            return reply[0]

        yield decide


@asynccontextmanager
async def _limits(m: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    pool = _pool(url, callers)
    storage = m.aio.storage.RedisStorage(f"async+{url}", implementation="redispy", connection_pool=pool)
    counted = m.aio.strategies.SlidingWindowCounterRateLimiter(storage)
    limit = m.RateLimitItemPerMinute(_PLENTY)
    try:
        yield lambda key: counted.hit(limit, key)
    finally:
        await pool.aclose()


@asynccontextmanager
async def _throttled(m: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    options = {
        "CONNECTION_POOL_CLASS": "redis.asyncio.BlockingConnectionPool",
        "CONNECTION_POOL_KWARGS": {"max_connections": min(callers, POOL)},
    }
    kept = m.store.RedisStore(server=url, options=options)
    quota = m.rate_limiter.per_min(_PLENTY, burst=_PLENTY)
    throttle = m.Throttled(using="gcra", quota=quota, store=kept)

    async def decide(key: str) -> object:
        return not (await throttle.limit(key)).limited

    try:
        yield decide
    finally:
        await kept._backend.get_client().connection_pool.aclose()


@asynccontextmanager
async def _glide(m: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    where = urlsplit(url)
    address = m.NodeAddress(where.hostname, where.port)
    client = await m.GlideClient.create(
        m.GlideClientConfiguration([address], request_timeout=int(_PATIENCE * 1000))
    )
    sha = await client.custom_command(["SCRIPT", "LOAD", _GCRA])
    step, depth = str(_STEP_US), str(_STEP_US * _PLENTY)

    async def decide(key: str) -> object:
        reply = await client.custom_command(["EVALSHA", sha, "1", key, step, depth])
        return reply[0]

    try:
        yield decide
    finally:
        await client.close()


@asynccontextmanager
async def _coredis(m: Any, url: str, callers: int) -> AsyncIterator[Decide]:
    async with m.Redis.from_url(url) as client:
        sha = await client.script_load(_GCRA)

        async def decide(key: str) -> object:
            reply = await client.evalsha(sha, [key], [_STEP_US, _STEP_US * _PLENTY])
            return reply[0]

        yield decide


OURS, SAME_KEY = "aresilience", "aresilience, the same key"
REDIS_PY, LIMITS, GLIDE = "redis-py, EVALSHA", "limits, sliding window", "valkey-glide, EVALSHA"

CLIENTS = (
    Client(OURS, _ours, "aresilience", "aresilience"),
    Client(SAME_KEY, _ours, "aresilience", "aresilience", one_key=True),
    Client(REDIS_PY, _redis_py, "redis.asyncio", "redis"),
    Client(LIMITS, _limits, "limits", "limits"),
    Client("throttled-py, gcra", _throttled, "throttled.asyncio", "throttled-py"),
    Client(GLIDE, _glide, "glide", "valkey-glide"),
    Client("coredis, EVALSHA", _coredis, "coredis", "coredis"),
)
