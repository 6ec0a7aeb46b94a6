"""ClientIP: who asks, and whom to believe about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aresilience.asgi import ClientIP

PEER = "192.0.2.1"
X, F = "x-forwarded-for", "forwarded"


def who(client_ip: ClientIP, *lines: str, peer: Any = (PEER, 5000), header: str = X) -> str:
    """The key of a request with these lines of a header."""
    headers = [(header.encode(), line.encode("latin-1")) for line in lines]
    return client_ip({"type": "http", "headers": headers, "client": peer})


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:0001:2::6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("testclient", "unknown"),
        ("", "unknown"),
    ],
)
def test_t7_ipv6_keys_are_networks(peer: str, key: str) -> None:
    """T7: IPv6 → /64 by default; IPv4 in IPv6 is IPv4, or one network would be all of them."""
    assert key == who(ClientIP(), peer=(peer, 1))


def test_t7_the_prefix_can_be_chosen() -> None:
    """T7: /48 for a site, /128 for the address alone, /1 at the least."""
    peer = ("2001:db8:1:2:3:4:5:6", 1)
    assert who(ClientIP(ipv6_prefix=48), peer=peer) == "2001:db8:1::/48"
    assert who(ClientIP(ipv6_prefix=128), peer=peer) == "2001:db8:1:2:3:4:5:6"
    assert who(ClientIP(ipv6_prefix=1), peer=peer) == "::/1"
    assert who(ClientIP(ipv6_prefix=128), peer=("fe80::1%eth0", 1)) == "fe80::1"
    assert who(ClientIP(ipv6_prefix=1), peer=("203.0.113.7", 1)) == "203.0.113.7"


def test_a_peer_without_an_address() -> None:
    """On a unix socket there is no peer: one key for all."""
    assert who(ClientIP(), peer=None) == "unknown"
    assert ClientIP()({"type": "http", "headers": []}) == "unknown"
    assert who(ClientIP(trusted_hops=1), "203.0.113.7", peer=None) == "203.0.113.7"


@pytest.mark.parametrize("header", [X, F, "x-real-ip", "cf-connecting-ip"])
def test_t8_headers_are_not_believed_by_default(header: str) -> None:
    """T8: spoofed X-Forwarded-For → ignored unless trusted hops are set."""
    assert who(ClientIP(header=header), "203.0.113.7", header=header) == PEER
    assert who(ClientIP(header=header), "for=203.0.113.7", header=header) == PEER


@pytest.mark.parametrize(
    ("hops", "lines", "key"),
    [
        # one proxy: the rightmost is what it saw
        (1, ["203.0.113.7"], "203.0.113.7"),
        (1, ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        (1, ["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        (1, ["1.1.1.1,2.2.2.2", "3.3.3.3 ,\t203.0.113.7 "], "203.0.113.7"),
        # two: the one before
        (2, ["203.0.113.7, 198.51.100.1"], "203.0.113.7"),
        (2, ["203.0.113.7", "198.51.100.1"], "203.0.113.7"),
        (2, ["1.1.1.1, 203.0.113.7, 198.51.100.1"], "203.0.113.7"),
        (3, ["9.9.9.9", "203.0.113.7", "198.51.100.2, 198.51.100.1"], "203.0.113.7"),
        # shorter than the way it should have come: the peer
        (2, ["203.0.113.7"], PEER),
        (1, [], PEER),
        (1, [""], PEER),
        (1, ["203.0.113.7,"], PEER),
        # forms
        (1, ["203.0.113.7:4711"], "203.0.113.7"),
        (1, ["[2001:db8::7]"], "2001:db8::/64"),
        (1, ["[2001:db8::7]:4711"], "2001:db8::/64"),
        (1, ["2001:db8::7"], "2001:db8::/64"),
        (1, ["fe80::7%25eth0"], "fe80::/64"),
        (1, ["[fe80::7%en1]:80"], "fe80::/64"),
        (1, ["::ffff:203.0.113.7"], "203.0.113.7"),
        (1, ["[::ffff:203.0.113.7]:80"], "203.0.113.7"),
        # garbage: the peer
        (1, ["unknown"], PEER),
        (1, ["203.0.113"], PEER),
        (1, ["203.0.113.007"], PEER),
        (1, ["203.0.113.7:"], PEER),
        (1, ["203.0.113.7:port"], PEER),
        (1, ["203.0.113.7:123456"], PEER),
        (1, ["[203.0.113.7]x"], PEER),
        (1, ["[2001:db8::7"], PEER),
        (1, ["2001:db8::7]"], PEER),
        (1, ["3405803783"], PEER),
        (1, ["0x7f000001"], PEER),
        (1, ['"203.0.113.7"'], PEER),
        (1, ["203.0.113.7 1.1.1.1"], PEER),
        (1, ["<script>"], PEER),
        (1, ["\xff\x00"], PEER),
        (1, ["1" * 100_000], PEER),
    ],
)
def test_a10_trusted_hops_are_counted_from_the_right(hops: int, lines: list[str], key: str) -> None:
    """A10: a number of trusted hops, several header lines joined, IPv6, ports, garbage → the peer."""
    assert key == who(ClientIP(trusted_hops=hops), *lines)


@pytest.mark.parametrize(
    ("hops", "lines", "key"),
    [
        (1, ["for=203.0.113.7"], "203.0.113.7"),
        (1, ["For=203.0.113.7;proto=https;by=198.51.100.1"], "203.0.113.7"),
        (1, ["by=198.51.100.1 ; for=203.0.113.7"], "203.0.113.7"),
        (1, ['for="203.0.113.7:4711"'], "203.0.113.7"),
        (1, ['for="[2001:db8::7]:4711"'], "2001:db8::/64"),
        (1, ['for="[2001:db8::7]:_port"'], "2001:db8::/64"),
        (1, ['for="203.0.113.\\7"'], "203.0.113.7"),
        (1, ['for=1.1.1.1;host="a,b;c", for=203.0.113.7;host="x,y"'], "203.0.113.7"),
        (2, ["for=203.0.113.7", "for=198.51.100.1"], "203.0.113.7"),
        (2, ['for="203.0.113.7";ext="a\\"b,", for=198.51.100.1'], "203.0.113.7"),
        (2, ["for=203.0.113.7"], PEER),
        (1, ["for=unknown"], PEER),
        (1, ["for=_hidden"], PEER),
        (1, ["for="], PEER),
        (1, ["proto=https"], PEER),
        (1, ["for=1.1.1.1;for=203.0.113.7"], PEER),
        (1, ["for 203.0.113.7"], PEER),
        (1, ['for="203.0.113.7'], PEER),
        (1, ['for="203.0.113.7"x'], PEER),
        (1, ["203.0.113.7"], PEER),
        (1, [""], PEER),
        # a quote that a client leaves open cannot swallow what the proxy adds
        (1, ['for="1.1.1.1', "for=203.0.113.7"], "203.0.113.7"),
        (1, ['for=1.1.1.1;ext="\\', 'for="203.0.113.7"'], "203.0.113.7"),
        (2, ['"', 'for="203.0.113.7"', "for=198.51.100.1"], "203.0.113.7"),
    ],
)
def test_a10_forwarded_of_rfc_7239(hops: int, lines: list[str], key: str) -> None:
    """A10: the structured header, read from the right too; what has no address in it → the peer."""
    assert key == who(ClientIP(trusted_hops=hops, header="Forwarded"), *lines, header=F)


@given(
    left=st.lists(st.text(st.characters(max_codepoint=255), max_size=40), max_size=3),
    hops=st.integers(1, 3),
    structured=st.booleans(),
)
@example(left=['"'], hops=1, structured=True)
@example(left=['a="\\'], hops=2, structured=True)
@example(left=[",,,,"], hops=3, structured=False)
def test_t8_what_a_client_writes_changes_nothing(left: list[str], hops: int, structured: bool) -> None:
    """T8: whatever the client sends to the left, the answer is what the outermost proxy saw."""
    seen = ["203.0.113.7", "198.51.100.2", "198.51.100.1"][:hops]
    added = [f'for="{address}:1";by="_x,y"' for address in seen] if structured else seen
    client_ip = ClientIP(trusted_hops=hops, header=F if structured else X)
    assert who(client_ip, *left, *added, header=F if structured else X) == "203.0.113.7"


@given(line=st.text(st.characters(max_codepoint=255), max_size=80), header=st.sampled_from([X, F]))
def test_v8_a_key_is_an_address_or_nothing(line: str, header: str) -> None:
    """V8: whatever a header or a peer says, the key is made of hexadecimal digits, dots, colons, a slash."""
    key = who(ClientIP(trusted_hops=1, header=header), line, header=header, peer=(line, 1))
    assert re.fullmatch(r"[0-9a-f.:]+(/64)?|unknown", key)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trusted_hops": -1}, ValueError, "trusted_hops must be a whole number of at least 0, got -1"),
        ({"trusted_hops": True}, TypeError, "trusted_hops must be"),
        ({"trusted_hops": "*"}, TypeError, "trusted_hops must be"),
        ({"ipv6_prefix": 0}, ValueError, "ipv6_prefix must be"),
        ({"ipv6_prefix": 129}, ValueError, "ipv6_prefix must be at most 128, got 129"),
        ({"header": "x forwarded"}, ValueError, "header must be the name of a header, got 'x forwarded'"),
        ({"header": "a\r\nb"}, ValueError, "header must be the name of a header"),
        ({"header": ""}, ValueError, "header must not be empty"),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(error, match=message):
        ClientIP(**options)


def test_repr_says_whom_it_believes() -> None:
    """For a look at what is configured."""
    assert (
        repr(ClientIP(trusted_hops=2, ipv6_prefix=56, header="Forwarded"))
        == "ClientIP(trusted_hops=2, ipv6_prefix=56, header='forwarded')"
    )
