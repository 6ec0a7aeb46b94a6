"""Declaring a saga: kinds, graphs, and what is refused before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import aresilience as ar
from aresilience.saga.plan import Kind, Plan


class Opaque:
    """Nothing that could be kept."""


@dataclass
class Cart:
    """An input."""

    items: list[str]


async def nothing(ctx: ar.SagaContext[Any]) -> None:
    """A step."""


async def undone(ctx: ar.SagaContext[Any], result: None) -> None:
    """A compensation."""


def test_a_compensation_after_the_pivot_is_refused() -> None:
    """After the point of no return nothing is undone, so nobody can declare that it would be."""
    saga = ar.Saga("s")
    saga.pivot(nothing)
    after = saga.retriable(name="after")(nothing)
    with pytest.raises(ValueError, match="never compensated"):
        after.compensate(undone)
    with pytest.raises(ValueError, match="after the pivot"):
        saga.step(name="late")(nothing)
    with pytest.raises(ValueError, match="after the pivot"):
        saga.pivot(name="second")(nothing)


def test_without_a_pivot_the_first_retriable_is_the_point_of_no_return() -> None:
    """What can be undone is declared before what cannot."""
    saga = ar.Saga("s")
    saga.retriable(nothing)
    with pytest.raises(ValueError, match="after the pivot"):
        saga.step(name="late")(nothing)


def test_steps_follow_each_other_unless_they_say() -> None:
    """Without `after` a step waits for the one before it; with `after=[]` for none."""
    plan = Plan("s", 1)
    for name, after in (("a", None), ("b", None), ("c", ()), ("d", ("b", "c", "b"))):
        plan.add(name, Kind.COMPENSABLE, after)
    assert [plan.steps[name].after for name in "abcd"] == [(), ("a",), (), ("b", "c")]
    plan.add("p", Kind.PIVOT, None)
    plan.add("r", Kind.RETRIABLE, None)
    plan.add("q", Kind.RETRIABLE, None)
    assert plan.steps["r"].after == ()
    assert plan.steps["q"].after == ("r",)


def test_the_fingerprint_is_that_of_the_steps() -> None:
    """It changes with names, order, kinds, graph and compensations, and with nothing else."""

    def plan(*steps: tuple[str, Kind, Any], undo: str = "") -> str:
        made = Plan("s", 1)
        for name, kind, after in steps:
            made.add(name, kind, after)
        if undo:
            made.add_undo(undo)
        return made.fingerprint

    a, b = ("a", Kind.COMPENSABLE, None), ("b", Kind.COMPENSABLE, None)
    prints = [
        plan(a, b),
        plan(b, a),
        plan(a, ("b", Kind.COMPENSABLE, ())),
        plan(a, ("b", Kind.PIVOT, None)),
        plan(a, b, undo="a"),
        plan(a),
        plan(("a,1:b", Kind.COMPENSABLE, None)),
    ]
    assert len(set(prints)) == len(prints)
    assert plan(a, b) == prints[0]


MISTAKES: list[tuple[type[Exception], str, Any]] = [
    (ValueError, "already", lambda s: [s.step(nothing), s.step(nothing)]),
    (ValueError, "not declared before", lambda s: s.step(after=["x"])(nothing)),
    (ValueError, "never compensated", lambda s: s.retriable(name="r")(nothing).compensate(undone)),
    (TypeError, "async", lambda s: s.step(lambda ctx: None)),
    (TypeError, "policy", lambda s: s.step(retry=3)(nothing)),
    (TypeError, "Backoff", lambda s: s.step(backoff=3)(nothing)),
    (ValueError, "attempts", lambda s: s.step(attempts=0)(nothing)),
    (ValueError, "timeout", lambda s: s.step(timeout=0)(nothing)),
    (ValueError, "on_exhausted", lambda s: s.step(on_exhausted="ignore")(nothing)),
    (TypeError, "async", lambda s: s.step(nothing).compensate(print)),
    (
        ValueError,
        "has a compensation",
        lambda s: [s.step(nothing).compensate(undone) for _ in "1"] and twice(s),
    ),
    (ValueError, "lower versions", lambda s: ar.Saga("s", older=[s])),
    (ValueError, "deadline", lambda s: ar.Saga("s", deadline=-1)),
    (ValueError, "lease", lambda s: ar.Saga("s", lease=0)),
    (ValueError, "on_cancel", lambda s: ar.Saga("s", on_cancel="ignore")),  # type: ignore[arg-type]
    (ValueError, "name", lambda s: ar.Saga("")),
    (TypeError, "codec", lambda s: ar.Saga("s", codec=3)),  # type: ignore[arg-type]
]


def twice(saga: ar.Saga) -> None:
    """Declare a second compensation."""
    saga.steps["nothing"].compensate(undone)


@pytest.mark.parametrize(("kind", "words", "mistake"), MISTAKES)
def test_mistakes_are_refused_at_once(kind: type[Exception], words: str, mistake: Any) -> None:
    """With an error that says what is wrong."""
    with pytest.raises(kind, match=words):
        mistake(ar.Saga("s"))


async def test_what_cannot_be_kept_is_refused_before_the_first_step() -> None:
    """G8: a result type without a form, an input that is not of its type, or too large: no step runs."""
    ran: list[str] = []

    saga = ar.Saga("s", max_bytes=100)

    @saga.step
    async def first(ctx: ar.SagaContext[Cart]) -> None:
        ran.append("first")

    for bad in ("no cart", Cart(["x" * 200]), Cart([object()])):  # type: ignore[list-item]
        with pytest.raises(ar.NotStorable):
            await saga.run(bad)

    @saga.step
    async def second(ctx: ar.SagaContext[Cart]) -> Opaque:
        raise NotImplementedError

    with pytest.raises(TypeError, match="second"):
        await saga.run(Cart([]))
    with pytest.raises(ValueError, match="no steps"):
        await ar.Saga("empty").run(None)
    with pytest.raises(ValueError, match="at most"):
        await ar.Saga("s").start(None, id="x" * 2000)
    assert ran == []


async def test_a_step_is_still_its_function() -> None:
    """It can be called alone, in a test of one's own."""
    saga = ar.Saga("s")

    @saga.step
    async def greet(ctx: ar.SagaContext[str]) -> str:
        return f"hello {ctx.input}"

    ctx: ar.SagaContext[str] = ar.SagaContext("s", "1", "greet", "world", lambda name: None)
    assert await greet(ctx) == "hello world"
    assert "greet" in repr(greet)
    assert "greet" in repr(ctx)
    assert "1 steps" in repr(saga)
