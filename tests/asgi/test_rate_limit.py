"""RateLimitMiddleware: limits on several levels."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

import aresilience as ar
from aresilience.asgi import ClientIP, Header, Limit, RateLimitMiddleware, RejectedMiddleware
from aresilience.errors import ConfigurationError, NotSent, OutcomeUnknown
from aresilience.limiter import RateLimited, RateLimiter
from aresilience.testing import Recorder


def per_client(rate: str, **options: Any) -> Limit:
    """A limit by address."""
    return Limit(RateLimiter(rate), key=ClientIP(), **options)


async def statuses(ask: Any, app: Any, times: int, *args: Any, **more: Any) -> list[int]:
    """The statuses of so many requests, one after the other."""
    return [(await ask(app, *args, **more)).status for _ in range(times)]


async def test_beyond_the_limit_the_answer_is_429(ask: Any, ok: Any) -> None:
    """The third of two a minute is refused with a problem, the wait and the fields of the draft."""
    app = RateLimitMiddleware(ok, limits=[per_client("2/min", name="api")])
    assert await statuses(ask, app, 2) == [200, 200]
    answer = await ask(app)
    assert answer.status == 429
    assert b"ok" not in answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["ratelimit-policy"] == '"api";q=2;w=60'
    assert answer.headers["ratelimit"] == '"api";r=0;t=30'
    assert json.loads(answer.body)["violated-policies"] == ["api"]


async def test_coming_back_when_told_is_admitted(ask: Any, ok: Any) -> None:
    """Retry-After keeps its word."""
    app = RateLimitMiddleware(ok, limits=[per_client("2/min")])
    await statuses(ask, app, 2)
    wait = int((await ask(app)).headers["retry-after"])
    await asyncio.sleep(wait - 1)
    assert (await ask(app)).status == 429
    await asyncio.sleep(1)
    assert (await ask(app)).status == 200


async def test_each_key_has_its_own(ask: Any, ok: Any) -> None:
    """One client's requests are not another's."""
    app = RateLimitMiddleware(ok, limits=[per_client("1/min")])
    assert await statuses(ask, app, 2) == [200, 429]
    assert await statuses(ask, app, 2, client=("203.0.113.8", 1)) == [200, 429]
    # The same /64, another port: the same client.
    assert (await ask(app, client=("2001:db8::1", 1))).status == 200
    assert (await ask(app, client=("2001:db8::2", 2))).status == 429


async def test_admitted_responses_tell_of_the_limits(ask: Any, ok: Any) -> None:
    """Every level that was met, beside the application's own headers; not with headers=False."""
    limits = [
        Limit(RateLimiter("1000/s", name="gateway"), key="", advertise=False),
        per_client("10/s", name="client"),
        per_client("100/min", name="minute"),
    ]
    answer = await ask(RateLimitMiddleware(ok, limits=limits))
    assert (answer.status, answer.headers["x-app"]) == (200, "1")
    assert answer.headers["ratelimit-policy"] == '"client";q=10;w=1, "minute";q=100;w=60'
    assert answer.headers["ratelimit"] == '"client";r=9;t=1, "minute";r=99;t=1'
    answer = await ask(RateLimitMiddleware(ok, limits=limits, headers=False))
    assert answer.headers == {"x-app": "1"}


