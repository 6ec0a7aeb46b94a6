"""The policies: failures, lost owners, cancelled callers, a store that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

import aresilience as ar
from aresilience.codecs import JsonCodec
from aresilience.testing import FaultyBackend, Recorder
from aresilience.testing.faulty import Fault


class Declined(Exception):
    """A failure that is an answer."""


@dataclass
class Limit(Exception):
    """A failure with fields."""

    left: int
    currency: str = "EUR"


class Odd(Exception):
    """One that cannot be made of its arguments."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class OddCodec:
    """A codec for it."""

    name, version = "odd", 1

    def encode(self, value: Odd) -> bytes:
        """Its code."""
        return b"%d" % value.code

    def decode(self, data: bytes) -> Odd:
        """Of its code."""
        return Odd(int(data))


def failing(error: BaseException) -> tuple[Callable[[], Awaitable[None]], list[float]]:
    """Work that raises, and the times at which it ran."""
    runs: list[float] = []

    async def work() -> None:
        runs.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        raise error

    return work, runs


STORED: list[tuple[Any, Exception]] = [
    ([Declined], Declined("no funds", 3, None)),
    ((Declined, Limit), Limit(7, "USD")),
    ({Odd: OddCodec()}, Odd(4)),
    ({Declined: None}, Declined()),
]


@pytest.mark.parametrize(("spec", "error"), STORED, ids=lambda v: type(v).__name__)
async def test_i17_a_failure_that_is_an_answer_is_stored_and_raised_again(
    spec: Any, error: Exception
) -> None:
    """I17: by its type, from the list, with its content; made anew for each call; without pickle."""
    idem = ar.Idempotency(store_errors=spec)
    work, runs = failing(error)
    with pytest.raises(type(error)):
        await idem.run("k", work)
    with pytest.raises(type(error)) as one:
        await idem.run("k", work)
    with pytest.raises(type(error)) as two:
        await idem.run("k", work)
    assert (one.value.args, str(one.value)) == (error.args, str(error))
    assert {k: v for k, v in vars(one.value).items() if k != "__notes__"} == vars(error)
    assert one.value is not two.value
    assert len(runs) == 1
    state = await idem.get("k")
    assert state is not None
    assert state.state is ar.RecordState.FAILED


@pytest.mark.parametrize("spec", [(), [Limit]])
async def test_every_other_failure_releases_the_key(spec: Any) -> None:
    """Nothing is stored unless it is listed."""
    idem = ar.Idempotency(store_errors=spec)
    work, runs = failing(Declined("no"))
    for _ in range(3):
        with pytest.raises(Declined):
            await idem.run("k", work)
    assert len(runs) == 3
    assert await idem.get("k") is None


@pytest.mark.parametrize("error", [Odd(4), Declined(object()), type("Sub", (Declined,), {})("x")])
async def test_a_failure_that_would_not_come_back_is_done_and_lost(error: Exception) -> None:
    """It is final all the same: not run again, `AnswerLost`; the first caller has it as it is."""
    seen = Recorder()
    idem = ar.Idempotency(store_errors=[Declined, Odd], listeners=[seen])
    work, runs = failing(error)
    with pytest.raises(type(error)) as caught:
        await idem.run("k", work)
    assert caught.value is error
    with pytest.raises(ar.AnswerLost):
        await idem.run("k", work)
    assert len(runs) == 1
    assert len(seen.of(ar.AnswerNotKept)) == 1


async def test_a_note_on_the_way_up_changes_nothing() -> None:
    """Errors get notes from those whom they pass: they are not part of the answer."""
    idem = ar.Idempotency(store_errors=[Declined])
    error = Declined("no")
    error.add_note("after 3 attempts")
    work, _ = failing(error)
    for _ in range(2):
        with pytest.raises(Declined):
            await idem.run("k", work)


async def test_after_some_errors_nobody_knows() -> None:
    """`unknown_errors`: the outcome of the work is unknown, and `on_abandoned` decides."""
    idem = ar.Idempotency(unknown_errors=(TimeoutError, ar.OutcomeUnknown), on_abandoned="refuse")
    work, runs = failing(TimeoutError())
    with pytest.raises(TimeoutError):
        await idem.run("k", work)
    with pytest.raises(ar.Abandoned) as caught:
        await idem.run("k", work)
    assert caught.value.attempt == 1
    assert len(runs) == 1


