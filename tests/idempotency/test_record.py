"""The machine: one record, told the time, in rows of (time, ask, answer)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.idempotency.record import (
    Answer,
    Ask,
    Ending,
    Record,
    RecordState,
    Work,
    claim,
    renew,
    same,
    settle,
    view,
)

LEASE, KEEP, TTL = 30, 1000, 1000
KEPT = (Ending.DONE, Ending.FAILED, Ending.LOST)


def ask(token: str = "a", fingerprint: str = "1:f", *, takeover: bool = True) -> Ask:
    """An ask of the usual size."""
    return Ask(token, fingerprint, LEASE, KEEP, takeover)


def work(token: str = "a", fence: int = 100, attempt: int = 1) -> Work:
    """What the owner of that token has."""
    return Work(token, "1:f", fence, attempt)


def taken(now: int = 100, token: str = "a") -> Record:
    """A record that somebody has claimed."""
    record = claim(None, now, ask(token))[1]
    assert record is not None
    return record


def done(now: int, ending: Ending = Ending.DONE) -> Record:
    """A record that is done."""
    record = settle(taken(), now, work(), ending, b"v", TTL)[1]
    assert record is not None
    return record


def given_up(now: int = 105) -> Record:
    """A record whose owner said that nobody knows."""
    record = settle(taken(), now, work(), Ending.ABANDONED, b"", 0)[1]
    assert record is not None
    return record


CLAIMS: list[tuple[str, Record | None, int, Ask, Answer, int]] = [
    ("an absent record is taken", None, 100, ask(), Answer.CLAIMED, 1),
    ("a fence is the time", None, 777, ask(), Answer.CLAIMED, 1),
    ("another's is in flight", taken(), 101, ask("b"), Answer.RUNNING, 1),
    ("until the end of its lease", taken(), 129, ask("b"), Answer.RUNNING, 1),
    ("then it is taken over", taken(), 130, ask("b"), Answer.CLAIMED, 2),
    ("or told as abandoned", taken(), 130, ask("b", takeover=False), Answer.ABANDONED, 1),
    ("also long after", taken(), 1129, ask("b", takeover=False), Answer.ABANDONED, 1),
    ("until it is forgotten", taken(), 1130, ask("b", takeover=False), Answer.CLAIMED, 1),
    (
        "what was given up is abandoned at once",
        given_up(),
        106,
        ask("b", takeover=False),
        Answer.ABANDONED,
        1,
    ),
    ("and can be taken over at once", given_up(), 106, ask("b"), Answer.CLAIMED, 2),
    ("one's own is one's own when asked again", taken(), 101, ask("a"), Answer.CLAIMED, 1),
    ("also after its lease, if nobody took it", taken(), 200, ask("a"), Answer.CLAIMED, 1),
    ("what is done is done", done(110), 111, ask("b"), Answer.DONE, 1),
    ("a stored failure too", done(110, Ending.FAILED), 111, ask("b"), Answer.FAILED, 1),
    ("and a lost answer", done(110, Ending.LOST), 111, ask("b"), Answer.LOST, 1),
    ("for a ttl from when it was done", done(110), 1109, ask("b"), Answer.DONE, 1),
    ("after that it is done anew", done(110), 1110, ask("b"), Answer.CLAIMED, 1),
    ("another fingerprint: in flight", taken(), 101, ask("b", "1:g"), Answer.REUSED, 0),
    ("another fingerprint: done", done(110), 111, ask("b", "1:g"), Answer.REUSED, 0),
    ("another fingerprint: abandoned", taken(), 500, ask("b", "1:g"), Answer.REUSED, 0),
    ("another fingerprint: no more, when forgotten", done(110), 1110, ask("b", "1:g"), Answer.CLAIMED, 1),
    ("no fingerprint is another one", done(110), 111, ask("b", ""), Answer.REUSED, 0),
    ("another version's cannot be compared", done(110), 111, ask("b", "2:g"), Answer.DONE, 1),
]


@pytest.mark.parametrize(
    ("record", "now", "asked", "answer", "attempt"), [r[1:] for r in CLAIMS], ids=[r[0] for r in CLAIMS]
)
def test_what_a_claim_finds(
    record: Record | None, now: int, asked: Ask, answer: Answer, attempt: int
) -> None:
    """One row for each state, to the microsecond."""
    standing, after = claim(record, now, asked)
    assert (standing.answer, standing.attempt) == (answer, attempt)
    if answer is Answer.CLAIMED:
        assert after is not None
        assert (after.token, after.until, after.expires) == (asked.token, now + LEASE, now + LEASE + KEEP)
        assert standing.left == LEASE
    elif answer is not Answer.RUNNING:
        assert after is record


def test_a_fence_rises_though_the_clock_stands_still() -> None:
    """A takeover at the time of the claim itself, after a step back, has a higher fence."""
    record = replace(taken(100), until=0)
    standing, _ = claim(record, 50, ask("b"))
    assert standing.fence == 101


def test_no_lease_is_longer_than_it_was_made() -> None:
    """After the clock stepped back by an hour, another waits for one lease, not for an hour."""
    standing, after = claim(taken(3_600_000), 100, ask("b"))
    assert (standing.answer, standing.left) == (Answer.RUNNING, LEASE)
    assert claim(after, 130, ask("b"))[0].answer is Answer.CLAIMED


SETTLEMENTS: list[tuple[str, Record | None, int, Work, Ending, bool, str | None]] = [
    ("done", taken(), 110, work(), Ending.DONE, True, "D"),
    ("failed", taken(), 110, work(), Ending.FAILED, True, "F"),
    ("lost", taken(), 110, work(), Ending.LOST, True, "L"),
    ("released", taken(), 110, work(), Ending.RELEASED, True, None),
    ("given up", taken(), 110, work(), Ending.ABANDONED, True, "R"),
    ("taken back", taken(), 110, work(), Ending.UNDONE, True, None),
    ("late, but nobody took over", taken(), 500, work(), Ending.DONE, True, "D"),
    ("after giving up, nobody took over", given_up(), 500, work(), Ending.DONE, True, "D"),
    ("a stale owner is refused", taken(token="b"), 110, work("a"), Ending.DONE, False, "R"),
    ("a stale owner's release is refused", taken(token="b"), 110, work("a"), Ending.RELEASED, False, "R"),
    ("told again", done(105), 110, work(), Ending.DONE, True, "D"),
    ("released after it was done: told too late", done(105), 110, work(), Ending.RELEASED, True, "D"),
    ("a record that was lost is written anew", None, 110, work(), Ending.DONE, True, "D"),
    ("one that expired, too", taken(), 1130, work(), Ending.DONE, True, "D"),
    ("nothing is left of a release", None, 110, work(), Ending.RELEASED, True, None),
    ("nor of giving up what is gone", None, 110, work(), Ending.ABANDONED, True, None),
]


@pytest.mark.parametrize(
    ("record", "now", "owner", "ending", "counts", "left"),
    [r[1:] for r in SETTLEMENTS],
    ids=[r[0] for r in SETTLEMENTS],
)
def test_how_work_ends(
    record: Record | None, now: int, owner: Work, ending: Ending, counts: bool, left: str | None
) -> None:
    """By its owner's token; the second time it changes nothing."""
    ended, after, _ = settle(record, now, owner, ending, b"v", TTL)
    assert ended is counts
    assert (after.state.value if after else None) == left
    again, after_again, woken = settle(after, now, owner, ending, b"v", TTL)
    assert again is counts
    assert after_again == after
    assert not woken


