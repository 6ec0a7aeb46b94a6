"""A service to call."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aresilience.registry.chooser import Chooser
from aresilience.registry.feed import Feed
from aresilience.registry.pick import Pick
from aresilience.registry.snapshot import Snapshot
from aresilience.registry.watch import Watch

__all__ = ["Service"]


class Service:
    """The instances of one service, and a way to choose among them. Made by `ServiceRegistry.service`."""

    def __init__(self, service: str, feed: Callable[[], Feed], chooser: Chooser) -> None:
        self.service = service
        self._feed_of = feed
        self._chooser = chooser

    @property
    def snapshot(self) -> Snapshot:
        """What is known of it now, and how well. Needs a running loop; never waits."""
        return self._feed_of().snapshot()

    @property
    def ejected(self) -> tuple[str, ...]:
        """The ids of those that are out of rotation."""
        return self._chooser.ejected

    def watch(self) -> Watch:
        """As `ServiceRegistry.watch`."""
        return self._feed_of().watch()

    def pick(self, key: str | None = None, *, avoid: Collection[str] = ()) -> Pick:
        """`async with users.pick() as instance:` the body is a call of that instance.

        How long it takes is what the balancers go by. An error that matches `failure_on` is a failure;
        `pick.failed()` says so of a call that raised nothing. A body that is cancelled or refused says nothing.
        `key`: for `Rendezvous`. `avoid`: ids not to be chosen while there are others: a retry avoids the
        instance that has failed. Raises `NoInstances`; and a `BackendError` if nothing was ever known.
        """
        return Pick(self._chooser, key, avoid)

    def __repr__(self) -> str:
        kind, up = type(self._chooser.balancer).__name__, len(self._chooser.nodes)
        return f"<Service {self.service!r} {kind} {up} up, {len(self.ejected)} ejected>"
