"""A step as it is declared: its functions, how hard they are tried, and how its result is kept."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, overload

from aresilience import arguments
from aresilience.backoff import Backoff
from aresilience.codecs import Codec, returned_by
from aresilience.deadline import Expiry
from aresilience.errors import TimedOut
from aresilience.policy import Policy
from aresilience.saga.context import SagaContext
from aresilience.saga.plan import Kind, Plan, StepPlan

__all__ = ["Action", "Declare", "Effort", "Step", "effort", "input_of"]

R = TypeVar("R")
Action: TypeAlias = Callable[[SagaContext[Any]], Awaitable[R]]
Undo: TypeAlias = Callable[[SagaContext[Any], Any], Awaitable[object]]

_ATTEMPTS = {Kind.COMPENSABLE: 3, Kind.PIVOT: 3, Kind.RETRIABLE: 25}
_UNDO_ATTEMPTS = 10


class Effort:
    """A function with its policies around it, and how often it is tried, each try journalled."""

    __slots__ = ("attempts", "backoff", "call")

    def __init__(self, call: Callable[..., Awaitable[Any]], attempts: int, backoff: Backoff) -> None:
        self.call = call
        self.attempts = attempts
        self.backoff = backoff


def effort(
    where: str,
    function: Any,
    default: int,
    retry: Policy | None,
    timeout: Policy | float | timedelta | None,
    attempts: int | None,
    backoff: Backoff | None,
) -> Effort:
    """Check and combine: the time limit inside the retries."""
    if not callable(function) or not arguments.answers_later(function):
        raise TypeError(f"{where} must be an async function, got {function!r}: write 'async def'")
    call = function
    if isinstance(timeout, Policy):
        call = timeout.wrap(call)
    elif timeout is not None:
        call = _limited(call, arguments.duration(f"{where}: timeout", timeout))
    if retry is not None:
        if not isinstance(retry, Policy):
            raise TypeError(f"{where}: retry must be a policy, as ar.Retry(…), got {retry!r}")
        call = retry.wrap(call)
    if backoff is not None and not isinstance(backoff, Backoff):
        raise TypeError(f"{where}: backoff must be a Backoff, got {backoff!r}")
    if attempts is None:
        attempts = default if retry is None else 1
    return Effort(call, arguments.count(f"{where}: attempts", attempts), backoff or Backoff.exponential())


class Step(Generic[R]):
    """A declared step. `@step.compensate` declares how it is undone; called, it is the function that it was."""

    __slots__ = ("_codec", "_plans", "_where", "effort", "function", "name", "plan", "undo")

    def __init__(
        self, plans: Plan, plan: StepPlan, function: Action[R], effort: Effort, codec: Codec[Any] | None
    ) -> None:
        self.name = plan.name
        self.plan = plan
        self.effort = effort
        self.undo: Effort | None = None
        self.function = function
        self._plans = plans
        self._codec = codec
        self._where = f"saga {plans.name!r}, step {plan.name!r}"

    async def __call__(self, ctx: SagaContext[Any]) -> R:
        """The function itself, without its policies: for tests."""
        return await self.function(ctx)

    @overload
    def compensate(self, function: Undo, /) -> Undo: ...

    @overload
    def compensate(
        self,
        /,
        *,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
    ) -> Callable[[Undo], Undo]: ...

    def compensate(
        self,
        function: Undo | None = None,
        /,
        *,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
    ) -> Undo | Callable[[Undo], Undo]:
        """Declare how it is undone: a coroutine function of the context and the step's result.

        It must bear being called twice, and (with `ctx.outcome_unknown`, and None for the result) for what
        never happened. It is tried `attempts` times, by default 10, or once with a `retry` policy; then the
        saga is stuck. Raises `ValueError` for a step after the pivot.
        """

        def declare(function: Undo) -> Undo:
            made = effort(
                f"{self._where}, compensation", function, _UNDO_ATTEMPTS, retry, timeout, attempts, backoff
            )
            self._plans.add_undo(self.name)
            self.undo = made
            return function

        return declare if function is None else declare(function)

    def codec(self, choose: Callable[[Any], Codec[Any]]) -> Codec[Any]:
        """The codec for its results. Raises `TypeError` if there is none for its annotation."""
        if self._codec is None:
            try:
                annotation = returned_by(self.function)
                self._codec = choose(annotation)
            except (NameError, TypeError) as error:
                raise TypeError(
                    f"{self._where}: its result cannot be stored: {error}; pass codec= to the step"
                ) from error
        return self._codec

    def __repr__(self) -> str:
        return f"<Step {self.name!r} of saga {self._plans.name!r}, {self.plan.kind.value}>"


class Declare(Protocol):
    """What `@saga.step(…)` returns: a decorator."""

    def __call__(self, function: Action[R], /) -> Step[R]: ...


def default_attempts(kind: Kind) -> int:
    """How often a step of this kind is tried, unless it says."""
    return _ATTEMPTS[kind]


def input_of(function: Callable[..., Any]) -> Any:
    """I of the `SagaContext[I]` that a step asks for; `inspect.Signature.empty` if it does not say."""
    parameters = [*inspect.signature(function).parameters.values()]
    if not parameters:
        return inspect.Signature.empty
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        annotation = typing.get_type_hints(function).get(parameters[0].name, inspect.Signature.empty)
    if typing.get_origin(annotation) is SagaContext:
        return typing.get_args(annotation)[0]
    return inspect.Signature.empty


def _limited(function: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    async def limited(*args: Any) -> Any:
        end = asyncio.get_running_loop().time() + seconds
        with Expiry(end, lambda: TimedOut(f"the step took longer than {seconds:g} s")):
            return await function(*args)

    return limited
