"""What is served of what the registry says, as rows of (time, what happens, what is served)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.registry.damping import Damping, Served

RULES = Damping(grace=10.0, hold=30.0, share=0.25, window=10.0)


def served(many: int, *, rules: Damping = RULES, at: float = -100.0) -> Served[str]:
    """So many are served by a source that has long been healthy."""
    served: Served[str] = Served(rules)
    served.answered(at)
    for n in range(many):
        served.put(f"i{n}", f"i{n}")
    return served


def left(served: Served[str], now: float) -> int:
    """How many are served at that time."""
    served.settle(now)
    return len(served)


def test_one_that_vanishes_goes_at_once() -> None:
    """The registry is healthy, one of four is gone: no reason to doubt it."""
    each = served(4)
    assert each.vanish("i0", 0.0)
    assert each.next_at(0.0) == 0.0
    assert each.settle(0.0) == ["i0"]
    assert each.next_at(0.0) is None


def test_many_that_vanish_together_go_slowly_and_then_all_the_same() -> None:
    """A quarter of those served in each window; whoever is held for `hold` goes anyway."""
    each = served(16)
    for n in range(12):
        each.vanish(f"i{n}", 0.0)
    assert [(t, left(each, t)) for t in (0, 5, 9.9, 10, 15, 20, 29.9, 30)] == [
        (0, 12),
        (5, 12),
        (9.9, 12),
        (10, 9),
        (15, 9),
        (20, 7),
        (29.9, 7),
        (30, 4),
    ]


@pytest.mark.parametrize("many", [2, 3, 5])
def test_small_clusters_do_not_keep_their_dead(many: int) -> None:
    """One in each window, however small the share of so few; all but one of them dead."""
    each = served(many)
    for n in range(many - 1):
        each.vanish(f"i{n}", 0.0)
    assert left(each, 0.0) == many - 1
    assert left(each, 30.0) == 1


def test_the_last_one_stays_until_its_hold_is_over() -> None:
    """An empty list is believed only after `hold`."""
    each = served(1)
    each.vanish("i0", 0.0)
    assert each.next_at(0.0) == 30.0
    assert left(each, 29.0) == 1
    assert left(each, 30.0) == 0


def test_what_says_goodbye_goes_at_once_however_many() -> None:
    """Withdrawals are their own word: the last one too."""
    each = served(3)
    for n in range(3):
        assert each.withdraw(f"i{n}")
    assert len(each) == 0
    assert not each.withdraw("i0")


def test_nobody_is_removed_while_the_source_does_not_answer_nor_in_the_grace_after() -> None:
    """The clock of `grace` begins when it answers again."""
    each = served(4)
    each.vanish("i0", 0.0)
    each.failed()
    assert each.next_at(0.0) is None
    assert left(each, 29.0) == 4
    each.answered(29.0)
    assert each.next_at(29.0) == 39.0
    assert left(each, 38.9) == 4
    assert left(each, 39.0) == 3


def test_who_comes_back_is_held_no_more() -> None:
    """Registered again within the grace: it never was away."""
    each = served(4)
    each.disturbed(0.0)
    each.vanish("i0", 0.0)
    assert each.held == ("i0",)
    each.put("i0", "new")
    assert each.held == ()
    assert left(each, 100.0) == 4


def test_a_source_that_comes_and_goes_does_not_keep_the_dead_for_ever() -> None:
    """Three times `hold` is the end, whatever the grace says."""
    each = served(4)
    each.vanish("i0", 0.0)
    for t in range(0, 96, 8):
        each.failed()
        each.answered(float(t))
        assert left(each, float(t)) == (3 if t >= 90 else 4)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "vanish", "withdraw", "failed", "answered", "disturbed", "wait"]),
            st.integers(0, 5),
            st.sampled_from([0.0, 0.1, 5.0, 10.0, 30.0]),
        ),
        max_size=60,
    )
)
def test_in_any_history_the_rules_hold(steps: list) -> None:
    """Adds are served at once, the living are never removed, each settle keeps to its share, and in the end,
    with a source that answers, nobody who vanished is left."""
    each = served(0, at=0.0)
    now, alive, healthy = 0.0, set(), True
    for what, n, gap in steps:
        now += gap
        who = f"i{n}"
        if what == "put":
            each.put(who, who)
            alive.add(who)
        elif what == "vanish":
            each.vanish(who, now)
            alive.discard(who)
        elif what == "withdraw":
            each.withdraw(who)
            alive.discard(who)
        elif what in ("failed", "answered", "disturbed"):
            healthy = what != "failed"
            each.failed() if what == "failed" else getattr(each, what)(now)
        before = len(each)
        removed = each.settle(now)
        assert not removed or healthy
        assert before - len(each) == len(removed)
        assert alive <= set(each)
        assert set(each) - set(each.held) == alive
    each.answered(now)
    for _ in range(100):
        due = each.next_at(now)
        if due is None:
            break
        now = max(now, due)
        each.settle(now)
    assert set(each) == alive
