"""What every store of sagas must do: run it against one of your own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from aresilience.errors import CorruptState
from aresilience.saga.record import Did, Entry, SagaState
from aresilience.saga.store import Claim, Found, Head, SagaStore, Write

__all__ = ["check_saga_store"]

_MINUTE = 60_000_000
_HEAD = Head("order-1", 2, "f" * 16, b"json/1 {}", 5_000_000)


async def check_saga_store(
    store: SagaStore,
    *,
    pass_time: Callable[[float], Awaitable[object]],
    lose: Callable[[str], Awaitable[object]] | None = None,
) -> None:
    """Check the contract of `aresilience.saga.store` on an empty store. Raises `AssertionError`.

    `pass_time(seconds)` lets its clock go on; `lose(id)` throws a journal away, if it has a way.
    """
    await _check_beginning(store)
    await _check_appending(store)
    await _check_claiming(store, pass_time)
    await _check_people(store)
    await _check_retention(store, pass_time)
    if lose is not None:
        await _check_loss(store, lose)


async def _begun(store: SagaStore, id: str, ttl: int = _MINUTE, version: int = 2) -> Claim:
    head = Head(id, version, _HEAD.fingerprint, _HEAD.input, _HEAD.deadline)
    claim = await store.begin(head, [Entry(Did.START, "a", 1)], f"token-{id}", ttl)
    assert isinstance(claim, Claim), "nobody had begun it"
    return claim


async def _loaded(store: SagaStore, id: str) -> Found:
    found = await store.load(id)
    assert found is not None
    return found


def _write(
    id: str, fence: int, *entries: Entry, state: SagaState = SagaState.RUNNING, keep: int = _MINUTE
) -> Write:
    return Write(id, fence, entries, state, keep, any(e.did is Did.DONE for e in entries))


async def _check_beginning(store: SagaStore) -> None:
    assert await store.load(_HEAD.id) is None
    start = Entry(Did.START, "a:b", 1)
    first = await store.begin(_HEAD, [start], "one", _MINUTE)
    again = await store.begin(_HEAD, [start], "one", _MINUTE)
    assert isinstance(first, Claim)
    assert isinstance(again, Claim), "the same asker, whose answer was lost"
    assert first.fence == again.fence
    other = await store.begin(_HEAD, [start], "two", _MINUTE)
    assert isinstance(other, Found), "somebody else's"
    assert other.head == _HEAD
    assert [entry.name for entry in other.entries] == ["start:1:a:b"]
    assert (other.length, other.recoveries, other.state) == (1, 0, SagaState.RUNNING)
    assert 0 < other.leased <= _MINUTE
    assert other.began <= other.now


async def _check_appending(store: SagaStore) -> None:
    claim = await _begun(store, "append")
    done = Entry(Did.DONE, "a", 1, b"\x00 result\r\n")
    for _ in range(2):  # the second time, as if the first answer was lost
        told = await store.append(_write("append", claim.fence, done, Entry(Did.START, "b", 1)))
        assert told is not None
        assert told.abort is None
    assert await store.append(_write("append", claim.fence - 1, Entry(Did.DONE, "b", 1))) is None
    assert told is not None
    assert told.length == 3
    ahead = Write("append", claim.fence, [Entry(Did.DONE, "b", 1)], SagaState.RUNNING, _MINUTE, after=4)
    told = await store.append(ahead)
    assert told is not None
    assert told.behind, "the owner knows of more than there is"
    assert not (await store.append(replace(ahead, entries=[], after=3))).behind  # type: ignore[union-attr]
    found = await _loaded(store, "append")
    assert [e.name for e in found.entries] == ["start:1:a", "done:1:a", "start:1:b"]
    assert found.entries[1].payload == done.payload
    assert [e.seq for e in found.entries] == [1, 2, 3]
    assert found.length == 3
    try:
        await store.append(_write("nobody", 1, done))
    except CorruptState:
        pass
    else:
        raise AssertionError("there is no such journal to append to")


async def _check_claiming(store: SagaStore, pass_time: Callable[[float], Awaitable[object]]) -> None:
    claim = await _begun(store, "claim", ttl=400_000)
    await _begun(store, "newer", ttl=400_000, version=9)
    assert await store.claim("claim", 2, "claimer", _MINUTE) is None, "its owner lives"
    assert "claim" not in await store.due(100)
    await pass_time(0.42)
    assert {"claim", "newer"} <= set(await store.due(100))
    assert await store.claim("newer", 2, "claimer", _MINUTE) is None, "of a version that is not known yet"
    told = await store.append(_write("claim", claim.fence, Entry(Did.DONE, "a", 1, b"r")))
    assert told is not None, "late, but nobody has claimed it"
    taken = await store.claim("claim", 2, "claimer", _MINUTE)
    assert taken is not None
    assert taken.fence > claim.fence
    assert taken.found.recoveries == 1
    assert [e.did for e in taken.found.entries] == [Did.START, Did.DONE, Did.RECOVER]
    assert await store.claim("claim", 2, "claimer", _MINUTE) is None, "one at a time"
    assert await store.append(_write("claim", claim.fence, Entry(Did.DONE, "b", 1))) is None, "fenced"
    store.hand_over_later("claim", claim.token)  # not his any more
    assert await store.claim("claim", 2, "claimer", _MINUTE) is None
    store.hand_over_later("claim", taken.token)
    await pass_time(0.02)
    third = await store.claim("claim", 2, "claimer", _MINUTE)
    assert third is not None
    assert third.found.recoveries == 1, "handed over, not died"
    progress = _write("claim", third.fence, Entry(Did.DONE, "b", 1, b"r"))
    assert await store.append(progress) is not None
    assert (await _loaded(store, "claim")).recoveries == 0


async def _check_people(store: SagaStore) -> None:
    claim = await _begun(store, "people")
    assert not await store.abort("nobody", "why")
    assert await store.abort("people", "wegen ü")
    assert await store.abort("people", "another reason")
    told = await store.append(_write("people", claim.fence))
    assert told is not None
    assert told.abort == "wegen ü"
    stuck = Entry(Did.STUCK, "a", 1, b"OSError: x")
    await store.append(_write("people", claim.fence, stuck, state=SagaState.STUCK))
    assert not await store.abort("people", "too late")
    assert [id_ async for id_ in store.ids([SagaState.STUCK])] == ["people"]
    found = await _loaded(store, "people")
    assert found.leased == 0
    assert await store.claim("people", 2, "claimer", _MINUTE) is None, "it waits for a person"
    retry = [Entry(Did.RETRY, "", found.length)]
    assert not await store.change("people", found.length - 1, retry, SagaState.COMPENSATING, 0)
    assert await store.change("people", found.length, retry, SagaState.COMPENSATING, 0)
    assert not await store.change("people", found.length, retry, SagaState.COMPENSATING, 0), "once"
    assert await store.append(_write("people", claim.fence, stuck)) is None, "it is nobody's now"
    assert "people" in await store.due(100)
    assert await store.claim("people", 2, "claimer", _MINUTE) is not None


async def _check_retention(store: SagaStore, pass_time: Callable[[float], Awaitable[object]]) -> None:
    claim = await _begun(store, "short")
    end = Entry(Did.END, "", claim.fence, b"done")
    for _ in range(2):
        told = await store.append(_write("short", claim.fence, end, state=SagaState.DONE, keep=50_000))
        assert told is not None
    assert (await _loaded(store, "short")).state is SagaState.DONE
    assert await store.claim("short", 2, "claimer", _MINUTE) is None
    await pass_time(0.06)
    assert await store.load("short") is None
    assert isinstance(await store.begin(_HEAD, [], "three", _MINUTE), Found), "open ones stay"


async def _check_loss(store: SagaStore, lose: Callable[[str], Awaitable[object]]) -> None:
    claim = await _begun(store, "lost")
    await lose("lost")
    for verb in (
        lambda: store.append(_write("lost", claim.fence)),
        lambda: _begun(store, "lost"),
        lambda: store.claim("lost", 2, "claimer", _MINUTE),
        lambda: _begun(store, "lost"),
    ):
        try:
            await verb()
        except CorruptState:
            continue
        raise AssertionError("a journal that is gone must not begin anew")
