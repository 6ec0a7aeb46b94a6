"""RejectedMiddleware: refusals as responses."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import BulkheadMiddleware, Problem, RejectedMiddleware, as_problem
from aresilience.errors import BackendError, NotSent, Rejected
from aresilience.limiter import RateLimited, RateLimiter


class Odd(Rejected):
    """A refusal of a user's own."""


def raising(error: BaseException, before: tuple[dict[str, Any], ...] = ()) -> Any:
    """An application that sends some messages and fails."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        raise error

    return app


SECRET = "key-of-alice\r\nSet-Cookie: stolen=1"
REDUCED = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry_after"),
    [
        (RateLimited(SECRET, retry_after=2.1), 429, EXCEEDED, "3"),
        (RateLimited(SECRET), 429, EXCEEDED, "1"),
        (ar.CircuitOpen(SECRET, retry_after=29.5), 503, REDUCED, "30"),
        (ar.BulkheadFull(SECRET), 503, REDUCED, "1"),
        (Odd(SECRET, retry_after=0.001), 503, REDUCED, "1"),
    ],
)
async def test_refusals_become_problems(
    error: Rejected, status: int, kind: str, retry_after: str, ask: Any
) -> None:
    """429 for limits, 503 for the rest, as a problem, with Retry-After in whole seconds."""
    answer = await ask(RejectedMiddleware(raising(error)))
    assert status == answer.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(len(answer.body)) == answer.headers["content-length"]
    assert answer.headers["cache-control"] == "no-store"
    assert retry_after == answer.headers["retry-after"]
    problem = json.loads(answer.body)
    assert (kind, status) == (problem["type"], problem["status"])


async def test_a14_the_answer_is_a_fixed_text(ask: Any) -> None:
    """A14: 429/503 body is fixed text: no key echo, in no header either."""
    texts = set()
    for message in ("", SECRET, "x" * 10_000):
        for error in (RateLimited(message), ar.CircuitOpen(message)):
            answer = await ask(RejectedMiddleware(raising(error)), path=f"/{message[:9]}")
            texts.add((answer.status, answer.body, json.dumps(answer.headers)))
    assert len(texts) == 2
    assert "alice" not in str(texts)


async def test_a5_a_refusal_after_the_start_passes(ask: Any) -> None:
    """A5: once the response has started the error passes, and nothing more is sent."""
    error = ar.CircuitOpen()
    start = {"type": "http.response.start", "status": 200, "headers": []}
    app = RejectedMiddleware(raising(error, (start,)))
    with pytest.raises(ar.CircuitOpen) as raised:
        await ask(app)
    assert error is raised.value


async def test_a_refusal_after_early_hints_is_answered(ask: Any) -> None:
    """Early hints are no start: the response may still be any."""
    hint = {"type": "http.response.early_hint", "links": []}
    answer = await ask(RejectedMiddleware(raising(ar.CircuitOpen(), (hint,))))
    assert answer.status == 503


async def test_a_refusal_inside_a_task_group_is_found(ask: Any) -> None:
    """A TaskGroup in the application wraps its error in a group: that is a refusal still."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def refused() -> None:
            raise RateLimited(retry_after=5)

        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.sleep(10))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(refused())

    answer = await ask(RejectedMiddleware(app))
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")


async def test_of_several_refusals_the_longest_wait_counts(ask: Any) -> None:
    """It makes no sense to come back before the last of them would let one in."""
    group = ExceptionGroup("", [RateLimited(retry_after=5), ar.CircuitOpen(retry_after=9), Odd()])
    answer = await ask(RejectedMiddleware(raising(group)))
    assert (answer.status, answer.headers["retry-after"]) == (503, "9")


async def test_a_group_with_a_real_error_passes(ask: Any) -> None:
    """A refusal does not hide the bug beside it."""
    group = ExceptionGroup("", [RateLimited(), ExceptionGroup("", [ValueError()])])
    with pytest.raises(ExceptionGroup) as raised:
        await ask(RejectedMiddleware(raising(group)))
    assert group is raised.value


