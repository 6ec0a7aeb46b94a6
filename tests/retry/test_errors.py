"""The error that ends a call: the user's own object, as it was raised, with a note and a history."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

import aresilience as ar


async def by_decorator(retry: ar.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    """A decorated function."""

    @retry
    async def decorated() -> Any:
        return await fn()

    return await decorated()


async def by_loop(retry: ar.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    """The iterator form."""
    result = None
    async for attempt in retry:
        async with attempt:
            result = await fn()
    return result


FORMS = pytest.mark.parametrize("form", [by_decorator, by_loop])
Form = Callable[[ar.Retry, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def fetching(**options: Any) -> ar.Retry:
    """A retry that waits one second."""
    return ar.Retry(**{"on": OSError, "backoff": ar.Backoff.constant(1), "name": "fetch"} | options)


def raising(*errors: Exception) -> Callable[[], Awaitable[None]]:
    """A call that raises one after the other, the last one for ever."""
    left = list(errors)

    async def raises() -> None:
        raise left.pop(0) if len(left) > 1 else left[0]

    return raises


async def ended(form: Form, retry: ar.Retry, *errors: Exception) -> Exception:
    """The error with which a call ends."""
    with pytest.raises(Exception) as caught:
        await form(retry, raising(*errors))
    assert isinstance(caught.value, Exception)
    return caught.value


@FORMS
async def test_the_last_error_is_raised_as_it_is(form: Form) -> None:
    """No RetryError around it: the very object, its arguments and its attributes."""
    last = OSError(111, "refused")
    last.filename = "host"
    assert await ended(form, fetching(), OSError("1"), OSError("2"), last) is last
    assert (last.args, last.filename) == ((111, "refused"), "host")


@FORMS
async def test_what_the_user_raised_from_stays(form: Form) -> None:
    """`__cause__` and `__context__` are the user's (opnieuw puts the previous attempt in their place)."""

    async def fetch() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise OSError("outer") from inner

    async def fetch_without() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise OSError("outer") from None

    async def fetch_in_passing() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise OSError("outer")  # noqa: B904

    for call, cause, suppressed in (
        (fetch, KeyError, True),
        (fetch_without, type(None), True),
        (fetch_in_passing, type(None), False),
    ):
        with pytest.raises(OSError, match="outer") as caught:
            await form(fetching(), call)
        error = caught.value
        assert (type(error.__cause__), error.__suppress_context__) == (cause, suppressed)
        assert type(error.__context__) is KeyError
        assert error.__context__.__context__ is None


@FORMS
async def test_no_attempt_is_the_context_of_the_next(form: Form) -> None:
    """Errors of earlier attempts are in the history, not in the traceback of the last."""
    last = await ended(form, fetching(), OSError("1"), OSError("2"), OSError("3"))
    assert (last.__cause__, last.__context__) == (None, None)
    assert [a.error.__context__ for a in ar.retry_history(last) if a.error] == [None, None]
    assert "another exception occurred" not in "".join(traceback.format_exception(last))


@FORMS
async def test_the_context_stays_also_where_the_caller_handles_an_error(form: Form) -> None:
    """A call made in an except block raises errors with the contexts that they had without a retry."""

    async def fetch() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise OSError("outer")  # noqa: B904

    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        with pytest.raises(OSError, match="outer") as caught:
            await form(fetching(), fetch)
    assert type(caught.value.__context__) is KeyError
    assert type(caught.value.__context__.__context__) is ZeroDivisionError


NOTES: list[tuple[dict[str, Any], list[Exception], str]] = [
    (
        {},
        [OSError("a"), OSError(2, "b"), OSError("c")],
        "aresilience: fetch gave up after 3 attempts and 2 s of waiting, after OSError('a'), "
        "FileNotFoundError('[Errno 2] b'): no attempts left",
    ),
    (
        {"attempts": 9},
        [OSError("a"), KeyError("k")],
        "aresilience: fetch gave up after 2 attempts and 1 s of waiting, after OSError('a'): "
        "the error is not one to retry",
    ),
    (
        {"deadline": 1},
        [OSError("a")],
        "aresilience: fetch gave up after 1 attempt and 0 s of waiting: "
        "the next one would start past the deadline",
    ),
    (
        {"budget": ar.RetryBudget(ratio=0.01, floor=0)},
        [OSError("a")],
        "aresilience: fetch gave up after 1 attempt and 0 s of waiting: the retry budget is used up",
    ),
    (
        {"attempts": 2, "backoff": ar.Backoff.constant(0.12345)},
        [OSError("x\nforged\x1b[31m"), OSError("b")],
        "aresilience: fetch gave up after 2 attempts and 0.123 s of waiting, after "
        "OSError('x\\nforged\\x1b[31m'): no attempts left",
    ),
    (
        {"attempts": 2},
        [OSError("x" * 200), OSError("b")],
        f"aresilience: fetch gave up after 2 attempts and 1 s of waiting, after OSError('{'x' * 80}'): "
        "no attempts left",
    ),
    (
        {"attempts": 200},
        [OSError("a")] * 190 + [OSError(str(n)) for n in range(10)],
        "aresilience: fetch gave up after 200 attempts and 199 s of waiting, after 194 others, "
        "OSError('4'), OSError('5'), OSError('6'), OSError('7'), OSError('8'): no attempts left",
    ),
]


