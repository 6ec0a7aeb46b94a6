"""When a retry calls, how often, and what it tells."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.chance import Entropy
from aresilience.testing import Recorder, run_virtual

FAIL, STOP = ConnectionError, ValueError
"""An error that is retried, and one that is not."""


class Script:
    """An async function that plays a script: an error to raise, or the result; the last line repeats.

    Each call takes `takes` seconds. `at` is when it was called.
    """

    def __init__(self, *lines: Any, takes: float = 0.0) -> None:
        self.lines = lines
        self.takes = takes
        self.at: list[float] = []

    async def __call__(self) -> Any:
        self.at.append(asyncio.get_running_loop().time())
        line = self.lines[min(len(self.at), len(self.lines)) - 1]
        await asyncio.sleep(self.takes)
        if isinstance(line, type) and issubclass(line, BaseException):
            raise line("script")
        return line


async def by_decorator(retry: ar.Retry, script: Script) -> Any:
    """A decorated function."""
    return await retry(script)()


async def by_call(retry: ar.Retry, script: Script) -> Any:
    """A one-off call."""
    return await retry.call(script)


async def by_loop(retry: ar.Retry, script: Script) -> Any:
    """The iterator form."""
    result = None
    async for attempt in retry:
        async with attempt:
            result = await script()
    return result


FORMS = pytest.mark.parametrize("form", [by_decorator, by_call, by_loop])
Form = Callable[[ar.Retry, Script], Any]


async def ending(form: Form, retry: ar.Retry, script: Script) -> Any:
    """The result, or the type of the error."""
    try:
        return await form(retry, script)
    except Exception as error:  # noqa: BLE001 - compared
        return type(error)


@FORMS
@pytest.mark.parametrize(
    ("attempts", "lines", "at", "end"),
    [
        (3, [1], [0], 1),
        (3, [FAIL, 1], [0, 1], 1),
        (3, [FAIL, FAIL, 1], [0, 1, 3], 1),
        (3, [FAIL, FAIL, FAIL, 1], [0, 1, 3], FAIL),
        (1, [FAIL, 1], [0], FAIL),
        (2, [FAIL, FAIL, 1], [0, 1], FAIL),
        (5, [FAIL], [0, 1, 3, 7, 11], FAIL),
        (5, [STOP, 1], [0], STOP),
        (5, [FAIL, STOP, 1], [0, 1], STOP),
        (5, [FAIL, FAIL, STOP], [0, 1, 3], STOP),
    ],
)
async def test_the_schedule(form: Form, attempts: int, lines: list[Any], at: list[float], end: Any) -> None:
    """Attempts are calls in total (hyx makes one more), each after its delay, until one succeeds."""
    retry = ar.Retry(on=FAIL, attempts=attempts, backoff=ar.Backoff.sequence(1, 2, 4))
    script = Script(*lines)
    assert await ending(form, retry, script) == end
    assert script.at == at


@FORMS
async def test_a_delay_counts_from_the_end_of_the_attempt(form: Form) -> None:
    """The time that an attempt takes comes on top of the waits."""
    script = Script(FAIL, takes=10.0)
    assert await ending(form, ar.Retry(on=FAIL, backoff=ar.Backoff.constant(1)), script) is FAIL
    assert script.at == [0, 11, 22]


@FORMS
async def test_no_delay_still_lets_others_run(form: Form) -> None:
    """With a back-off of 0 the loop turns once between two attempts."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    script = Script(FAIL, takes=0.0)
    assert (
        await ending(form, ar.Retry(on=FAIL, attempts=50, backoff=ar.Backoff.constant(0)), script) is FAIL
    )
    task.cancel()
    assert turns >= 50
    assert script.at == [0] * 50


class Fixed(Entropy):
    """Chance that is none."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


@FORMS
async def test_full_jitter_is_the_default(form: Form) -> None:
    """Without a back-off the delays are u · 0.1, u · 0.2, u · 0.4 …, u drawn from the loop's entropy anew."""
    loop: Any = asyncio.get_running_loop()
    loop.entropy = Fixed(0.5, 0.0, 0.75)
    script = Script(FAIL, FAIL, FAIL, 1)
    assert await ending(form, ar.Retry(on=FAIL, attempts=4), script) == 1
    assert script.at == pytest.approx([0, 0.05, 0.05, 0.35])


