"""BulkheadMiddleware: so many requests at once, and who leaves the queue."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import BulkheadMiddleware, RejectedMiddleware
from aresilience.testing import cancel_sweep


class Hall:
    """An application in which requests stay until they are let out."""

    def __init__(self, *, answers: bool = True) -> None:
        self.inside: list[str] = []
        self.served: list[str] = []
        self.bodies: dict[str, bytes] = {}
        self._answers = answers
        self._out: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.inside.append(path)
        try:
            await self._door(path).wait()
            if self._answers:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"served"})
            self.served.append(path)
        finally:
            self.inside.remove(path)

    def let_out(self, path: str) -> None:
        """End a request."""
        self._door(path).set()

    def _door(self, path: str) -> asyncio.Event:
        return self._out.setdefault(path, asyncio.Event())


@pytest.fixture
def begin(line: Any, scope_of: Any) -> Callable[..., Any]:
    """Starts a request, and lets it run until it can go no further; returns the client and the task."""

    async def beginning(app: Any, path: str, parts: tuple[bytes, ...] = (b"",), **more: Any) -> Any:
        client = line(parts)
        loop = asyncio.get_running_loop()
        task = loop.create_task(app(scope_of(path, "POST", **more), client.receive, client.send))
        await settle()
        return client, task

    return beginning


async def settle() -> None:
    """Let everything happen that can."""
    await asyncio.sleep(0.001)


async def test_beyond_the_permits_the_answer_is_503(begin: Any) -> None:
    """A full bulkhead answers at once, with a problem and when to come back."""
    hall, bulkhead = Hall(), ar.Bulkhead(1)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead, default_retry_after=3)
    _, first = await begin(app, "/a")
    refused, second = await begin(app, "/b")
    assert second.done()
    assert refused.answer.status == 503
    assert refused.answer.headers["retry-after"] == "3"
    assert json.loads(refused.answer.body)["type"].endswith("#temporary-reduced-capacity")
    hall.let_out("/a")
    await first
    assert bulkhead.running == 0


async def test_a3_a_permit_is_held_until_the_application_ends(begin: Any) -> None:
    """A3: client leaves: the application goes on, and so does its permit, until it ends."""
    hall, bulkhead = Hall(), ar.Bulkhead(1)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead)
    client, task = await begin(app, "/a")
    client.leave()
    await settle()
    assert (hall.inside, bulkhead.running) == (["/a"], 1)
    assert (await begin(app, "/b"))[0].answer.status == 503
    hall.let_out("/a")
    await task
    assert (hall.served, bulkhead.running) == (["/a"], 0)


async def test_a3_background_work_holds_it_too(begin: Any) -> None:
    """A3: what the application does after its response is work as well."""
    done = asyncio.Event()
    bulkhead = ar.Bulkhead(1)

    async def hall(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
        await done.wait()

    client, task = await begin(BulkheadMiddleware(hall, bulkhead=bulkhead), "/a")
    assert client.answer.status == 200
    assert bulkhead.running == 1
    done.set()
    await task
    assert bulkhead.running == 0


async def test_a3_a_send_that_fails_frees_nothing_early(scope_of: Any, line: Any) -> None:
    """A3: where a server does fail `send`, the permit goes back when the application has ended by that."""
    bulkhead = ar.Bulkhead(1)
    held: list[int] = []

    async def hall(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except OSError:
            held.append(bulkhead.running)
            raise

    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    with pytest.raises(OSError, match="gone"):
        await BulkheadMiddleware(hall, bulkhead=bulkhead)(scope_of(), line().receive, send)
    assert (held, bulkhead.running) == ([1], 0)


@pytest.mark.parametrize("how", ["silence", "error", "cancel", "interrupt"])
async def test_a4_however_the_application_ends_the_permit_is_free(how: str, begin: Any) -> None:
    """A4: app never calls send → slot freed; and so by an error, a cancel, an interrupt."""
    bulkhead = ar.Bulkhead(1)
    endings = {"silence": None, "error": ValueError(), "cancel": asyncio.CancelledError()}
    ending = endings.get(how, GeneratorExit())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if ending is not None:
            raise ending

    _, task = await begin(BulkheadMiddleware(app, bulkhead=bulkhead), "/a")
    await asyncio.wait([task])
    assert how == "silence" or task.cancelled() or task.exception() is ending
    assert repr(bulkhead) == "<Bulkhead 'Bulkhead' 0/1 running, 0/0 waiting>"


async def test_those_in_the_queue_come_in_order(begin: Any) -> None:
    """First come, first served; who waits too long is refused."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=5, max_wait=10)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead)
    begun = [await begin(app, path) for path in ("/a", "/b", "/c")]
    assert (hall.inside, bulkhead.waiting) == (["/a"], 2)
    hall.let_out("/a")
    await settle()
    assert hall.inside == ["/b"]
    await asyncio.sleep(11)
    assert begun[2][0].answer.status == 503
    hall.let_out("/b")
    await asyncio.gather(*(task for _, task in begun))
    assert hall.served == ["/a", "/b"]
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_a8_who_leaves_while_waiting_gives_up_the_place(begin: Any) -> None:
    """A8: http.disconnect while a request waits → stop: its place is free, and nothing runs for nobody."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=1)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead)
    _, first = await begin(app, "/a")
    gone, second = await begin(app, "/b")
    gone.leave()
    await settle()
    assert second.done()
    assert gone.answer.status == 503  # for those between us and the server who want an answer
    _, third = await begin(app, "/c")
    assert bulkhead.waiting == 1
    for path in ("/a", "/c"):
        hall.let_out(path)
    await asyncio.gather(first, third)
    assert hall.served == ["/a", "/c"]
    assert bulkhead.running == 0


async def test_a8_an_answer_to_nobody_may_fail(line: Any, scope_of: Any) -> None:
    """A8: servers may raise OSError when the client is gone: nobody needs to hear of that."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=1)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead)

    async def broken(message: Any) -> None:
        raise BrokenPipeError

    client = line()
    async with asyncio.TaskGroup() as group:
        group.create_task(app(scope_of("/a"), line().receive, client.send))
        await settle()
        group.create_task(app(scope_of("/b"), client.receive, broken))
        await settle()
        client.leave()
        await settle()
        assert bulkhead.waiting == 0
        hall.let_out("/a")


