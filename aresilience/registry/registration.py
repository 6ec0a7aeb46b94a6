"""A registration: what is wanted, and the task that never stops making it so.

    PENDING ──the store has it──▶ REGISTERED ──the lease is lost──▶ PENDING
       │                             │
       ├─ the health function says no ─▶ WITHHELD ─ it says yes ─▶ PENDING
       ├─ somebody else has the id ─▶ SUPERSEDED ─ after a ttl, try ─▶ PENDING
       └──────────────── left, or the backend closed ──────────────▶ WITHDRAWN

- Cancelled while registering: the task, or the way out, withdraws what may have been registered.
- The reply is lost: the same token registers again, which is the same registration.
- The process dies: its ttl ends it. It is paused: when it wakes, its lease is lost, and it registers anew,
  unless another process has its id by then.
- Leaving joins the task before it withdraws, so nothing can register again after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Any

from aresilience.backend.backend import to_the_end
from aresilience.chance import entropy
from aresilience.errors import BackendError
from aresilience.events import Event
from aresilience.registry.beats import Beats, Heart
from aresilience.registry.facts import Registered, RegistrationLost, RegistrationStatus
from aresilience.registry.pace import after_failures
from aresilience.registry.record import Instance, InstanceState, packed
from aresilience.registry.store import Beat

__all__ = ["Registration"]

_STEP = 1 / 3
"""The longest pause between two tries, as a share of the ttl;"""
_HEALTH = 1 / 10
"""the mean pause between two looks at one's health while it is bad;"""
_SPREAD = 1 / 20
"""and the longest wait before the first try after a loss, so that a fleet does not come back all at once."""
_TRIES = 3
"""To withdraw, after which the ttl has to end it."""


