"""Keys: which requests share a limit."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aresilience.asgi import ClientIP, Header, Limit
from aresilience.asgi.keys import settled
from aresilience.limiter import RateLimiter

PEER = "192.0.2.1"


def scope(*headers: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A scope with what keys look at."""
    lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "headers": lines, "client": (PEER, 1), **more}


async def key_of(key: Any, scope: dict[str, Any]) -> str | None:
    """The key of a request, as a limiter is asked for it."""
    return await settled(key(scope) if callable(key) else key)


async def test_a11_a_header_is_hashed() -> None:
    """A11: key from Authorization → hashed, never stored raw or logged."""
    key = await key_of(Header("Authorization"), scope(("authorization", "Bearer secret")))
    assert key is not None
    assert re.fullmatch("sha256:[0-9a-f]{32}", key)
    assert key != await key_of(Header("Authorization"), scope(("authorization", "Bearer other")))
    assert key != await key_of(Header("X-Api-Key"), scope(("x-api-key", "Bearer secret")))


async def test_several_lines_of_a_header_are_one_key() -> None:
    """Two lines are not one with both, and the order counts: nothing collides."""
    keys = {
        await key_of(Header("x"), scope(*lines))
        for lines in [
            [("x", "a"), ("x", "b")],
            [("x", "b"), ("x", "a")],
            [("x", "ab")],
            [("x", "a1:b")],
            [("x", "a")],
            [("x", "")],
        ]
    }
    assert len(keys) == 6


async def test_without_the_header_the_peer_counts() -> None:
    """Leaving the header out is no way around the limit; unless it is said to be."""
    assert await key_of(Header("x"), scope()) == PEER
    assert await key_of(Header("x", otherwise="nobody"), scope()) == "nobody"
    assert await key_of(Header("x", otherwise=lambda scope: 2), scope()) == "2"
    assert await key_of(Header("x", otherwise=None), scope()) is None
    other = Header("x", otherwise=Header("y"))
    assert await key_of(other, scope(("y", "1"))) == await key_of(Header("y"), scope(("y", "1")))


async def test_keys_by_any_function() -> None:
    """A function of the scope, plain or async: text, a number, or None for no limit."""

    async def from_session(scope: Any) -> Any:
        return scope["user"]

    for user, key in [("alice", "alice"), (7, "7"), (None, None), ("", "")]:
        assert key == await key_of(from_session, scope(user=user))
        assert key == await key_of(lambda scope: scope["user"], scope(user=user))
    assert await key_of("all", scope()) == "all"


@pytest.mark.parametrize("value", [True, 1.5, b"x", ("a",), object()])
async def test_a_key_of_another_type_is_an_error(value: Any) -> None:
    """Guessing at a key would put people together who have nothing to do with each other."""
    with pytest.raises(TypeError, match="a key must be a string, a whole number or None, got"):
        await key_of(lambda scope: value, scope())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limiter": "100/s"}, TypeError, "limiter must be an ar.RateLimiter, got '100/s'"),
        ({"key": None}, TypeError, "key must be a string or a function of the scope, got None"),
        ({"key": 7}, TypeError, "key must be"),
        ({"cost": 0}, ValueError, "cost must be a whole number of at least 1"),
        ({"cost": "1"}, TypeError, "cost must be"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": "a\r\nb"}, ValueError, "printable ASCII"),
        ({"name": "größe"}, ValueError, "printable ASCII"),
        ({"paths": "/"}, TypeError, "Limit: paths must be a list"),
        ({"methods": "GET"}, TypeError, "Limit: methods must be a list"),
        ({"exempt": "/"}, TypeError, "Limit: exempt must be a list"),
    ],
)
def test_a_limit_checks_its_options(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused when it is made; a name that could break a header too (A9)."""
    with pytest.raises(error, match=message):
        Limit(**{"limiter": RateLimiter("1/s"), "key": "", **options})


def test_a_limit_needs_a_key() -> None:
    """Who shares a limit is the one thing that nobody can guess."""
    with pytest.raises(TypeError, match="key"):
        Limit(RateLimiter("1/s"))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Header("a b"), "Header: name must be the name of a header, got 'a b'"),
        (lambda: Header("x", otherwise=7), "Header: otherwise must be a string or a function"),
    ],
)
def test_a_header_checks_its_options(make: Any, message: str) -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_reprs_show_no_value() -> None:
    """What is configured can be seen; what a client sent is nowhere."""
    limit = Limit(RateLimiter("1/s"), key=Header("x", otherwise=ClientIP()), name="api")
    peer = "ClientIP(trusted_hops=0, ipv6_prefix=64, header='x-forwarded-for')"
    assert f"<Limit 'api' by Header('x', otherwise={peer})>" == repr(limit)