@pytest.mark.parametrize("parts", [(b"",), (b"whole",), (b"one", b"two", b"three")])
async def test_a8_no_part_of_the_body_is_lost(parts: tuple[bytes, ...], begin: Any) -> None:
    """A8: looking out for the client reads ahead by one part; the application gets every one, in order."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    read: list[bytes] = []
    kinds: list[str] = []

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            read.append(message["body"])
            more = message["more_body"]
        kinds.append((await receive())["type"])

    app = BulkheadMiddleware(reader, bulkhead=bulkhead)
    async with bulkhead:
        client, task = await begin(app, "/a", parts)
        assert client.asked == (2 if len(parts) == 1 else 1)
    await settle()
    client.leave()
    await task
    assert (read, kinds) == (list(parts), ["http.disconnect"])


async def test_a8_once_inside_nothing_is_read_ahead(scope_of: Any, line: Any) -> None:
    """A8: a part that comes after the wait is over is the application's; the next one waits until asked for."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    sent, read_on = asyncio.Event(), asyncio.Event()
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        await sent.wait()
        return {"type": "http.request", "body": b"%d" % asked, "more_body": False}

    read: list[bytes] = []

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        read.append((await receive())["body"])
        await read_on.wait()
        read.append((await receive())["body"])

    async with asyncio.TaskGroup() as group:
        async with bulkhead:
            group.create_task(
                BulkheadMiddleware(reader, bulkhead=bulkhead)(scope_of(), receive, line().send)
            )
            await settle()
        await settle()
        assert (read, asked) == ([], 1)
        sent.set()
        await settle()
        assert (read, asked) == ([b"1"], 1)
        read_on.set()
    assert read == [b"1", b"2"]


async def test_a8_an_application_that_stops_listening_can_listen_again(begin: Any) -> None:
    """A8: a receive that was cancelled (a framework polls that way) loses nothing of what comes later."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    seen: list[str] = []

    async def poller(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        for _ in range(2):
            try:
                async with asyncio.timeout(1):
                    await receive()
            except TimeoutError:
                seen.append("nothing yet")
        client.leave()
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    app = BulkheadMiddleware(poller, bulkhead=bulkhead)
    async with bulkhead:
        client, task = await begin(app, "/a")
    await task
    assert seen == ["http.request", "nothing yet", "nothing yet", "http.disconnect", "http.disconnect"]


async def test_a8_an_error_of_the_server_is_the_applications_to_see(scope_of: Any, line: Any) -> None:
    """A8: what the server's receive raises while the request waits is raised where it is received."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    asked: list[Any] = []

    async def broken() -> Any:
        asked.append(None)
        raise RuntimeError(f"protocol error {len(asked)}")

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    for app, expected in [(reader, "protocol error 1"), (silent, None)]:
        wrapped = BulkheadMiddleware(app, bulkhead=bulkhead)
        async with asyncio.TaskGroup() as group, bulkhead:
            task = group.create_task(_error_of(wrapped(scope_of(), broken, line().send)))
            await settle()
        assert task.result() == expected


