"""Pipeline: policies around policies. The first one named is the outermost.

The order that `Pipeline.standard` keeps, and why:

    fallback         answers when everything inside has given up
    limiter          admission: one token per request, not per attempt
    bulkhead         no more than so many requests at once, retries and their waits included
    deadline         the total: limits all attempts and waits together
    idempotency      one key for all attempts
    retry            outside the breaker: every attempt counts, and an open circuit ends the retrying
    hedge            each attempt may be doubled
    breaker          sees every attempt, and its timeout as a failure
    attempt_timeout  innermost: a hang is a failure of this attempt

With a numbers example: Bulkhead(10, max_waiting=100) outside Retry(attempts=3) means at most 10 calls to
the callee at once; inside it, still 10, but every attempt queues anew, behind 100 others.

A pipeline that cannot be meant warns when it is built (`PipelineWarning`).
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar

from aresilience.errors import PipelineWarning
from aresilience.events import Listener
from aresilience.policy import Layer, Policy

__all__ = ["Pipeline"]

P = ParamSpec("P")
T = TypeVar("T")


class Pipeline(Policy):
    """`Pipeline(a, b, c)` calls a(b(c(fn))). Without policies it changes nothing.

    `policies` are its parts, outermost first, pipelines inside it taken apart.
    """

    __slots__ = ("policies",)

    layer = Layer.OTHER

    def __init__(self, *policies: Policy, name: str | None = None) -> None:
        super().__init__(name)
        self.policies = tuple(_flat(policies))
        for complaint in _complaints(self.policies):
            warnings.warn(complaint, PipelineWarning, stacklevel=_level_of_caller())

    @classmethod
    def standard(
        cls,
        *,
        fallback: Policy | None = None,
        limiter: Policy | None = None,
        bulkhead: Policy | None = None,
        deadline: Policy | None = None,
        idempotency: Policy | None = None,
        retry: Policy | None = None,
        hedge: Policy | None = None,
        breaker: Policy | None = None,
        attempt_timeout: Policy | None = None,
        name: str | None = None,
    ) -> Pipeline:
        """The recommended order, from whichever parts are given."""
        parts = {
            "fallback": fallback,
            "limiter": limiter,
            "bulkhead": bulkhead,
            "deadline": deadline,
            "idempotency": idempotency,
            "retry": retry,
            "hedge": hedge,
            "breaker": breaker,
            "attempt_timeout": attempt_timeout,
        }
        for part, policy in parts.items():
            if policy is not None and not isinstance(policy, Policy):
                raise TypeError(
                    f"Pipeline.standard: {part} must be a policy or None, got {policy!r} "
                    f"({type(policy).__name__})"
                )
        return cls(*(policy for policy in parts.values() if policy is not None), name=name)

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        wrapped: Any = fn
        for policy in reversed(self.policies):
            if policy.layer is Layer.IDEMPOTENCY and wrapped is not fn:
                functools.update_wrapper(wrapped, fn)  # whose work it is, and what that returns
            wrapped = policy.around(wrapped)
        return wrapped  # type: ignore[no-any-return]

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` the events of every part; the function returned ends it."""
        ends = [policy.listen(listener) for policy in dict.fromkeys(self.policies)]

        def end() -> None:
            for each in ends:
                each()

        return end

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.policies))})"


def _flat(policies: tuple[Policy, ...]) -> Iterator[Policy]:
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from policy.policies
        elif isinstance(policy, Policy):
            yield policy
        else:
            raise TypeError(f"Pipeline takes policies, got {policy!r} ({type(policy).__name__})")


def _complaints(policies: tuple[Policy, ...]) -> Iterator[str]:
    """What is wrong with the order, pair by pair: outer first."""
    for place, outer in enumerate(policies):
        for inner in policies[place + 1 :]:
            complaint = _complaint(outer, inner)
            if complaint:
                yield complaint
    yield from _blind_breakers(policies)


def _blind_breakers(policies: tuple[Policy, ...]) -> Iterator[str]:
    """Breakers with the limit of an attempt outside of them, and none inside."""
    attempt: str | None = None  # the limit of an attempt: a timeout inside of what repeats calls
    repeated = False
    for place, policy in enumerate(policies):
        if policy.layer in (Layer.RETRY, Layer.HEDGE):
            repeated = True
        elif policy.layer is Layer.TIMEOUT and repeated:
            attempt = policy.name
        elif policy.layer is Layer.BREAKER and attempt is not None:
            if any(inner.layer is Layer.TIMEOUT for inner in policies[place:]):
                continue
            yield (
                f"{policy.name} inside {attempt}: the breaker sees an attempt that takes too long as "
                "cancelled, which counts nowhere; put the attempt's timeout inside the breaker"
            )


def _complaint(outer: Policy, inner: Policy) -> str | None:
    o, i = outer.layer, inner.layer
    names = f"{inner.name} inside {outer.name}"
    if outer is inner:
        return f"{outer.name} is in this pipeline twice: each call would pass it two times"
    if i is Layer.RETRY:
        if o is Layer.RETRY:
            return f"{names}: retries multiply, 3 · 3 attempts are 9; keep one"
        if o is Layer.BREAKER:
            return (
                f"{names}: the breaker sees one failure where the retry made several calls, and an "
                "open circuit does not stop the retrying; put the retry outside the breaker"
            )
    if o is Layer.RETRY and inner.refusal is not None and i is Layer.BREAKER:
        retries = getattr(outer, "retries", None)
        if retries is not None and retries(inner.refusal):
            return (
                f"{outer.name} retries {inner.refusal.__name__}: it would wait for a circuit that "
                "is open so that nobody waits; leave it out of on="
            )
    if i is Layer.FALLBACK and o in (Layer.RETRY, Layer.BREAKER, Layer.HEDGE):
        return f"{names}: the fallback hides every failure from it; put the fallback outside"
    if i is Layer.IDEMPOTENCY and o in (Layer.RETRY, Layer.HEDGE):
        return f"{names}: every attempt is a claim of its own; put the idempotency outside"
    if {o, i} == {Layer.RETRY, Layer.HEDGE} and not (_budgeted(outer) or _budgeted(inner)):
        return f"{names}: attempts and hedges multiply; give both one RetryBudget"
    if o is i is Layer.TIMEOUT:
        limits = getattr(outer, "seconds", None), getattr(inner, "seconds", None)
        if limits[0] is not None and limits[1] is not None and limits[0] <= limits[1]:
            return f"{names}: {limits[1]:g} s inside {limits[0]:g} s never expires"
    return None


def _level_of_caller() -> int:
    """The `stacklevel` at which our caller's warning points at the first line outside this file."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame, level = frame.f_back, level + 1
    return level


def _budgeted(policy: Policy) -> bool:
    return bool(getattr(policy, "budgeted", False))
