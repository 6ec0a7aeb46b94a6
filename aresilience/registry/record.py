"""What is registered: an instance of a service, checked when it is made, and its way into bytes and back.

Nothing hostile gets in: a host is a name or an address and nothing else, texts are bounded and hold no control
characters, metadata is strings, a few kilobytes of them. What comes back out of a store is checked alike.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from aresilience import arguments
from aresilience.errors import CorruptState

__all__ = ["Instance", "InstanceState", "packed", "service_name", "unpacked"]

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_])?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?")
_MOST_TEXT = 128
_MOST_WEIGHT = 1000.0
_MOST_ENTRIES, _MOST_METADATA = 64, 8192
_NONE: Mapping[str, str] = MappingProxyType({})
_SCHEMA = 1


class InstanceState(enum.Enum):
    """What an instance says of itself. Only those that are up get calls."""

    STARTING = "starting"
    """It runs, and cannot serve yet."""
    UP = "up"
    """It serves."""
    DRAINING = "draining"
    """It ends what it has begun, and wants nothing new."""
    DOWN = "down"
    """It is there, and out of rotation until further notice."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that serves: `Instance("user-service", "192.168.1.10", 8080, zone="a", weight=2.0)`.

    `id` is what makes it this instance and no other (its host and port, unless said): a process that starts
    with the id of another takes its place. `weight` is its share of the calls beside the others', more than 0
    and at most 1000. `metadata` is strings to strings, at most 64 of them and 8 KiB. Raises `ValueError`
    or `TypeError` for what is not one.
    """

    service: str
    host: str
    port: int
    id: str = field(default="", kw_only=True)
    zone: str = field(default="", kw_only=True)
    version: str = field(default="", kw_only=True)
    weight: float = field(default=1.0, kw_only=True)
    metadata: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)
    state: InstanceState = field(default=InstanceState.UP, kw_only=True)
    life: str = field(default="", kw_only=True, compare=False)
    """Another one for each process that is this instance, one after the other. Set by the registry."""

    def __post_init__(self) -> None:
        service_name("Instance: service", self.service)
        _host("Instance: host", self.host)
        port = arguments.count("Instance: port", self.port)
        if port > 65_535:
            raise ValueError(f"Instance: port must be from 1 to 65535, got {port!r}")
        if not self.id:
            object.__setattr__(self, "id", self.address)
        for name in ("id", "zone", "version", "life"):
            _line(f"Instance: {name}", getattr(self, name), _MOST_TEXT)
        allowed = f"a number greater than 0 and at most {_MOST_WEIGHT:g}"
        weight = arguments.number("Instance: weight", self.weight, allowed)
        if not 0 < weight <= _MOST_WEIGHT:
            raise ValueError(f"Instance: weight must be {allowed}, got {self.weight!r}")
        object.__setattr__(self, "weight", weight)
        if not isinstance(self.state, InstanceState):
            raise TypeError(f"Instance: state must be an InstanceState, got {self.state!r}")
        object.__setattr__(self, "metadata", _metadata("Instance: metadata", self.metadata))

    @property
    def address(self) -> str:
        """Host and port as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def but(self, **changes: Any) -> Instance:
        """The same with other facts. Its service and id stay. Raises as the constructor does."""
        for fixed in ("service", "id"):
            if fixed in changes:
                raise ValueError(f"Instance: {fixed} cannot be changed: it is what an instance is known by")
        return replace(self, **changes)


def packed(instance: Instance, token: str = "") -> bytes:
    """An instance as a store keeps it: the same facts, the same bytes. The token of a registration is its
    secret; its life shows only that it is another."""
    life = blake2b(token.encode(), digest_size=6).hexdigest() if token else instance.life
    facts: dict[str, Any] = {
        "schema": _SCHEMA,
        "host": instance.host,
        "port": instance.port,
        "state": instance.state.value,
    }
    for name, usual in (("zone", ""), ("version", ""), ("weight", 1.0)):
        if getattr(instance, name) != usual:
            facts[name] = getattr(instance, name)
    if life:
        facts["life"] = life
    if instance.metadata:
        facts["metadata"] = dict(sorted(instance.metadata.items()))
    return json.dumps(facts, separators=(",", ":")).encode()


def unpacked(service: str, who: str, value: bytes) -> Instance:
    """The instance that a store has kept. Raises `CorruptState` where it is none."""
    try:
        facts = json.loads(value)
        if facts.pop("schema") != _SCHEMA:
            raise CorruptState("an instance in the registry was written by a newer version of this package")
        return Instance(
            service,
            facts["host"],
            facts["port"],
            id=who,
            zone=facts.get("zone", ""),
            version=facts.get("version", ""),
            weight=facts.get("weight", 1.0),
            metadata=facts.get("metadata", {}),
            state=InstanceState(facts["state"]),
            life=facts.get("life", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptState(f"an instance in the registry is none: {type(error).__name__}") from None


def service_name(where: str, value: object) -> str:
    """A name that can be a host in a URL."""
    text = arguments.text(where, value)
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{where} must be 1 to 128 letters, digits or . _ - between them, got {text[:80]!r}"
        )
    return text


def _host(where: str, value: object) -> None:
    text = arguments.text(where, value)
    if _HOST.fullmatch(text) and ".." not in text:
        return
    try:
        if not _ADDRESS.fullmatch(text):  # ip_address takes anything after a %
            raise ValueError
        ip_address(text)
    except ValueError:
        raise ValueError(
            f"{where} must be a host name, an IPv4 or an IPv6 address, and nothing more, got {text[:80]!r}"
        ) from None


def _line(where: str, value: object, most: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a string, got {value!r} ({type(value).__name__})")
    if len(value) > most:
        raise ValueError(f"{where} must have at most {most} characters, got {len(value)}")
    if not value.isprintable():
        raise ValueError(f"{where} must have no control characters, got {value[:80]!r}")


def _metadata(where: str, value: object) -> Mapping[str, str]:
    if value is _NONE:
        return _NONE
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} must map strings to strings, got {value!r}")
    if len(value) > _MOST_ENTRIES:
        raise ValueError(f"{where} must have at most {_MOST_ENTRIES} entries, got {len(value)}")
    size = 0
    for key, text in value.items():
        _line(f"{where}: a key", key, _MOST_TEXT)
        _line(f"{where}: {key!r}", text, _MOST_METADATA)
        size += len(key.encode()) + len(text.encode())
    if size > _MOST_METADATA:
        raise ValueError(f"{where} must have at most {_MOST_METADATA} bytes, got {size}")
    return MappingProxyType(dict(value)) if value else _NONE
