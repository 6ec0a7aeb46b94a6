"""Names of headers and methods: the tokens of RFC 9110."""

from __future__ import annotations

import re

from aresilience import arguments

__all__ = ["TOKEN", "header_name"]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def header_name(where: str, name: str) -> str:
    """The name of a header, in lower case."""
    if not TOKEN.fullmatch(arguments.text(where, name)):
        raise ValueError(f"{where} must be the name of a header, got {name!r}")
    return name.lower()
