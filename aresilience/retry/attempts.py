"""The iterator form: `async for attempt in retry: async with attempt: …`."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aresilience.retry.run import Run

__all__ = ["Attempts", "RetryAttempt"]


class Attempts:
    """The iterator of one `async for`."""

    __slots__ = ("_current", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._current: RetryAttempt | None = None

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> RetryAttempt:
        last = self._current
        if last is None:
            self._run.begin()
        elif not last._entered:
            raise RuntimeError("Retry: each attempt must be entered: async with attempt: …")
        elif last._delay is None:
            raise StopAsyncIteration
        else:
            try:
                await asyncio.sleep(last._delay)
            except BaseException:
                self._run.forget()
                raise
        self._current = RetryAttempt(self._run)
        return self._current


class RetryAttempt:
    """One attempt of the iterator form: `async with attempt:` around the code to repeat."""

    __slots__ = ("_delay", "_entered", "_run", "number")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._entered = False
        self._delay: float | None = None
        self.number = run.number
        """1 for the first attempt."""

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return self._run.elapsed

    async def __aenter__(self) -> RetryAttempt:
        if self._entered:
            raise RuntimeError("Retry: an attempt is entered once; the loop makes the next one")
        self._entered = True
        self._run.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        run = self._run
        try:
            run.__exit__(kind, error, traceback)
            if isinstance(error, Exception):
                self._delay = run.failed(error)
        finally:
            if self._delay is None:
                run.forget()
        return self._delay is not None
