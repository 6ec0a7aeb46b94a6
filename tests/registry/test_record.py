"""What can be registered, and what cannot; and that it comes back as it was."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.errors import CorruptState
from aresilience.registry import Instance, InstanceState
from aresilience.registry.record import packed, unpacked


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"host": "a\r\nb"}, "host must be a host name"),
        ({"host": "file://x"}, "host must be a host name"),
        ({"host": "user@host"}, "host must be a host name"),
        ({"host": "a b"}, "host must be a host name"),
        ({"host": "a..b"}, "host must be a host name"),
        ({"host": "host/path"}, "host must be a host name"),
        ({"host": "x" * 10_000}, "host must be a host name"),
        ({"host": "::1%eth0\n"}, "host must be a host name"),
        ({"host": ""}, "must not be empty"),
        ({"port": 0}, "port must be a whole number of at least 1"),
        ({"port": 65_536}, "port must be from 1 to 65535"),
        ({"service": "a/b"}, "service must be 1 to 128"),
        ({"service": "a\nb"}, "service must be 1 to 128"),
        ({"service": ".a"}, "service must be 1 to 128"),
        ({"id": "a\x00"}, "id must have no control characters"),
        ({"id": "a" * 129}, "id must have at most 128"),
        ({"zone": "a\nb"}, "zone must have no control characters"),
        ({"version": "\x1b[31m"}, "version must have no control characters"),
        ({"weight": 0.0}, "weight must be a number greater than 0"),
        ({"weight": float("nan")}, "weight must be a number greater than 0 and at most 1000 and finite"),
        ({"weight": 1001}, "weight must be a number greater than 0 and at most 1000"),
        ({"metadata": {"a": "b" * 10_000_000}}, "must have at most 8192 characters"),
        ({"metadata": {"a": "b\x7f"}}, "must have no control characters"),
        ({"metadata": {"a\n": "b"}}, "a key must have no control characters"),
        ({"metadata": {str(n): "" for n in range(65)}}, "at most 64 entries"),
        ({"metadata": {str(n): "x" * 200 for n in range(60)}}, "at most 8192 bytes"),
    ],
)
def test_d6_what_is_hostile_or_too_large_is_refused(change: dict, complaint: str) -> None:
    """Metadata of ten megabytes, hosts with line ends or schemes: refused when the instance is made."""
    with pytest.raises(ValueError, match=complaint):
        Instance(**{"service": "s", "host": "h", "port": 80, **change})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"port": "80"}, "port must be a whole number"),
        ({"port": True}, "port must be a whole number"),
        ({"weight": "1"}, "weight must be a number"),
        ({"metadata": {"a": 1}}, "must be a string, got 1"),
        ({"metadata": ["a"]}, "must map strings to strings"),
        ({"state": "up"}, "state must be an InstanceState"),
        ({"zone": None}, "zone must be a string"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused(change: dict, complaint: str) -> None:
    """Wrong types raise `TypeError`, with the argument and the value."""
    with pytest.raises(TypeError, match=complaint):
        Instance(**{"service": "s", "host": "h", "port": 80, **change})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:80"),
        ("a_b.example.com", "a_b.example.com:80"),
        ("x", "x:80"),
        ("host.", "host.:80"),
    ],
)
def test_names_and_addresses_are_hosts(host: str, address: str) -> None:
    """Host names, IPv4 and IPv6 addresses pass, and know how they look in a URL."""
    instance = Instance("s", host, 80)
    assert (instance.address, instance.id) == (address, address)


def test_an_instance_is_frozen_to_its_metadata() -> None:
    """Nobody changes it behind our back: not it, not its metadata, not through the mapping it was made of."""
    given_ = {"a": "1"}
    instance = Instance("s", "h", 80, metadata=given_)
    given_["a"] = "2"
    assert instance.metadata == {"a": "1"}
    with pytest.raises(TypeError):
        instance.metadata["a"] = "3"  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.port = 1  # type: ignore[misc]
    assert {instance: 1}[Instance("s", "h", 80, metadata={"a": "1"})] == 1


def test_but_changes_facts_and_not_identity() -> None:
    """`but` checks as the constructor does, and refuses another id or service."""
    instance = Instance("s", "h", 80)
    assert instance.but(weight=2).weight == 2.0
    with pytest.raises(ValueError, match="weight must be"):
        instance.but(weight=-1)
    with pytest.raises(ValueError, match="id cannot be changed"):
        instance.but(id="other")


printable = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)


@given(
    printable,
    st.sampled_from(list(InstanceState)),
    st.floats(0.001, 1000),
    st.dictionaries(printable, printable, max_size=5),
)
def test_it_comes_back_as_it_was(zone: str, state: InstanceState, weight: float, metadata: dict) -> None:
    """Packed and unpacked it is equal, and equal instances are equal bytes."""
    instance = Instance("s", "h", 80, id="i", zone=zone, weight=weight, metadata=metadata, state=state)
    assert unpacked("s", "i", packed(instance)) == instance
    other = instance.but(metadata=dict(reversed(metadata.items())))
    assert packed(other) == packed(instance)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"schema":1}',
        b'{"schema":2,"host":"h","port":1,"state":"up"}',
        b'{"schema":1,"host":"a\\r\\nb","port":1,"state":"up"}',
        b'{"schema":1,"host":"h","port":1,"state":"bored"}',
        b'{"schema":1,"host":"h","port":1,"state":"up","weight":NaN}',
        b'{"schema":1,"host":"h","port":1,"state":"up","metadata":{"a":1}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_instance_is_corrupt(value: bytes) -> None:
    """Garbage, other schemas, and what no constructor would take: `CorruptState`, and nothing else."""
    with pytest.raises(CorruptState):
        unpacked("s", "i", value)