async def test_legacy_names(ask: Any, ok: Any) -> None:
    """The old names on request, on admitted and refused responses; what an inner one said stays."""
    limits = [per_client("1/min")]
    app = RateLimitMiddleware(ok, limits=limits, legacy_headers="RateLimit")
    answers = [await ask(app), await ask(app)]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["0", "0"]
    assert [answer.headers["ratelimit-reset"] for answer in answers] == ["60", "60"]

    async def own(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-RateLimit-Limit", b"7"), (b"ratelimit", b'"own";r=1')]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    outer = RateLimitMiddleware(own, limits=[per_client("5/s", name="o")], legacy_headers="X-RateLimit")
    headers = (await ask(outer)).headers
    assert (headers["X-RateLimit-Limit"], headers["x-ratelimit-remaining"]) == ("7", "4")
    assert "x-ratelimit-limit" not in headers
    assert headers["ratelimit"] == '"own";r=1, "o";r=4;t=1'


async def test_a_limit_that_is_not_advertised_tells_nothing(ask: Any, ok: Any) -> None:
    """Refused by it: 429 and when to come back, no name and no numbers."""
    limit = Limit(RateLimiter("1/min", name="gateway"), key="", advertise=False)
    app = RateLimitMiddleware(ok, limits=[limit, per_client("9/s")])
    await ask(app)
    answer = await ask(app)
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    assert not [name for name in answer.headers if name.startswith("ratelimit")]
    assert b"gateway" not in answer.body


async def test_all_levels_or_none(ask: Any, ok: Any) -> None:
    """A request that one level refuses costs nothing on the others."""
    gateway, client = RateLimiter("10/min", name="gateway"), RateLimiter("1/min", name="client")
    limits = [Limit(gateway, key=""), Limit(client, key=ClientIP())]
    app = RateLimitMiddleware(ok, limits=limits)
    assert await statuses(ask, app, 4) == [200, 429, 429, 429]
    assert (await gateway.peek("")).remaining == 9
    answer = await ask(app)
    assert json.loads(answer.body)["violated-policies"] == ["client"]
    assert answer.headers["ratelimit"] == '"client";r=0;t=60'


async def test_levels_by_endpoint_and_user(ask: Any, ok: Any) -> None:
    """A level counts where its methods and paths say, for those who have its key."""
    limits = [
        per_client("100/min"),
        Limit(RateLimiter("1/min"), key=ClientIP(), paths=["/login"], methods=["POST"]),
        Limit(RateLimiter("2/min"), key=lambda scope: scope.get("user")),
    ]
    app = RateLimitMiddleware(ok, limits=limits)
    assert await statuses(ask, app, 2, "/login", "POST") == [200, 429]
    assert await statuses(ask, app, 2, "/login") == [200, 200]
    assert await statuses(ask, app, 3, user="alice") == [200, 200, 429]
    assert await statuses(ask, app, 1, user="bob") == [200]


async def test_costs(ask: Any, ok: Any) -> None:
    """A cost by number or by function; one that the limit never holds is refused, with the default wait."""
    limiter = RateLimiter("10/min")
    by_path = Limit(limiter, key="", cost=lambda scope: int(scope["path"][1:]))
    app = RateLimitMiddleware(ok, limits=[by_path], default_retry_after=90)
    assert (await ask(app, "/8")).status == 200
    answer = await ask(app, "/3")
    assert (answer.status, answer.headers["retry-after"]) == (429, "6")
    answer = await ask(app, "/11")
    assert (answer.status, answer.headers["retry-after"]) == (429, "90")
    assert (await ask(app, "/2")).status == 200
    fixed = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("10/min"), key="", cost=6)])
    assert await statuses(ask, fixed, 2) == [200, 429]


async def test_t13_the_wait_is_capped(ask: Any, ok: Any) -> None:
    """T13: a limit by the week does not send anybody away for longer than the most that is told."""
    app = RateLimitMiddleware(ok, limits=[per_client("1/week")], max_retry_after=3600.9)
    await ask(app)
    answer = await ask(app)
    assert answer.headers["retry-after"] == "3600"
    assert answer.headers["ratelimit"].endswith(";t=3600")


@pytest.mark.parametrize("path", ["/login", "/login/", "//login", "/x/../login", "/./login"])
async def test_a12_no_spelling_slips_by(path: str, ask: Any, ok: Any) -> None:
    """A12: one canonical form of path and method: every spelling meets the limit."""
    limit = per_client("1/min", paths=["/login"], methods=["POST"])
    app = RateLimitMiddleware(ok, limits=[limit])
    assert (await ask(app, "/login", "POST")).status == 200
    assert (await ask(app, path, "post")).status == 429


