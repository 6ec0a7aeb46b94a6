"""Where state lives: in this process, or on Redis, by changing a URL.

async with ar.connect("redis://localhost:6379/0") as backend:
    limiter = ar.RateLimiter("100/s", name="api", backend=backend)
"""

from __future__ import annotations

from datetime import timedelta

from aresilience import arguments
from aresilience.backend.backend import Backend
from aresilience.backend.memory import MemoryBackend
from aresilience.errors import ConfigurationError

__all__ = ["Backend", "MemoryBackend", "connect"]


def connect(url: str = "memory://", *, prefix: str = "ar", deadline: float | timedelta = 0.25) -> Backend:
    """The backend for a URL; enter it to open it.

    memory://, redis://, rediss:// (TLS), unix://, redis+sentinel://h1:26379,h2:26379/mymaster/0,
    redis+cluster://h1:7000,h2:7001. `deadline` is the longest that one exchange may take, in seconds.
    Raises `ConfigurationError` for a URL that cannot be read.
    """
    arguments.text("connect: url", url)
    if url.startswith("memory:"):
        if url not in ("memory:", "memory://"):
            raise ConfigurationError("the memory backend's URL is memory:// and nothing more")
        return MemoryBackend(prefix=prefix, deadline=deadline)
    from aresilience.backend.redis import RedisBackend
    from aresilience.backend.redis.address import from_url

    return RedisBackend(from_url(url), prefix=prefix, deadline=deadline)
