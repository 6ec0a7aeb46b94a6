"""What the script of the journals is asked, and how its answers are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aresilience.backend.redis.commands import Argument, Batch
from aresilience.errors import BackendError, CorruptState
from aresilience.saga.record import OPEN, Entry, SagaState
from aresilience.saga.store import Found, Head, SagaStore

__all__ = ["Ride", "fields_of", "flat", "found_in", "text"]


class Ride:
    """One verb for one saga. `must`: it is sent even if nobody waits for the answer. `claims`: the id of what
    it claims, and the token by which it is handed over if nobody waits."""

    __slots__ = ("_claims", "_must", "_store", "_words", "batch", "future", "keys", "sent")

    batch: Batch

    def __init__(
        self,
        store: SagaStore,
        keys: Sequence[Argument],
        words: tuple[Argument, ...],
        must: bool,
        claims: tuple[str, str] | None,
    ) -> None:
        self.keys = keys
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent = 0.0
        self._store = store
        self._words = words
        self._must = must
        self._claims = claims

    def wanted(self) -> bool:
        return self._must or not self.future.done()

    def args(self) -> Sequence[Argument]:
        """Now it leaves."""
        self.sent = self._store.keeper.now()
        return self._words

    def answer(self, item: Any) -> None:
        if not self.future.done():
            self.future.set_result(item)
        elif self._claims is not None and item[0]:
            self._store.hand_over_later(*self._claims)

    def fail(self, error: BackendError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def flat(entries: Sequence[Entry]) -> list[Argument]:
    flat: list[Argument] = []
    for entry in entries:
        flat += (entry.name.encode("utf-8", "surrogatepass"), entry.payload)
    return flat


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def found_in(now: int, flat: Sequence[bytes]) -> Found:
    fields = fields_of(flat)
    try:
        entries = []
        for name, value in fields.items():
            if name[:1] == b"j":
                seq, at, payload = value.split(b" ", 2)
                entries.append(Entry.read(text(name[1:]), payload, int(at), int(seq)))
        entries.sort(key=lambda entry: entry.seq)
        head = Head(
            text(fields[b"i"]),
            int(fields[b"v"]),
            fields[b"p"].decode(),
            fields[b"n"],
            int(fields[b"d"]),
        )
        state = SagaState(fields[b"s"].decode())
        return Found(
            head,
            state,
            tuple(entries),
            int(fields[b"b"]),
            now,
            int(fields[b"q"]),
            max(0, int(fields[b"l"]) - now) if state in OPEN else 0,
            int(fields[b"r"]),
        )
    except (KeyError, ValueError) as error:
        raise CorruptState(f"a journal is none of ours: {type(error).__name__}: {error}") from None
