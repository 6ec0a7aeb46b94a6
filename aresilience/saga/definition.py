"""The definition of a saga: its steps, its limits, how what it is told is kept, and who hears of it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from aresilience import arguments
from aresilience.backend import Backend
from aresilience.backoff import Backoff
from aresilience.codecs import MAX_BYTES, Codec, CodecChoice, NotStorable, checked_codec, codec_for, pack
from aresilience.events import Listener, Listeners
from aresilience.policy import Policy
from aresilience.saga.plan import Kind, Plan
from aresilience.saga.steps import Action, Declare, Step, default_attempts, effort, input_of
from aresilience.saga.store import Head
from aresilience.saga.telling import Telling

__all__ = ["Definition"]

R = TypeVar("R")


class Definition(Telling):
    """The part of `Saga` in which it is declared."""

    def __init__(
        self,
        name: str,
        *,
        version: int = 1,
        deadline: float | timedelta | None = None,
        undo_budget: float | timedelta | None = None,
        lease: float | timedelta = 30.0,
        max_recoveries: int = 5,
        retention: float | timedelta = 604_800.0,
        on_cancel: Literal["detach", "abort"] = "detach",
        older: Sequence[Definition] = (),
        codec: Codec[Any] | CodecChoice = codec_for,
        max_bytes: int = MAX_BYTES,
        input: Any = inspect.Signature.empty,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self.name = arguments.text("Saga: name", name)
        self.plan = Plan(name, arguments.count("Saga: version", version))
        self.steps: dict[str, Step[Any]] = {}
        self.deadline = None if deadline is None else arguments.duration("Saga: deadline", deadline)
        self.undo_budget = (
            None if undo_budget is None else arguments.duration("Saga: undo_budget", undo_budget)
        )
        self.lease = arguments.duration("Saga: lease", lease)
        self.max_recoveries = arguments.count("Saga: max_recoveries", max_recoveries)
        self.retention = arguments.duration("Saga: retention", retention)
        arguments.choice("Saga: on_cancel", on_cancel, ("detach", "abort"))
        self.on_cancel = on_cancel
        self.max_bytes = arguments.count("Saga: max_bytes", max_bytes)
        checked_codec("Saga: codec", codec)
        self._choose: CodecChoice = _chooser(codec)
        self._input = input
        self._input_codec: Codec[Any] | None = None
        self._checked = False
        self._older: dict[int, Definition] = {self.plan.version: self}
        for saga in older:
            if not isinstance(saga, Definition) or saga.name != name or saga.plan.version >= version:
                raise ValueError(
                    f"Saga: older must be definitions of {name!r} with lower versions, got {saga!r}"
                )
            self._older[saga.plan.version] = saga
        self._backend = backend
        self.listeners = Listeners(listeners)

    # Declaring.

    @overload
    def step(self, function: Action[R], /) -> Step[R]: ...

    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        after: Iterable[Step[Any] | str] | None = None,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        on_exhausted: Literal["compensate", "park"] = "compensate",
        codec: Codec[Any] | None = None,
    ) -> Declare: ...

    def step(self, function: Action[R] | None = None, /, **options: Any) -> Step[R] | Declare:
        """Declare a step that can be undone; see `Step.compensate`.

        `after`: the steps that it waits for; by default the one declared before it; those that wait for the
        same run in parallel. `retry` (any policy) goes around one attempt, `timeout` (seconds, or any policy)
        inside that. `attempts`: how many the journal counts, by default 3, or 1 with a `retry`; then its
        outcome is unknown and `on_exhausted` says whether the saga is compensated, this step included, or
        parked.
        """
        return self._declare(Kind.COMPENSABLE, function, options)

    @overload
    def pivot(self, function: Action[R], /) -> Step[R]: ...

    @overload
    def pivot(
        self,
        /,
        *,
        name: str | None = None,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        on_exhausted: Literal["compensate", "park"] | None = None,
        codec: Codec[Any] | None = None,
    ) -> Declare: ...

    def pivot(self, function: Action[R] | None = None, /, **options: Any) -> Step[R] | Declare:
        """Declare the point of no return, after all that was declared so far.

        Where its outcome remains unknown the saga is parked, unless it has a compensation of its own, which
        undoes it in that case alone.
        """
        return self._declare(Kind.PIVOT, function, options)

    @overload
    def retriable(self, function: Action[R], /) -> Step[R]: ...

    @overload
    def retriable(
        self,
        /,
        *,
        name: str | None = None,
        after: Iterable[Step[Any] | str] | None = None,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        codec: Codec[Any] | None = None,
    ) -> Declare: ...

    def retriable(self, function: Action[R] | None = None, /, **options: Any) -> Step[R] | Declare:
        """Declare a step after the point of no return: tried until it works, by default 25 times; then the
        saga is parked."""
        return self._declare(Kind.RETRIABLE, function, options)

    def _declare(
        self, kind: Kind, function: Action[R] | None, options: dict[str, Any]
    ) -> Step[R] | Declare:
        def declare(function: Action[Any]) -> Step[Any]:
            return self._add(kind, function, **options)

        return declare if function is None else declare(function)

    def _add(
        self,
        kind: Kind,
        function: Action[R],
        *,
        name: str | None = None,
        after: Iterable[Step[Any] | str] | None = None,
        retry: Policy | None = None,
        timeout: Policy | float | timedelta | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        on_exhausted: str | None = None,
        codec: Codec[Any] | None = None,
    ) -> Step[R]:
        name = arguments.text("step: name", name or getattr(function, "__name__", None))
        where = f"saga {self.name!r}, step {name!r}"
        made = effort(where, function, default_attempts(kind), retry, timeout, attempts, backoff)
        if on_exhausted is not None:
            arguments.choice(f"{where}: on_exhausted", on_exhausted, ("compensate", "park"))
        if codec is not None:
            checked_codec(f"{where}: codec", codec)
        names = None if after is None else [o if isinstance(o, str) else o.name for o in after]
        plan = self.plan.add(name, kind, names, on_exhausted)
        step = self.steps[name] = Step(self.plan, plan, function, made, codec)
        self._checked = False
        return step

    # What it says.

    def definitions(self) -> Collection[Definition]:
        """This one and the older ones."""
        return self._older.values()

    def codec_of(self, step: str) -> Codec[Any]:
        """How the results of a step are kept."""
        return self.steps[step].codec(self._choose)

    def definition_of(self, head: Head) -> Definition | None:
        """The definition with which a saga was begun, if it is known here."""
        found = self._older.get(head.version)
        return found if found is not None and found.plan.fingerprint == head.fingerprint else None

    def input_codec(self) -> Codec[Any]:
        """How inputs are kept."""
        if self._input_codec is None:
            annotation = self._input
            try:
                for step in self.steps.values():
                    if annotation is inspect.Signature.empty:
                        annotation = input_of(step.function)
                self._input_codec = self._choose(annotation)
            except (NameError, TypeError) as error:
                raise TypeError(
                    f"saga {self.name!r}: its input cannot be stored: {error}; pass input= or codec="
                ) from error
        return self._input_codec

    def packed_input(self, input: Any) -> bytes:
        """What is kept of an input. Raises `NotStorable`, and what `check` raises."""
        self.check()
        try:
            return pack(self.input_codec(), input, max_bytes=self.max_bytes)
        except NotStorable as error:
            raise NotStorable(f"saga {self.name!r}: its input: {error}") from None

    def check(self) -> None:
        """Whether results can be kept at all. Raises `TypeError`, `ValueError`."""
        if self._checked:
            return
        if not self.steps:
            raise ValueError(f"saga {self.name!r} has no steps")
        for name in self.steps:
            self.codec_of(name)
        self.input_codec()
        self._checked = True

    def __repr__(self) -> str:
        return f"<Saga {self.name!r} version {self.plan.version}, {len(self.steps)} steps>"


def _chooser(codec: Any) -> CodecChoice:
    return (lambda _: codec) if hasattr(codec, "encode") else codec
