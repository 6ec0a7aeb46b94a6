"""Redis: the only room that knows redis-py."""

from aresilience.backend.redis.backend import RedisBackend
from aresilience.backend.redis.scripts import Script

__all__ = ["RedisBackend", "Script"]
