"""The balancers, against their formulas: who is chosen, how often, and for how much."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.outcome import Outcome
from aresilience.registry import (
    Balancer,
    Instance,
    LeastRequest,
    Node,
    PeakEwma,
    Random,
    Rendezvous,
    RoundRobin,
)
from aresilience.registry.zones import Zoned, zone_shares

OK, BAD, CUT = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED


def nodes(*weights: float, zones: str = "") -> list[Node]:
    """Nodes with these weights, a, b, c …"""
    return [
        Node(Instance("s", "h", 1, id=chr(97 + n), weight=weight, zone=zones[n : n + 1]))
        for n, weight in enumerate(weights)
    ]


def chosen(
    balancer: Balancer,
    those: list[Node],
    times: int,
    *,
    now: float = 0.0,
    seed: int = 1,
    key: str | None = None,
) -> Counter[str]:
    """How often each is chosen, in so many picks by seeded chance."""
    chance, picker = random.Random(seed), balancer.over(those)
    return Counter(picker.pick(chance.random(), now, key).instance.id for _ in range(times))


def fits(found: Counter[str], shares: dict[str, float]) -> bool:
    """A chi-squared test, so strict that only one seed in a thousand would fail it."""
    total = sum(found.values())
    expected = {name: share * total / sum(shares.values()) for name, share in shares.items()}
    assert set(found) <= set(expected)
    squares = sum((found[name] - many) ** 2 / many for name, many in expected.items())
    free = len(shares) - 1
    return squares < free + 3.1 * math.sqrt(2 * free) + 4


BALANCERS = [RoundRobin(), Random(), LeastRequest(), LeastRequest(choices=3), PeakEwma(), Rendezvous()]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_equal_nodes_are_chosen_equally(balancer: Balancer) -> None:
    """Without differences there is none in the calls."""
    assert fits(chosen(balancer, nodes(1, 1, 1, 1, 1), 10_000), dict.fromkeys("abcde", 1.0))


@pytest.mark.parametrize("balancer", [RoundRobin(), Random(), Rendezvous()])
def test_weights_are_shares(balancer: Balancer) -> None:
    """1 : 2 : 3 : 0.5, in calls as in weights."""
    shares = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.5}
    assert fits(chosen(balancer, nodes(*shares.values()), 13_000), shares)


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_one_node_is_the_choice_whatever_chance_says(balancer: Balancer, u: float) -> None:
    """No index is out of range at either end of u."""
    for many in (1, 2, 3, 7):
        those = nodes(*[1.0] * many)
        assert balancer.over(those).pick(u, 0.0, None) in those


def test_round_robin_goes_round() -> None:
    """Each once before any twice; smoothly by weight; not every process begins with the same."""
    order = RoundRobin().over(nodes(1, 1, 1))
    assert [order.pick(0.4, 0.0, None).instance.id for _ in range(7)] == list("bcabcab")
    weighted = RoundRobin().over(nodes(4, 2, 1))
    found = "".join(weighted.pick(0.0, 0.0, None).instance.id for _ in range(14))
    assert Counter(found) == {"a": 8, "b": 4, "c": 2}
    assert "aaa" not in found


def test_round_robin_goes_on_where_it_was_when_somebody_comes() -> None:
    """A new set of nodes does not give those another turn who just had theirs; the new one gets no flood."""
    those = nodes(1, 1, 1)
    order = RoundRobin().over(those)
    found = [order.pick(0.0, 0.0, None).instance.id for _ in range(301)]
    new = Node(Instance("s", "h", 1, id="d"))
    order = RoundRobin().over([*those, new])
    found = [order.pick(0.0, 0.0, None).instance.id for _ in range(8)]
    assert Counter(found) == dict.fromkeys("abcd", 2)


def test_kratos_envoy_two_choices_are_two_different_nodes() -> None:
    """Of two, the idle one is always found: the two drawn are never the same one."""
    for balancer in (LeastRequest(), PeakEwma()):
        those = nodes(1, 1)
        those[0].in_flight = 5
        those[0].cost = those[1].cost = 0.1
        assert chosen(balancer, those, 1000) == {"b": 1000}


def test_pairs_are_drawn_evenly() -> None:
    """Two of five by chance: each pair as often as any other, so the busiest is chosen never, the idlest in 4
    of 10 pairs."""
    those = nodes(1, 1, 1, 1, 1)
    for n, node in enumerate(those):
        node.in_flight = n
    shares = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    assert fits(chosen(LeastRequest(), those, 10_000), shares)


def test_three_choices_find_the_least_of_three() -> None:
    """Three different ones of five: the idlest is in 6 of 10 triples."""
    those = nodes(1, 1, 1, 1, 1)
    for n, node in enumerate(those):
        node.in_flight = n
    assert fits(chosen(LeastRequest(choices=3), those, 10_000), {"a": 6.0, "b": 3.0, "c": 1.0})


def test_the_load_is_by_weight() -> None:
    """Twice the weight bears twice the calls."""
    those = nodes(1, 2)
    those[0].in_flight, those[1].in_flight = 2, 4
    least = LeastRequest()
    assert least.load(those[0], 0.0) == 3
    assert least.load(those[1], 0.0) == 2.5


def test_peak_ewma_is_its_formula() -> None:
    """A peak at once; then exp(-t/tau) of the old and the rest of the new; forgotten while nobody calls."""
    balancer, (node,) = PeakEwma(decay=10.0), nodes(1)
    balancer.observe(node, 0.2, OK, 0.0)
    assert node.cost == 0.2
    balancer.observe(node, 1.0, OK, 5.0)
    assert node.cost == 1.0
    balancer.observe(node, 0.1, OK, 10.0)
    expected = math.exp(-0.5) * 1.0 + (1 - math.exp(-0.5)) * 0.1
    assert node.cost == pytest.approx(expected)
    assert balancer.load(node, 20.0) == pytest.approx(expected * math.exp(-1.0))
    node.in_flight = 3
    assert balancer.load(node, 20.0) == pytest.approx(4 * expected * math.exp(-1.0))


def test_who_fails_fast_does_not_attract_everybody() -> None:
    """A failure in a millisecond costs as much as a slow answer: for `PeakEwma` and for `LeastRequest`."""
    for balancer in (PeakEwma(), LeastRequest()):
        good, bad = nodes(1, 1)
        balancer.observe(good, 0.1, OK, 0.0)
        balancer.observe(bad, 0.001, BAD, 0.0)
        assert balancer.load(good, 0.1) < balancer.load(bad, 0.1)
        assert balancer.load(bad, 100.0) < balancer.load(bad, 0.1), "forgiven in time"


def test_kratos_a_cancellation_is_no_failure() -> None:
    """Cut off early, it says nothing; cut off late, that it takes at least so long."""
    balancer, (node,) = PeakEwma(), nodes(1)
    balancer.observe(node, 0.2, OK, 0.0)
    balancer.observe(node, 0.1, CUT, 0.0)
    assert node.cost == 0.2
    balancer.observe(node, 3.0, CUT, 0.0)
    assert node.cost == 3.0
    least, (other,) = LeastRequest(), nodes(1)
    least.observe(other, 3.0, CUT, 0.0)
    assert other.failures == 0


def test_kratos_an_unseen_node_gets_one_call_and_no_flood() -> None:
    """Nobody knows how fast it is: the first call goes there, the second only when the first has answered."""
    old, new = nodes(1, 1)
    balancer = PeakEwma()
    balancer.observe(old, 0.1, OK, 0.0)
    assert chosen(balancer, [old, new], 100)["b"] == 100
    new.in_flight = 1
    assert chosen(balancer, [old, new], 100)["a"] == 100


def test_a_node_that_is_disliked_is_tried_again() -> None:
    """Once slow, then not asked: what it cost is forgotten, with nobody's help."""
    slow, quick = nodes(1, 1)
    balancer = PeakEwma(decay=10.0)
    balancer.observe(slow, 5.0, OK, 0.0)
    balancer.observe(quick, 0.1, OK, 0.0)
    assert chosen(balancer, [slow, quick], 100, now=1.0) == {"b": 100}
    for now in range(60):
        balancer.observe(quick, 0.1, OK, float(now))
    assert chosen(balancer, [slow, quick], 100, now=59.0) == {"a": 100}


