"""DeadlineMiddleware: how long the caller waits, in and out."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aresilience as ar
from aresilience.asgi import DeadlineMiddleware, RejectedMiddleware, deadline_headers

HEADER = "X-Request-Timeout"


class Left:
    """An application that notes how much time it has."""

    def __init__(self) -> None:
        self.seconds: list[float | None] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seconds.append(ar.time_remaining())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})


class Slow:
    """An application that takes its time, and says how it ended."""

    def __init__(self, seconds: float = 100, *, started: bool = False) -> None:
        self.seconds = seconds
        self.started = started
        self.ended = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        if not self.started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize(
    ("options", "lines", "seconds"),
    [
        ({}, [], None),
        ({}, ["2"], 2.0),
        ({}, ["0.35"], 0.35),
        ({}, [" 7 \t"], 7.0),
        ({}, ["999999999"], 999_999_999.0),
        ({"maximum": 30}, ["2"], 2.0),
        ({"maximum": 30}, ["31"], 30.0),
        ({"maximum": 30}, [], 30.0),
        ({"maximum": 30, "default": 5}, [], 5.0),
        ({"maximum": 30, "default": 5}, ["8"], 8.0),
        ({"default": 5}, ["8"], 8.0),
        # of several the shortest; what cannot be read does not count
        ({"default": 5}, ["8", "3", "x"], 3.0),
        # garbage: as if it were not there
        ({"default": 5}, ["-1"], 5.0),
        ({"default": 5}, ["nan"], 5.0),
        ({"default": 5}, ["inf"], 5.0),
        ({"default": 5}, ["1e9"], 5.0),
        ({"default": 5}, ["1500m"], 5.0),
        ({"default": 5}, ["1,5"], 5.0),
        ({"default": 5}, ["1."], 5.0),
        ({"default": 5}, [".5"], 5.0),
        ({"default": 5}, ["1_0"], 5.0),
        ({"default": 5}, ["0x1"], 5.0),
        ({"default": 5}, [""], 5.0),
        ({"default": 5}, ["9" * 10], 5.0),
        ({"default": 5}, ["1\n"], 5.0),
        ({}, ["garbage"], None),
        ({"header": None, "default": 5}, ["2"], 5.0),
        ({"header": "grpc-ish"}, ["2"], None),
    ],
)
async def test_the_deadline_of_a_request(
    options: Any, lines: list[str], seconds: float | None, ask: Any
) -> None:
    """From the header in decimal seconds, bounded by the maximum; garbage is ignored."""
    app = Left()
    await ask(DeadlineMiddleware(app, **options), headers=[(HEADER, line) for line in lines])
    assert app.seconds == [seconds]
    assert ar.time_remaining() is None


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_no_header_can_do_harm(value: str) -> None:
    """Whatever is in the header, the deadline is from 0 to the maximum, or the default."""
    middleware = DeadlineMiddleware(None, maximum=30, default=5)  # type: ignore[arg-type]
    headers = [(HEADER.lower().encode(), value.encode("latin-1"))]
    seconds = middleware._seconds({"headers": headers})
    assert seconds is not None
    assert 0 <= seconds <= 30


async def test_when_it_passes_the_answer_is_504(ask: Any) -> None:
    """The application is cancelled, on time, and a problem says Gateway Timeout."""
    app = Slow()
    answer = await ask(DeadlineMiddleware(app), headers=[(HEADER, "2.5")])
    assert answer.status == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in answer.headers
    assert json.loads(answer.body) == {"type": "about:blank", "title": "Gateway Timeout", "status": 504}
    assert app.ended == "cancelled"
    assert asyncio.get_running_loop().time() == 2.5


async def test_in_time_nothing_happens(ask: Any) -> None:
    """A response before the deadline is the application's."""
    app = Slow(2)
    assert (await ask(DeadlineMiddleware(app, maximum=3))).status == 200
    await asyncio.sleep(10)
    assert app.ended == "done"


async def test_without_any_time_nothing_is_begun(ask: Any) -> None:
    """A request that comes with 0, or under a deadline that has passed, is answered 504 at once."""
    app = Left()
    wrapped = DeadlineMiddleware(app, default=5)
    assert (await ask(wrapped, headers=[(HEADER, "0")])).status == 504
    assert (await ask(wrapped, headers=[(HEADER, "0.000")])).status == 504
    with ar.deadline(0):
        assert (await ask(wrapped)).status == 504
    assert app.seconds == []


async def test_a_response_that_has_started_is_broken_off(line: Any, scope_of: Any) -> None:
    """After the start there is no other answer: the error passes, and the server closes the connection."""
    client, app = line(), Slow(started=True)
    with pytest.raises(ar.DeadlineExceeded):
        await DeadlineMiddleware(app, maximum=2)(scope_of(), client.receive, client.send)
    assert client.answer.kinds == ["http.response.start"]
    assert app.ended == "cancelled"


async def test_a7_a_slow_body_ends_at_the_deadline(scope_of: Any, line: Any) -> None:
    """A7: slow-loris body → the deadline holds for reading it too."""
    client = line([b"byte", b"by", b"byte"])
    client._messages.pop()  # the last never comes

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    await DeadlineMiddleware(app, maximum=10)(scope_of("/", "POST"), client.receive, client.send)
    assert client.answer.status == 504
    assert asyncio.get_running_loop().time() == 10


