"""The machines that draw some nodes by chance and take the best of them: by calls in flight, or by latency.

Two choices are nearly as good as looking at all, and cost the same among ten as among ten thousand. They are
always different nodes: a pair that is one node twice would be no choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

from aresilience import arguments
from aresilience.outcome import Outcome
from aresilience.registry.balance import Balancer, Node, Picker

__all__ = ["LeastRequest", "PeakEwma"]

_UNSEEN = 1e6
_FORGIVEN = 0.2


class LeastRequest(Balancer):
    """The one with fewer calls in flight, for its weight, of `choices` different nodes drawn by chance.

    A failure counts as another call in flight, less and less, for eight seconds: who fails fast must not
    attract everybody, and must not be forgotten either where there is little to do.
    """

    __slots__ = ("choices",)

    decay = 5.0

    def __init__(self, *, choices: int = 2) -> None:
        self.choices = arguments.count("LeastRequest: choices", choices, least=2)

    def over(self, nodes: Sequence[Node]) -> Picker:
        return _Choices(nodes, self)

    def load(self, node: Node, now: float) -> float:
        """What it has to do."""
        burden = node.in_flight + 1.0
        if node.failures:
            failures = node.failures * math.exp((node.at - now) / self.decay)
            if failures > _FORGIVEN:
                burden += failures
        return burden / node.share(now)


class PeakEwma(Balancer):
    """The one that would answer sooner, of `choices` different nodes drawn by chance (Finagle's peak EWMA).

    A slow answer is believed at once, faster ones little by little, in `decay` seconds; times one more than the
    calls in flight, by weight. What is not called for long is forgiven. A failure counts as an answer that took
    `penalty` seconds. A node that has never answered gets one call, and no second until it has.
    """

    __slots__ = ("choices", "decay", "penalty")

    def __init__(
        self,
        *,
        decay: float | timedelta = 10.0,
        penalty: float | timedelta = 1.0,
        choices: int = 2,
    ) -> None:
        self.decay = arguments.duration("PeakEwma: decay", decay)
        self.penalty = arguments.duration("PeakEwma: penalty", penalty)
        self.choices = arguments.count("PeakEwma: choices", choices, least=2)

    def over(self, nodes: Sequence[Node]) -> Picker:
        return _Choices(nodes, self)

    def load(self, node: Node, now: float) -> float:
        """How long one more call would take."""
        if node.cost < 0:
            return _UNSEEN * node.in_flight
        return node.cost * math.exp((node.at - now) / self.decay) * (node.in_flight + 1) / node.share(now)

    def observe(self, node: Node, took: float, outcome: Outcome, now: float) -> None:
        kept = math.exp((node.at - now) / self.decay)
        cost = node.cost * kept
        if outcome is Outcome.FAILURE:
            took = max(took, self.penalty)
        elif outcome is Outcome.IGNORED and took <= cost:
            return  # cut off: it would have taken longer, and how long nobody knows
        node.cost = took if took > cost or node.cost < 0 else cost + took * (1 - kept)
        node.at = now


class _Choices(Picker):
    """Some different nodes by chance, and the best of them."""

    __slots__ = ("_choices", "_load")

    def __init__(self, nodes: Sequence[Node], balancer: LeastRequest | PeakEwma) -> None:
        super().__init__(nodes)
        self._choices = min(balancer.choices, len(nodes))
        self._load = balancer.load

    def pick(self, u: float, now: float, key: str | None) -> Node:
        nodes = self.nodes
        many = len(nodes)
        if many == 1:
            return nodes[0]
        place = int(u * many)
        u = u * many - place
        if self._choices == 2:
            other = int(u * (many - 1))
            if other >= place:
                other += 1
            one, two = nodes[place], nodes[other]
            return two if self._load(two, now) < self._load(one, now) else one
        drawn = [place]
        for left in range(many - 1, many - self._choices, -1):
            place = int(u * left)
            u = u * left - place
            for other in sorted(drawn):
                place += place >= other
            drawn.append(place)
        return min([nodes[place] for place in drawn], key=lambda node: self._load(node, now))
