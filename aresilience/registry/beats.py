"""The heartbeats of a store: the keeper says who is due, and all of them leave together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aresilience.backend.leases import Confirmation, Keeper, Kept
from aresilience.errors import BackendError, NotSent
from aresilience.registry.store import Beat, RegistryStore

__all__ = ["Beats", "Heart"]

_ANNOUNCED_EVERY = 3600.0


class Heart(Kept):
    """The lease of one registration."""

    __slots__ = ("_healthy", "_lost", "_over", "beat")

    def __init__(
        self,
        beats: Beats,
        beat: Beat,
        healthy: Callable[[], bool],
        lost: Callable[[str], None],
        over: Callable[[], None],
    ) -> None:
        super().__init__(beats, beat.ttl)
        self.beat = beat
        self._healthy = healthy
        self._lost = lost
        self._over = over

    def healthy(self) -> bool:
        """Whether it is to beat."""
        return self._healthy()

    def on_lost(self, why: str) -> None:
        self._lost(why)

    def on_close(self) -> None:
        self._over()


class Beats:
    """Renews what is registered in one store."""

    def __init__(self, store: RegistryStore, keeper: Keeper) -> None:
        self.store = store
        self.keeper = keeper
        self._announced: dict[str, float] = {}

    async def renew(self, leases: Sequence[Heart]) -> Sequence[Confirmation | BackendError | None]:
        """One beat for each that is well; the others have to wait for theirs."""
        sent = self.keeper.now()
        due = [heart for heart in leases if heart.healthy()]
        answers = dict(zip(due, await self.store.renew([heart.beat for heart in due]), strict=True))
        found: list[Confirmation | BackendError | None] = []
        for heart in leases:
            answer = answers.get(heart, NotSent("the health function withholds the beat"))
            if isinstance(answer, BackendError):
                found.append(answer)
            else:
                found.append(Confirmation(sent) if answer else None)
        self.keeper.aside(self.announce({heart.beat.service for heart in due}))
        return found

    async def announce(self, services: set[str]) -> None:
        """Have these names remembered, if that was not done lately."""
        now = self.keeper.now()
        fresh = [name for name in services if now - self._announced.get(name, -1e9) > _ANNOUNCED_EVERY]
        if not fresh:
            return
        try:
            await self.store.announce(fresh)
        except BackendError:
            return  # the next beat says it again
        if len(self._announced) > 10_000:
            self._announced.clear()
        self._announced.update(dict.fromkeys(fresh, now))