async def test_i9_an_answer_that_cannot_be_kept_is_not_run_for_again() -> None:
    """I8, I9: too large, or of the wrong type: the first caller has it, later ones `AnswerLost`."""
    seen = Recorder()
    idem = ar.Idempotency(max_bytes=10, listeners=[seen])
    runs: list[int] = []

    async def large() -> str:
        runs.append(1)
        return "x" * 11

    async def wrong() -> int:
        runs.append(1)
        return "seven"  # type: ignore[return-value]

    for key, work in (("large", large), ("wrong", wrong)):
        assert await idem.run(key, work) in ("x" * 11, "seven")
        for _ in range(2):
            with pytest.raises(ar.AnswerLost):
                await idem.run(key, work)
    assert len(runs) == 2
    assert len(seen.of(ar.AnswerNotKept)) == 2


# Lost owners


async def abandoned(idem: ar.Idempotency, key: str = "k") -> None:
    """Leave work of which nobody knows whether it was done."""
    async with idem.claim(key, operation="work") as claim:
        claim.abandon()


async def work() -> list[int]:
    """Say which attempt this is."""
    await asyncio.sleep(1)
    return [ar.current_claim().attempt]


async def test_i4_lost_work_runs_again_with_a_higher_fence() -> None:
    """I4, `rerun`: the body sees which attempt it is; its downstream keys are those of the first one."""
    idem, seen = ar.Idempotency(), []

    async def pay() -> int:
        claim = ar.current_claim()
        seen.append((claim.attempt, claim.fence, claim.downstream_key("stripe")))
        if claim.attempt < 3:
            raise TimeoutError
        return claim.attempt

    lost = ar.Idempotency(unknown_errors=TimeoutError)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await lost.run("k", pay)
    assert await lost.run("k", pay) == 3
    attempts, fences, keys = zip(*seen, strict=True)
    assert attempts == (1, 2, 3)
    assert fences[0] < fences[1] < fences[2]
    assert len(set(keys)) == 1
    assert idem.name == lost.name


async def test_refused_until_somebody_finds_out() -> None:
    """`refuse`: `Abandoned`, again and again, until the key is evicted."""
    idem = ar.Idempotency(on_abandoned="refuse")
    await abandoned(idem)
    for _ in range(2):
        with pytest.raises(ar.Abandoned):
            await idem.run("k", work)
    await idem.evict("k")
    assert await idem.run("k", work) == [1]


async def test_a_reconciler_finds_the_answer() -> None:
    """It was done: the answer that it finds is everybody's, and nothing runs."""
    found: list[int] = []

    async def reconcile(claim: ar.Claim[Any]) -> None:
        found.append(claim.attempt)
        await asyncio.sleep(1)
        assert ar.current_claim() is claim
        assert claim.key in ("k", "by hand")  # with this, or a downstream key, it asks those who know
        claim.complete([77])

    idem = ar.Idempotency(on_abandoned=reconcile)
    await abandoned(idem)
    assert await asyncio.gather(*(idem.run("k", work) for _ in range(5))) == [[77]] * 5
    assert found == [2]
    await abandoned(idem, "by hand")
    async with idem.claim("by hand", operation="work") as claim:
        assert claim.replayed
        assert claim.result == [77]


async def test_a_reconciler_says_that_it_was_not_done() -> None:
    """It returns: the work is run."""

    async def reconcile(claim: ar.Claim[Any]) -> None:
        await asyncio.sleep(1)

    idem = ar.Idempotency(on_abandoned=reconcile)
    assert await idem.run("free", work) == [1]
    await abandoned(idem)
    assert await idem.run("k", work) == [2]
    await abandoned(idem, "by hand")
    async with idem.claim("by hand", operation="work") as claim:
        assert not claim.replayed
        claim.complete([claim.attempt])
    with pytest.raises(ar.KeyReused):
        await idem.run("by hand", work, fingerprint="other")


@pytest.mark.parametrize("how", ["raises", "releases", "cancelled"])
async def test_a_reconciler_that_does_not_know_leaves_it_as_it_was(how: str) -> None:
    """It raises, or is cancelled, or says something else: the key stays abandoned, whatever the errors mean."""

    async def reconcile(claim: ar.Claim[Any]) -> None:
        await asyncio.sleep(1)
        if how == "raises":
            raise Declined("the bank does not say")
        claim.release()

    idem = ar.Idempotency(on_abandoned=reconcile, store_errors=[Declined], on_cancel="release")
    await abandoned(idem)
    if how == "cancelled":
        task = asyncio.create_task(idem.run("k", work))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises((Declined, RuntimeError)):
            await idem.run("k", work)
        with pytest.raises((Declined, RuntimeError)):
            async with idem.claim("k", operation="work"):
                raise AssertionError("never entered")
    state = await idem.get("k")
    assert state is not None
    assert state.state is ar.RecordState.ABANDONED


