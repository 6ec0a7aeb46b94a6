"""What travels over a link: a plain command, a script call, and a script call that many callers share.

A link knows four things of each: whether anybody still wants it, its bytes, what to do with the reply, and
what to do when there is none.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from hiredis import pack_command
from redis.exceptions import RedisError

from aresilience.backend.redis.errors import StrayReplyError, another, code_of, refused
from aresilience.backend.redis.scripts import Script
from aresilience.errors import BackendError

if TYPE_CHECKING:
    from aresilience.backend.redis.link import Link

__all__ = ["Argument", "Asking", "Batch", "Call", "Detour", "Plain", "Request", "Rider", "Undo", "Verdict"]

Argument: TypeAlias = str | bytes | int
Undo: TypeAlias = Callable[[Any], None]

_log = logging.getLogger("aresilience")
_nonces = count(1)


class Verdict(enum.Enum):
    """What a reply means for the link."""

    DONE = "done"
    AGAIN = "again"
    """The server did not run it, and says why: send it again, as it is now."""


class Detour:
    """What happened to a request that the server did not run at once."""

    __slots__ = ("asking", "excuse", "hops")

    def __init__(self) -> None:
        self.hops = 0
        """How often a cluster sent it elsewhere."""
        self.asking = False
        """Whether a node serves it only after ASKING: its slot is on its way there."""
        self.excuse: BackendError | None = None
        """What the server said when it did not run it: what the caller hears if time runs out."""


class Request(Protocol):
    """What a link sends."""

    sent: bool
    link: Link
    """Who has it now."""
    detour: Detour | None

    def wanted(self) -> bool: ...

    def pack(self) -> bytes: ...

    def answer(self, reply: Any) -> Verdict: ...

    def fail(self, error: BackendError) -> None: ...


class Plain:
    """One command, one future."""

    __slots__ = ("_words", "detour", "future", "link", "sent")

    link: Link

    def __init__(self, loop: asyncio.AbstractEventLoop, words: Sequence[Argument]) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self._words = words
        self.sent = False
        self.detour: Detour | None = None

    def wanted(self) -> bool:
        return not self.future.done()

    def pack(self) -> bytes:
        return bytes(pack_command(tuple(self._words)))  # type: ignore[arg-type]

    def answer(self, reply: Any) -> Verdict:
        if not self.future.done():
            if isinstance(reply, RedisError):
                self.future.set_exception(refused(reply))
            else:
                self.future.set_result(reply)
        return Verdict.DONE

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Asking:
    """The ASKING before a request, in the same write: whatever the answer, the request's own decides."""

    DATA = bytes(pack_command(("ASKING",)))

    sent = True
    detour: Detour | None = None
    link: Link

    def wanted(self) -> bool:
        return False

    def pack(self) -> bytes:
        return self.DATA

    def answer(self, reply: Any) -> Verdict:
        return Verdict.DONE

    def fail(self, error: BackendError) -> None: ...


class _Scripted:
    """A script call: by its hash; by its text if the server does not know it. The reply must bear the
    nonce of the request, or it is somebody else's."""

    __slots__ = ("_by_text", "_nonce", "_script", "detour", "link", "sent")

    link: Link

    def __init__(self, script: Script) -> None:
        self._script = script
        self._by_text = False
        self._nonce = 0
        self.sent = False
        self.detour: Detour | None = None

    def _pack(self, keys: Sequence[Argument], args: Sequence[Argument]) -> bytes:
        self._nonce = next(_nonces)
        verb, body = ("EVAL", self._script.text) if self._by_text else ("EVALSHA", self._script.sha)
        words = (verb, body, len(keys), *keys, self._nonce, *args)
        return bytes(pack_command(words))  # type: ignore[arg-type]

    def _unknown_script(self, reply: Any) -> bool:
        if isinstance(reply, RedisError) and not self._by_text and code_of(reply) == "NOSCRIPT":
            self._by_text = True
            return True
        return False

    def _opened(self, reply: Any) -> Any | BackendError:
        """The reply without its nonce, or the error that it is."""
        if isinstance(reply, RedisError):
            return refused(reply)
        if not isinstance(reply, list) or not reply or reply[0] != self._nonce:
            raise StrayReplyError
        return reply[1:]


