"""The machine that prefers what is near: which part of the calls stays in a zone, and where the rest goes.

Callers are taken to be spread evenly over the zones. So each zone ought to carry its part, 1 of so many zones;
if the own zone has at least that much of the weight in rotation, all calls stay in it; if it has less, as many
as it can carry, and the rest goes to the zones that have more than their part, by how much more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from aresilience.registry.balance import Balancer, Node, Picker

__all__ = ["Zoned", "zone_shares"]


def zone_shares(weights: dict[str, float], zone: str) -> dict[str, float]:
    """Which part of the calls of a caller in `zone` goes to each, by the weight that is in rotation there.

    A zone with no weight counts as one of the zones all the same: it may come back.
    """
    total = sum(weights.values())
    if total <= 0:
        return {}
    shares = {name: weight / total for name, weight in weights.items() if weight > 0}
    if zone not in shares:
        return shares
    part = 1 / len(weights)
    near = min(1.0, shares[zone] / part)
    if near == 1.0:
        return {zone: 1.0}
    over = {name: share - part for name, share in shares.items() if share > part and name != zone}
    most = sum(over.values())
    if most <= 0:
        return {zone: 1.0}
    return {zone: near, **{name: (1 - near) * more / most for name, more in over.items()}}


class Zoned(Picker):
    """A picker for each zone, and how often each."""

    __slots__ = ("_pickers", "_sums")

    def __init__(self, nodes: Sequence[Node], zones: set[str], zone: str, balancer: Balancer) -> None:
        super().__init__(nodes)
        by_zone: dict[str, list[Node]] = {name: [] for name in zones}
        for node in nodes:
            by_zone.setdefault(node.instance.zone, []).append(node)
        shares = zone_shares(
            {name: sum(node.weight for node in each) for name, each in by_zone.items()}, zone
        )
        self._pickers = [balancer.over(by_zone[name]) for name in shares]
        self._sums = list(accumulate(shares.values()))

    def pick(self, u: float, now: float, key: str | None) -> Node:
        x = u * self._sums[-1]
        place = min(bisect_right(self._sums, x), len(self._sums) - 1)
        low = self._sums[place - 1] if place else 0.0
        u = (x - low) / (self._sums[place] - low)
        return self._pickers[place].pick(min(u, 1 - 2**-53), now, key)
