"""ClientIP: who asks, by address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from aresilience import arguments
from aresilience.asgi.forwarded import address_of, forwarded_for, from_the_right
from aresilience.asgi.names import header_name
from aresilience.asgi.types import Scope

__all__ = ["ClientIP"]

_BITS = 128
_LONGEST = 128


class ClientIP:
    """The address of the client, as a key: "203.0.113.7", "2001:db8:1:2::/64".

    By default it is the peer's, the one that the connection comes from, and no header is believed: any
    client can write X-Forwarded-For. Behind proxies the peer is the nearest of them, for all clients; then
    say how many proxies there are.

    - `trusted_hops`: the number of proxies in front that each add the address that they see to the header. The
      client's is the one that the outermost of them added: so many from the right. Where that is missing or
      cannot be read, the peer counts: the request did not come by that way.
    - `ipv6_prefix`: bits of an IPv6 address that make the key. 64 by default: who has one address has 2^64.
    - `header`: "x-forwarded-for" (also for headers that hold a single address and that a proxy overwrites, such
      as CF-Connecting-IP), or "forwarded" for RFC 7239.

    IPv4 addresses inside IPv6 ones are IPv4. A peer without an address (a unix socket) is "unknown". A server
    that rewrites the peer by itself (uvicorn does, for what comes from the loopback; `--no-proxy-headers` ends
    that) must not be told to trust more than these hops.
    """

    __slots__ = ("_header", "_hops", "_prefix", "_structured")

    def __init__(
        self, *, trusted_hops: int = 0, ipv6_prefix: int = 64, header: str = "x-forwarded-for"
    ) -> None:
        self._hops = arguments.count("ClientIP: trusted_hops", trusted_hops, least=0)
        self._prefix = arguments.count("ClientIP: ipv6_prefix", ipv6_prefix)
        if ipv6_prefix > _BITS:
            raise ValueError(f"ClientIP: ipv6_prefix must be at most {_BITS}, got {ipv6_prefix!r}")
        self._header = header_name("ClientIP: header", header).encode("ascii")
        self._structured = self._header == b"forwarded"

    def __call__(self, scope: Scope) -> str:
        key = self._forwarded(scope) if self._hops else None
        if key is None:
            peer = scope.get("client")
            key = _key(str(peer[0]), self._prefix) if peer else None
        return "unknown" if key is None else key

    def _forwarded(self, scope: Scope) -> str | None:
        """What the outermost of our proxies saw; several lines of a header are one list."""
        lines = [value for name, value in scope["headers"] if name == self._header]
        if not lines:
            return None
        said = from_the_right(b",".join(lines).decode("latin-1"), self._hops, quotes=self._structured)
        if said is not None and self._structured:
            said = forwarded_for(said)
        return None if said is None or len(said) > _LONGEST else _key(said, self._prefix)

    def __repr__(self) -> str:
        header = self._header.decode("ascii")
        return f"ClientIP(trusted_hops={self._hops}, ipv6_prefix={self._prefix}, header={header!r})"


@lru_cache(1024)
def _key(said: str, prefix: int) -> str | None:
    """The key for an address as it was said; None if it is none. Parsing costs more than remembering."""
    address = address_of(said)
    if address is None or isinstance(address, ipaddress.IPv4Address) or prefix == _BITS:
        return None if address is None else str(address)
    mask = (1 << _BITS) - (1 << (_BITS - prefix))
    return f"{ipaddress.IPv6Address(int(address) & mask)}/{prefix}"