class Registration:
    """An instance that is registered for as long as the body of `async with` runs.

    Made by `ServiceRegistry.register`. Entering tries once, and goes on whether or not the registry is there;
    from then on a task sees to it that what is registered is what was last wanted, for ever. Leaving drains
    and withdraws.
    """

    def __init__(
        self,
        name: str,
        beats: Callable[[], Beats],
        instance: Instance,
        *,
        ttl: float,
        propagation: float,
        health: Callable[[], object] | None,
        tell: Callable[[Event], None] | None,
    ) -> None:
        self._name = name
        self._beats_of = beats
        self._instance = instance
        self._ttl = ttl
        self._propagation = propagation
        self._health = health
        self._tell = tell
        self.status = RegistrationStatus.PENDING
        self.why = "not begun"
        """The reason why it is not registered, or soon will not be; empty if all is well."""
        self.generation: int | None = None
        """The store's number of this registration: it rises each time that somebody takes the id."""
        self._task: asyncio.Task[None] | None = None
        self._heart: Heart | None = None
        self._sent: bytes | None = None  # what the store has confirmed
        self._taken = False  # the place was ours once: from now on it is taken only when it is free

    # What can be seen

    @property
    def instance(self) -> Instance:
        """What is wanted, with its state as of now."""
        return self._instance

    @property
    def registered(self) -> bool:
        """Whether the store has confirmed it recently enough: a signal of health."""
        return self.status is RegistrationStatus.REGISTERED

    def __repr__(self) -> str:
        why = "" if self.registered else f" ({self.why})"
        return (
            f"<Registration {self._instance.service} {self._instance.id!r} "
            f"{self._instance.state.value}, {self.status.value}{why}>"
        )

    # From beginning to end

    async def __aenter__(self) -> Registration:
        if self._task is not None:
            raise RuntimeError(f"{self!r} was entered before: write a new register(...) each time")
        self._beats = self._beats_of()
        self._token = entropy().token()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        try:
            await self._send()
        except BaseException as error:
            self.status = RegistrationStatus.WITHDRAWN
            try:
                await to_the_end(self._withdraw())
            except Exception as another:  # noqa: BLE001 - it is noted
                error.add_note(f"and withdrawing failed: {another!r}")
            raise
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._reconcile(), name="aresilience registration", context=Context())
        self._task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop thrown away makes no noise
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and self.status is not RegistrationStatus.WITHDRAWN:
                await self.drain()
        finally:
            await to_the_end(self._leave())

    async def drain(self) -> None:
        """Out of rotation: say so, and wait until it has got about (`propagation` seconds).

        After that nobody who heard it sends anything new. What is in flight is the caller's to wait for.
        """
        before = self._instance.state
        if before is not InstanceState.DRAINING:
            await self.update(state=InstanceState.DRAINING)
        if self._propagation and before in (InstanceState.UP, InstanceState.STARTING):
            await asyncio.sleep(self._propagation)

    async def withdraw(self) -> None:
        """Be gone now, without a drain, and for good: what leaving does after it."""
        await to_the_end(self._leave())

    async def update(self, **changes: Any) -> bool:
        """Change facts of the instance: `update(weight=0.1)`, `update(state=InstanceState.UP)`.

        True if the store has it; False if it could not be reached: then the task goes on trying. Raises
        `ValueError` or `TypeError` for what is not allowed.
        """
        self._instance = self._instance.but(**changes)
        if self._task is None or self.status is RegistrationStatus.WITHDRAWN:
            return False
        self._wake.set()  # whatever becomes of our own try
        return await self._send()

    # The task

    async def _reconcile(self) -> None:
        failures = 0
        while True:
            if not self._wanting():
                failures = 0
                self._wake.clear()
                await self._wake.wait()
                if self._heart is None:
                    await asyncio.sleep(entropy().random() * self._ttl * _SPREAD)
                continue
            if await self._send():
                continue
            failures += 1
            await asyncio.sleep(self._pause(failures))

    def _wanting(self) -> bool:
        return self._heart is None or self._sent != packed(self._instance, self._token)

    def _pause(self, failures: int) -> float:
        u = entropy().random()
        if self.status is RegistrationStatus.SUPERSEDED:
            return self._ttl * (0.5 + u)
        if self.status is RegistrationStatus.WITHHELD:
            return self._ttl * _HEALTH * (0.5 + u)
        return after_failures(failures, self._ttl * _STEP, u)

    async def _send(self) -> bool:
        """One try; True if the store now has what is wanted."""
        async with self._turn:
            if self.status is RegistrationStatus.WITHDRAWN:
                return False
            if not self._healthy() and self._heart is None:
                return False  # who is registered may say that it drains, however unwell it is
            instance = self._instance
            value = packed(instance, self._token)
            if self._heart is not None and value == self._sent:
                return True
            sent = self._beats.keeper.now()
            beat = Beat(instance.service, instance.id, self._token, self._ttl)
            try:
                place = await self._beats.store.register(beat, value, takeover=not self._taken)
            except BackendError as error:
                if self._heart is None:
                    self._worse(RegistrationStatus.PENDING, f"{type(error).__name__}: {error}")
                return False
            if not place.ours:
                self._drop()
                self._worse(RegistrationStatus.SUPERSEDED, "another process has this id")
                return False
            self._confirmed(instance, value, place.generation, sent)
        await self._beats.announce({instance.service})
        return True

    def _confirmed(self, instance: Instance, value: bytes, generation: int, sent: float) -> None:
        self._taken = True
        self._sent = value
        news = self.generation != generation or not self.registered
        self.generation = generation
        self.status, self.why = RegistrationStatus.REGISTERED, ""
        if self._heart is None:
            beat = Beat(instance.service, instance.id, self._token, self._ttl)
            self._heart = Heart(self._beats, beat, self._healthy, self._lost, self._closed)
            self._beats.keeper.keep(self._heart, sent)
        if news and self._tell is not None:
            now = asyncio.get_running_loop().time()
            self._tell(Registered(self._name, now, instance.service, generation, instance.state))

    def _healthy(self) -> bool:
        """Whether to be found. A health function that raises is bad health."""
        if self._health is None:
            return True
        try:
            well, why = bool(self._health()), "the health function says no"
        except Exception as error:  # noqa: BLE001 - it is told, and there is no beat
            well, why = False, f"the health function raised {type(error).__name__}: {error}"
        if self._heart is None:
            if not well:
                self._worse(RegistrationStatus.WITHHELD, why)
        elif self.why != ("" if well else why):
            self.why = "" if well else why
            if not well:
                self._tell_of(RegistrationStatus.WITHHELD, why)
        return well

    def _lost(self, why: str) -> None:
        """The keeper says that it is ours no longer."""
        self._heart = self._sent = None
        if self.status is RegistrationStatus.REGISTERED:
            self._worse(RegistrationStatus.PENDING, why)
        self._wake.set()

    def _closed(self) -> None:
        """The backend is being closed: withdraw, without waiting."""
        self._heart = None
        self._worse(RegistrationStatus.WITHDRAWN, "the backend was closed")
        if self._task is not None:
            self._task.cancel()
        self._beats.keeper.aside(self._take_back(1))

    def _worse(self, status: RegistrationStatus, why: str) -> None:
        known = status is self.status
        self.status, self.why = status, why
        if not known:
            self._tell_of(status, why)

    def _tell_of(self, status: RegistrationStatus, why: str) -> None:
        if self._tell is not None:
            now = asyncio.get_running_loop().time()
            self._tell(RegistrationLost(self._name, now, self._instance.service, status, why))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task ends when we leave. If it ends before, nobody may think that it goes on."""
        if self.status is RegistrationStatus.WITHDRAWN or task.get_loop().is_closed():
            return
        error = None if task.cancelled() else task.exception()
        why = (
            "its task was cancelled"
            if error is None
            else f"its task raised {type(error).__name__}: {error}"
        )
        self._drop()
        self._worse(RegistrationStatus.PENDING, why)

    # The end

    def _drop(self) -> None:
        if self._heart is not None:
            self._beats.keeper.drop(self._heart)
        self._heart = self._sent = None

    async def _leave(self) -> None:
        """Join the task first: nothing may register again after the withdrawal."""
        if self.status is RegistrationStatus.WITHDRAWN:
            withdrawn = True
        else:
            withdrawn, self.status, self.why = False, RegistrationStatus.WITHDRAWN, "left"
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if not withdrawn:
            await self._withdraw()

    async def _withdraw(self) -> None:
        self._drop()
        error = await self._take_back(_TRIES)
        if error is not None:
            why = f"withdrawing failed, its ttl has to end it: {type(error).__name__}"
            self._tell_of(RegistrationStatus.WITHDRAWN, why)

    async def _take_back(self, tries: int) -> BackendError | None:
        found: BackendError | None = None
        for _ in range(tries):
            try:
                await self._beats.store.withdraw(self._instance.service, self._instance.id, self._token)
            except BackendError as error:
                found = error
            else:
                return None
        return found