async def test_an_owner_that_was_silent_is_lost_and_refused() -> None:
    """The store does not answer renewals: the body can see it, and another takes over."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", lease=10.0, backend=backend)
    seen: list[bool] = []

    async def slow() -> str:
        claim = ar.current_claim()
        claim.check()
        await asyncio.sleep(20)
        seen.append(claim.lost)
        claim.check()
        return "first"

    async def quick() -> str:
        return "second"

    quick.__qualname__ = slow.__qualname__
    backend.plan(Fault.NOT_SENT, verb="renew", times=100)
    task = asyncio.create_task(idem.run("k", slow))
    await asyncio.sleep(0)
    assert await idem.run("k", quick) == "second"
    with pytest.raises(ar.ClaimLost, match="was not confirmed within 9 s"):
        await task
    assert seen == [True]
    assert await idem.run("k", slow) == "second"


async def test_a_stale_owners_result_is_refused_and_said_so() -> None:
    """One that did not look: its result is not kept, `ClaimLost`; the successor's stays."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", lease=10.0, store_errors=[Declined], backend=backend)

    async def slow(fails: bool) -> str:
        await asyncio.sleep(20)
        if fails:
            raise Declined("stale")
        return "stale"

    async def quick(fails: bool) -> str:
        return "fresh"

    quick.__qualname__ = slow.__qualname__
    backend.plan(Fault.NOT_SENT, verb="renew", times=100)
    for fails, error in ((False, ar.ClaimLost), (True, Declined)):
        task = asyncio.create_task(idem.run(f"{fails}", slow, fails))
        await asyncio.sleep(0)
        assert await idem.run(f"{fails}", quick, fails) == "fresh"
        with pytest.raises(error) as caught:
            await task
        if fails:
            assert "took this one over" in caught.value.__notes__[0]
        assert await idem.run(f"{fails}", slow, fails) == "fresh"


