"""The contract of a store of registrations, as a check that anyone who writes one can run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aresilience.registry.machine import ANYBODY, EXPIRED, WITHDRAWN, Changes
from aresilience.registry.store import Beat, RegistryStore, Told

__all__ = ["check_registry_store"]


async def check_registry_store(make: Callable[[], RegistryStore]) -> None:
    """Run the contract of `aresilience.registry.store` against stores that `make` makes, which may share what
    they keep. Takes a second of the loop's time. Raises `AssertionError`."""
    for number, check in enumerate((_places, _beats, _listing, _parts, _ends, _told)):
        await check(make(), f"check-{number}")


async def _places(store: RegistryStore, service: str) -> None:
    mine, theirs = Beat(service, "a", "mine", 60.0), Beat(service, "a", "theirs", 60.0)
    first = await store.register(mine, b"1", takeover=True)
    assert first.ours
    assert await store.register(mine, b"1", takeover=False) == first, "a repeated registration is another"
    again = await store.register(mine, b"2", takeover=False)
    assert again == first, "new facts made a new generation"
    refused = await store.register(theirs, b"3", takeover=False)
    assert not refused.ours, "a place that was held was given away"
    assert refused.generation == first.generation
    taken = await store.register(theirs, b"3", takeover=True)
    assert taken.ours
    assert taken.generation > first.generation, "the generation did not rise"
    assert not await store.withdraw(service, "a", "mine"), "an old token withdrew the new registration"
    assert list(await store.renew([mine, theirs])) == [False, True]
    assert await store.withdraw(service, "a", "theirs")
    assert not await store.withdraw(service, "a", "theirs"), "withdrawn twice"
    assert list(await store.renew([theirs])) == [False]
    assert (await store.register(mine, b"4", takeover=False)).ours, "a free place was not given"
    assert await store.withdraw(service, "a", ANYBODY)


async def _beats(store: RegistryStore, service: str) -> None:
    assert list(await store.renew([])) == []
    assert list(await store.renew([Beat(service, "nobody", "t", 1.0)])) == [False]
    beats = [Beat(service, f"i{n}", "t", 60.0) for n in range(3)]
    for beat in beats[:2]:
        await store.register(beat, b"1", takeover=True)
    assert list(await store.renew(beats)) == [True, True, False]
    before = await store.changes(service, -1, -1, 100)
    await store.renew(beats)
    assert (await store.changes(service, -1, -1, 100)).revision == before.revision, "a beat is a change"


async def _listing(store: RegistryStore, service: str) -> None:
    nothing = await store.changes(service, -1, -1, 100)
    assert (nothing.full, nothing.soonest, nothing.changes) == (True, -1, ())
    await store.register(Beat(service, "a", "t", 60.0), b"1", takeover=True)
    await store.register(Beat(service, "b", "t", 60.0), b"2", takeover=True)
    first = await store.changes(service, -1, -1, 100)
    assert first.full
    assert [(c.id, c.value) for c in first.changes] == [("a", b"1"), ("b", b"2")]
    assert first.revision == first.changes[-1].revision
    assert 0 < first.soonest <= 60_000_000
    quiet = await store.changes(service, first.revision, first.revision, 100)
    assert (quiet.full, quiet.changes, quiet.digest) == (False, (), first.digest)
    await store.register(Beat(service, "a", "t", 60.0), b"3", takeover=True)
    await store.withdraw(service, "b", "t")
    since = await store.changes(service, first.revision, first.revision, 100)
    assert not since.full
    assert [(c.id, c.value, c.why) for c in since.changes] == [("a", b"3", ""), ("b", None, WITHDRAWN)]
    assert since.digest == since.changes[0].revision % 2**32, "the digest is not that of the living"
    ahead = await store.changes(service, since.revision + 1, since.revision + 1, 100)
    assert ahead.full, "a revision that never was is not a place to go on from"


async def _parts(store: RegistryStore, service: str) -> None:
    for n in range(5):
        await store.register(Beat(service, f"i{n}", "t", 60.0), b"%d" % n, takeover=True)
    found: list[str] = []
    since = base = -1
    while True:
        part: Changes = await store.changes(service, since, base, 2)
        if part.full:
            found, base = [], part.revision
        found += [c.id for c in part.changes]
        if not part.more:
            break
        assert len(part.changes) == 2
        since = part.changes[-1].revision
        if len(found) == 2:
            await store.register(Beat(service, "i0", "t", 60.0), b"meanwhile", takeover=True)
    assert found == ["i0", "i1", "i2", "i3", "i4", "i0"]


async def _ends(store: RegistryStore, service: str) -> None:
    await store.register(Beat(service, "short", "t", 0.5), b"1", takeover=True)
    await store.register(Beat(service, "long", "t", 60.0), b"2", takeover=True)
    before = await store.changes(service, -1, -1, 100)
    assert before.soonest <= 500_000
    await asyncio.sleep(0.55)
    found = await store.changes(service, before.revision, before.revision, 100)
    assert [(c.id, c.why) for c in found.changes] == [("short", EXPIRED)], "the dead are not swept away"
    assert list(await store.renew([Beat(service, "short", "t", 1.0)])) == [False]
    again = await store.register(Beat(service, "short", "other", 60.0), b"3", takeover=False)
    assert again.ours


async def _told(store: RegistryStore, service: str) -> None:
    heard: list[Told | None] = []
    end = store.listen(service, heard.append)
    await asyncio.sleep(0.02)  # for a subscription, where there is one
    for _ in range(50):  # a word about it, by message or by a hint to look
        heard.clear()
        await store.register(Beat(service, "a", "t", 60.0), b"%d" % len(heard), takeover=True)
        await store.withdraw(service, "a", "t")
        await asyncio.sleep(0.02)
        if heard:
            break
    assert heard, "nobody was told"
    end()
    await asyncio.sleep(0.02)
    heard.clear()
    await store.register(Beat(service, "b", "t", 60.0), b"1", takeover=True)
    await asyncio.sleep(0.02)
    assert not heard, "told after the end"
    if store.ready:
        await store.announce([service])
        assert service in await store.names()
