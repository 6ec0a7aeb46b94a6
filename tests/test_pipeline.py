"""Pipeline: the first named is the outermost, nested ones are taken apart, absurd orders are warned of."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest

import aresilience as ar
from aresilience.testing import Recorder

P = ParamSpec("P")
T = TypeVar("T")


class Mark(ar.Policy):
    """A policy of a user: writes down when a call passes it, on the way in and on the way out."""

    def __init__(self, name: str, trail: list[str] | None = None) -> None:
        super().__init__(name)
        self.trail = [] if trail is None else trail

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def marked(*args: P.args, **kwargs: P.kwargs) -> T:
            self.trail.append(f"{self.name}(")
            try:
                return await fn(*args, **kwargs)
            finally:
                self.trail.append(f"){self.name}")

        return marked


class Limiter(Mark):
    """Stands where a rate limiter does."""

    layer = ar.Layer.LIMIT


class Idempotency(Mark):
    """Stands where the idempotency of requests does."""

    layer = ar.Layer.IDEMPOTENCY


async def fetch() -> str:
    """The call."""
    return "answer"


# Order


async def test_the_first_named_is_the_outermost() -> None:
    """Pipeline(a, b, c) calls a(b(c(fn)))."""
    trail: list[str] = []
    pipeline = ar.Pipeline(Mark("a", trail), Mark("b", trail), Mark("c", trail))
    assert await pipeline.call(fetch) == "answer"
    assert trail == ["a(", "b(", "c(", ")c", ")b", ")a"]


async def test_a_pipeline_in_a_pipeline_is_taken_apart() -> None:
    """Nested pipelines are the same as their parts in a row."""
    trail: list[str] = []
    a, b, c, d = (Mark(name, trail) for name in "abcd")
    pipeline = ar.Pipeline(a, ar.Pipeline(b, ar.Pipeline(), ar.Pipeline(c)), d)
    assert pipeline.policies == (a, b, c, d)
    await pipeline.call(fetch)
    assert trail == ["a(", "b(", "c(", "d(", ")d", ")c", ")b", ")a"]


async def test_without_policies_a_pipeline_changes_nothing() -> None:
    """An empty pipeline gives the very function back."""
    empty = ar.Pipeline()
    assert empty.wrap(fetch) is fetch
    assert await empty.call(fetch) == "answer"
    assert (empty.policies, repr(empty)) == ((), "Pipeline()")


async def test_the_standard_order() -> None:
    """`standard` puts its parts in the recommended order, in whichever order they are given."""
    trail: list[str] = []
    names = list(inspect.signature(ar.Pipeline.standard).parameters)
    names.remove("name")
    parts = {name: Mark(name, trail) for name in reversed(names)}
    pipeline = ar.Pipeline.standard(**parts, name="all")
    assert [policy.name for policy in pipeline.policies] == [
        "fallback", "limiter", "bulkhead", "deadline", "idempotency", "retry", "hedge", "breaker",
        "attempt_timeout",
    ]  # fmt: skip
    await pipeline.call(fetch)
    assert trail[:9] == [f"{name}(" for name in names]
    assert pipeline.name == "all"
    assert ar.Pipeline.standard().policies == ()


def test_a_pipeline_shows_its_parts() -> None:
    """The repr is that of the parts, in order; `policies` has them for tests."""
    retry, limit = ar.Retry(on=OSError, name="r"), ar.Timeout(1.0, name="t")
    pipeline = ar.Pipeline(retry, limit)
    assert pipeline.policies == (retry, limit)
    assert repr(pipeline) == f"Pipeline({retry!r}, {limit!r})"


async def test_a_listener_hears_every_part_once() -> None:
    """`listen` on a pipeline listens to all its parts, until it is ended."""
    recorder = Recorder()
    bulkhead = ar.Bulkhead(1, name="full")
    pipeline = ar.Pipeline(ar.Fallback("instead", name="menu"), bulkhead)
    end = pipeline.listen(recorder)
    async with bulkhead:
        assert await pipeline.call(fetch) == "instead"
        end()
        assert await pipeline.call(fetch) == "instead"
    assert [event.policy for event in recorder.events] == ["full", "menu"]


def test_only_policies_are_taken() -> None:
    """What is no policy is refused, with its place where it has a name."""
    with pytest.raises(TypeError, match=r"Pipeline takes policies, got 5 \(int\)"):
        ar.Pipeline(ar.Timeout(1.0), 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Pipeline takes policies, got <class .*Timeout'> \(ABCMeta\)"):
        ar.Pipeline(ar.Timeout)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"Pipeline\.standard: retry must be a policy or None, got 3 \(int\)"
    ):
        ar.Pipeline.standard(retry=3)  # type: ignore[arg-type]


# Orders that cannot be meant

BUDGET = ar.RetryBudget()

PARTS: dict[str, Callable[[], ar.Policy]] = {
    "retry": lambda: ar.Retry(on=OSError, name="retry"),
    "retry on everything": lambda: ar.Retry(on=Exception, name="retry"),
    "retry by predicate": lambda: ar.Retry(on=lambda error: True, name="retry"),
    "retry on open": lambda: ar.Retry(on=(OSError, ar.CircuitOpen), name="retry"),
    "retry on refusals": lambda: ar.Retry(on=ar.Rejected, name="retry"),
    "retry with budget": lambda: ar.Retry(on=OSError, budget=BUDGET, name="retry"),
    "breaker": lambda: ar.CircuitBreaker("breaker"),
    "breakers": lambda: ar.CircuitBreakers("breaker", key=lambda: 1),
    "hedge": lambda: ar.Hedge(delay=1.0, name="hedge"),
    "hedge with budget": lambda: ar.Hedge(delay=1.0, budget=BUDGET, name="hedge"),
    "fallback": lambda: ar.Fallback("instead", name="fallback"),
    "bulkhead": lambda: ar.Bulkhead(10, name="bulkhead"),
    "limiter": lambda: Limiter("limiter"),
    "idempotency": lambda: Idempotency("idempotency"),
    "other": lambda: Mark("other"),
    "timeout 10": lambda: ar.Timeout(10.0, name="total"),
    "timeout 5": lambda: ar.Timeout(5.0, name="five"),
    "timeout 1": lambda: ar.Timeout(1.0, name="attempt"),
}


def built(order: str) -> list[str]:
    """Build the pipeline of these parts; the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ar.Pipeline(*(PARTS[part]() for part in order.split(" > ")))
    assert {warning.category for warning in caught} <= {ar.PipelineWarning}
    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ("retry > retry", "retry inside retry: retries multiply, 3 · 3 attempts are 9; keep one"),
        ("retry > bulkhead > retry", "retry inside retry: retries multiply"),
        (
            "breaker > retry",
            "retry inside breaker: the breaker sees one failure where the retry made several",
        ),
        ("breakers > bulkhead > retry", "put the retry outside the breaker"),
        ("retry on open > breaker", "retry retries CircuitOpen: it would wait for a circuit that is open"),
        ("retry on refusals > bulkhead > breakers", "retry retries CircuitOpen"),
        ("retry > fallback", "fallback inside retry: the fallback hides every failure from it"),
        ("breaker > fallback", "fallback inside breaker: the fallback hides every failure from it"),
        ("hedge > fallback", "put the fallback outside"),
        ("retry > idempotency", "idempotency inside retry: every attempt is a claim of its own"),
        ("hedge > idempotency", "put the idempotency outside"),
        ("retry > hedge", "hedge inside retry: attempts and hedges multiply; give both one RetryBudget"),
        ("hedge > retry", "retry inside hedge: attempts and hedges multiply"),
        ("timeout 1 > timeout 5", "five inside attempt: 5 s inside 1 s never expires"),
        ("timeout 1 > retry > timeout 1", "attempt inside attempt: 1 s inside 1 s never expires"),
        (
            "retry > timeout 1 > breaker",
            "breaker inside attempt: the breaker sees an attempt that takes too long",
        ),
        ("hedge > timeout 1 > bulkhead > breaker", "put the attempt's timeout inside the breaker"),
        ("timeout 10 > retry > timeout 1 > breakers", "as cancelled, which counts nowhere"),
    ],
)
def test_y9_an_absurd_order_is_warned_of(order: str, complaint: str) -> None:
    """Order checked, absurd orders warned of when the pipeline is built, once each, where it is built."""
    warned = built(order)
    assert len(warned) == 1
    assert complaint in warned[0]