async def test_a13_head_and_options_are_exempt(ask: Any, ok: Any) -> None:
    """A13: HEAD/OPTIONS exempt: a preflight request is never refused, and costs nothing."""
    app = RateLimitMiddleware(ok, limits=[per_client("1/min")])
    assert await statuses(ask, app, 5, method="OPTIONS") == [200] * 5
    assert await statuses(ask, app, 5, method="HEAD") == [200] * 5
    assert await statuses(ask, app, 2) == [200, 429]


async def test_a14_no_key_in_the_answer(ask: Any, ok: Any) -> None:
    """A14: the refusal is a fixed text: neither path nor key nor header comes back."""
    secret = "tok-3141"
    app = RateLimitMiddleware(
        ok,
        limits=[
            Limit(RateLimiter("1/min"), key=Header("authorization")),
            Limit(RateLimiter("1/min"), key=lambda scope: secret),
        ],
        legacy_headers="RateLimit",
    )
    answers = [await ask(app, f"/{secret}", headers=[("authorization", secret)]) for _ in range(2)]
    assert answers[1].status == 429
    assert secret not in repr(answers)


async def test_a15_mounted_twice_counts_once(ask: Any, ok: Any) -> None:
    """A15: root_path/mounts → middleware present twice counts once: a limiter charges a key once a request."""
    limiter, tighter = RateLimiter("2/min"), RateLimiter("100/min")
    inner = RateLimitMiddleware(
        ok, limits=[Limit(limiter, key=ClientIP()), Limit(tighter, key=ClientIP(), name="inner")]
    )

    async def mount(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/sub"}, receive, send)

    outer = RateLimitMiddleware(mount, limits=[Limit(limiter, key=ClientIP(), name="outer")])
    first = await ask(outer, "/sub/x")
    assert first.headers["ratelimit"] == '"inner";r=99;t=1, "outer";r=1;t=30'
    assert await statuses(ask, outer, 2, "/sub/x") == [200, 429]
    assert (await tighter.peek("203.0.113.7")).remaining == 98


async def test_a15_by_another_key_it_counts_again(ask: Any, ok: Any) -> None:
    """A15: the same limiter by two keys is two limits; by the same key twice in one list, one."""
    limiter = RateLimiter("10/min")
    limits = [Limit(limiter, key="a"), Limit(limiter, key="b"), Limit(limiter, key="a", cost=5)]
    await ask(RateLimitMiddleware(ok, limits=limits))
    assert [(await limiter.peek(key)).remaining for key in "ab"] == [9, 9]


async def test_a17_a_key_by_host_is_bounded_by_the_limiter(ask: Any, ok: Any) -> None:
    """A17: Host header as key → cardinality cap: the limiter's; made-up hosts are refused, known ones not."""
    limiter = RateLimiter("5/min", max_keys=10)
    app = RateLimitMiddleware(ok, limits=[Limit(limiter, key=Header("host"))])
    known = {"headers": [("host", "example.com")]}
    assert (await ask(app, **known)).status == 200
    made_up = [(await ask(app, headers=[("host", f"h{i}.example")])).status for i in range(50)]
    assert made_up == [200] * 9 + [429] * 41
    assert (await ask(app, **known)).status == 200


class Broken:
    """A store that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def acquire(self, *args: Any) -> Any:
        """Never."""
        raise self.error

    def one_slot(self, ask: Any) -> bool:
        """All on one."""
        return True


@pytest.mark.parametrize("error", [NotSent("down"), OutcomeUnknown("silence"), ConfigurationError("no")])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("allow", [200, 200, 200]),
        ("local", [200, 200, 429]),
        ("refuse", [429, 429, 429]),
        ("raise", [503, 503, 503]),
    ],
)
@pytest.mark.parametrize("levels", [1, 2])
async def test_a18_a_backend_that_fails_is_never_a_500(
    error: Exception, policy: Any, expected: list[int], levels: int, ask: Any, ok: Any
) -> None:
    """A18: exception in the middleware's own backend → policy, never a 500 by accident."""
    store: Any = Broken(error)
    limits = []
    for place in range(levels):
        limiter = RateLimiter("2/min", name=f"limit-{place}", on_store_error=policy)
        limiter.store = store
        limits.append(Limit(limiter, key=ClientIP()))
    app = RateLimitMiddleware(ok, limits=limits)
    assert expected == await statuses(ask, app, 3)
    if policy == "raise":
        assert (await ask(app)).headers["retry-after"] == "1"


async def test_a18_it_is_logged_without_the_key(
    ask: Any, ok: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A18, V8: who looks for the reason of a 503 finds its type in the log, and nothing a client sent."""
    limiter = RateLimiter("2/min", on_store_error="raise")
    store: Any = Broken(NotSent("GET key\r\nforged line"))
    limiter.store = store
    with caplog.at_level(logging.WARNING, "aresilience"):
        await ask(RateLimitMiddleware(ok, limits=[Limit(limiter, key="bad\r\nkey")]))
    assert [r.getMessage() for r in caplog.records] == ["a rate limit could not be asked: NotSent"]


async def test_v8_v9_a_log_of_events_holds_no_key(
    ask: Any, ok: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """V8, V9: events and their log lines carry the limiter's name, and nothing that a client has sent."""
    recorder = Recorder()
    forged = "x\r\nINFO forged"
    limiter = RateLimiter("1/min", name="per-path", listeners=[ar.LoggingListener(), recorder])
    app = RateLimitMiddleware(ok, limits=[Limit(limiter, key=lambda scope: scope["path"])])
    with caplog.at_level(logging.DEBUG, "aresilience"):
        assert await statuses(ask, app, 2, f"/{forged}") == [200, 429]
    assert recorder.of(ar.CallRejected)
    assert {"per-path"} == {event.policy for event in recorder.events}
    assert "forged" not in caplog.text + repr(recorder.events)


async def test_websockets_are_refused_before_they_open(ask: Any, ok: Any) -> None:
    """Opening one is a request: 429 where the server can say so, else closed with 1008; or not limited."""
    extensions = {"websocket.http.response": {}}
    app = RateLimitMiddleware(ok, limits=[per_client("1/min", name="api")])
    assert (await ask(app, kind="websocket")).kinds == ["websocket.accept"]
    answer = await ask(app, kind="websocket", extensions=extensions)
    assert (answer.status, answer.headers["ratelimit"]) == (429, '"api";r=0;t=60')
    answer = await ask(app, kind="websocket")
    assert [(m["type"], m["code"]) for m in answer.messages] == [("websocket.close", 1008)]
    free = RateLimitMiddleware(ok, limits=[per_client("1/min")], websockets=False)
    for _ in range(3):
        assert (await ask(free, kind="websocket")).kinds == ["websocket.accept"]


async def test_under_a_rejected_middleware_its_options_answer(ask: Any, ok: Any) -> None:
    """The outer one's degrade is asked, its waits are told; statuses= does not change what a door limit is."""
    seen: list[Any] = []

    def degrade(scope: Any, error: Any) -> Any:
        seen.append((type(error), error.limiter, error.decision.allowed))
        return ok if scope["path"] == "/menu" else None

    limiter = RateLimiter("1/week", name="api")
    app = RejectedMiddleware(
        RateLimitMiddleware(ok, limits=[Limit(limiter, key="")]),
        degrade=degrade,
        max_retry_after=10,
        statuses={RateLimited: 503},
    )
    assert await statuses(ask, app, 2, "/menu") == [200, 200]
    answer = await ask(app, "/order")
    assert (answer.status, answer.headers["retry-after"]) == (429, "10")
    assert answer.headers["ratelimit"].startswith('"api";r=0')
    assert [allowed for _, _, allowed in seen] == [False, False]
    assert all(found is limiter for _, found, _ in seen)


async def test_a_degraded_application_with_the_same_limit_is_no_endless_circle(ask: Any, ok: Any) -> None:
    """A degraded way that meets the limit again is refused in the ordinary way."""
    limited = RateLimitMiddleware(ok, limits=[per_client("1/min")])
    app = RejectedMiddleware(limited, degrade=lambda scope, error: limited)
    assert await statuses(ask, app, 3) == [200, 429, 429]


async def test_shadow_mode_refuses_nobody(ask: Any, ok: Any) -> None:
    """A limiter in shadow mode only tells its listeners."""
    recorder = Recorder()
    limiter = RateLimiter("1/min", shadow=True, listeners=[recorder])
    app = RateLimitMiddleware(ok, limits=[Limit(limiter, key="")])
    assert await statuses(ask, app, 3) == [200, 200, 200]
    assert len(recorder.of(ar.CallRejected)) == 2


async def test_shadow_mode_beside_another_limit(ask: Any, ok: Any) -> None:
    """In shadow mode it neither refuses nor delays, among other limits too."""
    recorder = Recorder()
    limiter = RateLimiter("1/min", shadow=True, listeners=[recorder])
    app = RateLimitMiddleware(ok, limits=[Limit(limiter, key=""), per_client("100/min")])
    assert await statuses(ask, app, 3) == [200, 200, 200]
    assert asyncio.get_running_loop().time() == 0
    assert len(recorder.of(ar.CallRejected)) == 2


async def test_names_in_headers_are_distinct(ask: Any, ok: Any) -> None:
    """Limits that are called the same are numbered."""
    answer = await ask(RateLimitMiddleware(ok, limits=[per_client("5/s"), per_client("9/s")]))
    assert answer.headers["ratelimit-policy"] == '"RateLimiter";q=5;w=1, "RateLimiter-2";q=9;w=1'


async def test_several_rates_of_one_limiter(ask: Any, ok: Any) -> None:
    """Each is a policy, and the one that refused is named."""
    app = RateLimitMiddleware(ok, limits=[per_client("2/s; 3/min", name="api")])
    assert await statuses(ask, app, 2) == [200, 200]
    assert json.loads((await ask(app)).body)["violated-policies"] == ["api-1s"]
    await asyncio.sleep(1)
    assert (await ask(app)).status == 200
    answer = await ask(app)
    assert (
        answer.status,
        answer.headers["ratelimit-policy"],
    ) == (429, '"api-1s";q=2;w=1, "api-60s";q=3;w=60')
    assert json.loads(answer.body)["violated-policies"] == ["api-60s"]


async def test_an_error_of_a_key_function_is_the_applications(ask: Any, ok: Any) -> None:
    """A bug in a key is no reason to let anybody in, or to call it a refusal."""
    app = RateLimitMiddleware(ok, limits=[Limit(RateLimiter("1/s"), key=lambda scope: scope["user"])])
    with pytest.raises(KeyError):
        await ask(app)


async def test_the_ambient_deadline_is_kept(ask: Any, ok: Any) -> None:
    """Nobody waits at the door, whatever time there is."""
    app = RateLimitMiddleware(ok, limits=[per_client("1/s"), per_client("2/s")])
    loop = asyncio.get_running_loop()
    with ar.deadline(5):
        assert await statuses(ask, app, 3) == [200, 429, 429]
    assert loop.time() == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limits": []}, ValueError, "limits must not be empty"),
        ({"limits": None}, TypeError, "limits must be a list of Limit, got None"),
        ({"limits": [RateLimiter("1/s")]}, TypeError, "write Limit\\(limiter, key=…\\)"),
        ({"limits": [per_client("1/s")], "legacy_headers": "X"}, ValueError, "RateLimitMiddleware: legacy"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(error, match=message):
        RateLimitMiddleware(None, **options)  # type: ignore[arg-type]
