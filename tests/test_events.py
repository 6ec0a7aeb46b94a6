"""Events and who is told: in order, after the fact, harmless."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

import aresilience as ar
from aresilience.events import Event, Listeners
from aresilience.testing import Recorder

FIRST, SECOND, THIRD = (Event("p", float(n)) for n in range(3))


def test_all_listeners_are_told_in_order() -> None:
    """Listeners are called in the order in which they were added, each with every event."""
    told: list[tuple[str, Event]] = []
    listeners = Listeners([lambda event: told.append(("a", event))])
    listeners.add(lambda event: told.append(("b", event)))
    listeners.tell(FIRST)
    listeners.tell(SECOND)
    assert told == [("a", FIRST), ("b", FIRST), ("a", SECOND), ("b", SECOND)]


def test_an_event_is_frozen() -> None:
    """No listener can change what the next one sees."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIRST.at = 5  # type: ignore[misc]


def test_what_a_listener_causes_is_told_after() -> None:
    """Events that a listener causes come after the one that it was told, for everybody."""
    one, two = Recorder(), Recorder()

    def causes(event: Event) -> None:
        if event is FIRST:
            listeners.tell(SECOND)
            listeners.tell(THIRD)

    listeners = Listeners([one, causes, two])
    listeners.tell(FIRST)
    assert one.events == two.events == [FIRST, SECOND, THIRD]


def test_a_listener_may_leave_while_it_is_told() -> None:
    """Who leaves in the middle harms nobody, and is told nothing more."""
    told: list[Event] = []

    def once(event: Event) -> None:
        told.append(event)
        listeners.remove(once)

    after = Recorder()
    listeners = Listeners([once, after])
    listeners.tell(FIRST)
    listeners.tell(SECOND)
    assert told == [FIRST]
    assert after.events == [FIRST, SECOND]
    listeners.remove(once)  # again: nothing happens


def test_truth_is_whether_anybody_listens() -> None:
    """Without listeners no event needs to be built."""
    listeners, listener = Listeners(), Recorder()
    assert not listeners
    listeners.add(listener)
    assert listeners
    listeners.remove(listener)
    assert not listeners


async def test_b10(caplog: pytest.LogCaptureFixture) -> None:
    """Listener raises → logged, state unharmed."""

    def broken(event: Event) -> None:
        raise RuntimeError("the listener's own")

    recorder = Recorder()
    retry = ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(1), listeners=[broken, recorder])
    made = 0

    @retry
    async def third_time_lucky() -> int:
        nonlocal made
        made += 1
        if made < 3:
            raise ConnectionError
        return made

    with caplog.at_level(logging.ERROR, "aresilience"):
        assert await third_time_lucky() == 3
    assert [event.at for event in recorder.events] == [0.0, 1.0]
    assert [record.message for record in caplog.records] == ["a listener failed on RetryScheduled"] * 2
    assert all("the listener's own" in str(record.exc_info) for record in caplog.records)


def test_an_exit_passes_and_nothing_is_lost() -> None:
    """KeyboardInterrupt in a listener is not caught; the events that waited are told with the next."""
    recorder = Recorder()

    def interrupted(event: Event) -> None:
        if event is FIRST:
            listeners.tell(SECOND)
            raise KeyboardInterrupt

    listeners = Listeners([interrupted, recorder])
    with pytest.raises(KeyboardInterrupt):
        listeners.tell(FIRST)
    listeners.tell(THIRD)
    assert recorder.events == [SECOND, THIRD]


async def coroutine_function(event: Event) -> None:
    """A listener that would make calls wait."""


class WithAsyncCall:
    """The same as an object."""

    async def __call__(self, event: Event) -> None:
        """Would make calls wait."""


@pytest.mark.parametrize(
    "listener",
    [coroutine_function, WithAsyncCall(), functools.partial(coroutine_function), AsyncMock()],
    ids=lambda it: type(it).__name__,
)
def test_a_listener_cannot_be_a_coroutine_function(listener: Callable[[Event], object]) -> None:
    """In whatever shape: nobody would await it."""
    with pytest.raises(TypeError, match="a listener must be a plain function, got the coroutine function"):
        Listeners([listener])