async def test_a8_a_receive_that_fails_when_it_is_called_off_is_nobodys_error(begin: Any, ok: Any) -> None:
    """A8: the application has ended without asking for more: no complaint about a task that nobody awaited."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))

    async def sour() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("called off") from None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await BulkheadMiddleware(ok, bulkhead=bulkhead)(scope, sour, send)

    async with bulkhead:
        client, task = await begin(app, "/a")
    await task
    assert client.answer.status == 200
    gc.collect()
    assert unseen == []


async def _error_of(awaitable: Any) -> str | None:
    try:
        await awaitable
    except RuntimeError as error:
        return str(error)
    return None


async def test_who_asks_before_sending_is_not_told_to(begin: Any) -> None:
    """With Expect: 100-continue nothing is received while it waits: that would call for the body."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=1)
    async with bulkhead:
        client, task = await begin(
            BulkheadMiddleware(hall, bulkhead=bulkhead), "/a", headers=[("expect", "100-continue")]
        )
        assert client.asked == 0
        hall.let_out("/a")
    await task


async def test_without_a_wait_nothing_is_read_and_no_task_is_made(begin: Any, ok: Any) -> None:
    """A request that gets its permit at once passes with the server's own receive."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(receive)
        assert len(asyncio.all_tasks()) == 2

    client, task = await begin(BulkheadMiddleware(app, bulkhead=ar.Bulkhead(1)), "/a")
    await task
    assert given == [client.receive]
    assert client.asked == 0


async def test_a_cancel_from_outside_is_not_taken_for_a_client_that_left(begin: Any) -> None:
    """Cancelled while waiting, by a server that shuts down: cancelled it is, also when both come together."""
    hall, bulkhead = Hall(), ar.Bulkhead(1, max_waiting=2)
    app = BulkheadMiddleware(hall, bulkhead=bulkhead)
    async with bulkhead:
        for leaves in (False, True):
            client, task = await begin(app, "/a")
            if leaves:
                client.leave()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert client.answer.messages == []
        assert bulkhead.waiting == 0
    assert bulkhead.running == 0


async def test_a15_mounted_twice_holds_one_permit(ask: Any, ok: Any) -> None:
    """A15: the same bulkhead inside and outside: a second permit would wait for the first for ever."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    inner = BulkheadMiddleware(ok, bulkhead=bulkhead)
    outer = BulkheadMiddleware(inner, bulkhead=bulkhead)
    for _ in range(2):
        assert (await ask(outer)).status == 200
        assert bulkhead.running == 0


async def test_two_bulkheads_are_two(begin: Any) -> None:
    """One for all requests, one for the exports: both count."""
    hall, wide, narrow = Hall(), ar.Bulkhead(5), ar.Bulkhead(1)
    exports = BulkheadMiddleware(hall, bulkhead=narrow, paths=["/exports/*"])
    app = BulkheadMiddleware(exports, bulkhead=wide)
    paths = ("/exports/1", "/exports/2", "/a")
    begun = [await begin(app, path) for path in paths]
    assert [client.answer.status for client, _ in begun] == [None, 503, None]
    assert (wide.running, narrow.running) == (2, 1)
    for path in paths:
        hall.let_out(path)
    await asyncio.gather(*(task for _, task in begun))


async def test_exempt_requests_pass(ask: Any, ok: Any) -> None:
    """The health check is answered by a service that is full; methods can be left out too."""
    bulkhead = ar.Bulkhead(1)
    app = BulkheadMiddleware(ok, bulkhead=bulkhead, exempt=["/health"], methods=["GET", "POST"])
    async with bulkhead:
        assert (await ask(app, "/health")).status == 200
        assert (await ask(app, "/", "OPTIONS")).status == 200
        assert (await ask(app, "/")).status == 503