@FORMS
async def test_decorrelated_jitter_grows_from_the_last_delay(form: Form) -> None:
    """The delay before is the call's own, not the policy's."""
    loop: Any = asyncio.get_running_loop()
    backoff = ar.Backoff.exponential(initial=1, maximum=100, jitter="decorrelated")
    retry = ar.Retry(on=FAIL, attempts=4, backoff=backoff)
    for _ in range(2):
        started = loop.time()
        loop.entropy = Fixed(0.5, 0.5, 0.5)
        script = Script(FAIL, FAIL, FAIL, 1)
        assert await ending(form, retry, script) == 1
        assert [t - started for t in script.at] == [0, 2, 5.5, 11.25]


@FORMS
async def test_y2(form: Form) -> None:
    """Deadline shorter than the back-off → stop now with the last error."""
    script = Script(FAIL)
    assert await ending(form, ar.Retry(on=FAIL, backoff=ar.Backoff.constant(5), deadline=5), script) is FAIL
    assert script.at == [0]
    assert asyncio.get_running_loop().time() == 0.0


def test_y12_no_attempts() -> None:
    """Attempts 0 → ValueError."""
    with pytest.raises(ValueError, match=r"Retry: attempts must be a whole number of at least 1, got 0"):
        ar.Retry(on=FAIL, attempts=0)


@FORMS
async def test_y12_one_attempt(form: Form) -> None:
    """1 = one call, which never sleeps and adds nothing to the error."""
    script = Script(FAIL)
    retry = ar.Retry(on=FAIL, attempts=1, deadline=60, budget=ar.RetryBudget())
    with pytest.raises(FAIL) as caught:
        await form(retry, script)
    assert script.at == [0]
    assert asyncio.get_running_loop().time() == 0.0
    assert vars(caught.value) == {}
    assert ar.retry_history(caught.value) == ()


@FORMS
async def test_y12_infinite_attempts(form: Form) -> None:
    """Inf only with a deadline or a budget that ends it."""
    with pytest.raises(
        ValueError, match=r"Retry: attempts=inf needs a deadline or a budget that ends it, got neither"
    ):
        ar.Retry(on=FAIL, attempts=math.inf)
    script = Script(FAIL)
    retry = ar.Retry(on=FAIL, attempts=math.inf, backoff=ar.Backoff.constant(1), deadline=100)
    assert await ending(form, retry, script) is FAIL
    assert script.at == list(range(100))
    budget = ar.RetryBudget(ratio=3, floor=0)
    script = Script(FAIL)
    assert await ending(form, ar.Retry(on=FAIL, attempts=math.inf, budget=budget), script) is FAIL
    assert len(script.at) == 1 + 3


@FORMS
async def test_the_events_of_a_call_that_recovers(form: Form) -> None:
    """Each wait is told when it begins; a success is not told."""
    recorder = Recorder()
    retry = ar.Retry(
        on=FAIL, attempts=5, backoff=ar.Backoff.sequence(1, 2), listeners=[recorder], name="fetch"
    )
    assert await form(retry, Script(FAIL, FAIL, 1, takes=1.0)) == 1
    told = [(e.policy, e.at, e.attempt, e.delay, repr(e.error)) for e in recorder.of(ar.RetryScheduled)]
    assert told == [
        ("fetch", 1.0, 1, 1.0, "ConnectionError('script')"),
        ("fetch", 3.0, 2, 2.0, "ConnectionError('script')"),
    ]
    assert recorder.of(ar.RetryGaveUp) == []


@FORMS
@pytest.mark.parametrize(
    ("options", "lines", "attempts", "reason"),
    [
        ({"attempts": 1}, [FAIL], 1, ar.StopReason.ATTEMPTS),
        ({"attempts": 3}, [FAIL], 3, ar.StopReason.ATTEMPTS),
        ({"attempts": 3}, [FAIL, STOP], 2, ar.StopReason.NOT_RETRYABLE),
        ({"attempts": 9, "deadline": 2.0}, [FAIL], 2, ar.StopReason.DEADLINE),
        ({"attempts": 9, "budget": ar.RetryBudget(ratio=2, floor=0)}, [FAIL], 3, ar.StopReason.BUDGET),
    ],
)
async def test_the_event_of_the_end(
    form: Form, options: dict[str, Any], lines: list[Any], attempts: int, reason: ar.StopReason
) -> None:
    """Giving up is told once, with the attempts made and the reason."""
    if "budget" in options:
        options = options | {"budget": ar.RetryBudget(ratio=2, floor=0)}
    recorder = Recorder()
    retry = ar.Retry(on=FAIL, backoff=ar.Backoff.constant(1), listeners=[recorder], **options)
    with pytest.raises(Exception) as caught:
        await form(retry, Script(*lines))
    (told,) = recorder.of(ar.RetryGaveUp)
    assert (told.attempts, told.reason, told.error) == (attempts, reason, caught.value)
    assert told.at == attempts - 1
    assert len(recorder.of(ar.RetryScheduled)) == attempts - 1


