"""Tokens that were taken ahead: to wait for, to give back, or to settle when the real cost is known."""

from __future__ import annotations

import asyncio

from aresilience import arguments
from aresilience.limiter.decision import Decision
from aresilience.limiter.rate import MICROS
from aresilience.limiter.store import Ask, Grant, LimiterStore

__all__ = ["Reservation"]


class Reservation:
    """`cost` tokens that may be used after `delay` seconds."""

    __slots__ = ("_ask", "_at", "_settled", "_store", "_until", "decision", "delay")

    def __init__(self, store: LimiterStore, ask: Ask, grant: Grant, decision: Decision) -> None:
        self._store = store
        self._ask = ask
        self._at = grant.at
        self._settled = not ask
        self.decision = decision
        self.delay = max(0, grant.at - grant.now) / MICROS
        """Seconds from when it was made."""
        self._until = asyncio.get_running_loop().time() + self.delay

    async def wait(self) -> None:
        """Until the tokens may be used. Who is cancelled here gives them back."""
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            return
        try:
            await asyncio.sleep(left)
        except BaseException:
            self.return_later()
            raise

    async def cancel(self) -> None:
        """Give the tokens back, as far as that is of use to others. Once; later calls do nothing.

        Raises `BackendError` if the store fails: then they come back by themselves in time.
        """
        if not self._settled:
            self._settled = True
            await self._store.give_back(self._ask, self._at)

    async def settle(self, actual: int) -> None:
        """It cost `actual` tokens after all: give back the difference, or take it without asking.

        What is given back counts for the time at which it was taken, so that it is no gift to a later one.
        Raises `BackendError` if the store fails.
        """
        arguments.count("Reservation.settle: actual", actual, least=0)
        if self._settled:
            raise RuntimeError("this reservation was settled or cancelled before")
        self._settled = True
        less = tuple((m, key, cost - actual) for m, key, cost in self._ask if actual < cost)
        more = tuple((m, key, actual - cost) for m, key, cost in self._ask if actual > cost)
        if less:
            await self._store.give_back(less, self._at)
        if more:
            await self._store.charge(more)

    def return_later(self) -> None:
        """`cancel`, without waiting for it; what cannot be given back comes back by itself in time."""
        if not self._settled:
            self._settled = True
            self._store.return_later(self._ask, self._at)

    def __repr__(self) -> str:
        return f"<Reservation in {self.delay:.3g} s{' settled' if self._settled else ''}>"
