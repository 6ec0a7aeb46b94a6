"""Retrying on results: `until`, and what becomes of those that were rejected."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def ready(result: Any) -> bool:
    """The predicate of these tests."""
    return bool(result == "ready")


class Answers:
    """A call that answers line by line, the last one again and again; errors are raised."""

    def __init__(self, *lines: Any) -> None:
        self.lines = lines
        self.at: list[float] = []

    async def __call__(self) -> Any:
        self.at.append(now())
        line = self.lines[min(len(self.at), len(self.lines)) - 1]
        if isinstance(line, Exception):
            raise line
        return line


def polling(on: Any = (), **options: Any) -> ar.Retry:
    """A retry until ready, once a second."""
    return ar.Retry(
        **{"on": on, "until": ready, "backoff": ar.Backoff.constant(1), "attempts": 4} | options
    )


@pytest.mark.parametrize(
    ("lines", "result", "calls"),
    [
        (["ready"], "ready", 1),
        (["no", "ready"], "ready", 2),
        (["no", None, 0, "ready"], "ready", 4),
        (["a", "b", "c", "d", "ready"], "d", 4),
    ],
)
async def test_retried_until_it_holds(lines: list[Any], result: Any, calls: int) -> None:
    """A result for which `until` is false counts as a failure; the last one is returned all the same."""
    answers = Answers(*lines)
    assert await polling().call(answers) == result
    assert answers.at == list(range(calls))


@pytest.mark.parametrize("truth", [True, 1, "yes"])
@pytest.mark.parametrize("lie", [False, 0, None, ""])
async def test_until_is_a_matter_of_truth(truth: object, lie: object) -> None:
    """The predicate's answer need not be a bool."""
    answers = Answers("a", "b")
    assert await polling(until=lambda r: truth if r == "b" else lie).call(answers) == "b"


async def test_errors_and_results_share_the_attempts() -> None:
    """A call may fail in both ways; without a match in `on` an error ends it."""
    answers = Answers("no", ConnectionError(), "no", "ready")
    assert await polling(on=ConnectionError).call(answers) == "ready"
    with pytest.raises(KeyError) as caught:
        await polling(on=ConnectionError).call(Answers("no", KeyError("k")))
    assert caught.value.__notes__ == [
        "aresilience: Retry gave up after 2 attempts and 1 s of waiting, after a rejected result: "
        "the error is not one to retry"
    ]
    assert [a.error for a in ar.retry_history(caught.value)] == [None, None]


@pytest.mark.parametrize(("deadline", "calls"), [(2.0, 2), (2.5, 3)])
async def test_no_wait_overruns_the_deadline(deadline: float, calls: int) -> None:
    """Where the next wait would reach the deadline the last result is returned at once."""
    answers = Answers("no")
    assert await polling(deadline=deadline).call(answers) == "no"
    assert (len(answers.at), now()) == (calls, calls - 1)


async def test_a_used_up_budget_returns_the_last_result() -> None:
    """The budget holds for results as it does for errors."""
    answers = Answers("no")
    assert await polling(budget=ar.RetryBudget(ratio=2, floor=0)).call(answers) == "no"
    assert len(answers.at) == 3


@pytest.mark.parametrize(
    ("result", "waited"),
    [
        (SimpleNamespace(status=503, headers={"Retry-After": "7"}), 7.0),
        (SimpleNamespace(status=503, headers={"Retry-After": "9999"}), 60.0),
        (SimpleNamespace(status=503, headers={}), 1.0),
        (SimpleNamespace(status=503, retry_after=3), 3.0),
    ],
)
async def test_a_result_may_say_when_to_come_back(result: Any, waited: float) -> None:
    """Retry-After is read from a response that is returned, as from an error."""
    answers = Answers(result, "ready")
    assert await polling().call(answers) == "ready"
    assert answers.at == [0, waited]