async def test_long_work_keeps_its_lease() -> None:
    """Ten times its lease: renewed all the time, nobody takes over."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", lease=3.0, wait=100.0, backend=backend)
    runs: list[int] = []

    async def long() -> int:
        runs.append(ar.current_claim().attempt)
        await asyncio.sleep(30)
        return 1

    assert await asyncio.gather(*(idem.run("k", long) for _ in range(3))) == [1, 1, 1]
    assert runs == [1]
    assert 25 <= len([call for call in backend.calls if call.verb == "renew"]) <= 40
    assert len(backend.keeper) == 0


# Cancelled callers


async def cancelled_after(seconds: float, idem: ar.Idempotency, fn: Callable[..., Awaitable[Any]]) -> None:
    """Call, and be cancelled."""
    task = asyncio.create_task(idem.run("k", fn))
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_i6_a_cancelled_callers_work_goes_on_and_is_stored() -> None:
    """I6, `finish`: the caller leaves at once; the duplicate waits for the result, and gets it."""
    seen = Recorder()
    idem = ar.Idempotency(listeners=[seen])
    runs: list[str] = []

    async def pay() -> str:
        runs.append("began")
        await asyncio.sleep(5)
        runs.append("done")
        return "paid"

    await cancelled_after(1.0, idem, pay)
    assert asyncio.get_running_loop().time() == 1.0
    assert await idem.run("k", pay) == "paid"
    assert runs == ["began", "done"]
    assert asyncio.get_running_loop().time() == 5.0
    assert [event.error for event in seen.of(ar.FinishedAlone)] == [None]


async def test_work_that_fails_alone_is_told_and_nothing_is_lost_in_silence() -> None:
    """Nobody awaits it any more: an event has its error, and the key is released."""
    seen = Recorder()
    idem = ar.Idempotency(listeners=[seen])
    error = OSError("down")
    fails, runs = failing(error)
    await cancelled_after(0.5, idem, fails)
    await asyncio.sleep(1)
    assert [event.error for event in seen.of(ar.FinishedAlone)] == [error]
    with pytest.raises(OSError, match="down"):
        await idem.run("k", fails)
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("on_cancel", "on_abandoned", "attempts"),
    [("release", "rerun", [1, 1]), ("release", "refuse", [1, 1]), ("unknown", "rerun", [1, 2])],
)
async def test_i7_a_cancelled_call_can_be_made_again(
    on_cancel: Any, on_abandoned: Any, attempts: Any
) -> None:
    """I7: the work is cancelled, and the key is free, or abandoned: never in flight until the ttl."""
    idem = ar.Idempotency(on_cancel=on_cancel, on_abandoned=on_abandoned)
    seen: list[int] = []

    async def pay() -> str:
        seen.append(ar.current_claim().attempt)
        await asyncio.sleep(5)
        return "paid"

    await cancelled_after(1.0, idem, pay)
    assert await idem.run("k", pay) == "paid"
    assert seen == attempts


async def test_unknown_and_refuse() -> None:
    """A cancelled call, of which nobody knows: refused until somebody found out."""
    idem = ar.Idempotency(on_cancel="unknown", on_abandoned="refuse")
    await cancelled_after(0.5, idem, work)
    with pytest.raises(ar.Abandoned):
        await idem.run("k", work)


async def test_who_waits_takes_over_when_the_owner_is_cancelled() -> None:
    """Woken at once, by the release."""
    idem = ar.Idempotency(on_cancel="release")
    one = asyncio.create_task(idem.run("k", work))
    await asyncio.sleep(0)
    two = asyncio.create_task(idem.run("k", work))
    await asyncio.sleep(0.5)
    one.cancel()
    assert await two == [1]
    assert asyncio.get_running_loop().time() == 1.5


@pytest.mark.parametrize(("takes", "finished"), [(3.0, True), (30.0, False)])
async def test_closing_the_backend_waits_for_work_for_a_while(takes: float, finished: bool) -> None:
    """Work whose caller is gone is finished and stored, within `finish_within`; after that it is abandoned."""
    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", finish_within=10.0, on_abandoned="refuse", backend=backend)
    cleaned: list[float] = []

    async def pay() -> str:
        try:
            await asyncio.sleep(takes)
        finally:
            cleaned.append(asyncio.get_running_loop().time())
        return "paid"

    async with backend:
        await cancelled_after(1.0, idem, pay)
    assert cleaned == [3.0 if finished else 11.0]
    async with backend:
        if finished:
            assert await idem.run("k", pay) == "paid"
        else:
            with pytest.raises(ar.Abandoned):
                await idem.run("k", pay)


# A store that fails


@pytest.mark.parametrize("fault", [Fault.NOT_SENT, Fault.REFUSED, Fault.LOST_REQUEST, Fault.LOST_REPLY])
async def test_a_failing_store_raises_before_anything_runs(fault: Fault) -> None:
    """`raise`: nothing ran, nothing is left claimed, the next call runs at once."""
    backend, seen = FaultyBackend(), Recorder()
    idem = ar.Idempotency(
        name="x", in_flight="raise", on_abandoned="refuse", backend=backend, listeners=[seen]
    )
    backend.plan(fault, verb="claim")
    with pytest.raises(ar.BackendError):
        await idem.run("k", work)
    await asyncio.sleep(1)  # what may have been claimed is taken back
    assert await idem.run("k", work) == [1]
    assert [event.answer for event in seen.of(ar.StoreDegraded)] == ["raised"]


@pytest.mark.parametrize("fault", [Fault.NOT_SENT, Fault.REFUSED, Fault.LOST_REQUEST, Fault.LOST_REPLY])
async def test_or_the_work_runs_unprotected(fault: Fault) -> None:
    """`run`: the call is made, without fence and attempt; its result is kept if the store is back by then."""
    backend, seen = FaultyBackend(), Recorder()
    idem = ar.Idempotency(name="x", on_store_error="run", backend=backend, listeners=[seen])
    backend.plan(fault, verb="claim")
    assert await idem.run("k", work) == [0]
    assert [event.answer for event in seen.of(ar.StoreDegraded)] == ["ran unprotected"]
    assert await idem.run("k", work) == [0]
    backend.plan(Fault.NOT_SENT, times=2)
    assert await idem.run("down", work) == [0]
    assert await idem.run("down", work) == [1]


async def test_but_never_beside_another_one_that_is_known_to_run() -> None:
    """`run`: the store fails while a duplicate waits: it does not run the work a second time."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", on_store_error="run", backend=backend)
    first = asyncio.create_task(idem.run("k", work))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(idem.run("k", work))
    await asyncio.sleep(0.5)
    backend.plan(Fault.NOT_SENT, verb="claim")
    assert await first == [1]
    with pytest.raises(ar.NotSent):
        await waiting
    assert await idem.run("k", work) == [1]


