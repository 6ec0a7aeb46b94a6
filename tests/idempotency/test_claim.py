"""Claims by hand, and what a body sees of its claim."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

import aresilience as ar


async def test_a_block_is_the_work() -> None:
    """Entered once it is this one's alone; completed it is everybody's answer, of its type."""
    idem = ar.Idempotency()
    runs: list[int] = []

    async def pay(key: str) -> Decimal:
        async with idem.claim(key, returns=Decimal) as claim:
            if claim.replayed:
                return claim.result  # type: ignore[no-any-return]
            runs.append(claim.attempt)
            await asyncio.sleep(1)
            claim.complete(Decimal("9.90"))
        return Decimal("9.90")

    assert await asyncio.gather(*(pay("k") for _ in range(10))) == [Decimal("9.90")] * 10
    assert runs == [1]


async def test_a_block_says_how_it_ends() -> None:
    """Released, the next one runs; done without an answer, nothing runs; abandoned, `on_abandoned` decides."""
    idem = ar.Idempotency(on_abandoned="refuse")
    async with idem.claim("released") as claim:
        claim.release()
    async with idem.claim("released") as claim:
        assert (claim.replayed, claim.attempt) == (False, 1)
        claim.complete_without_answer()
    async with idem.claim("released") as claim:
        assert claim.replayed
        with pytest.raises(ar.AnswerLost):
            _ = claim.result
    async with idem.claim("unknown") as claim:
        claim.abandon()
    with pytest.raises(ar.Abandoned):
        async with idem.claim("unknown"):
            pass


async def test_a_block_that_says_nothing_is_a_mistake() -> None:
    """Left without a word nobody knows what it did: an error that says what to write, and an abandoned key."""
    idem = ar.Idempotency()
    with pytest.raises(RuntimeError, match=r"claim\.complete\(result\), or claim\.release"):
        async with idem.claim("k"):
            pass
    state = await idem.get("k")
    assert state is not None
    assert state.state is ar.RecordState.ABANDONED


@pytest.mark.parametrize(
    ("error", "state"), [(OSError, None), (ValueError, "FAILED"), (TimeoutError, "ABANDONED")]
)
async def test_a_block_that_raises_is_judged_as_a_call_is(
    error: type[Exception], state: str | None
) -> None:
    """Released, stored, or unknown; what was stored is raised by `result`."""
    idem = ar.Idempotency(store_errors=[ValueError], unknown_errors=TimeoutError)
    with pytest.raises(error):
        async with idem.claim("k"):
            raise error("x")
    found = await idem.get("k")
    assert (found and found.state.name) == state
    if state == "FAILED":
        async with idem.claim("k") as claim:
            with pytest.raises(ValueError, match="x"):
                _ = claim.result


async def test_what_was_said_before_an_error_holds() -> None:
    """The work was done: it is kept, and the error of what came after is raised."""
    idem = ar.Idempotency()

    async def block() -> None:
        async with idem.claim("k") as claim:
            claim.complete("paid")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    async with idem.claim("k") as claim:
        assert claim.result == "paid"


@pytest.mark.parametrize(
    ("on_cancel", "state"), [("release", None), ("finish", "ABANDONED"), ("unknown", "ABANDONED")]
)
async def test_a_cancelled_block(on_cancel: str, state: str | None) -> None:
    """It cannot go on without its task: released by that policy, unknown by the others; never in flight."""
    idem = ar.Idempotency(on_cancel=on_cancel)  # type: ignore[arg-type]

    async def block() -> None:
        async with idem.claim("k"):
            await asyncio.sleep(10)

    task = asyncio.create_task(block())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await idem.get("k")
    assert (found and found.state.name) == state


async def test_mistakes_with_a_claim_are_errors() -> None:
    """Ended twice, read too early, used too late, entered twice."""
    idem = ar.Idempotency()
    claiming = idem.claim("k")
    async with claiming as claim:
        with pytest.raises(RuntimeError, match="no result yet"):
            _ = claim.result
        claim.complete(1)
        with pytest.raises(RuntimeError, match="ended already: done"):
            claim.release()
    with pytest.raises(RuntimeError, match="entered once"):
        async with claiming:
            pass
    async with idem.claim("k") as claim:
        for use in (lambda: claim.fence, lambda: claim.downstream_key("x"), lambda: claim.complete(2)):
            with pytest.raises(RuntimeError, match="done before"):
                use()
    with pytest.raises(LookupError):
        ar.current_claim()


async def test_downstream_keys_are_for_others() -> None:
    """One for each label, key, fingerprint and name; the same for every attempt."""
    seen: dict[tuple[str, ...], str] = {}
    for name in ("a", "b"):
        for key in ("k1", "k2"):
            for fingerprint in ("f", "g"):
                idem = ar.Idempotency(name=name)
                for attempt in range(2):
                    async with idem.claim(key, fingerprint=fingerprint) as claim:
                        for label in ("stripe", "mail"):
                            made = claim.downstream_key(label)
                            assert seen.setdefault((name, key, fingerprint, label), made) == made
                            assert len(made) == 32
                        assert claim.attempt == attempt + 1
                        claim.abandon()
    assert len(set(seen.values())) == len(seen) == 16


async def test_a_body_sees_its_own_claim() -> None:
    """Inside a block, inside a call, and after an inner one the outer one's again; none outside."""
    idem = ar.Idempotency()

    async def inner() -> str:
        return ar.current_claim().id

    async with idem.claim("outer") as claim:
        assert ar.current_claim() is claim
        assert await idem.run("inner", inner) != claim.id
        async with idem.claim("block") as block:
            assert ar.current_claim() is block
            block.release()
        assert ar.current_claim() is claim
        assert "outer" not in repr(claim)
        claim.release()
    with pytest.raises(LookupError, match="no claim"):
        ar.current_claim()