async def test_timeouts_are_failures_unless_asked_for(ask: Any) -> None:
    """TimedOut passes by default, and is 504 with timeouts=True, without Retry-After."""
    for error in (ar.TimedOut("late"), ar.DeadlineExceeded("late")):
        with pytest.raises(ar.TimedOut):
            await ask(RejectedMiddleware(raising(error)))
        answer = await ask(RejectedMiddleware(raising(error), timeouts=True))
        assert answer.status == 504
        assert "retry-after" not in answer.headers
        assert json.loads(answer.body) == {"type": "about:blank", "title": "Gateway Timeout", "status": 504}


async def test_a_foreign_timeout_error_passes(ask: Any) -> None:
    """A TimeoutError that is not ours stays what it is."""
    with pytest.raises(TimeoutError):
        await ask(RejectedMiddleware(raising(TimeoutError()), timeouts=True))


async def test_statuses_can_be_chosen(ask: Any) -> None:
    """The limit of a service behind is not its caller's fault; the nearest type counts; others are caught."""
    statuses = {RateLimited: 503, Odd: 499, BackendError: 502, Rejected: 500}
    for error, status in [
        (RateLimited(), 503),
        (Odd(), 499),
        (NotSent(), 502),
        (ar.BulkheadFull(), 500),
    ]:
        answer = await ask(RejectedMiddleware(raising(error), statuses=statuses))
        assert status == answer.status
    assert "ratelimit" not in answer.headers


async def test_a_limit_of_the_application_is_told(ask: Any) -> None:
    """A RateLimited that brings its decision and its limiter has the fields of the draft, and the old ones."""
    limiter = RateLimiter("2/min", name="exports")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await limiter.acquire("alice", timeout=0)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    wrapped = RejectedMiddleware(app, legacy_headers="X-RateLimit")
    statuses = [(await ask(wrapped)).status for _ in range(2)]
    answer = await ask(wrapped)
    assert [*statuses, answer.status] == [200, 200, 429]
    assert answer.headers["ratelimit-policy"] == '"exports";q=2;w=60'
    assert answer.headers["ratelimit"] == '"exports";r=0;t=30'
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["x-ratelimit-limit"] == "2"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert answer.headers["x-ratelimit-reset"] == "30"
    assert json.loads(answer.body)["violated-policies"] == ["exports"]


async def test_a_degraded_response_instead(ask: Any, ok: Any) -> None:
    """degrade chooses an application by scope and error; None is the ordinary answer."""
    seen = []

    async def degrade(scope: Any, error: Any) -> Any:
        seen.append((scope["path"], type(error)))
        return ok if scope["path"] == "/menu" else None

    app = RejectedMiddleware(raising(ar.CircuitOpen()), degrade=degrade)
    assert ((answer := await ask(app, "/menu")).status, answer.body) == (200, b"ok")
    assert (await ask(app, "/order")).status == 503
    assert [("/menu", ar.CircuitOpen), ("/order", ar.CircuitOpen)] == seen


async def test_a_plain_function_may_degrade(ask: Any, ok: Any) -> None:
    """degrade need not be async."""
    app = RejectedMiddleware(raising(ar.CircuitOpen()), degrade=lambda scope, error: ok)
    assert (await ask(app)).status == 200


@pytest.mark.parametrize("where", ["choosing", "answering"])
async def test_a_degraded_way_that_is_refused_too(where: str, ask: Any) -> None:
    """If the way out is refused as well, the ordinary answer it is; a bug in it is a bug."""

    def degrade(error: Exception) -> Any:
        async def choose(scope: Any, refusal: Any) -> Any:
            if where == "choosing":
                raise error
            return raising(error)

        return choose

    app = RejectedMiddleware(raising(RateLimited(retry_after=7)), degrade=degrade(ar.CircuitOpen()))
    answer = await ask(app)
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    with pytest.raises(ValueError, match="bug"):
        await ask(RejectedMiddleware(raising(ar.CircuitOpen()), degrade=degrade(ValueError("bug"))))


async def test_a_degraded_response_that_has_started_breaks_off(ask: Any) -> None:
    """Refused in the middle of the degraded response: the error passes, as for any response."""
    start = {"type": "http.response.start", "status": 200, "headers": []}
    broken = raising(ar.BulkheadFull(), (start,))
    with pytest.raises(ar.BulkheadFull):
        await ask(RejectedMiddleware(raising(ar.CircuitOpen()), degrade=lambda scope, error: broken))