async def test_the_events_of_rejected_results() -> None:
    """They have no error to tell."""
    recorder = Recorder()
    assert await polling(attempts=2, listeners=[recorder]).call(Answers("no")) == "no"
    assert recorder.events == [
        ar.RetryScheduled("Retry", 0.0, 1, 1.0, None),
        ar.RetryGaveUp("Retry", 1.0, 2, ar.StopReason.ATTEMPTS, None),
    ]


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_rejected_result_is_disposed_of_before_the_wait(is_async: bool) -> None:
    """What is not returned goes to `dispose`, once; what is returned does not."""
    closed: list[tuple[float, Any]] = []

    def close(result: Any) -> None:
        closed.append((now(), result))

    async def aclose(result: Any) -> None:
        await asyncio.sleep(0.25)
        close(result)

    answers = Answers("a", "b", "ready")
    assert await polling(dispose=aclose if is_async else close).call(answers) == "ready"
    late = 0.25 if is_async else 0.0
    assert closed == [(0 + late, "a"), (1 + late, "b")]
    assert answers.at == [0, 1, 2]  # the wait counts from the result, not from its disposal
    closed.clear()
    assert await polling(attempts=2, dispose=close).call(Answers("a", "b")) == "b"
    assert [result for _, result in closed] == ["a"]


async def test_a_slow_disposal_is_part_of_the_wait() -> None:
    """Disposal that takes longer than the wait delays the next attempt until it is done, and no more."""

    async def aclose(result: Any) -> None:
        await asyncio.sleep(3)

    answers = Answers("a", "b", "ready")
    assert await polling(dispose=aclose).call(answers) == "ready"
    assert answers.at == [0, 3, 6]


async def test_a_hanging_disposal_is_given_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """Then it is cancelled, logged, and the call goes on."""
    ended: list[float] = []

    async def hangs(result: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(now())

    answers = Answers("a", "ready")
    assert await polling(dispose=hangs).call(answers) == "ready"
    assert (answers.at, ended) == ([0, 5], [5.0])
    assert [record.message for record in caplog.records] == ["a discarded result could not be disposed of"]
    assert "dispose took more than 5 s" in str(caplog.records[0].exc_info)


async def test_a_failing_disposal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Its error harms nobody: the call has its own answer."""

    def fails(result: Any) -> None:
        raise OSError("already gone")

    assert await polling(dispose=fails).call(Answers("a", "b", "ready")) == "ready"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


async def test_a_result_is_disposed_of_also_if_the_wait_is_cancelled() -> None:
    """It has been given up before the wait begins."""
    closed: list[Any] = []
    task = asyncio.ensure_future(polling(dispose=closed.append).call(Answers("a")))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["a"]


async def test_the_deadline_cuts_a_disposal_off() -> None:
    """A disposal that runs past the deadline is cancelled with the call."""

    async def slow(result: Any) -> None:
        await asyncio.sleep(4)

    with pytest.raises(ar.TimedOut):
        await polling(deadline=2, dispose=slow).call(Answers("a"))
    assert now() == 2.0


async def test_a_rejected_result_is_not_kept_while_waiting() -> None:
    """A response is garbage once it has been rejected, not only when the next one has come."""

    class Response:
        pass

    seen: list[weakref.ref[Response]] = []

    async def fetch() -> Response:
        response = Response()
        seen.append(weakref.ref(response))
        return response

    gc.disable()
    try:
        task = asyncio.ensure_future(polling(attempts=2).call(fetch))
        await asyncio.sleep(0.5)
        assert seen[0]() is None
        assert await task is seen[1]()
    finally:
        gc.enable()


async def test_y7() -> None:
    """Result-based retry with a generator → refused."""

    async def stream() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="an async generator has no single result to judge or to repeat"):
        polling()(stream)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stream.* returned async_generator, which is not awaitable"):
        await polling().call(stream)  # type: ignore[arg-type]


def test_a_block_has_no_result() -> None:
    """The iterator form cannot judge results, so a retry with `until` refuses it."""
    with pytest.raises(
        TypeError, match=r"until= judges results, and a block has none; use @retry or retry\.call"
    ):
        aiter(polling())


async def later(result: Any) -> bool:
    """A coroutine function: no predicate."""
    return True


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"until": later}, TypeError, "Retry: until must be a plain function, got the coroutine function"),
        ({"until": "ready"}, TypeError, "Retry: until must be a function, got 'ready' (str)"),
        (
            {"until": None, "on": ValueError, "dispose": print},
            ValueError,
            "Retry: dispose needs until=, which says what to give up",
        ),
        ({"dispose": "close"}, TypeError, "Retry: dispose must be a function or None, got 'close'"),
        (
            {"until": None},
            ValueError,
            "Retry: on must name at least one error, got (), and there is no until=",
        ),
    ],
)
def test_options_that_cannot_be_meant(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """They are refused when the policy is made."""
    with pytest.raises(error) as caught:
        polling(**options)
    assert message in str(caught.value)
