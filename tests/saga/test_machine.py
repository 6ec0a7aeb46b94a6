"""The machine: what is next, row by row; and, by hypothesis, for any graph and any history."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aresilience.saga.machine import Course, Move
from aresilience.saga.plan import Kind, Plan
from aresilience.saga.record import Did, Entry, SagaState, StepState

C, P, R = Kind.COMPENSABLE, Kind.PIVOT, Kind.RETRIABLE


def plan_of(*steps: tuple[str, Kind, tuple[str, ...] | None], undo: str = "", park: str = "") -> Plan:
    """A plan; `undo`: the names (letters) of steps with a compensation."""
    plan = Plan("s", 1)
    for name, kind, after in steps:
        plan.add(name, kind, after, "park" if name in park else None)
        if name in undo:
            plan.add_undo(name)
    return plan


def entry(text: str) -> Entry:
    """`start a`, `done a`, `failed b`, …, `end done`."""
    did, _, step = text.partition(" ")
    if did == "end":
        return Entry(Did.END, "", 1, step.encode())
    return Entry(Did(did), step, 1, b"r" if did == "done" else b"")


LINE = plan_of(("a", C, None), ("b", C, None), ("p", P, None), ("r", R, None), undo="ab")
DIAMOND = plan_of(("a", C, None), ("b", C, ("a",)), ("c", C, ("a",)), ("d", C, ("b", "c")), undo="abcd")
PARKS = plan_of(("a", C, None), ("b", C, None), undo="ab", park="b")
PAIR = plan_of(("a", C, ()), ("b", C, ()), undo="ab", park="ab")
SAFE_PIVOT = plan_of(("a", C, None), ("p", P, None), undo="ap")

ROWS: list[tuple[Plan, str, int, Move]] = [
    (LINE, "", 0, Move(start=("a",))),
    (LINE, "start a", 1, Move()),
    (LINE, "start a, done a", 0, Move(start=("b",))),
    (LINE, "start a, done a, start b, done b", 0, Move(start=("p",))),
    (LINE, "start a, done a, start b, done b, start p, done p", 0, Move(start=("r",))),
    (
        LINE,
        "start a, done a, start b, done b, start p, done p, start r, done r",
        0,
        Move(finish=SagaState.DONE),
    ),
    (LINE, "start a, done a, start b, failed b", 0, Move(turn="b")),
    (LINE, "start a, done a, start b, failed b, turn b", 0, Move(undo="a")),
    (LINE, "start a, done a, start b, unknown b, turn b", 0, Move(undo="b")),
    (LINE, "start a, done a, start b, unknown b, turn b, undo b, undone b", 0, Move(undo="a")),
    (LINE, "start a, done a, start b, turn b, undo b, undone b, undo a", 0, Move(undo="a")),
    (LINE, "start a, failed a, turn a", 0, Move(finish=SagaState.COMPENSATED)),
    (LINE, "start a, done a, abort ", 0, Move(turn="")),
    (LINE, "start a, abort ", 1, Move()),
    (LINE, "start a, done a, start b, done b, start p, abort ", 1, Move()),
    (LINE, "start a, done a, start b, done b, start p, done p, abort ", 0, Move(start=("r",))),
    (LINE, "start a, done a, start b, done b, start p, failed p", 0, Move(turn="p")),
    (LINE, "start a, done a, start b, done b, start p, unknown p", 0, Move(park="p")),
    (LINE, "start a, done a, start b, done b, start p, done p, start r, unknown r", 0, Move(park="r")),
    (LINE, "start a, done a, start b, done b, start p, abort , unknown p", 0, Move(park="p")),
    (SAFE_PIVOT, "start a, done a, start p, abort , unknown p", 0, Move(turn="p")),
    (SAFE_PIVOT, "start a, done a, start p, unknown p", 0, Move(turn="p")),
    (SAFE_PIVOT, "start a, done a, start p, unknown p, turn p", 0, Move(undo="p")),
    (DIAMOND, "start a, done a", 0, Move(start=("b", "c"))),
    (DIAMOND, "start a, done a, start b, start c, done b", 1, Move()),
    (DIAMOND, "start a, done a, start b, start c, failed b", 1, Move()),
    (DIAMOND, "start a, done a, start b, start c, failed b, done c", 0, Move(turn="b")),
    (DIAMOND, "start a, done a, start b, start c, failed b, done c, turn b", 0, Move(undo="c")),
    (
        DIAMOND,
        "start a, done a, start b, start c, done c, done b, start d, failed d, turn d",
        0,
        Move(undo="b"),
    ),
    (
        DIAMOND,
        "start a, done a, start b, start c, done b, done c, start d, failed d, turn d",
        0,
        Move(undo="c"),
    ),
    (PARKS, "start a, done a, start b, unknown b", 0, Move(park="b")),
    (PARKS, "start a, done a, start b, unknown b, park b, retry b", 0, Move(start=("b",))),
    (PARKS, "start a, done a, start b, unknown b, park b, skip b", 0, Move(finish=SagaState.DONE)),
    (PARKS, "start a, done a, start b, unknown b, park b, abort , retry ", 0, Move(turn="")),
    (PARKS, "start a, unknown a, park a, skip a, start b, failed b, turn b", 0, Move(undo="a")),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry b", 0, Move(start=("b",))),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry b, start b", 1, Move()),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry b, start b, done b", 0, Move(park="a")),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry b, start b, failed b", 0, Move(turn="b")),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry b, abort ", 0, Move(turn="a")),
    (PAIR, "start a, start b, unknown a, unknown b, park a, retry ", 0, Move(start=("a", "b"))),
    (LINE, "start a, done a, start b, failed b, turn b, undo a, stuck a, retry ", 0, Move(undo="a")),
    (
        LINE,
        "start a, done a, start b, failed b, turn b, undo a, stuck a, skip a",
        0,
        Move(finish=SagaState.COMPENSATED),
    ),
]


@pytest.mark.parametrize(("plan", "journal", "running", "move"), ROWS)
def test_what_is_next(plan: Plan, journal: str, running: int, move: Move) -> None:
    """One row: a journal, how many steps run, and what the machine says."""
    course = Course(plan, [entry(text) for text in journal.split(", ") if text])
    assert course.next(running) == move


def test_a_step_that_parks_is_not_undone_by_the_deadline() -> None:
    """If nobody knows whether it happened a person decides, late or not; an abort is such a decision."""
    for journal in ("start a, done a, start b, unknown b", "start a, done a, start b"):
        course = Course(PARKS, map(entry, journal.split(", ")))
        course.take_over()
        assert course.next(0, late=True) == Move(park="b")
        course.apply(entry("abort "))
        turn = "b" if "unknown" in journal else ""
        assert course.next(0, late=True) == Move(turn=turn)
    done = Course(PARKS, map(entry, ["start a", "done a"]))
    assert done.next(0, late=True) == Move(turn=""), "it never began"


def test_the_deadline_counts_before_the_pivot_only() -> None:
    """Late before the pivot: back, once nothing runs; late after it, or when all is done: forward."""
    before = Course(LINE, map(entry, ["start a", "done a", "start b"]))
    assert before.next(1, late=True) == Move()
    before.apply(entry("done b"))
    assert before.next(0, late=True) == Move(turn="")
    after = Course(LINE, map(entry, ["start a", "done a", "start b", "done b", "start p"]))
    assert after.next(1, late=True) == Move()
    assert after.past_pivot
    unknown = Course(LINE, map(entry, ["start a", "done a", "start b", "done b", "start p", "unknown p"]))
    assert unknown.next(0, late=True) == Move(park="p"), "it may have happened: nobody guesses"
    after.apply(entry("done p"))
    assert after.next(0, late=True) == Move(start=("r",))
    done = Course(DIAMOND, map(entry, [f"{did} {step}" for step in "abcd" for did in ("start", "done")]))
    assert done.next(0, late=True) == Move(finish=SagaState.DONE)


def test_who_takes_over_makes_again_what_was_begun() -> None:
    """Going forward, what was started and has no outcome is started again; what is settled is not."""
    course = Course(DIAMOND, map(entry, ["start a", "done a", "start b", "start c", "done b"]))
    assert course.next(0) == Move()
    course.take_over()
    assert course.next(0) == Move(start=("c",))


def test_ten_thousand_steps_take_linear_time() -> None:
    """G10: four times the steps take about four times as long, in a line and side by side."""

    def cost(steps: int, wide: bool) -> int:
        plan = Plan("s", 1)
        for i in range(steps):
            plan.add(str(i), C, () if wide else None)
            plan.add_undo(str(i))
        course, count = Course(plan), 0
        while (move := course.next(0)).finish is None:
            for step in move.start:
                course.apply(Entry(Did.START, step, 1))
                course.apply(Entry(Did.DONE, step, 1, b"r"))
                count += 1
        assert move.finish is SagaState.DONE
        return count

    assert cost(10_000, wide=False) == 10_000
    assert cost(10_000, wide=True) == 10_000


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any graph of up to eight compensable steps, with or without a pivot and retriable steps."""
    plan = Plan("s", 1)
    for i in range(draw(st.integers(0, 6))):
        before = [str(j) for j in range(i)]
        after = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        plan.add(str(i), C, after, draw(st.sampled_from([None, "park", "compensate"])))
        if draw(st.booleans()):
            plan.add_undo(str(i))
    if draw(st.booleans()):
        plan.add("p", P, None)
        if draw(st.booleans()):
            plan.add_undo("p")
    names = [f"r{i}" for i in range(draw(st.integers(0, 3)))]
    for i, name in enumerate(names):
        plan.add(name, R, draw(st.sampled_from([None, tuple(names[:i])])))
    return plan


