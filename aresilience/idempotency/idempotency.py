"""The shell of idempotency: what people write."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from aresilience import arguments
from aresilience.backend import Backend, MemoryBackend
from aresilience.clock import LoopClock
from aresilience.codecs import MAX_BYTES, Codec, CodecChoice, checked_codec, codec_for, returned_by
from aresilience.events import Event, Listener
from aresilience.idempotency.claim import Claim, ids_around
from aresilience.idempotency.claims import Claims, Rules
from aresilience.idempotency.facts import CallReplayed, InFlight, KeyState
from aresilience.idempotency.failures import Failures, StoreErrors
from aresilience.idempotency.fingerprint import Key, fingerprint_of, record_id
from aresilience.idempotency.making import operation_of, reconciler, seconds
from aresilience.idempotency.manual import Claiming
from aresilience.idempotency.performing import Performer, Reconcile
from aresilience.idempotency.record import Answer, RecordState, Standing
from aresilience.idempotency.results import LocalResults
from aresilience.idempotency.stores import store_on
from aresilience.outcome import ErrorMatcher, ErrorSpec
from aresilience.policy import Layer, Policy

__all__ = ["Idempotency"]

P = ParamSpec("P")
T = TypeVar("T")


class Idempotency(Policy):
    """Each key's work is done once, and its answer is everybody's.

    - `ttl`: how long a result is kept, in seconds, from when the work was done.
    - `lease`: how long a claim holds without being confirmed; it is renewed all the time. What runs when its
      process dies is abandoned after that.
    - `in_flight`: a call whose key is being worked on waits for the result, at most `wait` seconds ("wait"), or
      is refused with `InFlight` ("raise").
    - `on_abandoned`: what to do with work whose owner was lost, and which may have been done: "rerun", "refuse"
      (with `Abandoned`), or an async function of the claim that finds out: it calls `claim.complete(result)`,
      returns for the work to be run, or raises.
    - `on_cancel`: when the caller is cancelled: "finish" (the work goes on, and its result is stored; closing
      the backend waits `finish_within` seconds for it), "release" (it is cancelled; the next call runs anew) or
      "unknown" (it is cancelled; the next call does what `on_abandoned` says).
    - `on_store_error`: when the backend fails: "raise" its `BackendError`, or "run" the work unprotected.
    - `store_errors`: types of failures that are answers, and stored. A mapping to codecs where an exception is
      more than its arguments. All other errors release the key, but for `unknown_errors`: after those nobody
      knows whether the work was done, as after a lost owner.
    - `codec`: keeps results; chosen by the annotation of what the work returns, unless it is one. A result that
      cannot be kept, or is larger than `max_bytes`, is returned, and later calls raise `AnswerLost`.
    - `cache`: so many results are kept in this process too, and are replayed without asking the backend.
    - `key`, `fingerprint`: as a policy, the key of a call, from its arguments, and what besides the key must be
      the same.
    - `name`: by which processes share records on a backend, and needed there.
    """

    __slots__ = (
        "_backend",
        "_claims",
        "_clock",
        "_codec",
        "_codecs",
        "_fingerprint",
        "_key",
        "_performer",
        "_rules",
        "_within",
        "finishes",
        "max_bytes",
    )

    layer = Layer.IDEMPOTENCY
    refusal = InFlight

    def __init__(
        self,
        *,
        ttl: float | timedelta = 86_400.0,
        lease: float | timedelta = 30.0,
        in_flight: Literal["wait", "raise"] = "wait",
        wait: float | timedelta = 30.0,
        on_abandoned: Literal["rerun", "refuse"] | Reconcile = "rerun",
        on_cancel: Literal["finish", "release", "unknown"] = "finish",
        finish_within: float | timedelta = 10.0,
        on_store_error: Literal["raise", "run"] = "raise",
        store_errors: StoreErrors = (),
        unknown_errors: ErrorSpec = (),
        codec: Codec[Any] | CodecChoice = codec_for,
        max_bytes: int = MAX_BYTES,
        cache: int = 0,
        key: Callable[..., Key] | None = None,
        fingerprint: Callable[..., object] | None = None,
        name: str | None = None,
        backend: Backend | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        kind = "Idempotency"
        if backend is not None and name is None:
            raise ValueError(f"{kind}: name is needed with a backend: it is what processes share by")
        arguments.choice(f"{kind}: in_flight", in_flight, ("wait", "raise"))
        arguments.choice(f"{kind}: on_cancel", on_cancel, ("finish", "release", "unknown"))
        arguments.choice(f"{kind}: on_store_error", on_store_error, ("raise", "run"))
        reconcile = reconciler(on_abandoned)
        checked_codec(f"{kind}: codec", codec)
        self._codec = codec
        self._codecs: WeakKeyDictionary[Callable[..., Any], Codec[Any]] = WeakKeyDictionary()
        self._key = None if key is None else arguments.plain_function(f"{kind}: key", key)
        self._fingerprint = (
            None if fingerprint is None else arguments.plain_function(f"{kind}: fingerprint", fingerprint)
        )
        self._rules = Rules(
            self.name,
            seconds("ttl", ttl),
            seconds("lease", lease),
            in_flight == "wait",
            arguments.duration(f"{kind}: wait", wait, zero=True),
            on_abandoned != "refuse",
            on_store_error == "run",
        )
        self.finishes = on_cancel == "finish"
        """Whether the work goes on when its caller is cancelled."""
        self._within = arguments.duration(f"{kind}: finish_within", finish_within, zero=True)
        self._clock = LoopClock()
        self._backend = MemoryBackend() if backend is None else backend
        self._claims = Claims(
            self._rules,
            self._backend,
            store_on(self._backend, self.name),
            LocalResults(arguments.count(f"{kind}: cache", cache, least=0)),
            self._tell,
        )
        self.max_bytes = arguments.count(f"{kind}: max_bytes", max_bytes)
        """The largest result that is kept."""
        self._performer = Performer(
            self.name,
            self._claims,
            failures=Failures(f"{kind}: store_errors", store_errors),
            unknown=ErrorMatcher(f"{kind}: unknown_errors", unknown_errors, neutral=True),
            releases=on_cancel == "release",
            reconcile=reconcile,
            max_bytes=self.max_bytes,
            tell=self._tell,
        )

    # Calls

    async def run(
        self,
        key: Key,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        fingerprint: object = None,
        **kwargs: Any,
    ) -> T:
        """`await fn(*args, **kwargs)`, once for the key; the same answer for every other call with it.

        `fingerprint`: what besides the key must be the same, in bytes, or what JSON and dataclasses can hold;
        the name of the function must be, always. Raises what `fn` raises, `InFlight`, `KeyReused`, `Abandoned`,
        `AnswerLost`, `ClaimLost`, and `BackendError` where the policy is to raise it.
        """
        marks = fingerprint_of(operation_of(fn), fingerprint)
        call = functools.partial(fn, *args, **kwargs)
        return await self._call(key, marks, self._codec_of(fn), call)

    async def once(
        self,
        key: Key,
        call: Callable[[], Awaitable[T]],
        /,
        *,
        codec: Codec[T],
        operation: str = "",
        fingerprint: object = None,
    ) -> T:
        """`run` for those who know better how their result is kept, and what their work is called."""
        marks = fingerprint_of(operation, fingerprint)
        return await self._call(key, marks, codec, call)

    def go_on(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task for work that is to go on when the caller is cancelled; closing the backend waits for it, for
        `finish_within` seconds. Somebody has to look at how it ended."""
        return self._backend.finish(work, within=self._within)

    async def _call(
        self, key: Key, fingerprint: str, codec: Codec[T], call: Callable[[], Awaitable[T]]
    ) -> T:
        outer, began = ids_around(), self._clock.read()
        found = await self._claims.enter(record_id(self.name, key), fingerprint, outer)
        if isinstance(found, Standing):
            answer = self._answer(found, codec, began)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]
        claim: Claim[T] = Claim(self.name, found, key, outer)
        work = self._performer.perform(claim, found, call, codec)
        if self.finishes:
            return await self._performer.alone(self._backend, found, work, self._within)
        return await work

    def _answer(self, standing: Standing, codec: Codec[Any], began: float) -> Any:
        """The answer of an earlier call: its result, or an error to be raised."""
        answer = self._performer.answer(standing, codec)
        failed, waited = isinstance(answer, Exception), self._clock.read() - began
        self._tell(lambda name, at: CallReplayed(name, at, failed, waited))
        return answer

    @overload
    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(
        self, *, key: Callable[P, Key], fingerprint: Callable[P, object] | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]: ...

    def __call__(  # type: ignore[misc]
        self, fn: Any = None, /, *, key: Any = None, fingerprint: Any = None
    ) -> Any:
        """`@idem(key=lambda order_id, amount: order_id)`; or `@idem`, with the key given to the policy."""
        if fn is not None:
            return self.wrap(fn)
        if key is None:
            raise TypeError("Idempotency: write @idem(key=lambda …: …), a function of the call's arguments")
        key = arguments.plain_function("Idempotency: key", key)
        if fingerprint is not None:
            arguments.plain_function("Idempotency: fingerprint", fingerprint)

        def decorate(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
            return functools.update_wrapper(_Keyed(self, key, fingerprint).wrap(fn), fn)

        return decorate

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        if self._key is None:
            raise TypeError(
                f"{self.name}: a key is needed to tell calls apart: Idempotency(key=lambda …: …), a function "
                "of the call's arguments"
            )
        return self.keyed(fn, self._key, self._fingerprint)

    def keyed(
        self,
        fn: Callable[P, Awaitable[T]],
        key: Callable[..., Key],
        fingerprint: Callable[..., object] | None,
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """`fn` once for each key."""
        operation = operation_of(fn)
        codec = self._codec_if_known(fn)

        async def once(*args: P.args, **kwargs: P.kwargs) -> T:
            nonlocal codec
            content = None if fingerprint is None else fingerprint(*args, **kwargs)
            if codec is None:
                codec = self._codec_of(fn)
            call = functools.partial(fn, *args, **kwargs)
            return await self._call(key(*args, **kwargs), fingerprint_of(operation, content), codec, call)

        return once

    def claim(
        self, key: Key, *, fingerprint: object = None, operation: str = "", returns: Any = Any
    ) -> Claiming[Any]:
        """The same by hand, with the block as the work:

            async with idem.claim(key, returns=Receipt) as claim:
                if claim.replayed:
                    return claim.result
                ...
                claim.complete(receipt)

        The block says how it ends: `complete`, `release`, `complete_without_answer` or `abandon`. One that
        raises is judged as a call is; one that is cancelled is released where `on_cancel` is "release" and
        abandoned otherwise, for it cannot go on without its task. `returns` is the type of the result,
        `operation` what stands for the name of the function. Entering raises what `run` raises, but for the
        stored failure, which `claim.result` does.
        """
        ident, marks = record_id(self.name, key), fingerprint_of(operation, fingerprint)
        codec, began = self._codec_of_type(returns), self._clock.read()
        return Claiming(
            self.name,
            self._claims,
            self._performer,
            key,
            ident,
            marks,
            codec,
            lambda standing: self._answer(standing, codec, began),
        )

    # Looking after them

    async def get(self, key: Key, *, returns: Any = Any) -> KeyState | None:
        """What is known of a key, from the store; None if nothing is."""
        ident = record_id(self.name, key)
        standing = await self._claims.look(ident)
        return None if standing.answer is Answer.ABSENT else self._state(ident, standing, returns)

    async def evict(self, key: Key | KeyState) -> bool:
        """Forget a key, whatever became of it: the next call with it runs. Whether there was anything.

        A call that is at work on it goes on, and its result is kept unless another one has begun meanwhile.
        What other processes have in their `cache` stays there until it expires.
        """
        ident = key.id if isinstance(key, KeyState) else record_id(self.name, key)
        return await self._claims.forget(ident)

    async def in_flight(self) -> list[KeyState]:
        """What is being worked on, and what was abandoned: by the digests of their keys, the oldest first."""
        found = [self._state(ident, standing, Any) for ident, standing in await self._claims.opened()]
        return sorted(found, key=lambda state: -state.age)

    def _state(self, ident: str, standing: Standing, returns: Any) -> KeyState:
        def read() -> Any:
            if standing.answer in (Answer.RUNNING, Answer.ABANDONED):
                raise InFlight(f"{self.name}: this key has no result", retry_after=None)
            answer = self._performer.answer(standing, self._codec_of_type(returns))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return KeyState(
            ident,
            RecordState[standing.answer.name],
            standing.fence,
            standing.attempt,
            standing.age / 1e6,
            standing.left / 1e6,
            read,
        )

    def _codec_of(self, fn: Callable[..., Any]) -> Codec[Any]:
        """The codec for what a function returns."""
        named = getattr(fn, "__func__", fn)  # a bound method lives for one call only
        try:
            found = self._codecs.get(named)
        except TypeError:  # no weak references to it, or no hash
            return self._codec_of_type(returned_by(fn))
        if found is None:
            found = self._codecs[named] = self._codec_of_type(returned_by(fn))
        return found

    def _codec_if_known(self, fn: Callable[..., Any]) -> Codec[Any] | None:
        """The same when a function is decorated: None if its annotation names what is defined later."""
        try:
            return self._codec_of(fn)
        except NameError:
            return None

    def _codec_of_type(self, annotation: Any) -> Codec[Any]:
        codec: Any = self._codec
        chosen: Codec[Any] = codec if hasattr(codec, "encode") else codec(annotation)
        return chosen

    def _tell(self, fact: Callable[[str, float], Event]) -> None:
        if self._listeners:
            self._listeners.tell(fact(self.name, self._clock.read()))

    def __repr__(self) -> str:
        rules = self._rules
        return f"<Idempotency {self.name!r} ttl {rules.ttl:g} s, lease {rules.lease:g} s>"


class _Keyed(Policy):
    """The policy with a key of its own, for one function."""

    __slots__ = ("_fingerprint", "_idempotency", "_key")

    layer = Layer.IDEMPOTENCY
    refusal = InFlight

    def __init__(
        self,
        idempotency: Idempotency,
        key: Callable[..., Key],
        fingerprint: Callable[..., object] | None,
    ) -> None:
        super().__init__(idempotency.name)
        self._idempotency = idempotency
        self._key = key
        self._fingerprint = fingerprint

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        return self._idempotency.keyed(fn, self._key, self._fingerprint)