async def test_websockets_pass_unless_asked_for(ask: Any, ok: Any) -> None:
    """By default they need no permit; with websockets=True they are refused like requests."""
    bulkhead = ar.Bulkhead(1)
    async with bulkhead:
        app = BulkheadMiddleware(ok, bulkhead=bulkhead)
        assert (await ask(app, kind="websocket")).kinds == ["websocket.accept"]
        app = BulkheadMiddleware(ok, bulkhead=bulkhead, websockets=True)
        answer = await ask(app, kind="websocket")
        assert [(m["type"], m["code"]) for m in answer.messages] == [("websocket.close", 1013)]
        answer = await ask(app, kind="websocket", extensions={"websocket.http.response": {}})
        assert answer.status == 503
    assert (await ask(app, kind="websocket")).kinds == ["websocket.accept"]
    assert bulkhead.running == 0


async def test_a_websocket_may_wait_for_its_permit(scope_of: Any, line: Any, ok: Any) -> None:
    """It is not looked out for: nothing is received before the application does."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    client = line()
    async with asyncio.TaskGroup() as group, bulkhead:
        app = BulkheadMiddleware(ok, bulkhead=bulkhead, websockets=True)
        group.create_task(app(scope_of(kind="websocket"), client.receive, client.send))
        await settle()
        assert (bulkhead.waiting, client.asked) == (1, 0)
    assert client.answer.kinds == ["websocket.accept"]


async def test_a_refusal_of_the_application_is_not_its_own(ask: Any) -> None:
    """A BulkheadFull that comes from inside passes: somebody else's to answer."""
    inner = ar.Bulkhead(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with inner, inner:
            pass

    with pytest.raises(ar.BulkheadFull):
        await ask(BulkheadMiddleware(app, bulkhead=ar.Bulkhead(1)))
    assert inner.running == 0


async def test_under_a_rejected_middleware_its_options_answer(ask: Any, ok: Any) -> None:
    """The outer one's degrade answers those whom the bulkhead refuses."""
    bulkhead = ar.Bulkhead(1)
    full = BulkheadMiddleware(ok, bulkhead=bulkhead)
    app = RejectedMiddleware(full, default_retry_after=9)
    degraded = RejectedMiddleware(full, degrade=lambda scope, error: ok)
    async with bulkhead:
        assert (await ask(app)).headers["retry-after"] == "9"
        assert (await ask(degraded)).status == 200


async def test_a_degraded_way_through_the_same_bulkhead_needs_a_permit(ask: Any, ok: Any) -> None:
    """The permit went back when the application failed: who comes by again has to have one."""
    bulkhead = ar.Bulkhead(1)
    running: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.append(bulkhead.running)
        if len(running) == 1:
            raise ar.CircuitOpen
        await ok(scope, receive, send)

    guarded = BulkheadMiddleware(app, bulkhead=bulkhead)
    answer = await ask(RejectedMiddleware(guarded, degrade=lambda scope, error: guarded))
    assert (answer.status, running) == (200, [1, 1])


async def test_the_ambient_deadline_ends_the_wait(begin: Any) -> None:
    """Who has no time left does not wait for a permit."""
    bulkhead = ar.Bulkhead(1, max_waiting=1)
    app = BulkheadMiddleware(Hall(), bulkhead=bulkhead)
    async with bulkhead:
        with pytest.raises(ar.DeadlineExceeded), ar.deadline(2):
            await (await begin(app, "/a"))[1]
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        assert bulkhead.waiting == 0


def test_a_cancel_anywhere_leaks_nothing(line: Any, scope_of: Any) -> None:
    """Cancelled at every await, waiting or inside: no permit, no place and no task is left behind."""

    async def hold(bulkhead: ar.Bulkhead) -> None:
        async with bulkhead:
            await asyncio.sleep(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def use(bulkhead: ar.Bulkhead) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hold(bulkhead))
            await settle()
            client = line()
            await BulkheadMiddleware(app, bulkhead=bulkhead)(scope_of(), client.receive, client.send)
            assert client.answer.status == 200

    def check(bulkhead: ar.Bulkhead) -> None:
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)

    report = cancel_sweep(use, make=lambda: ar.Bulkhead(1, max_waiting=1), check=check)
    assert report.points >= 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bulkhead": 10}, TypeError, "bulkhead must be an ar.Bulkhead, got 10"),
        ({"paths": "/a"}, TypeError, "BulkheadMiddleware: paths must be a list"),
        ({"default_retry_after": -1}, ValueError, "BulkheadMiddleware: default_retry_after must be"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(error, match=message):
        BulkheadMiddleware(None, **{"bulkhead": ar.Bulkhead(1), **options})  # type: ignore[arg-type]
