"""The machines that choose: nodes and a number in, a node out.

A `Node` is what this process knows of an instance; a `Balancer` makes a `Picker` over some of them, anew
whenever that set changes. A pick is told the time and given a uniform number u with 0 ≤ u < 1, of which it
uses as many bits as it needs. The cost of a pick does not grow with the number of nodes, but for `RoundRobin`
(its logarithm) and `Rendezvous` (linear, half a microsecond for each).

`share` is a node's weight, less while it starts slowly: from a tenth, in a straight line, to the whole.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from aresilience.outcome import Outcome
from aresilience.registry.record import Instance

__all__ = ["Balancer", "Node", "Picker", "Random", "Rendezvous", "RoundRobin", "chance_of"]

_LEAST_SHARE = 0.1
_TRIES = 8
_MASK = 2**64 - 1


class Node:
    """One instance, as this process has met it."""

    __slots__ = (
        "at",
        "cost",
        "digest",
        "failures",
        "in_flight",
        "instance",
        "since",
        "slow",
        "turn",
        "weight",
    )

    def __init__(self, instance: Instance, since: float = -math.inf, slow: float = 0.0) -> None:
        self.instance = instance
        self.weight = instance.weight
        self.since = since
        """When it came; -inf: it was there before us."""
        self.slow = slow
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self.cost = -1.0
        """Seconds, of which the balancer makes what it needs; -1: nothing was ever seen of it."""
        self.failures = 0.0
        """Failures, those of long ago less."""
        self.at = 0.0
        """As of when."""
        self.turn = 0.0
        self.digest = _digest(instance.id)

    def share(self, now: float) -> float:
        """Its weight as of now."""
        lived = now - self.since
        if lived >= self.slow:
            return self.weight
        return self.weight * max(_LEAST_SHARE, lived / self.slow)


class Picker(ABC):
    """Chooses among some nodes, one at least."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @abstractmethod
    def pick(self, u: float, now: float, key: str | None) -> Node:
        """One of the nodes."""


class Balancer(ABC):
    """How to choose. It has no state but its options: several services may share one."""

    __slots__ = ()

    keyed = False
    """Whether the key decides: then chance is drawn from it, also for the zone."""
    decay = 10.0
    """Seconds in which what was seen of a node loses 63 % of its say."""

    @abstractmethod
    def over(self, nodes: Sequence[Node]) -> Picker:
        """A picker over these nodes."""

    def observe(self, node: Node, took: float, outcome: Outcome, now: float) -> None:
        """A call of that node has ended."""
        if not node.failures and outcome is not Outcome.FAILURE:
            return
        kept = math.exp((node.at - now) / self.decay)
        node.failures = node.failures * kept + (outcome is Outcome.FAILURE)
        node.at = now


def chance_of(key: str) -> float:
    """A uniform number that is the key's own, in every process."""
    return (_digest(key) >> 11) / 2**53


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class RoundRobin(Balancer):
    """One after the other; by weight: a node of weight 2 has two turns while the others have one."""

    __slots__ = ()

    def over(self, nodes: Sequence[Node]) -> Picker:
        return _Turns(nodes)


class _Turns(Picker):
    """The earliest deadline first; a turn costs a node 1 / share."""

    __slots__ = ("_heap", "_number")

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        # Who was away, or is new, has not saved up the turns that the others had meanwhile.
        latest = max((node.turn for node in nodes), default=0.0)
        for node in nodes:
            node.turn = max(node.turn, latest - 1 / node.weight)
        self._heap: list[tuple[float, int, Node]] = []
        self._number = len(nodes)

    def pick(self, u: float, now: float, key: str | None) -> Node:
        if not self._heap:  # not every process begins with the same one
            first, many = int(u * len(self.nodes)), len(self.nodes)
            self._heap = [
                (node.turn + 1 / node.share(now), (place - first) % many, node)
                for place, node in enumerate(self.nodes)
            ]
            heapq.heapify(self._heap)
        turn, _, node = self._heap[0]
        node.turn = turn
        self._number += 1
        heapq.heapreplace(self._heap, (turn + 1 / node.share(now), self._number, node))
        return node


class Random(Balancer):
    """By chance, each as often as its weight says."""

    __slots__ = ()

    def over(self, nodes: Sequence[Node]) -> Picker:
        return _Draw(nodes)


class _Draw(Picker):
    __slots__ = ("_sums",)

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        self._sums = list(accumulate(node.weight for node in nodes))

    def pick(self, u: float, now: float, key: str | None) -> Node:
        sums = self._sums
        node = self.nodes[0]
        for _ in range(_TRIES):
            x = u * sums[-1]
            place = min(bisect_right(sums, x), len(sums) - 1)
            node = self.nodes[place]
            if now - node.since >= node.slow:
                return node
            # It starts slowly: taken as often as its share says. Where in its part x fell is chance too.
            wins = node.share(now) / node.weight
            u = min(max((x - (sums[place] - node.weight)) / node.weight, 0.0), 1 - 2**-53)
            if u < wins:
                return node
            u = (u - wins) / (1 - wins)
        return node


class Rendezvous(Balancer):
    """The same node for the same key, for as long as it is there, in every process (highest random weight).

    When a node goes, its keys go to the others, by weight, and no other key moves; when one comes, it takes
    its part of each. Without a key: by chance.
    """

    __slots__ = ()

    keyed = True

    def over(self, nodes: Sequence[Node]) -> Picker:
        return _Highest(nodes)


class _Highest(Picker):
    __slots__ = ()

    def pick(self, u: float, now: float, key: str | None) -> Node:
        mixed = int(u * 2**53) if key is None else _digest(key)
        best, highest = self.nodes[0], -1.0
        for node in self.nodes:
            x = (node.digest ^ mixed) & _MASK  # the finaliser of splitmix64
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
            x ^= x >> 31
            score = node.weight / -math.log((x + 0.5) / 2**64)
            if score > highest:
                best, highest = node, score
        return best
