"""The machine that takes nodes out of rotation, and lets them come back.

    IN ──fails `failures` times in a row, or its breaker opens──▶ OUT, for `ejection`, longer each time
     ▲                                                             │ its time is over: one call, a probe
     ├──────────────────────── the probe succeeds ─────────────────┤
     └─(panic, or too many out: it is bad, and called all the same)└── the probe fails ──▶ OUT, for longer

Out are at most a share of `max_ejected` of all nodes, one at least where there are `minimum_hosts`, and never
the last. Where fewer than `panic` of all are good, the bad ones are called like the others: the few that are
left would not bear it. A node that is good for long forgets, one round of ejection after the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from aresilience.registry.balance import Node
from aresilience.registry.outliers import Breaker, OutlierPolicy

__all__ = ["Rotation"]

_LOOK_AGAIN = 1.0
"""Seconds until a breaker that is open is looked at again."""
_GOOD = frozenset(("closed", "disabled", "shadow"))


class _Record:
    __slots__ = ("bad", "breaker", "in_a_row", "probing", "returned_at", "rounds", "until")

    def __init__(self, breaker: Breaker | None) -> None:
        self.breaker = breaker
        self.in_a_row = 0
        self.rounds = 0
        self.bad = False
        self.probing = False
        self.until = 0.0
        self.returned_at = 0.0


class Rotation:
    """Which nodes are called."""

    __slots__ = ("_bad", "_due", "_number", "_policy", "_records", "changed", "out", "panicking")

    def __init__(self, policy: OutlierPolicy) -> None:
        self._policy = policy
        self._records: dict[Node, _Record] = {}
        self._bad: dict[Node, None] = {}  # in the order in which they turned bad
        self._due: list[tuple[float, int, Node]] = []
        self._number = 0
        self.out: frozenset[Node] = frozenset()
        """Those that are not called."""
        self.panicking = False
        self.changed = False
        """Whether `out` has changed since somebody last put this back."""

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """These are there now."""
        known = self._records
        self._records = {node: known.get(node) or _Record(self._breaker(node)) for node in nodes}
        self._bad = {node: None for node in self._bad if node in self._records}
        self._judge()

    def breaker(self, node: Node) -> Breaker | None:
        """The node's breaker, if it is to be asked: not if the node is called although it is bad."""
        record = self._records.get(node)
        if record is None or (record.bad and not record.probing):
            return None
        return record.breaker

    def probe(self, now: float) -> Node | None:
        """A node that is out, and that is due to be tried with one call."""
        while self._due and self._due[0][0] <= now:
            _, _, node = heapq.heappop(self._due)
            record = self._records.get(node)
            if record is None or not record.bad or record.probing:
                continue
            if record.breaker is not None:
                state = record.breaker.state.value
                if state in _GOOD:
                    self.good(node, now)
                    continue
                if state != "half-open":
                    self._expect(node, now + _LOOK_AGAIN)
                    continue
            elif record.until > now:
                self._expect(node, record.until)
                continue
            record.probing = True
            return node
        return None

    def given_back(self, node: Node, now: float) -> None:
        """The probe was not made, or says nothing: another one."""
        record = self._records.get(node)
        if record is not None and record.probing:
            record.probing = False
            self._expect(node, now)

    def refused(self, node: Node, now: float) -> None:
        """Its breaker does not let the call pass."""
        self.given_back(node, now + _LOOK_AGAIN)
        self._turn_bad(node, now, now + _LOOK_AGAIN)

    def ended(self, node: Node, success: bool, now: float, u: float) -> None:
        """A call of a node without a breaker has ended."""
        record = self._records.get(node)
        if record is None:
            return
        if success:
            record.in_a_row = 0
            # One with a breaker was called without asking it, as there was no other: the breaker still decides.
            if record.bad and record.breaker is None:
                self.good(node, now)
            return
        record.in_a_row += 1
        if record.bad and not record.probing:
            return
        if record.probing or record.in_a_row >= self._policy.failures:
            if not record.probing:
                healthy = now - record.returned_at
                record.rounds = max(0, record.rounds - int(healthy / self._policy.ejection))
            record.probing = False
            record.rounds += 1
            record.until = now + self._policy.time_out(record.rounds, u)
            self._turn_bad(node, now, record.until)

    def recorded(self, node: Node, now: float) -> None:
        """The breaker of a node knows how a call has ended."""
        record = self._records.get(node)
        if record is None or record.breaker is None:
            return
        good = record.breaker.state.value in _GOOD
        if good and record.bad:
            self.good(node, now)
        elif not good:
            if record.probing:
                record.probing = False
                self._expect(node, now)
            self._turn_bad(node, now, now)

    def good(self, node: Node, now: float) -> None:
        """It is called like the others again, little by little."""
        record = self._records[node]
        record.bad = record.probing = False
        record.in_a_row = 0
        record.returned_at = node.since = now
        self._bad.pop(node, None)
        self._judge()

    def _turn_bad(self, node: Node, now: float, until: float) -> None:
        record = self._records.get(node)
        if record is None:
            return
        if not record.bad or record.breaker is None:
            self._expect(node, until)
        if not record.bad:
            record.bad = True
            self._bad[node] = None
            self._judge()

    def _expect(self, node: Node, when: float) -> None:
        self._number += 1
        heapq.heappush(self._due, (when, self._number, node))

    def _judge(self) -> None:
        many = len(self._records)
        self.panicking = bool(self._bad) and (many - len(self._bad)) / many < self._policy.panic
        most = 0 if self.panicking else self._policy.most_out(many)
        out = frozenset(node for node, _ in zip(self._bad, range(most), strict=False))
        if out != self.out:
            self.out = out
            self.changed = True

    def _breaker(self, node: Node) -> Breaker | None:
        if self._policy.breakers is None:
            return None
        instance = node.instance
        return self._policy.breakers[f"{instance.service}/{instance.id}@{instance.life}"]
