"""What users hand in may raise while a claim is being ended: the claim ends all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


class Response:
    """What a failure is made of."""

    status = 404


class ApiError(Exception):
    """One whose constructor wants more than its arguments."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status}")


@dataclass
class Picky(Exception):
    """One that changes when it is made anew, until it refuses."""

    left: int

    def __post_init__(self) -> None:
        """Halved."""
        if self.left % 2:
            raise LookupError("odd")
        self.left //= 2


class Careless:
    """A codec that raises what is not `NotStorable`."""

    name, version = "careless", 1

    def encode(self, value: Any) -> bytes:
        """As JSON, if it has a form."""
        return json.dumps(value).encode()

    def decode(self, data: bytes) -> Any:
        """From JSON."""
        return json.loads(data)


async def huge() -> float:
    """Larger than any float."""
    return 10**400


async def unordered() -> Any:
    """Nothing for JSON."""
    return {1, 2}


def raising(error: Exception) -> Callable[[], Any]:
    """Work that raises."""

    async def work() -> None:
        raise error

    return work


LOST: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (raising(ApiError(Response())), {"store_errors": [ApiError]}),
    (raising(Picky(2)), {"store_errors": [Picky]}),
    (huge, {}),
    (unordered, {"codec": Careless()}),
]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(("work", "options"), LOST, ids=["arguments", "fields", "overflow", "codec"])
async def test_what_cannot_be_kept_is_done_whatever_the_keeping_raises(
    work: Callable[[], Any], options: dict[str, Any], by_hand: bool
) -> None:
    """Done and lost, and said so once; nothing renews the claim for ever."""
    seen = Recorder()
    idem = ar.Idempotency(lease=1, listeners=[seen], **options)

    async def once() -> None:
        if by_hand:
            returns = float if work is huge else Any
            async with idem.claim("k", returns=returns, operation=work.__qualname__) as claim:
                claim.complete(await work())
        else:
            await idem.run("k", work)

    (ended,) = await asyncio.gather(once(), return_exceptions=True)
    assert ended is None or isinstance(ended, ApiError | Picky)
    state = await idem.get("k")
    assert state is not None
    assert state.state is ar.RecordState.LOST
    assert len(seen.of(ar.AnswerNotKept)) == 1
    with pytest.raises(ar.AnswerLost):
        await idem.run("k", work)


async def test_a_predicate_that_raises_leaves_the_outcome_unknown() -> None:
    """The work's own error is raised, with a note; the next call is told that nobody knows."""
    idem = ar.Idempotency(unknown_errors=lambda error: error.code == 3, on_abandoned="refuse")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="x") as caught:
        await idem.run("k", raising(ValueError("x")))
    assert "unknown_errors raised AttributeError" in caught.value.__notes__[0]
    with pytest.raises(ar.Abandoned):
        await idem.run("k", raising(ValueError("x")))


async def test_a_codec_that_stops_the_program_leaves_nothing_that_is_renewed() -> None:
    """What no claim can be ended by is not held either: the lease runs out."""

    class Stops(Careless):
        def encode(self, value: Any) -> bytes:
            raise BaseException(value)

    idem = ar.Idempotency(lease=1, codec=Stops())
    with pytest.raises(BaseException, match="1"):
        await idem.run("k", asyncio.sleep, 0, 1)
    with pytest.raises(BaseException, match="1"):
        async with idem.claim("other") as claim:
            claim.complete(1)
    await asyncio.sleep(2)
    for key in ("k", "other"):
        state = await idem.get(key)
        assert state is not None
        assert state.state is ar.RecordState.ABANDONED


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_reconcile_function_that_completes_and_then_raises_has_completed(stopped: bool) -> None:
    """By hand as in a call: its error, or its cancellation, comes out; its result stays."""

    async def reconcile(claim: Any) -> None:
        claim.complete(7)
        if stopped:
            await asyncio.sleep(100)
        raise RuntimeError("the log is full")

    idem = ar.Idempotency(lease=1, on_abandoned=reconcile)
    async with idem.claim("k") as claim:
        claim.abandon()

    async def enter() -> None:
        async with idem.claim("k"):
            raise AssertionError("not entered")

    task = asyncio.ensure_future(enter())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == stopped
    if not stopped:
        assert str(task.exception()) == "the log is full"
    await asyncio.sleep(10)
    async with idem.claim("k") as claim:
        assert claim.result == 7


async def test_a_claim_is_entered_once_also_by_two_at_once() -> None:
    """The second has a mistake; it takes nothing from the first."""
    idem = ar.Idempotency(wait=0)
    block = idem.claim("k")

    async def enter() -> None:
        async with block as claim:
            await asyncio.sleep(1)
            claim.complete(1)

    one, two = await asyncio.gather(enter(), enter(), return_exceptions=True)
    assert one is None
    assert isinstance(two, RuntimeError)
    assert "entered once" in str(two)