@pytest.mark.parametrize(
    "order",
    [
        # the default, and its parts
        "fallback > limiter > bulkhead > timeout 10 > idempotency > retry with budget > hedge with budget"
        " > breaker > timeout 1",
        "timeout 10 > retry > breaker > timeout 1",
        "retry > breakers > timeout 1",
        "timeout 10 > retry > breaker",
        # Polly's, Microsoft's, resilience4j's, failsafe-go's
        "fallback > retry > breaker > timeout 1",
        "limiter > timeout 10 > retry > breaker > timeout 1",
        "retry > breaker > limiter > timeout 1 > bulkhead",
        "fallback > retry > breaker",
        # a quota of outbound calls: each attempt pays
        "retry > limiter > breaker > timeout 1",
        "retry > bulkhead > timeout 1",
        # one budget is enough to bound both
        "retry with budget > hedge",
        "hedge with budget > retry",
        # a refusal of the circuit is neutral: neither Exception nor a predicate retries it
        "retry on everything > breaker",
        "retry by predicate > breaker",
        "retry on refusals > bulkhead",
        # a limit on each side of the breaker, and a limit around all of it
        "retry > timeout 5 > breaker > timeout 1",
        "timeout 10 > breaker",
        "breaker > breakers",
        "fallback > fallback",
        "other > retry > other > breaker > other",
    ],
)
def test_an_order_that_can_be_meant_is_not(order: str) -> None:
    """The recommended order, those of other libraries, and their variants give no warning."""
    assert built(order) == []


def test_the_same_object_twice_is_warned_of() -> None:
    """One policy object at two places of a pipeline is passed twice by each call."""
    bulkhead = ar.Bulkhead(1, name="shared")
    with pytest.warns(
        ar.PipelineWarning, match="shared is in this pipeline twice: each call would pass it two"
    ):
        ar.Pipeline(bulkhead, ar.Timeout(1.0), bulkhead)


def test_parts_of_nested_pipelines_are_judged_together() -> None:
    """What is wrong only between two pipelines is found when they are put together."""
    inner = ar.Pipeline(PARTS["retry"](), PARTS["timeout 1"]())
    with pytest.warns(ar.PipelineWarning, match="retry inside breaker"):
        ar.Pipeline(PARTS["breaker"](), inner)


class Ours(ar.Pipeline):
    """A subclass of a user."""


def test_a_warning_points_at_the_caller() -> None:
    """The warning's file and line are where the pipeline was written, with `standard` and subclasses too."""
    first, second = PARTS["retry"](), PARTS["retry"]()

    def line() -> int:
        return inspect.currentframe().f_back.f_lineno  # type: ignore[union-attr]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lines = [
            (ar.Pipeline(first, second), line())[1],
            (ar.Pipeline.standard(retry=first, hedge=second), line())[1],
            (Ours(first, second), line())[1],
            (Ours.standard(retry=first, hedge=second), line())[1],
        ]
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, n) for n in lines]
