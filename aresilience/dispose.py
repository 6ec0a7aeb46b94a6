"""Giving up a result that nobody will see: a response to close, a connection to return."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from aresilience.deadline import AMBIENT, Expiry, leave
from aresilience.errors import TimedOut

__all__ = ["Dispose", "dispose_of"]

Dispose: TypeAlias = Callable[[Any], Any]
"""Takes the result; may be a coroutine function."""

_LIMIT = 5.0
_log = logging.getLogger("aresilience")


async def dispose_of(result: object, dispose: Dispose | None) -> None:
    """Call `dispose(result)` and await it, for at most five seconds.

    The ambient deadline does not count: it is often the reason for giving up. Errors are logged, not
    raised: the call that the result belonged to has its own answer.
    """
    if dispose is None:
        return
    outer = AMBIENT.set(None)
    try:
        pending = dispose(result)
        if inspect.isawaitable(pending):
            when = asyncio.get_running_loop().time() + _LIMIT
            with Expiry(when, lambda: TimedOut(f"dispose took more than {_LIMIT:g} s")):
                await pending
    except Exception:  # noqa: BLE001 - logged
        _log.warning("a discarded result could not be disposed of", exc_info=True)
    finally:
        leave(outer)
