"""Which requests a middleware is for: by method and path.

A path is compared in one canonical form, so that no other spelling of it slips by: percent-decoded (as the
server hands it over), without empty and `.` segments, `..` resolved, no slash at the end. It is taken from
where the application is mounted: what its own routes say.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from aresilience import arguments
from aresilience.asgi.names import TOKEN
from aresilience.asgi.types import Scope

__all__ = ["Routes", "canonical_path", "whole_path"]

_EVERY = "*"


class Routes:
    """Answers whether a request is meant.

    `methods`: names of methods; `["*"]` is every one. Without it those in `unless` are left out. A websocket
    counts as GET. `paths` and `exempt`: "/orders" is that path alone, "/orders/*" it and all below, and a `*`
    between slashes is any one segment. Without `paths` every path is meant, but for those in `exempt`.
    """

    __slots__ = ("_exempt", "_methods", "_paths", "_unless")

    def __init__(
        self,
        where: str,
        *,
        methods: Collection[str] | None,
        paths: Collection[str] | None,
        exempt: Collection[str],
        unless: Collection[str] = (),
    ) -> None:
        names = None if methods is None else _names(f"{where}: methods", methods)
        self._unless = frozenset(unless if names is None else ())
        self._methods = None if names is None or _EVERY in names else names
        self._paths = None if paths is None else _pattern(f"{where}: paths", paths)
        self._exempt = _pattern(f"{where}: exempt", exempt) if exempt else None

    def include(self, scope: Scope) -> bool:
        """Whether the request is one of them."""
        if self._methods is not None or self._unless:
            method = scope.get("method", "GET").upper()
            if method in self._unless or (self._methods is not None and method not in self._methods):
                return False
        if self._paths is None and self._exempt is None:
            return True
        path = canonical_path(scope)
        if self._exempt is not None and self._exempt.fullmatch(path):
            return False
        return self._paths is None or self._paths.fullmatch(path) is not None


def canonical_path(scope: Scope) -> str:
    """The one form of the request's path, from where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return _canonical(path)


def whole_path(scope: Scope) -> str:
    """The one form of the request's path from the root of the server, wherever the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and not (path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")):
        path = root + path
    return _canonical(path)


def _canonical(path: str) -> str:
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def _names(where: str, methods: Collection[str]) -> frozenset[str]:
    for method in _collection(where, methods, "GET"):
        if not TOKEN.fullmatch(arguments.text(where, method)):
            raise ValueError(f"{where} must be names like 'GET', or '*' for every one, got {method!r}")
    return frozenset(method.upper() for method in methods)


def _pattern(where: str, paths: Collection[str]) -> re.Pattern[str]:
    """One regular expression for all of them."""
    return re.compile("|".join(_expression(where, path) for path in _collection(where, paths, "/orders")))


def _expression(where: str, path: str) -> str:
    if not arguments.text(where, path).startswith("/"):
        raise ValueError(f"{where} must begin with '/', got {path!r}")
    below = path.endswith("/*")
    parts = _canonical(path.removesuffix("/*") if below else path).split("/")[1:]
    for part in parts:
        if ("*" in part and part != "*") or "{" in part:
            raise ValueError(
                f"{where}: write * for a whole segment, as in '/users/*/orders', or '/*' at the end for "
                f"everything below; got {path!r}"
            )
    whole = "".join("/[^/]+" if part == "*" else "/" + re.escape(part) for part in parts if part)
    return (whole + "(?:/(?s:.*))?") if below else (whole or "/")


def _collection(where: str, values: Collection[str], example: str) -> Collection[str]:
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise TypeError(f"{where} must be a list like [{example!r}], got {values!r}")
    if not values:
        raise ValueError(f"{where} must not be empty")
    return values