@pytest.mark.parametrize("balancer", [RoundRobin(), Random()])
def test_slow_start_gives_a_tenth_then_more(balancer: Balancer) -> None:
    """In a straight line from 10 % to the whole."""
    for now, share in ((0.0, 0.1), (0.5, 0.1), (5.0, 0.5), (10.0, 1.0), (1000.0, 1.0)):
        those = nodes(1, 1)
        those[1].since, those[1].slow = 0.0, 10.0
        assert fits(chosen(balancer, those, 10_000, now=now), {"a": 1.0, "b": share})


def test_slow_start_counts_for_the_others_too() -> None:
    """By load: half the share is twice the load."""
    (node,) = nodes(1)
    node.since, node.slow, node.cost = 0.0, 10.0, 1.0
    assert LeastRequest().load(node, 5.0) == 2.0
    assert PeakEwma().load(node, 5.0) == pytest.approx(2 * math.exp(-0.5))


def test_rendezvous_moves_only_what_it_must() -> None:
    """A node goes: its keys go to the others, evenly, and nobody else's key moves. It comes back: as before."""
    those = nodes(*[1.0] * 10)
    keys = [f"user-{n}" for n in range(5000)]

    def places(some: list[Node]) -> dict[str, str]:
        picker = Rendezvous().over(some)
        return {key: picker.pick(0.0, 0.0, key).instance.id for key in keys}

    before, after = places(those), places(those[1:])
    assert fits(Counter(before.values()), dict.fromkeys("abcdefghij", 1.0))
    moved = {key for key in keys if before[key] != after[key]}
    assert moved == {key for key in keys if before[key] == "a"}
    assert fits(Counter(after[key] for key in moved), dict.fromkeys("bcdefghij", 1.0))
    assert places(list(reversed(those))) == before


