"""Which instance a call goes to, and what becomes of the call: the state of a service in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aresilience.chance import entropy
from aresilience.clock import LoopClock
from aresilience.events import Listeners
from aresilience.outcome import ErrorMatcher, Outcome, is_neutral
from aresilience.registry.balance import Balancer, Node, Picker, chance_of
from aresilience.registry.facts import NoInstances, OutliersChanged
from aresilience.registry.feed import Feed
from aresilience.registry.outliers import Breaker, OutlierPolicy
from aresilience.registry.record import Instance
from aresilience.registry.rotation import Rotation
from aresilience.registry.zones import Zoned

__all__ = ["Chooser"]

_TRIES = 4
"""To hit an instance that is not to be avoided, before all are looked at."""


class Chooser:
    """The nodes of one service, who of them is in rotation, and a picker over these.

    For each call: `known` where `is_known` says no, `choose`, `breaker`, `began`, `ended` and, with a breaker,
    `recorded`.
    """

    def __init__(
        self,
        name: str,
        service: str,
        feed: Callable[[], Feed],
        *,
        balancer: Balancer,
        outliers: OutlierPolicy | None,
        zone: str,
        slow_start: float,
        failure_on: ErrorMatcher,
        listeners: Listeners,
    ) -> None:
        self._name = name
        self.service = service
        self._feed_of = feed
        self._balancer = balancer
        self._zone = zone
        self._slow = slow_start
        self._failure_on = failure_on
        self._listeners = listeners
        self._clock = LoopClock()
        self._feed: Feed | None = None
        self._chance: Callable[[], float] = _no_chance  # until something is known, on a loop
        self._outliers = outliers
        self._rotation = None if outliers is None else Rotation(outliers)
        self._nodes: dict[str, Node] = {}
        self._seen: tuple[Instance, ...] | None = None
        self._zones: set[str] = set()
        self._picker: Picker | None = None

    @property
    def nodes(self) -> Collection[Node]:
        """Those that are up."""
        return self._nodes.values()

    @property
    def ejected(self) -> tuple[str, ...]:
        """The ids of those that are out of rotation."""
        out = () if self._rotation is None else self._rotation.out
        return tuple(node.instance.id for node in out)

    @property
    def balancer(self) -> Balancer:
        """How it chooses."""
        return self._balancer

    def choose(
        self, key: str | None, avoid: Collection[str], refused: Collection[str]
    ) -> tuple[Node, bool]:
        """A node, and whether the call is its probe."""
        feed, now = self._feed, self._clock.read()
        if feed is None or not feed.is_known:
            raise NoInstances(f"nothing is known yet of {self.service!r}", service=self.service)
        if feed.instances is not self._seen:
            self._follow(feed, now)
        rotation = self._rotation
        if rotation is not None:
            node = rotation.probe(now)
            self._turned(rotation)
            if node is not None:
                if node.instance.id not in avoid and node.instance.id not in refused:
                    return node, True
                rotation.given_back(node, now)
        if self._picker is None:
            self._rebuild()
        picker = self._picker
        if picker is None:
            raise NoInstances(f"no instance of {self.service!r} is up", service=self.service)
        chance = self._chance
        keyed = key is not None and self._balancer.keyed
        node = picker.pick(chance_of(key) if keyed and key is not None else chance(), now, key)
        if (avoid or refused) and (node.instance.id in avoid or node.instance.id in refused):
            node = self._another(picker, chance, now, key if keyed else None, avoid, refused)
        return node, False

    def _another(
        self,
        picker: Picker,
        chance: Callable[[], float],
        now: float,
        key: str | None,
        avoid: Collection[str],
        refused: Collection[str],
    ) -> Node:
        for _ in range(_TRIES if key is None else 0):
            node = picker.pick(chance(), now, None)
            if node.instance.id not in avoid and node.instance.id not in refused:
                return node

        def those(*without: Collection[str]) -> list[Node]:
            return [n for n in picker.nodes if not any(n.instance.id in ids for ids in without)]

        left = those(avoid, refused) or those(refused)
        if not left:
            raise NoInstances(f"no instance of {self.service!r} takes a call now", service=self.service)
        if key is not None:
            return self._balancer.over(left).pick(0.0, now, key)  # the key's next choice
        return left[int(chance() * len(left))]

    def _follow(self, feed: Feed, now: float) -> None:
        """The instances are others: keep what is known of those that have stayed."""
        first = self._seen is None
        self._seen = feed.instances
        known, self._nodes = self._nodes, {}
        for instance in feed.instances:
            node = known.get(instance.id)
            if node is None or node.instance.life != instance.life:
                node = Node(instance, float("-inf") if first else now, self._slow)
            elif node.instance is not instance:
                node.instance, node.weight = instance, instance.weight
            self._nodes[instance.id] = node
        self._zones = {instance.zone for instance in feed.instances}
        if self._rotation is not None:
            self._rotation.set_nodes(self._nodes.values())
            self._turned(self._rotation)
        self._picker = None

    def _turned(self, rotation: Rotation) -> None:
        """Somebody may be out, or back."""
        if not rotation.changed:
            return
        rotation.changed = False
        self._picker = None
        if self._listeners:
            out, total = len(rotation.out), len(self._nodes)
            event = OutliersChanged(
                self._name, self._clock.read(), self.service, out, total, rotation.panicking
            )
            self._listeners.tell(event)

    def _rebuild(self) -> None:
        rotation, nodes = self._rotation, list(self._nodes.values())
        if rotation is not None and rotation.out:
            nodes = [node for node in nodes if node not in rotation.out]
        if not nodes:
            self._picker = None
        elif self._zone and self._zone in self._zones and len(self._zones) > 1:
            self._picker = Zoned(nodes, self._zones, self._zone, self._balancer)
        else:
            self._picker = self._balancer.over(nodes)

    async def known(self) -> None:
        """Wait until something is known."""
        feed = self._feed_of()
        self._chance = entropy().random
        if feed is not self._feed:
            self._feed, self._seen = feed, None
        if not feed.is_known:
            await feed.known()

    def is_known(self) -> bool:
        """Whether there is no need to wait."""
        return self._feed is not None and self._feed.is_known and self._clock.is_running()

    def breaker(self, node: Node) -> Breaker | None:
        """The breaker to ask before a call."""
        return None if self._rotation is None else self._rotation.breaker(node)

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self._clock.read()

    def outcome(self, error: BaseException | None) -> Outcome:
        """How a call counts that ended so."""
        if error is None:
            return Outcome.SUCCESS
        if not isinstance(error, Exception):
            return Outcome.IGNORED
        if self._failure_on(error):
            return Outcome.FAILURE
        return Outcome.IGNORED if is_neutral(error) else Outcome.SUCCESS

    def refused(self, node: Node) -> None:
        """The breaker of a node said no."""
        if self._rotation is not None:
            self._rotation.refused(node, self._clock.read())
            self._turned(self._rotation)

    def began(self, node: Node) -> float:
        """A call begins."""
        node.in_flight += 1
        return self._clock.now()

    def ended(self, node: Node, began: float, outcome: Outcome, probe: bool, breaker: bool) -> None:
        """A call has ended."""
        now = self._clock.now()
        self._balancer.observe(node, now - began, outcome, now)
        rotation = self._rotation
        if rotation is None or breaker:
            return
        if outcome is Outcome.IGNORED:
            if probe:
                rotation.given_back(node, now)
        else:
            rotation.ended(node, outcome is Outcome.SUCCESS, now, self._chance())
            self._turned(rotation)

    def recorded(self, node: Node, outcome: Outcome, probe: bool) -> None:
        """The breaker of a node knows how a call has ended."""
        rotation, now = self._rotation, self._clock.now()
        if rotation is not None:
            if probe and outcome is Outcome.IGNORED:
                rotation.given_back(node, now)
            rotation.recorded(node, now)
            self._turned(rotation)


def _no_chance() -> float:
    raise RuntimeError("nothing is known yet")