@settings(max_examples=400, deadline=None)
@given(plan=plans(), seed=st.integers(0, 2**32))
@example(plan=DIAMOND, seed=0)
def test_any_history_ends_all_or_nothing(plan: Plan, seed: int) -> None:
    """Whatever fails, whenever it crashes or is aborted: done means all, compensated means none that has an
    undo; nothing starts before what it waits for, nothing is undone before what came after it."""
    chance = random.Random(seed)
    journal: list[Entry] = []
    course = Course(plan)
    happened: list[str] = []  # what is in effect, in the order in which it happened
    busy: list[str] = []
    started: set[str] = set()
    undone: list[str] = []

    def note(*entries: Entry) -> None:
        for each in entries:
            journal.append(each)
            course.apply(each)

    for _ in range(500):
        if chance.random() < 0.1:  # the process dies; another replays
            course = Course(plan, journal)
            course.take_over()
            busy.clear()
        if chance.random() < 0.03 and not course.turned and course.abort is None:
            note(Entry(Did.ABORT, payload=b"why"))
        if busy and chance.random() < 0.6:
            step = busy.pop(chance.randrange(len(busy)))
            did = chance.choices([Did.DONE, Did.FAILED, Did.UNKNOWN], [8, 1, 1])[0]
            if did is Did.FAILED and plan.steps[step].kind is R:
                did = Did.UNKNOWN
            if did is Did.DONE or (did is Did.UNKNOWN and chance.random() < 0.5):
                if step not in happened:
                    happened.append(step)
            elif did is Did.FAILED and step in happened:
                did = Did.DONE  # under the same key it cannot have failed after it had happened
            note(Entry(did, step, course.progress(step).tries, b"r"))
            continue
        move = course.next(len(busy), late=chance.random() < 0.02)
        if move.finish is not None:
            break
        if move.turn is not None:
            assert not busy
            note(Entry(Did.TURN, move.turn, len(journal)))
        elif move.park is not None:
            note(Entry(Did.PARK, move.park, len(journal)))
            assert course.state is SagaState.PARKED
            note(Entry(Did.RETRY, "", len(journal)))
        elif move.undo is not None:
            note(Entry(Did.UNDO, move.undo, course.progress(move.undo).undo_tries + 1))
            fate = chance.random()
            if fate < 0.2:
                note(Entry(Did.STUCK, move.undo, course.progress(move.undo).undo_tries))
                assert course.state is SagaState.STUCK
                assert move.undo in course.remaining()
                note(Entry(Did.RETRY, "", len(journal)))
            elif fate < 0.9:
                undone.append(move.undo)
                if move.undo in happened:
                    happened.remove(move.undo)
                note(Entry(Did.UNDONE, move.undo, course.progress(move.undo).undo_tries))
        for step in move.start:
            waits_for = plan.steps[step].after
            assert all(course.progress(other).state is StepState.DONE for other in waits_for)
            if plan.steps[step].kind is not C:
                assert all(course.progress(other).state is StepState.DONE for other in plan.compensable)
            note(Entry(Did.START, step, course.progress(step).tries + 1))
            busy.append(step)
            started.add(step)
            if chance.random() < 0.3 and step not in happened:
                happened.append(step)  # it does its work early, and may die before it says so
    else:
        raise AssertionError("it does not come to an end")
    assert not busy
    if move.finish is SagaState.DONE:
        assert set(happened) == set(plan.steps)
        assert undone == []
    else:
        left = [step for step in happened if plan.steps[step].undoable]
        assert left == []
        assert plan.pivot not in happened or plan.steps[plan.pivot].undoable
        assert not any(plan.steps[step].kind is R for step in started)
        for first, second in combinations(undone, 2):
            assert first not in ancestors(plan, second), "undone before what was built on it"


def ancestors(plan: Plan, step: str) -> set[str]:
    """All that a step waits for, however indirectly."""
    found: set[str] = set()
    todo = list(plan.steps[step].after)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += plan.steps[name].after
    return found