def test_what_was_taken_over_and_never_ran_is_abandoned_as_before() -> None:
    """A takeover that is taken back leaves the attempts before it, and is not released."""
    record = claim(taken(), 130, ask("b"))[1]
    _, after, _ = settle(record, 140, work("b", attempt=2), Ending.UNDONE, b"", 0)
    assert view(after, 141).answer is Answer.ABANDONED
    assert view(after, 141).attempt == 1
    assert claim(after, 141, ask("c"))[0].attempt == 2


def test_only_the_owner_renews_and_only_while_it_runs() -> None:
    """A renewal that comes after the completion, the takeover or the giving up changes nothing."""
    record = taken()
    renewed = renew(record, 120, "a", LEASE, KEEP)
    assert renewed is not None
    assert (renewed.until, renewed.expires) == (150, 1150)
    assert renew(record, 120, "b", LEASE, KEEP) is None
    assert renew(done(110), 120, "a", LEASE, KEEP) is None
    assert renew(given_up(), 120, "a", LEASE, KEEP) is None
    assert renew(None, 120, "a", LEASE, KEEP) is None
    assert renew(record, 1130, "a", LEASE, KEEP) is None
    assert renew(record, 200, "a", LEASE, KEEP) is not None  # late, but nobody took over


def test_who_waits_is_woken_once_at_the_end() -> None:
    """Only if somebody met it in flight; however it ends; and a takeover keeps who waits."""
    assert settle(taken(), 110, work(), Ending.DONE, b"", TTL)[2] is False
    waited = claim(taken(), 101, ask("b"))[1]
    for ending in Ending:
        assert settle(waited, 110, work(), ending, b"", TTL)[2] is True
    over = claim(waited, 130, ask("c"))[1]
    assert settle(over, 140, work("c"), Ending.DONE, b"", TTL)[2] is True


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1:a", "1:a", True),
        ("1:a", "1:b", False),
        ("1:a", "2:b", True),
        ("", "", True),
        ("", "1:a", False),
        ("1:a", "", False),
    ],
)
def test_when_fingerprints_are_the_same(one: str, other: str, equal: bool) -> None:
    """Equal, or of two versions; nothing is not something."""
    assert same(one, other) is equal


step = st.tuples(
    st.sampled_from([0, 1, LEASE - 1, LEASE, LEASE + 1, KEEP, KEEP + LEASE, TTL - 1, TTL, -5]),
    st.sampled_from("abc"),
    st.sampled_from(["claim", "claim", "claim", "refuse", "renew", *Ending]),
)


@given(st.lists(step, max_size=30))
def test_whatever_happens_one_owner_at_a_time(steps: list) -> None:
    """Fences rise from owner to owner; who does not own changes nothing; what is done stays for its ttl."""
    record: Record | None = None
    now, owners = 10_000, dict.fromkeys("abc", work("none"))
    last_fence, numbers = 0, dict.fromkeys("abc", 0)
    for gap, who, verb in steps:
        now += gap
        live = record is not None and now < record.expires
        owner = record.token if live and record is not None else None
        if verb in ("claim", "refuse"):
            numbers[who] += 1
            token = f"{who}{numbers[who]}"
            before = record
            standing, record = claim(record, now, ask(token, takeover=verb == "claim"))
            if standing.answer is Answer.CLAIMED:
                assert standing.fence > last_fence or now < last_fence
                last_fence = standing.fence
                owners[who] = work(token, standing.fence, standing.attempt)
                if live and before is not None:
                    assert before.state is RecordState.RUNNING
                    assert before.until <= now
                    assert verb == "claim"
        elif verb == "renew":
            before = record
            record = renew(record, now, owners[who].token, LEASE, KEEP) or record
            if owners[who].token != owner:
                assert record is before
        else:
            before = record
            counts, record, _ = settle(record, now, owners[who], verb, b"v", TTL)
            if live and owners[who].token != owner:
                assert not counts
                assert record is before
            if live and before is not None and before.state is not RecordState.RUNNING:
                assert record is before