@FORMS
@pytest.mark.parametrize(("options", "errors", "note"), NOTES)
async def test_the_note(form: Form, options: dict[str, Any], errors: list[Exception], note: str) -> None:
    """One line below the traceback: how many attempts, how long a wait, after what, and why no more."""
    errors = [copy.copy(error) for error in errors]
    last = await ended(form, fetching(**options), *errors)
    assert last.__notes__ == [note]
    assert traceback.format_exception(last)[-1] == note + "\n"


@FORMS
async def test_a_note_of_the_users_own_stays(form: Form) -> None:
    """Ours comes after theirs."""
    last = OSError("last")
    last.add_note("mine")
    assert (await ended(form, fetching(attempts=2), OSError(), last)).__notes__[0] == "mine"
    assert len(last.__notes__) == 2


@FORMS
async def test_the_history(form: Form) -> None:
    """retry_history(error): each attempt with its error, its end and its wait, the last without."""
    errors = [OSError("a"), OSError("b"), OSError("c")]
    left = iter(errors)

    async def fetch() -> None:
        await asyncio.sleep(0.5)
        raise next(left)

    retry = fetching(backoff=ar.Backoff.sequence(1, 2))
    with pytest.raises(OSError, match="c") as caught:
        await form(retry, fetch)
    assert ar.retry_history(caught.value) == (
        ar.Attempt(1, errors[0], 0.0, 1),
        ar.Attempt(2, errors[1], 1.5, 2),
        ar.Attempt(3, None, 4.0, None),
    )
    assert ar.retry_history(errors[0]) == ar.retry_history(ValueError()) == ()


@FORMS
async def test_the_history_is_bounded(form: Form) -> None:
    """A call that is repeated for days keeps the last 100 attempts, and counts them all."""

    async def fetch() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down") as caught:
        await form(fetching(attempts=math.inf, deadline=300), fetch)
    history = ar.retry_history(caught.value)
    assert [a.number for a in history] == list(range(201, 301))
    assert history[-1].ended == 299.0


@FORMS
async def test_one_error_object_raised_again_and_again(form: Form) -> None:
    """A mock's error does not collect notes, within a call or from call to call."""
    error = OSError("always the same")
    fetch = AsyncMock(side_effect=error)
    note = (
        "aresilience: fetch gave up after 3 attempts and 2 s of waiting, after "
        "OSError('always the same'), OSError('always the same'): no attempts left"
    )
    for _ in range(3):
        with pytest.raises(OSError, match="always") as caught:
            await form(fetching(), fetch)
        assert caught.value is error
        assert error.__notes__ == [note]
        assert len(ar.retry_history(error)) == 3
    assert fetch.await_count == 9


async def test_a_note_of_another_policy_stays() -> None:
    """Only its own note is replaced when an error is marked again."""

    async def fetch() -> None:
        await asyncio.sleep(1)
        raise OSError("down")

    inner = fetching(attempts=2, name="inner")
    outer = fetching(attempts=2, name="outer", nested="both")
    with pytest.raises(OSError, match="down") as caught:
        await ar.Pipeline(ar.Bulkhead(9), outer).call(ar.Hedge(delay=0.5).wrap(inner.wrap(fetch)))
    hedge, own = caught.value.__notes__
    assert hedge.startswith("aresilience: hedge 1 failed too")
    assert own.startswith("aresilience: outer gave up after 2 attempts")


@FORMS
async def test_one_attempt_leaves_the_history_of_an_inner_retry(form: Form) -> None:
    """attempts=1 adds nothing, and takes nothing away."""
    inner = fetching(attempts=2, name="inner").wrap(raising(OSError("down")))
    with pytest.raises(OSError, match="down") as caught:
        await form(fetching(attempts=1), inner)
    assert len(ar.retry_history(caught.value)) == 2
    assert [note.split(" and")[0] for note in caught.value.__notes__] == [
        "aresilience: inner gave up after 2 attempts"
    ]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An error that cannot be changed."""

    code: int


class Unprintable(Exception):
    """An error whose message cannot be had."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [Frozen(3), Unprintable()])
async def test_an_awkward_error_is_still_the_one_that_is_raised(error: Exception) -> None:
    """Neither a frozen dataclass nor a broken __str__ is replaced by an error of the note's."""
    retry = fetching(on=Exception, attempts=2)
    with pytest.raises(type(error)) as caught:
        await by_decorator(retry, raising(error))
    assert caught.value is error
    assert len(ar.retry_history(error)) == 2
    (note,) = error.__notes__
    shown = "Unprintable(?)" if isinstance(error, Unprintable) else "Frozen('3')"
    assert f"after {shown}: no attempts left" in note


async def test_a_marked_error_can_go_to_another_process() -> None:
    """It pickles and copies, with its note; what was called and the earlier errors stay behind."""
    last = await ended(by_decorator, fetching(), Unpicklable(), OSError("last"))
    for there in (pickle.loads(pickle.dumps(last)), copy.deepcopy(last)):
        assert (type(there), there.args, there.__notes__) == (OSError, ("last",), last.__notes__)
        assert ar.retry_history(there) == ()
    assert ar.retry_history(copy.copy(last)) == ar.retry_history(last)


class Unpicklable(OSError):
    """An error with something in it that does not leave the process."""

    def __init__(self) -> None:
        super().__init__("first")
        self.connection = lambda: None


async def test_a_group_is_marked_as_a_whole() -> None:
    """The note is on the group that is raised, not on its leaves."""

    async def fetch() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(raising(OSError("a"))())  # type: ignore[arg-type]

    with pytest.raises(ExceptionGroup) as caught:
        await by_decorator(fetching(), fetch)
    assert len(ar.retry_history(caught.value)) == 3
    assert vars(caught.value.exceptions[0]) == {}
