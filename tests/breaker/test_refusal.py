"""What a refusal says: when to come back and why, without keeping a failed request alive."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aresilience import BreakerState, CircuitBreaker, CircuitOpen, Rejected, retry_after_hint

Fail = Callable[["Witness"], Awaitable[None]]


class Witness:
    """A local of the frame that fails."""


class Api(Exception):
    """An error with a constructor of its own, and state."""

    def __init__(self, code: int, *, body: str) -> None:
        super().__init__(f"HTTP {code}")
        self.code, self.body = code, body


async def opened(fail: Callable[[], Awaitable[object]], **options: Any) -> CircuitBreaker:
    """A breaker that this failure opened for 30 s."""
    breaker = CircuitBreaker("payments", failure_threshold=1, **options)
    with pytest.raises(Exception):  # noqa: B017
        await breaker.call(fail)
    assert breaker.state is BreakerState.OPEN
    return breaker


async def refusal_of(breaker: CircuitBreaker) -> CircuitOpen:
    """The error with which the breaker refuses a call."""
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(asyncio.sleep, 0)
    return caught.value


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    """A call that raises this error."""

    async def fail() -> None:
        raise error

    return fail


async def test_an_open_circuit_says_for_how_long_and_why() -> None:
    """The refusal has the open time that is left, the failure that opened it, and a text of both."""
    breaker = await opened(raising(ConnectionError("no route")))
    await asyncio.sleep(12.5)
    refusal = await refusal_of(breaker)
    assert isinstance(refusal, Rejected)
    assert refusal.retry_after == retry_after_hint(refusal) == 17.5
    assert str(refusal) == (
        "circuit 'payments' is open for another 17.5 s; last failure: ConnectionError: no route"
    )


async def test_a_half_open_circuit_says_who_is_on_the_way() -> None:
    """With all probes on their way the refusal says when the first lease is over."""
    breaker = await opened(raising(ConnectionError("no route")), probe_timeout=7)
    await asyncio.sleep(30)
    await breaker.admit()
    await asyncio.sleep(2)
    refusal = await refusal_of(breaker)
    assert refusal.retry_after == 5
    assert str(refusal) == (
        "circuit 'payments' is half-open and probed: ask again when a probe has ended, in 5 s at most; "
        "last failure: ConnectionError: no route"
    )


async def test_an_isolated_circuit_says_that_nobody_knows() -> None:
    """While isolated there is no time to come back, and no failure where there was none."""
    breaker = CircuitBreaker("payments")
    await breaker.isolate()
    refusal = await refusal_of(breaker)
    assert (refusal.retry_after, refusal.last_failure, refusal.__cause__) == (None, None, None)
    assert str(refusal) == "circuit 'payments' is isolated until it is reset"


async def test_the_last_failure_is_a_copy() -> None:
    """The last failure has the type, arguments, attributes and notes of the error, and is the cause."""
    error = Api(503, body="busy")
    error.add_note("attempt 3")
    breaker = await opened(raising(error))
    refusal = await refusal_of(breaker)
    last = refusal.last_failure
    assert last is not error
    assert refusal.__cause__ is last
    assert isinstance(last, Api)
    assert (last.args, last.code, last.body, str(last)) == (("HTTP 503",), 503, "busy", "HTTP 503")
    assert last.__notes__ == ["attempt 3"]
    error.add_note("not for the copy")
    assert last.__notes__ == ["attempt 3"]
    assert (last.__traceback__, last.__context__, last.__cause__) == (None, None, None)


async def test_refusing_adds_nothing_to_the_last_failure() -> None:
    """However often it is told, the kept failure gets no traceback and no context."""
    breaker = await opened(raising(ConnectionError()))
    refusals = [await refusal_of(breaker) for _ in range(3)]
    last = refusals[0].last_failure
    assert all(refusal.last_failure is last for refusal in refusals)
    assert last is not None
    assert (last.__traceback__, last.__context__, last.__cause__) == (None, None, None)


async def fails_plainly(witness: Witness) -> None:
    """An ordinary error."""
    raise ConnectionError("down")


async def fails_in_a_group(witness: Witness) -> None:
    """An error in a task group, whose leaves have tracebacks of their own."""

    async def child(witness: Witness) -> None:
        raise ConnectionError("down")

    async with asyncio.TaskGroup() as group:
        group.create_task(child(witness))


async def fails_with_a_cause(witness: Witness) -> None:
    """An error raised from another."""
    try:
        raise OSError("refused")
    except OSError as error:
        raise ConnectionError("down") from error


async def fails_with_an_error_in_its_arguments(witness: Witness) -> None:
    """An error that carries another one, as those of aiohttp and urllib3 do."""
    try:
        raise OSError("refused")
    except OSError as error:
        raise ConnectionError("down", error) from None


async def fails_with_errors_in_its_attributes(witness: Witness) -> None:
    """An error that keeps others in an attribute, one level and two levels deep."""
    try:
        raise OSError("refused")
    except OSError as error:
        failure = Api(503, body="busy")
        failure.reason, failure.errors = error, [[error]]  # type: ignore[attr-defined]
        raise failure from None


async def fails_with_a_circle(witness: Witness) -> None:
    """An error that refers to itself."""
    error = Api(503, body="busy")
    error.me = error  # type: ignore[attr-defined]
    try:
        raise error
    finally:
        del error


@pytest.mark.parametrize(
    "fail",
    [
        fails_plainly,
        fails_in_a_group,
        fails_with_a_cause,
        fails_with_an_error_in_its_arguments,
        fails_with_errors_in_its_attributes,
        fails_with_a_circle,
    ],
)
async def test_no_frame_of_the_failed_request_stays_alive(fail: Fail) -> None:
    """While the circuit is open, what the failed request held is free: no traceback is kept."""
    kept: list[weakref.ref[Witness]] = []

    async def request() -> None:
        witness = Witness()
        kept.append(weakref.ref(witness))
        await fail(witness)

    breaker = CircuitBreaker(failure_threshold=1)
    try:
        await breaker.call(request)
    except Exception as error:  # noqa: BLE001
        kind, text = type(error), str(error)
    assert breaker.state is BreakerState.OPEN
    refusal = await refusal_of(breaker)
    await asyncio.sleep(0)  # the loop itself keeps a task group's error until its next turn
    gc.collect()
    assert kept[0]() is None
    assert refusal.last_failure is not None
    assert (type(refusal.last_failure), str(refusal.last_failure)) == (kind, text)


async def test_the_leaves_of_a_group_are_copies_too() -> None:
    """A kept group has leaves of the same types and texts, without tracebacks."""
    breaker = await opened(lambda: fails_in_a_group(Witness()))
    last = (await refusal_of(breaker)).last_failure
    assert isinstance(last, ExceptionGroup)
    (leaf,) = last.exceptions
    assert (type(leaf), str(leaf), leaf.__traceback__) == (ConnectionError, "down", None)


class Unshowable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Slotted(Exception):
    """An error that only its constructor can make showable."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Unmakeable(Exception):
    """An error whose `__new__` wants what `args` does not have."""

    def __new__(cls, *, secret: str) -> Unmakeable:
        return super().__new__(cls)

    def __init__(self, *, secret: str) -> None:
        super().__init__("made")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unshowable(), "Unshowable: ? (not copied)"),
        (Slotted(7), "Slotted: code 7 (not copied)"),
        (Unmakeable(secret="x"), "Unmakeable: made (not copied)"),
        (
            UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"),
            "UnicodeDecodeError: 'ascii' codec can't decode byte 0xff in position 0: no",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_cannot_be_copied_is_told_by_its_text(error: Exception, text: str) -> None:
    """An error that resists copying becomes its type and text; the refusal is a `CircuitOpen` all the same."""
    breaker = await opened(raising(error))
    refusal = await refusal_of(breaker)
    assert type(refusal.last_failure) is RuntimeError
    assert str(refusal.last_failure) == text
    assert str(refusal).endswith(f"last failure: RuntimeError: {text}")


async def test_the_last_failure_is_of_this_opening() -> None:
    """A failed probe's error replaces it; closing, reset, and an opening without an error clear it."""
    breaker = await opened(
        raising(ConnectionError("first")), success_threshold=1, failure_if=lambda result: result == "bad"
    )
    await asyncio.sleep(30)
    with pytest.raises(ConnectionError):
        await breaker.call(raising(ConnectionError("second")))
    assert str((await refusal_of(breaker)).last_failure) == "second"
    await asyncio.sleep(30)
    await breaker.call(asyncio.sleep, 0)
    assert breaker.snapshot().last_failure is None

    async def bad() -> str:
        return "bad"

    assert await breaker.call(bad) == "bad"
    assert (await refusal_of(breaker)).last_failure is None
    with pytest.raises(CircuitOpen, match=r"^circuit 'payments' is open for another 30 s$"):
        await breaker.call(bad)
    await breaker.reset()
    with pytest.raises(ConnectionError):
        await breaker.call(raising(ConnectionError("third")))
    assert str(breaker.snapshot().last_failure) == "third"
    await breaker.reset()
    assert breaker.snapshot().last_failure is None
