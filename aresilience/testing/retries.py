"""Retries that cost a test nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aresilience import arguments
from aresilience.retry.rehearsal import Rehearsal

__all__ = ["quick_retries", "rehearse"]


@contextmanager
def quick_retries(attempts: int | None = None) -> Iterator[None]:
    """Within, every retry on the running loop goes on without waiting, after `attempts` at most.

    All else is as it would be: what stops a retry (its own attempts, deadline, budget) stops it still, as
    if it had to wait. Without a running loop: `RuntimeError`. In a pytest suite the marker
    `@pytest.mark.quick_retries(attempts=1)` does the same for one test.
    """
    loop: Any = asyncio.get_running_loop()
    before = getattr(loop, "rehearsal", None)
    rehearse(loop, attempts)
    try:
        yield
    finally:
        loop.rehearsal = before


def rehearse(loop: Any, attempts: int | None = None) -> None:
    """The same for good, for a loop that a test is given."""
    if attempts is not None:
        arguments.count("quick_retries: attempts", attempts)
    loop.rehearsal = Rehearsal(math.inf if attempts is None else attempts)