async def test_errors_that_say_nothing_of_the_work_count_nowhere() -> None:
    """No breaker counts them, and no retry of every exception repeats them."""
    idem = ar.Idempotency()
    await idem.run("k", work)
    retry = ar.Retry(on=Exception, attempts=5)
    breaker = ar.CircuitBreaker(failure_threshold=1)
    calls: list[int] = []

    async def reused() -> None:
        calls.append(1)
        await idem.run("k", reused)

    with pytest.raises(ar.KeyReused):
        await ar.Pipeline(retry, breaker).call(reused)
    assert calls == [1]
    assert breaker.state is ar.BreakerState.CLOSED


@pytest.mark.parametrize(
    "fault", [Fault.NOT_SENT, Fault.REFUSED, Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.LATE, Fault.TWICE]
)
@pytest.mark.parametrize("times", [1, 5])
async def test_i9_a_completion_that_fails_is_told_again(fault: Fault, times: int) -> None:
    """I9: the caller has the result; the store is told until it knows; a duplicate waits, nothing runs."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", on_abandoned="refuse", backend=backend)
    backend.plan(fault, verb="settle", times=times)
    runs: list[int] = []

    async def pay() -> int:
        runs.append(1)
        return len(runs)

    assert await idem.run("k", pay) == 1
    assert await idem.run("k", pay) == 1
    assert runs == [1]
    await backend.settle()
    await asyncio.sleep(5)
    assert len(backend.keeper) == 0


async def test_a_store_that_is_gone_for_long_leaves_the_key_abandoned() -> None:
    """Told in vain for two leases: an event says so, and the outcome is unknown, not free."""
    backend, seen = FaultyBackend(), Recorder()
    idem = ar.Idempotency(name="x", lease=5.0, on_abandoned="refuse", backend=backend, listeners=[seen])
    backend.plan(Fault.NOT_SENT, verb="settle", times=1000)
    backend.plan(Fault.NOT_SENT, verb="renew", times=1000)
    assert await idem.run("k", work) == [1]
    await asyncio.sleep(20)
    assert len(seen.of(ar.AnswerNotKept)) == 1
    with pytest.raises(ar.Abandoned):
        await idem.run("k", work)


@pytest.mark.parametrize("seed", range(20))
async def test_by_seed_whatever_the_store_does_effects_happen_once(seed: int) -> None:
    """Faults in a third of all calls, cancelled callers, then peace: at most one effect for each key, one
    answer for all who have one, and nothing is held any more."""
    backend = FaultyBackend(seed=seed, rate=0.33)
    idem = ar.Idempotency(name="x", lease=10.0, ttl=10_000.0, on_abandoned="refuse", backend=backend)
    effects: dict[str, int] = {}
    answers: dict[str, set[str]] = {}

    async def pay(key: str) -> str:
        effects[key] = effects.get(key, 0) + 1
        await asyncio.sleep(1)
        return f"{key} {effects[key]}"

    async def client(number: int) -> None:
        key = f"{number % 5}"
        for _ in range(4):
            try:
                async with asyncio.timeout(3 if number % 3 else None):
                    answers.setdefault(key, set()).add(await idem.run(key, pay, key))
            except (ar.BackendError, ar.InFlight, ar.Abandoned, TimeoutError):
                await asyncio.sleep(1)

    await asyncio.gather(*(client(n) for n in range(20)))
    backend.heal()
    await backend.settle()
    await asyncio.sleep(60)
    for key in effects:
        assert effects[key] == 1
        assert len(answers.get(key, {1})) == 1
    assert len(backend.keeper) == 0


async def test_the_codec_is_ones_own_choice() -> None:
    """A codec for everything, or a function that chooses."""
    chosen: list[Any] = []

    def choose(annotation: Any) -> Any:
        chosen.append(annotation)
        return JsonCodec(annotation)

    idem = ar.Idempotency(codec=choose)
    assert await idem.run("k", work) == [1]
    assert chosen == [list[int]]
    fixed = ar.Idempotency(codec=ar.BytesCodec())
    async with fixed.claim("k") as claim:
        claim.complete(b"\x00")
    async with fixed.claim("k") as claim:
        assert claim.result == b"\x00"


async def test_a_lease_is_dropped_however_a_call_ends() -> None:
    """Nothing is renewed for a call that is over."""
    backend = ar.MemoryBackend()
    idem = ar.Idempotency(name="x", backend=backend, on_cancel="release")
    await idem.run("a", work)
    fails, _ = failing(OSError("down"))
    with pytest.raises(OSError, match="down"):
        await idem.run("b", fails)
    await cancelled_after(0.5, idem, work)
    assert len(backend.keeper) == 0