async def test_policies_below_keep_to_it(ask: Any) -> None:
    """A retry does not begin a wait that would overrun it: its last error comes early."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def call() -> None:
            raise ConnectionError

        await ar.Retry(on=ConnectionError, attempts=10, backoff=ar.Backoff.constant(3, jitter=None)).call(
            call
        )

    with pytest.raises(ConnectionError):
        await ask(DeadlineMiddleware(app, maximum=5))
    assert asyncio.get_running_loop().time() == 3


@pytest.mark.parametrize("wrapped", ["timeout", "task group"])
async def test_however_the_deadline_comes_out(wrapped: str, ask: Any) -> None:
    """Raised by a Timeout below, or inside a TaskGroup: 504 all the same."""

    async def timeout(scope: Any, receive: Any, send: Any) -> None:
        await ar.Timeout(10).call(asyncio.sleep, 100)

    async def task_group(scope: Any, receive: Any, send: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ar.Timeout(10).call(asyncio.sleep, 100))

    app = {"timeout": timeout, "task group": task_group}[wrapped]
    assert (await ask(DeadlineMiddleware(app, maximum=2))).status == 504
    assert asyncio.get_running_loop().time() == 2


async def test_a_timeout_of_the_application_passes(ask: Any) -> None:
    """A TimedOut that has nothing to do with the deadline is an error like any other."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ar.Timeout(1).call(asyncio.sleep, 100)

    with pytest.raises(ar.TimedOut) as raised:
        await ask(DeadlineMiddleware(app, maximum=2))
    assert type(raised.value) is ar.TimedOut


async def test_a_group_with_another_error_passes(ask: Any) -> None:
    """The bug beside the deadline is not hidden."""
    group = ExceptionGroup("", [ar.DeadlineExceeded(), ValueError()])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise group

    with pytest.raises(ExceptionGroup) as raised:
        await ask(DeadlineMiddleware(app, maximum=2))
    assert raised.value is group


async def test_a_cancel_from_outside_is_no_timeout(line: Any, scope_of: Any) -> None:
    """A server that shuts down cancels: no 504 is sent, the cancel passes."""
    client, app = line(), Slow()
    wrapped = DeadlineMiddleware(app, maximum=2)
    task = asyncio.get_running_loop().create_task(wrapped(scope_of(), client.receive, client.send))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert client.answer.messages == []


async def test_a15_mounted_twice_only_shortens(ask: Any) -> None:
    """A15: an inner one reads the same header and cannot lengthen what the outer one set."""
    app = Left()

    async def later(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1)
        await DeadlineMiddleware(app, default=60)(scope, receive, send)

    await ask(DeadlineMiddleware(later), headers=[(HEADER, "5")])
    assert app.seconds == [4]


async def test_websockets_have_no_deadline(ask: Any) -> None:
    """A websocket is not one request with one answer."""
    app = Left()
    await ask(DeadlineMiddleware(app, maximum=2), kind="websocket")
    assert app.seconds == [None]


async def test_the_way_out() -> None:
    """deadline_headers passes on what is left, rounded down; nothing where there is no deadline."""
    assert deadline_headers() == {}
    with ar.deadline(2.5):
        assert deadline_headers() == {HEADER: "2.500"}
        await asyncio.sleep(0.7503)
        assert deadline_headers() == {HEADER: "1.749"}
        assert deadline_headers("Budget") == {"Budget": "1.749"}
    with ar.deadline(1):
        await asyncio.sleep(0.9999)
        assert deadline_headers() == {HEADER: "0.000"}
    with ar.deadline(5), pytest.raises(ValueError, match="must be the name of a header"):
        deadline_headers("a b")


async def test_from_service_to_service(ask: Any) -> None:
    """What one service sends the next one reads: never more than the first has left."""
    app = Left()
    second = DeadlineMiddleware(app, default=60)

    async def first(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.4)
        await ask(second, headers=list(deadline_headers().items()))

    await ask(DeadlineMiddleware(first), headers=[(HEADER, "1")])
    assert app.seconds == [pytest.approx(0.6, abs=0.0011)]
    assert app.seconds[0] is not None
    assert app.seconds[0] <= 0.6


async def test_its_504_is_not_degraded(ask: Any, ok: Any) -> None:
    """When the time is up there is none for a degraded answer either: nobody waits for it."""
    app = RejectedMiddleware(DeadlineMiddleware(Slow(), maximum=1), degrade=lambda scope, error: ok)
    assert (await ask(app)).status == 504


async def test_where_it_hung_can_be_logged(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of what was cut off is there for those who debug."""
    with caplog.at_level(logging.DEBUG, "aresilience"):
        await ask(DeadlineMiddleware(Slow(), maximum=1))
    (record,) = [r for r in caplog.records if r.name == "aresilience"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ar.DeadlineExceeded)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"maximum": 0}, ValueError, "maximum must be a number of seconds greater than 0, got 0"),
        ({"default": "5"}, TypeError, "default must be a number of seconds"),
        ({"default": 5, "maximum": 2}, ValueError, "default must be at most the maximum 2, got 5"),
        ({"header": "a b"}, ValueError, "header must be the name of a header, got 'a b'"),
        ({"header": None}, ValueError, "would do nothing"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(error, match=message):
        DeadlineMiddleware(None, **options)  # type: ignore[arg-type]