def test_rendezvous_is_the_same_in_every_process() -> None:
    """No salted hash: these places are written down."""
    picker = Rendezvous().over(nodes(1, 1, 1, 1))
    found = "".join(picker.pick(0.0, 0.0, f"key-{n}").instance.id for n in range(16))
    assert found == WRITTEN_DOWN


WRITTEN_DOWN = "adccbabbcbdadacd"


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 9), st.integers(2, 6))
def test_any_number_gives_different_choices(u: float, many: int, choices: int) -> None:
    """Whatever u is, as many different nodes are compared as there can be."""
    seen: list[Node] = []
    balancer = LeastRequest(choices=choices)
    picker = balancer.over(nodes(*[1.0] * many))
    picker._load = lambda node, now: seen.append(node) or 0.0  # type: ignore[attr-defined,func-returns-value]
    picker.pick(u, 0.0, None)
    assert len(set(seen)) == len(seen) == (0 if many == 1 else min(choices, many))


@pytest.mark.parametrize(
    ("weights", "zone", "shares"),
    [
        ({"a": 2, "b": 2}, "a", {"a": 1.0}),
        ({"a": 3, "b": 1}, "a", {"a": 1.0}),
        ({"a": 1, "b": 3}, "a", {"a": 0.5, "b": 0.5}),
        ({"a": 1, "b": 3}, "b", {"b": 1.0}),
        ({"a": 1, "b": 2, "c": 3}, "a", {"a": 0.5, "c": 0.5}),
        ({"a": 1, "b": 4, "c": 4}, "a", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ({"a": 0, "b": 2, "c": 2}, "a", {"b": 0.5, "c": 0.5}),
        ({"a": 2, "b": 2}, "z", {"a": 0.5, "b": 0.5}),
        ({"a": 0, "b": 0}, "a", {}),
    ],
)
def test_a_zone_keeps_what_it_can_carry(
    weights: dict[str, float], zone: str, shares: dict[str, float]
) -> None:
    """All calls stay where there is enough; what is too much goes to those who have more than their part."""
    assert zone_shares(weights, zone) == pytest.approx(shares)


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 100), min_size=1))
def test_zones_that_all_prefer_themselves_load_every_node_alike(weights: dict[str, float]) -> None:
    """Callers spread evenly, each by its own shares: together every zone gets what its weight says."""
    total = sum(weights.values())
    got = dict.fromkeys(weights, 0.0)
    for zone in weights:
        for name, share in zone_shares(weights, zone).items():
            got[name] += share / len(weights)
    assert got == pytest.approx({name: weight / total for name, weight in weights.items()})


def test_zoned_picks_are_as_often_as_the_shares_say() -> None:
    """One node here, three there: half of the calls stay, and the rest is spread."""
    those = nodes(1, 1, 1, 1, zones="abbb")
    picker = Zoned(those, {"a", "b"}, "a", Random())
    chance = random.Random(1)
    found = Counter(picker.pick(chance.random(), 0.0, None).instance.id for _ in range(12_000))
    assert fits(found, {"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0})


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: LeastRequest(choices=1), "LeastRequest: choices must be a whole number of at least 2"),
        (lambda: PeakEwma(decay=0), "PeakEwma: decay must be"),
        (lambda: PeakEwma(penalty=-1), "PeakEwma: penalty must be"),
    ],
)
def test_options_are_checked(make: type, complaint: str) -> None:
    """When the balancer is made."""
    with pytest.raises(ValueError, match=complaint):
        make()
