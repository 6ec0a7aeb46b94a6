"""What an `Idempotency` is made of: its options, checked; the name of the work that it does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from aresilience import arguments
from aresilience.idempotency.performing import Reconcile

__all__ = ["operation_of", "reconciler", "seconds"]

_LEAST, _MOST = 0.001, 1e9


def operation_of(fn: Callable[..., Any]) -> str:
    """The name of the work, in every process that does it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def seconds(option: str, value: float | timedelta) -> float:
    """At least a millisecond, and at most what a script can count."""
    seconds = arguments.duration(f"Idempotency: {option}", value)
    if not _LEAST <= seconds <= _MOST:
        raise ValueError(
            f"Idempotency: {option} must be from {_LEAST:g} to {_MOST:g} seconds, got {seconds:g}"
        )
    return seconds


def reconciler(on_abandoned: object) -> Reconcile | None:
    """The function that finds out, if there is one."""
    if on_abandoned in ("rerun", "refuse"):
        return None
    if not callable(on_abandoned) or not arguments.answers_later(on_abandoned):
        raise ValueError(
            "Idempotency: on_abandoned must be 'rerun', 'refuse' or an async function of the claim, "
            f"got {on_abandoned!r}"
        )
    return on_abandoned