@FORMS
async def test_an_error_that_is_not_meant_is_none_of_its_business(form: Form) -> None:
    """An error of the first attempt that `on` does not mean passes without an event or a note."""
    recorder = Recorder()
    with pytest.raises(STOP) as caught:
        await form(ar.Retry(on=FAIL, listeners=[recorder]), Script(STOP))
    assert recorder.events == []
    assert vars(caught.value) == {}


@FORMS
async def test_a_predicate_is_asked_once_per_failure(form: Form) -> None:
    """The user's predicate sees each error once, in order."""
    asked: list[Exception] = []
    retry = ar.Retry(on=lambda error: not asked.append(error), backoff=ar.Backoff.constant(1))
    assert await ending(form, retry, Script(FAIL, STOP, KeyError)) is KeyError
    assert [type(error) for error in asked] == [FAIL, STOP, KeyError]


@FORMS
async def test_a_predicate_that_fails_does_not_hide_the_error(form: Form) -> None:
    """What a predicate raises is raised, with the error that it was asked about as its context."""

    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    for lines in ([FAIL], [STOP, FAIL]):
        on = (STOP, broken)
        with pytest.raises(ZeroDivisionError) as caught:
            await form(ar.Retry(on=on), Script(*lines))
        assert isinstance(caught.value.__context__, FAIL)


async def test_a_shared_retry_keeps_its_calls_apart() -> None:
    """Many tasks on one policy object each have all of their attempts (tenacity: 3, 2, 2 and 1 of 3)."""
    retry = ar.Retry(on=FAIL, attempts=3, backoff=ar.Backoff.constant(1))
    for form in (by_decorator, by_call, by_loop):
        scripts = [Script(*[FAIL] * n, n, takes=0.5) for n in range(5)]
        ends = await asyncio.gather(*(ending(form, retry, script) for script in scripts))
        assert ends == [0, 1, 2, FAIL, FAIL]
        assert [len(script.at) for script in scripts] == [1, 2, 3, 3, 3]


times = st.sampled_from([0.0, 0.5, 1.0, 4.5, 5.0, 5.5])


@settings(deadline=None, max_examples=150)
@given(
    form=st.sampled_from([by_decorator, by_call, by_loop]),
    attempts=st.sampled_from([1, 2, 3, 5, 50]),
    delays=st.lists(times, min_size=1, max_size=4),
    deadline=st.sampled_from([None, 0.5, 1.0, 5.0, 10.0]),
    lines=st.lists(
        st.tuples(times, st.sampled_from([FAIL, FAIL, FAIL, STOP, "ok"])), min_size=1, max_size=6
    ),
    seed=st.integers(0, 2),
)
def test_histories(
    form: Form,
    attempts: int,
    delays: list[float],
    deadline: float | None,
    lines: list[tuple[float, Any]],
    seed: int,
) -> None:
    """Whatever fails when, the calls are made at the times that a list of them, written by hand, would have."""
    lines = [*lines, (0.0, "ok")]

    async def main() -> tuple[Any, list[float], float]:
        at: list[float] = []
        loop = asyncio.get_running_loop()

        async def played() -> Any:
            takes, line = lines[len(at)]
            at.append(loop.time())
            await asyncio.sleep(takes)
            if isinstance(line, type):
                raise line("script")
            return line

        retry = ar.Retry(
            on=FAIL, attempts=attempts, backoff=ar.Backoff.sequence(*delays), deadline=deadline
        )
        return await ending(form, retry, played), at, loop.time()  # type: ignore[arg-type]

    end, at, ended = run_virtual(main(), seed=seed)
    assert (end, at, ended) in list(
        model(attempts, delays, math.inf if deadline is None else deadline, lines)
    )


def model(attempts: int, delays: list[float], limit: float, lines: list[tuple[float, Any]]) -> Any:
    """The endings that are right; two where an attempt ends in the very moment of the deadline."""
    starts, now = [0.0], 0.0
    waits = [*delays, *[delays[-1]] * attempts]
    for (takes, line), wait in zip(lines, waits, strict=False):
        if now + takes >= limit and takes > 0:
            yield ar.TimedOut, starts, limit
            if now + takes > limit:
                return
        now += takes
        if line is not FAIL:
            yield line, starts, now
            return
        if len(starts) == attempts or now + wait >= limit:
            yield FAIL, starts, now
            return
        now += wait
        starts = [*starts, now]