async def test_nested_ones_answer_once(ask: Any, ok: Any) -> None:
    """The inner of two answers what comes to it; the outer sees nothing."""
    inner = RejectedMiddleware(raising(ar.CircuitOpen()), default_retry_after=7)
    answer = await ask(RejectedMiddleware(inner, degrade=lambda scope, error: ok))
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")


async def test_its_options_hold_for_what_is_inside_it(ask: Any, ok: Any) -> None:
    """When the inner of two has ended, the outer's options hold again."""
    full = ar.Bulkhead(1)
    inner = RejectedMiddleware(raising(ValueError()), default_retry_after=7)
    beside = BulkheadMiddleware(ok, bulkhead=full)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(ValueError):
            await inner(scope, receive, send)
        await beside(scope, receive, send)

    async with full:
        answer = await ask(RejectedMiddleware(app, default_retry_after=2))
    assert answer.headers["retry-after"] == "2"


async def test_a_websocket_is_refused_before_it_is_accepted(ask: Any) -> None:
    """With a response where the server can send one, else by closing: 1008 for limits, 1013 for the rest."""
    extensions = {"websocket.http.response": {}}
    app = RejectedMiddleware(raising(RateLimited(retry_after=2)))
    answer = await ask(app, kind="websocket", extensions=extensions)
    assert answer.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    for error, code in [(RateLimited(), 1008), (ar.CircuitOpen(), 1013)]:
        for more in ({}, {"extensions": None}):
            answer = await ask(RejectedMiddleware(raising(error)), kind="websocket", **more)
            assert answer.kinds == ["websocket.close"]
            assert code == answer.messages[0]["code"]


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.close", "websocket.http.response.start"])
async def test_a_websocket_that_has_begun_passes_its_error(kind: str, ask: Any) -> None:
    """After accept or close there is nothing to answer with."""
    with pytest.raises(ar.CircuitOpen):
        await ask(RejectedMiddleware(raising(ar.CircuitOpen(), ({"type": kind},))), kind="websocket")


def test_as_problem_is_for_exception_handlers() -> None:
    """Frameworks that keep errors to themselves get status, headers and body to make a response of."""
    problem = as_problem(ar.CircuitOpen(retry_after=0.5))
    assert isinstance(problem, Problem)
    assert problem.status == 503
    assert dict(problem.headers)["retry-after"] == "1"
    assert as_problem(ar.AresilienceError()).status == 500
    assert json.loads(as_problem(ar.AresilienceError()).body)["type"] == "about:blank"


async def test_the_traceback_of_a_timeout_can_be_had(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Answered with 504, the error itself is logged, for those who debug."""
    with caplog.at_level(logging.DEBUG, "aresilience"):
        await ask(RejectedMiddleware(raising(ar.TimedOut("slow")), timeouts=True))
    assert caplog.records[-1].exc_info is not None


def test_v8_no_refusal_writes_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """V8: nothing that a client sent gets into the log: answering a refusal logs nothing."""

    async def once() -> None:
        async def send(message: Any) -> None: ...

        app = RejectedMiddleware(raising(RateLimited(SECRET)))
        await app({"type": "http", "path": SECRET, "headers": []}, None, send)  # type: ignore[arg-type]

    with caplog.at_level(logging.DEBUG, "aresilience"):
        asyncio.run(once())
    assert [record for record in caplog.records if record.name == "aresilience"] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"default_retry_after": 0}, ValueError, "default_retry_after must be .* greater than 0"),
        ({"default_retry_after": float("nan")}, ValueError, "default_retry_after must be"),
        ({"max_retry_after": 0.5}, ValueError, "max_retry_after must be at least 1, got 0.5"),
        ({"legacy_headers": "x-ratelimit"}, ValueError, "one of 'RateLimit', 'X-RateLimit', got 'x-rate"),
        ({"degrade": 1}, TypeError, "degrade must be a function"),
        ({"statuses": {ValueError: 400}}, TypeError, "error types of aresilience"),
        ({"statuses": {Rejected: 200}}, ValueError, "from 400 to 599, got 200 for Rejected"),
        ({"statuses": {Rejected: True}}, ValueError, "from 400 to 599"),
    ],
)
def test_options_are_checked_when_it_is_made(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once, saying what was got and what is allowed."""
    with pytest.raises(error, match=message):
        RejectedMiddleware(None, **options)  # type: ignore[arg-type]
