"""Which requests: methods and paths, in one canonical form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.asgi.routes import Routes, canonical_path


def scope(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    """A scope with what routes look at."""
    return {"type": "http", "path": path, "method": method, **more}


def routes(**options: Any) -> Routes:
    """Routes as `Limit` makes them."""
    given = {"methods": None, "paths": None, "exempt": (), "unless": ("HEAD", "OPTIONS"), **options}
    return Routes("Limit", **given)


@pytest.mark.parametrize(
    "path",
    ["/a/b", "/a/b/", "//a//b", "/a/./b", "/a/x/../b", "/../a/b", "/a/b/.", "/a//b//", "/./a/b/c/.."],
)
def test_a12_every_spelling_of_a_path_is_one(path: str) -> None:
    """A12: raw path vs decoded path (`/a%2fb`, `//`), method case → one canonical form."""
    assert canonical_path(scope(path)) == "/a/b"
    assert routes(paths=["/a/b"], methods=["POST"]).include(scope(path, "post"))
    assert not routes(exempt=["/a/b"]).include(scope(path))


def test_a12_the_decoded_path_counts() -> None:
    """A12: servers decode `/a%2fb` to /a/b in `path`, which is what routers go by too; raw_path is not read."""
    assert routes(paths=["/a/b"]).include(scope("/a/b", raw_path=b"/a%2fb"))
    assert canonical_path(scope("")) == "/"


@pytest.mark.parametrize(
    ("path", "root", "canonical"),
    [
        ("/api/orders", "/api", "/orders"),
        ("/api", "/api", "/"),
        ("/api/", "/api/", "/"),
        ("/apix/orders", "/api", "/apix/orders"),
        ("/orders", "/api", "/orders"),
        ("/web/orders", "/api", "/web/orders"),
        ("/api//orders", "/api", "/orders"),
    ],
)
def test_paths_are_those_of_the_mounted_application(path: str, root: str, canonical: str) -> None:
    """What lies in front of the mount does not count, as for the application's own routes."""
    assert canonical == canonical_path(scope(path, root_path=root))


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b"]), max_size=8))
def test_a12_canonical_is_final(parts: list[str]) -> None:
    """A12: the canonical form of a canonical form is itself, and never leaves the root."""
    path = canonical_path(scope("/" + "/".join(parts)))
    assert path == canonical_path(scope(path))
    assert ".." not in path


@pytest.mark.parametrize(
    ("pattern", "included", "excluded"),
    [
        ("/", ["/", "//"], ["/a"]),
        ("/*", ["/", "/a", "/a/b"], []),
        ("/api/*", ["/api", "/api/", "/api/a", "/api/a/b", "/api/a\nb"], ["/apix", "/", "/x/api"]),
        (
            "/users/*/orders",
            ["/users/7/orders", "/users/7/orders/"],
            ["/users/orders", "/users/7/8/orders"],
        ),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("/orders/", ["/orders"], ["/orders/7"]),
    ],
)
def test_patterns(pattern: str, included: list[str], excluded: list[str]) -> None:
    """A path alone; with `/*` all below it too; a `*` between slashes is one segment."""
    for path in included:
        assert routes(paths=[pattern]).include(scope(path)), path
        assert not routes(exempt=[pattern]).include(scope(path)), path
    for path in excluded:
        assert not routes(paths=["/other", pattern]).include(scope(path)), path
        assert routes(exempt=[pattern]).include(scope(path)), path


def test_exempt_wins() -> None:
    """All of /api, but not its health check."""
    api = routes(paths=["/api/*"], exempt=["/api/health"])
    assert api.include(scope("/api/orders"))
    assert not api.include(scope("/api/health"))
    assert not api.include(scope("/api/x/../health"))


def test_a13_head_and_options_are_exempt() -> None:
    """A13: HEAD/OPTIONS exempt, unless methods are named; a websocket counts as GET."""
    by_default, named, all_of_them = routes(), routes(methods=["get", "HEAD"]), routes(methods=["*"])
    for method, expected in {
        "GET": (True, True, True),
        "HEAD": (False, True, True),
        "head": (False, True, True),
        "OPTIONS": (False, False, True),
        "POST": (True, False, True),
        "BREW": (True, False, True),
    }.items():
        asked = scope("/", method)
        assert expected == (by_default.include(asked), named.include(asked), all_of_them.include(asked))
    assert named.include({"type": "websocket", "path": "/"})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "GET"}, TypeError, r"methods must be a list like \['GET'\], got 'GET'"),
        ({"methods": []}, ValueError, "methods must not be empty"),
        ({"methods": ["GET POST"]}, ValueError, "names like 'GET'"),
        ({"methods": [1]}, TypeError, "methods must be a string"),
        ({"paths": "/a"}, TypeError, r"paths must be a list like \['/orders'\], got '/a'"),
        ({"paths": []}, ValueError, "paths must not be empty"),
        ({"paths": ["a"]}, ValueError, "paths must begin with '/', got 'a'"),
        ({"paths": ["/a*"]}, ValueError, "write \\* for a whole segment"),
        ({"paths": ["/users/{id}"]}, ValueError, "write \\* for a whole segment.*got '/users/{id}'"),
        ({"exempt": [7]}, TypeError, "exempt must be a string"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once, with what to write instead."""
    with pytest.raises(error, match=message):
        routes(**options)