class Call(_Scripted):
    """One script call for one caller.

    `undo(reply)` is called if nobody wants the reply any more when it comes, so that what the script took
    can be given back.
    """

    __slots__ = ("_args", "_keys", "_undo", "future")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        undo: Undo | None = None,
    ) -> None:
        super().__init__(script)
        self.future: asyncio.Future[Any] = loop.create_future()
        self._keys = keys
        self._args = args
        self._undo = undo

    def wanted(self) -> bool:
        return not self.future.done()

    def pack(self) -> bytes:
        return self._pack(self._keys, self._args)

    def answer(self, reply: Any) -> Verdict:
        if self._unknown_script(reply):
            return Verdict.AGAIN
        opened = self._opened(reply)
        _hand_over(self.future, opened, self._undo)
        return Verdict.DONE

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Rider(Protocol):
    """One entry of a `Batch`: its arguments and then its keys when it leaves, and what becomes of its item."""

    keys: Sequence[Argument]
    """The first is there from the beginning, to say where it goes."""
    batch: Batch
    """What it rides on, once it does."""

    def wanted(self) -> bool: ...

    def args(self) -> Sequence[Argument]: ...

    def answer(self, item: Any) -> None: ...

    def fail(self, error: BackendError) -> None: ...


class Batch(_Scripted):
    """One script call for everybody who asks before it leaves: the script takes many keys and answers with
    one item for each rider."""

    __slots__ = ("_head", "_over", "riders", "size")

    LIMIT = 500
    """The size of one call: more would keep the server from others for milliseconds."""

    def __init__(self, script: Script, head: Sequence[Argument] = ()) -> None:
        super().__init__(script)
        self._head = head
        self._over = False
        self.riders: list[Rider] = []
        self.size = 0
        """One for each rider; one that is many adds to it."""

    @property
    def open(self) -> bool:
        """Whether one more can ride."""
        return not (self.sent or self._over) and self.size < self.LIMIT

    def add(self, rider: Rider) -> None:
        """One more."""
        rider.batch = self
        self.riders.append(rider)
        self.size += 1

    def wanted(self) -> bool:
        return any(rider.wanted() for rider in self.riders)

    def pack(self) -> bytes:
        if not self._by_text:  # those who left before it was sent are not in it
            self.riders = [rider for rider in self.riders if rider.wanted()]
        keys: list[Argument] = []
        args = list(self._head)
        for rider in self.riders:
            args += rider.args()
            keys += rider.keys
        return self._pack(keys, args)

    def answer(self, reply: Any) -> Verdict:
        if self._unknown_script(reply):
            return Verdict.AGAIN
        opened = self._opened(reply)
        if isinstance(opened, BackendError):
            self.fail(opened)
        elif len(opened) != len(self.riders):
            raise StrayReplyError
        else:
            for rider, item in zip(self.riders, opened, strict=True):
                if isinstance(item, RedisError):
                    rider.fail(refused(item))
                else:
                    _shielded(rider.answer, item)
        return Verdict.DONE

    def fail(self, error: BackendError) -> None:
        self._over = True  # it has left the queue: who joined it now would wait for ever
        for rider in self.riders:  # each its own, to which a caller may add notes and a traceback
            rider.fail(another(error))


def _hand_over(future: asyncio.Future[Any], item: Any, undo: Undo | None) -> None:
    if isinstance(item, BackendError):
        if not future.done():
            future.set_exception(item)
    elif not future.done():
        future.set_result(item)
    elif undo is not None:
        _shielded(undo, item)


def _shielded(function: Callable[[Any], None], item: Any) -> None:
    """Somebody else's code, which must not take everybody's connection with it."""
    try:
        function(item)
    except Exception:  # noqa: BLE001 - logged
        _log.exception("what was to be done with a reply of Redis failed")