@pytest.mark.parametrize("listener", [None, "print", [print]])
def test_a_listener_can_be_called(listener: Any) -> None:
    """What cannot be called is refused when it is added."""
    with pytest.raises(TypeError, match="a listener must be a function of one event, got "):
        ar.Retry(on=ValueError, listeners=[listener])
    with pytest.raises(TypeError, match="a listener must be a function of one event, got "):
        ar.Retry(on=ValueError).listen(listener)


async def test_listen_returns_what_ends_it() -> None:
    """policy.listen(listener) tells until the function that it returned is called."""

    async def down() -> None:
        raise ConnectionError

    recorder = Recorder()
    retry = ar.Retry(on=ConnectionError, attempts=1)
    end = retry.listen(recorder)
    with pytest.raises(ConnectionError):
        await retry.call(down)
    end()
    with pytest.raises(ConnectionError):
        await retry.call(down)
    assert len(recorder.events) == 1


class Forger(Exception):
    """An error whose own repr has line breaks."""

    def __repr__(self) -> str:
        return "Forger\nERROR root: forged"


FORGED = "x\r\nERROR root: forged\u2028\x1b[31m"


@pytest.mark.parametrize(
    "event",
    [
        ar.RetryScheduled("p", 0.0, 1, 0.5, ValueError(FORGED)),
        ar.RetryScheduled("p", 0.0, 1, 0.5, Forger(FORGED)),
        ar.RetryGaveUp("p", 0.0, 3, ar.StopReason.ATTEMPTS, ExceptionGroup(FORGED, [Forger(FORGED)])),
        ar.CallRejected(FORGED, 0.0, None),
        ar.FallbackUsed("p", 0.0, KeyError(FORGED)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_v8(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    """Log injection through keys → escaped; through messages and policy names too."""
    with caplog.at_level(logging.INFO, "aresilience"):
        ar.LoggingListener()(event)
    (line,) = caplog.messages
    assert line.isprintable()


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (
            ar.RetryScheduled("fetch", 2.0, 1, 0.25, ConnectionError("gone")),
            logging.INFO,
            "RetryScheduled 'fetch' attempt=1 delay=0.25 error=ConnectionError('gone')",
        ),
        (
            ar.RetryScheduled("fetch", 2.0, 1, 0.25, None),
            logging.INFO,
            "RetryScheduled 'fetch' attempt=1 delay=0.25 error=None",
        ),
        (
            ar.CallRejected("pool", 2.0, 1.5),
            logging.WARNING,
            "CallRejected 'pool' retry_after=1.5 shadow=False",
        ),
    ],
)
def test_the_logging_listener_writes_a_line(
    event: Event, level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line per event: its kind, the policy, its fields; the fields also as the record's `aresilience`."""
    with caplog.at_level(logging.INFO, "aresilience"):
        ar.LoggingListener()(event)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, line)
    facts = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    assert record.aresilience == {"event": type(event).__name__, **facts}  # type: ignore[attr-defined]


def test_the_logging_listener_takes_a_logger() -> None:
    """Where to write is the user's choice, and what the logger does not want is not built."""
    logger = logging.getLogger("mine")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    listener = ar.LoggingListener(logger)

    class Unseen(Exception):
        def __str__(self) -> str:
            pytest.fail("it was put into words")

    listener(ar.RetryScheduled("p", 0.0, 1, 0.5, Unseen()))
    listener(ar.CallRejected("p", 0.0, None))
    assert lines == ["CallRejected 'p' retry_after=None shadow=False"]


async def test_listeners_are_told_outside_of_any_wait() -> None:
    """The event of a retry is told when it is decided, not when the wait is over."""
    recorder = Recorder()
    retry = ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(60), listeners=[recorder])

    async def down() -> None:
        raise ConnectionError

    task = asyncio.create_task(retry.call(down))
    await asyncio.sleep(1)
    assert [event.at for event in recorder.events] == [0.0]
    task.cancel()
