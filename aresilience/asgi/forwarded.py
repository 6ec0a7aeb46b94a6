"""Reading what proxies say of those in front of them: X-Forwarded-For, and Forwarded (RFC 7239).

Each proxy adds to the right, so lists are read from there: whatever a client has written comes to lie on the
left, and cannot change the meaning of what follows it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

__all__ = ["Address", "address_of", "forwarded_for", "from_the_right"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_PAIR = re.compile(
    r"""\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^";\s]*))\s*(?:;|$)"""
)
_BRACKETS = re.compile(r"\[([^\]]*)\](?::(?:\d{1,5}|_[\w.-]+))?", re.ASCII)
_PORT = re.compile(r"([\d.]+):(?:\d{1,5}|_[\w.-]+)", re.ASCII)


def address_of(text: str) -> Address | None:
    """The address in what a header or a server says, or None: ports, brackets and zones are taken off."""
    text = text.strip(" \t")
    found = _BRACKETS.fullmatch(text) or _PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((found[1] if found else text).partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def from_the_right(text: str, place: int, *, quotes: bool = False) -> str | None:
    """The element at that place of a comma-separated list, counted from its end; None if it is shorter.

    With `quotes`, commas inside quoted strings separate nothing.
    """
    if not quotes:
        elements = text.rsplit(",", place)
        return elements[-place] if len(elements) >= place else None
    end, quoted = len(text), False
    for at in range(end - 1, -1, -1):
        if text[at] == '"':
            backslashes = at
            while backslashes and text[backslashes - 1] == "\\":
                backslashes -= 1
            quoted ^= (at - backslashes) % 2 == 0  # an escaped quote is none
        elif text[at] == "," and not quoted:
            place -= 1
            if place == 0:
                return text[at + 1 : end]
            end = at
    return text[:end] if place == 1 else None


def forwarded_for(element: str) -> str | None:
    """What a Forwarded element says in `for=`: once, and in a form that can be read; else None."""
    value: str | None = None
    at = 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return None
        if pair["name"].lower() == "for":
            if value is not None:
                return None
            quoted = pair["quoted"]
            value = pair["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = pair.end()
    return value
