"""From the errors of redis-py and the server to the three kinds that decide what may be done next.

| what happened                                                | kind              |
|--------------------------------------------------------------|-------------------|
| no connection: refused, no such host, no answer, maxclients  | NotSent           |
| an error reply: OOM, READONLY, BUSY, MISCONF, NOREPLICAS, …  | Refused           |
| NOAUTH, WRONGPASS, NOPERM, a server that is too old          | ConfigurationError|
| WRONGTYPE, or a value of ours that makes no sense            | CorruptState      |
| the connection broke, or the deadline passed, after sending  | OutcomeUnknown    |
"""

from __future__ import annotations

import re
from typing import TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from aresilience.errors import BackendError, ConfigurationError, CorruptState, NotSent, Refused

__all__ = [
    "MAX_CLIENTS",
    "StrayReplyError",
    "another",
    "code_of",
    "is_reply",
    "not_sent",
    "refused",
    "text_of",
]

E = TypeVar("E", bound=BackendError)

MAX_CLIENTS = "max number of clients reached"

_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")
_ECHO = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""A server that does not know AUTH tells the password back."""
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: (?!@user_script)-?(.*)", re.DOTALL)
"""How Redis 6.2 wraps the error of a command in a script; 7.0 leaves its code in front."""
_SCRIPT_MAY_NOT = "The user executing the script can't"

_TAKEN_OFF = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""The codes that redis-py takes off the text when it makes an error of its own."""


class StrayReplyError(Exception):
    """A reply that belongs to some other request: the connection cannot be trusted any more."""


def text_of(error: RedisError) -> str:
    """An error reply as the server meant it: with its code in front, also out of a script."""
    text = str(error)
    wrapped = _IN_SCRIPT.search(text)
    if wrapped is not None:
        return wrapped[1]
    code = _TAKEN_OFF.get(type(error).__name__)
    return text if code is None or text.startswith(code) else f"{code} {text}"


def code_of(error: RedisError) -> str:
    """The code of an error reply: MOVED, READONLY, …"""
    return text_of(error).split(" ", 1)[0]


def refused(error: RedisError) -> BackendError:
    """The error for an error reply of the server."""
    text = _harmless(text_of(error))
    denied = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
    if denied or text.startswith(_SCRIPT_MAY_NOT):
        return ConfigurationError(f"Redis does not let us: {text}")
    if text.startswith(("WRONGTYPE", "CORRUPT")):
        return CorruptState(f"a key of ours holds something else: {text}")
    return Refused(f"Redis refused: {text}")


def not_sent(error: Exception) -> BackendError:
    """The error for a connection that could not be made."""
    text = _harmless(text_of(error) if isinstance(error, RedisError) else str(error))
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return ConfigurationError(f"Redis does not let us in: {text}")
    if isinstance(error, RedisError) and text.startswith("LOADING"):
        return Refused(f"Redis refused: {text}")
    return NotSent(f"no connection to Redis: {text or type(error).__name__}")


def is_reply(error: RedisError) -> bool:
    """Whether an error from reading is the server's answer, rather than the connection's end."""
    # NOAUTH and LOADING are ConnectionErrors in redis-py, and answers all the same.
    return isinstance(error, ResponseError | BusyLoadingError | AuthenticationError | AuthorizationError)


def another(error: E) -> E:
    """The same error for another caller, who may add notes and a traceback of his own."""
    return type(error)(*error.args)


def _harmless(text: str) -> str:
    """The text without credentials, in one line."""
    return " ".join(_ECHO.sub("", _CREDENTIALS.sub("", text)).split())
