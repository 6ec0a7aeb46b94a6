"""Calls: once for each key, the same answer for everybody, and errors that say what is wrong."""

from __future__ import annotations

import asyncio
import functools
import inspect
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest

import aresilience as ar
from aresilience.integrations import pydantic as pydantic_codecs
from aresilience.testing import FaultyBackend, Recorder


@dataclass(frozen=True)
class Receipt:
    """What a charge returns."""

    order: str
    amount: Decimal


class Till:
    """Charges, and counts how often it did."""

    def __init__(self, takes: float = 1.0) -> None:
        self.takes = takes
        self.charged: list[str] = []

    async def charge(self, order: str, amount: Decimal = Decimal("9.90")) -> Receipt:
        """Charge an order."""
        self.charged.append(order)
        await asyncio.sleep(self.takes)
        return Receipt(order, amount)


async def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def test_a_duplicate_gets_the_same_answer_and_nothing_runs() -> None:
    """One after the other: the first runs, the second is the first one's answer, equal and of its type."""
    idem, till = ar.Idempotency(), Till()
    first = await idem.run("o-1", till.charge, "o-1")
    second = await idem.run("o-1", till.charge, "o-1")
    assert first == second == Receipt("o-1", Decimal("9.90"))
    assert till.charged == ["o-1"]


async def test_concurrent_duplicates_wait_and_get_the_one_answer() -> None:
    """A thousand at once: one run, a thousand answers, and all are there when the one is."""
    idem, till = ar.Idempotency(), Till(5.0)
    answers = await asyncio.gather(*(idem.run("k", till.charge, "o-1") for _ in range(1000)))
    assert till.charged == ["o-1"]
    assert set(answers) == {Receipt("o-1", Decimal("9.90"))}
    assert await now() == 5.0


async def test_or_they_are_refused_at_once() -> None:
    """`in_flight="raise"`: `InFlight` says when to come back: as long as it has been at work already."""
    idem, till = ar.Idempotency(in_flight="raise"), Till(60.0)
    task = asyncio.create_task(idem.run("k", till.charge, "o-1"))
    await asyncio.sleep(2)
    with pytest.raises(ar.InFlight) as caught:
        await idem.run("k", till.charge, "o-1")
    assert caught.value.retry_after == 2.0
    await asyncio.sleep(28)
    with pytest.raises(ar.InFlight) as caught:
        await idem.run("k", till.charge, "o-1")
    assert caught.value.retry_after is not None
    assert 20.0 <= caught.value.retry_after <= 30.0  # what is left of the lease, which is renewed
    await task
    assert till.charged == ["o-1"]


async def test_a_wait_has_an_end() -> None:
    """`wait` seconds, or what is left of the ambient deadline: then `InFlight`."""
    idem, till = ar.Idempotency(wait=3.0), Till(60.0)
    task = asyncio.create_task(idem.run("k", till.charge, "o-1"))
    await asyncio.sleep(1)
    with pytest.raises(ar.InFlight):
        await idem.run("k", till.charge, "o-1")
    assert await now() == 4.0
    with pytest.raises((ar.InFlight, ar.DeadlineExceeded)), ar.deadline(1.0):
        await idem.run("k", till.charge, "o-1")
    assert await now() == 5.0
    await task


async def test_the_ttl_counts_from_when_the_work_was_done() -> None:
    """Not from the claim: work of 100 s whose result is kept for 10 s is there until 110 s."""
    idem, till = ar.Idempotency(ttl=10.0), Till(100.0)
    await idem.run("k", till.charge, "o-1")
    await asyncio.sleep(9.99)
    await idem.run("k", till.charge, "o-1")
    assert till.charged == ["o-1"]
    await asyncio.sleep(0.01)
    await idem.run("k", till.charge, "o-1")
    assert till.charged == ["o-1", "o-1"]


async def test_i15_when_the_ttl_ends_in_a_storm_one_runs() -> None:
    """I15: all ask at the moment at which the result expires: one new owner, a new fence, the others wait."""
    idem, fences = ar.Idempotency(ttl=10.0), []

    async def work() -> int:
        fences.append(ar.current_claim().fence)
        await asyncio.sleep(1)
        return len(fences)

    await idem.run("k", work)
    await asyncio.sleep(10)
    answers = await asyncio.gather(*(idem.run("k", work) for _ in range(100)))
    assert set(answers) == {2}
    assert fences[1] > fences[0]


async def test_i2_the_key_of_other_work_is_refused_before_anything_else() -> None:
    """I2: another fingerprint, or another function: `KeyReused`, in flight and done alike; not even a wait."""
    idem, till = ar.Idempotency(), Till(5.0)
    task = asyncio.create_task(idem.run("k", till.charge, "o-1", fingerprint=["o-1", 9]))
    await asyncio.sleep(1)
    with pytest.raises(ar.KeyReused):
        await idem.run("k", till.charge, "o-1", fingerprint=["o-1", 10])
    assert await now() == 1.0
    await task
    with pytest.raises(ar.KeyReused):
        await idem.run("k", till.charge, "o-1", fingerprint=["o-1", 10])
    with pytest.raises(ar.KeyReused):
        await idem.run("k", now, fingerprint=["o-1", 9])
    assert await idem.run("k", till.charge, "o-1", fingerprint=("o-1", 9)) == Receipt(
        "o-1", Decimal("9.90")
    )


async def test_a_failed_call_releases_its_key() -> None:
    """I5: the next one runs; and who waited runs, one of them."""
    idem, runs = ar.Idempotency(), []

    async def flaky() -> str:
        runs.append(await now())
        await asyncio.sleep(1)
        if len(runs) == 1:
            raise OSError("down")
        return "up"

    answers = await asyncio.gather(*(idem.run("k", flaky) for _ in range(5)), return_exceptions=True)
    assert [type(a) for a in answers].count(OSError) == 1
    assert answers.count("up") == 4
    assert runs == [0.0, 1.0]


async def test_the_decorator_keeps_the_function_as_it_is() -> None:
    """Its name, its signature; the key from its arguments; a method works too."""
    idem = ar.Idempotency()
    runs: list[str] = []

    class Shop:
        @idem(key=lambda self, order, amount=0: order, fingerprint=lambda self, order, amount=0: amount)
        async def pay(self, order: str, amount: int = 0) -> str:
            """Pay."""
            runs.append(order)
            return f"{order} {amount}"

    shop = Shop()
    assert await shop.pay("a", 1) == await shop.pay("a", amount=1) == "a 1"
    assert await shop.pay("b") == "b 0"
    with pytest.raises(ar.KeyReused):
        await shop.pay("a", 2)
    assert runs == ["a", "b"]
    assert Shop.pay.__name__ == "pay"
    assert Shop.pay.__doc__ == "Pay."
    assert list(inspect.signature(Shop.pay).parameters) == ["self", "order", "amount"]


async def test_as_a_policy_in_a_pipeline() -> None:
    """With a key at construction it is a policy: all attempts of a retry share one claim."""
    attempts: list[int] = []
    idem = ar.Idempotency(key=lambda order: order)
    retry = ar.Retry(on=OSError, attempts=3, backoff=ar.Backoff.constant(1.0, jitter=None))

    @ar.Pipeline.standard(idempotency=idem, retry=retry, deadline=ar.Timeout(30.0))
    async def pay(order: str) -> str:
        attempts.append(ar.current_claim().attempt)
        if len(attempts) < 3:
            raise OSError("down")
        return order

    assert await asyncio.gather(pay("a"), pay("a")) == ["a", "a"]
    assert attempts == [1, 1, 1]
    with pytest.raises(TypeError, match="a key is needed"):
        ar.Pipeline(ar.Idempotency()).wrap(pay)


async def test_nested_and_shared_use_keep_their_records_apart() -> None:
    """Calls within calls, two functions and two keys on one object: each has its own record and settings."""
    idem = ar.Idempotency(name="shared")
    other = ar.Idempotency(name="other", ttl=5.0)
    runs: list[str] = []

    async def inner(n: int) -> int:
        runs.append(f"inner {n}")
        await asyncio.sleep(1)
        return n

    async def outer(n: int) -> list[int]:
        runs.append(f"outer {n}")
        one, two = await asyncio.gather(idem.run("inner", inner, 1), other.run("outer", inner, 2))
        return [one, two, n]

    for _ in range(2):
        assert await idem.run("outer", outer, 3) == [1, 2, 3]
    assert await idem.run("inner", inner, 1) == 1
    assert sorted(runs) == ["inner 1", "inner 2", "outer 3"]


async def test_a_call_does_not_wait_for_itself() -> None:
    """The key of a call around it: an error at once, not a wait of 30 s that must fail."""
    idem = ar.Idempotency()

    async def again() -> int:
        return await idem.run("k", again)

    with pytest.raises(RuntimeError, match="waits for itself"):
        await idem.run("k", again)
    assert await now() == 0.0


KEYS: list[tuple[Any, Any]] = [
    ("a", ("a",)),
    (7, "7"),
    (UUID(int=1), str(UUID(int=1))),
]


@pytest.mark.parametrize(("one", "other"), KEYS)
async def test_keys_that_are_the_same(one: Any, other: Any) -> None:
    """A number and its text are one key."""
    idem, till = ar.Idempotency(), Till()
    await idem.run(one, till.charge, "o")
    await idem.run(other, till.charge, "o")
    assert len(till.charged) == 1


async def test_i12_keys_that_could_be_taken_for_others() -> None:
    """I12: no key reaches another's record: parts have lengths, everything is hashed, whatever it contains."""
    idem, till = ar.Idempotency(), Till(0.0)
    tricky: list[Any] = [
        ("ab", "c"), ("a", "bc"), "abc", "1:a1:b", ("a:b",), ("a", "b"), "k1status-code", "k1", "{k}",
        "k\r\nDEL x", "k\x00", "*", "ключ", "\ud800", "a" * 60_000, "a" * 59_999, ("x", "y"), "x,y",
    ]  # fmt: skip
    for key in tricky:
        await idem.run(key, till.charge, "o")
    assert len(till.charged) == len(tricky)


@pytest.mark.parametrize("key", ["", (), ("a", ""), None, 1.5, True, b"x", ["a"], "x" * 65_537])
async def test_what_is_no_key_is_refused(key: Any) -> None:
    """Before anything is asked."""
    backend = FaultyBackend()
    idem = ar.Idempotency(name="x", backend=backend)
    with pytest.raises((TypeError, ValueError), match="idempotency key must"):
        await idem.run(key, now)
    assert backend.calls == []


@dataclass
class Order:
    """Something to fingerprint."""

    id: str
    amount: Decimal


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": [2]}, {"b": (2,), "a": 1}, True),
        (Order("a", Decimal("1.0")), Order("a", Decimal("1.0")), True),
        (Order("a", Decimal("1.0")), Order("a", Decimal("1.1")), False),
        (Order("a", Decimal("1.0")), {"id": "a", "amount": "1.0"}, False),
        (b"a", "a", False),
        (1, "1", False),
        (1, True, False),
        (None, "", False),
        (["a", "b"], ["ab"], False),
        (None, b"", False),
        (b'"a"', "a", False),
        ([b"x"], [["bytes", "78"]], False),
        ([["list", "a"]], [["a"]], False),
        (1, 1.0, True),
        (0.0, -0.0, True),
        ([10**5000], [10**5000], True),
        ([10**5000], [10**5000 + 1], False),
        (Decimal("1.0"), Decimal("1.00"), True),
        (Decimal("1e2"), Decimal(100), True),
        (Decimal("0E+3"), Decimal("-0.00"), True),
        (Decimal(100), Decimal(10), False),
        (Decimal("-1"), Decimal(1), False),
        (Decimal("1." + "0" * 40 + "1"), Decimal(1), False),
    ],
)
async def test_what_a_fingerprint_tells_apart(one: Any, other: Any, equal: bool) -> None:
    """Contents, their types, not the order of a dict."""
    idem, till = ar.Idempotency(), Till()
    await idem.run("k", till.charge, "o", fingerprint=one)
    if equal:
        await idem.run("k", till.charge, "o", fingerprint=other)
    else:
        with pytest.raises(ar.KeyReused):
            await idem.run("k", till.charge, "o", fingerprint=other)


@pytest.mark.parametrize("content", [object(), {1: 2}, {"x": object()}, float])
async def test_what_has_no_fingerprint_is_refused(content: Any) -> None:
    """What has no one form cannot be compared."""
    with pytest.raises(TypeError, match="fingerprint"):
        await ar.Idempotency().run("k", now, fingerprint=content)


@pytest.mark.parametrize(
    "content", [float("nan"), [float("inf")], Decimal("NaN"), Decimal("-Infinity")], ids=str
)
async def test_nor_has_what_is_no_number(content: Any) -> None:
    """NaN is not even itself."""
    with pytest.raises(ValueError, match="fingerprint"):
        await ar.Idempotency().run("k", now, fingerprint=content)


async def test_a_local_cache_ends_with_the_result() -> None:
    """Replays without the store, for what is left of the ttl, for the same fingerprint only."""
    backend, till = FaultyBackend(), Till(0.0)
    idem = ar.Idempotency(name="x", ttl=10.0, cache=2, backend=backend)
    other = ar.Idempotency(name="x", ttl=10.0, cache=2, backend=backend)
    await idem.run("k", till.charge, "o", fingerprint="f")
    asked = len(backend.calls)
    await asyncio.sleep(9)
    assert await idem.run("k", till.charge, "o", fingerprint="f") == Receipt("o", Decimal("9.90"))
    assert len(backend.calls) == asked
    await other.run("k", till.charge, "o", fingerprint="f")  # met by another process with 1 s left
    asked = len(backend.calls)
    with pytest.raises(ar.KeyReused):
        await idem.run("k", till.charge, "o", fingerprint="g")
    await asyncio.sleep(0.5)
    await other.run("k", till.charge, "o", fingerprint="f")
    assert len(backend.calls) == asked + 1  # the other fingerprint's
    await asyncio.sleep(0.5)
    await other.run("k", till.charge, "o", fingerprint="f")
    assert len(till.charged) == 2
    for n in range(5):
        await idem.run(f"{n}", till.charge, "o")
    asked = len(backend.calls)
    await idem.run("0", till.charge, "o")
    assert len(backend.calls) == asked + 1  # only the last two are kept here


async def test_an_evicted_key_runs_again() -> None:
    """Also from the local cache; whether there was anything is told."""
    idem, till = ar.Idempotency(cache=10), Till(0.0)
    assert not await idem.evict("k")
    await idem.run("k", till.charge, "o")
    assert await idem.evict("k")
    await idem.run("k", till.charge, "o")
    assert len(till.charged) == 2


async def test_operators_see_what_there_is() -> None:
    """`get` and `in_flight` tell states by digests; nothing of a key is shown; an entry can be evicted."""
    idem, till = ar.Idempotency(lease=30.0, ttl=100.0), Till(10.0)
    assert await idem.get("k") is None
    task = asyncio.create_task(idem.run("k-secret", till.charge, "o"))
    await asyncio.sleep(2)
    [entry] = await idem.in_flight()
    assert (entry.state, entry.attempt, entry.age) == (ar.RecordState.RUNNING, 1, 2.0)
    assert entry.expires_in == 28.0
    assert "secret" not in repr(entry)
    with pytest.raises(ar.InFlight):
        _ = entry.result
    await task
    done = await idem.get("k-secret", returns=Receipt)
    assert done is not None
    assert (done.id, done.state, done.expires_in) == (entry.id, ar.RecordState.DONE, 100.0)
    assert done.result == Receipt("o", Decimal("9.90"))
    assert await idem.in_flight() == []
    async with idem.claim("other") as claim:
        claim.abandon()
    [left] = await idem.in_flight()
    assert left.state is ar.RecordState.ABANDONED
    assert await idem.evict(left)
    assert await idem.in_flight() == []


async def test_events_tell_what_happened_and_no_keys() -> None:
    """Replays with their wait, refusals, takeovers."""
    seen = Recorder()
    idem, till = ar.Idempotency(in_flight="wait", name="pay", listeners=[seen]), Till(3.0)
    await asyncio.gather(idem.run("k-secret", till.charge, "o"), idem.run("k-secret", till.charge, "o"))
    assert seen.events == [ar.CallReplayed("pay", 3.0, failed=False, waited=3.0)]
    async with idem.claim("k2") as claim:
        claim.abandon()
    async with idem.claim("k2") as claim:
        assert claim.attempt == 2
        claim.release()
    assert seen.events[1:] == [ar.ClaimTakenOver("pay", 3.0, attempt=2)]
    assert "secret" not in repr(seen.events)


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ttl": 0}, ValueError, "Idempotency: ttl must be a number of seconds greater than 0, got 0"),
    ({"ttl": 1e12}, ValueError, "ttl must be from 0.001 to 1e[+]09 seconds"),
    ({"lease": -1}, ValueError, "Idempotency: lease must be"),
    ({"lease": "30"}, TypeError, "Idempotency: lease must be"),
    ({"wait": float("nan")}, ValueError, "Idempotency: wait must be"),
    ({"in_flight": "run"}, ValueError, "in_flight must be one of 'wait', 'raise', got 'run'"),
    ({"on_abandoned": "retry"}, ValueError, "on_abandoned must be 'rerun', 'refuse' or an async function"),
    ({"on_abandoned": lambda claim: None}, ValueError, "on_abandoned must be"),
    ({"on_cancel": "ignore"}, ValueError, "on_cancel must be one of"),
    ({"on_store_error": "allow"}, ValueError, "on_store_error must be one of 'raise', 'run'"),
    ({"store_errors": [int]}, TypeError, "store_errors must be exception types"),
    ({"store_errors": ValueError}, TypeError, "store_errors must be a list of exception types"),
    ({"store_errors": [asyncio.CancelledError]}, TypeError, "store_errors must be exception types"),
    ({"unknown_errors": BaseException}, ValueError, "unknown_errors must name subclasses of Exception"),
    ({"codec": "json"}, TypeError, "codec must be a codec"),
    ({"max_bytes": 0}, ValueError, "max_bytes must be"),
    ({"cache": -1}, ValueError, "cache must be a whole number of at least 0"),
    ({"key": "order_id"}, TypeError, "key must be a function"),
    ({"key": now}, TypeError, "key must be a plain function"),
    ({"fingerprint": "x"}, TypeError, "fingerprint must be a function"),
    ({"backend": ar.MemoryBackend()}, ValueError, "name is needed with a backend"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), OPTIONS, ids=[f"{n} {next(iter(o[0]))}" for n, o in enumerate(OPTIONS)]
)
def test_options_are_checked_when_it_is_made(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """With a message that names argument, value and what is allowed."""
    with pytest.raises(error, match=message):
        ar.Idempotency(**options)


def test_what_cannot_be_decorated_is_refused() -> None:
    """A plain function, a type that has no codec, a decorator without its key."""
    idem = ar.Idempotency()
    with pytest.raises(TypeError, match="wraps async functions"):
        idem(key=lambda: "k")(lambda: 1)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="write @idem"):
        idem()  # type: ignore[call-overload]

    async def odd() -> complex:
        return 1j

    with pytest.raises(TypeError, match="complex cannot be stored"):
        idem(key=lambda: "k")(odd)


async def test_an_annotation_that_is_defined_later_is_read_later() -> None:
    """A forward reference: looked up when it is first called, before anything runs."""
    idem = ar.Idempotency()

    @idem(key=lambda: "k")
    async def later() -> Later:
        return Later(1)

    assert await later() == Later(1)
    assert await later() == Later(1)


async def test_a_partial_and_a_lambda_work() -> None:
    """`run` takes what can be called and awaited."""
    idem, till = ar.Idempotency(), Till(0.0)
    assert await idem.run("a", functools.partial(till.charge, "o")) == Receipt("o", Decimal("9.90"))
    assert await idem.run("b", lambda: now()) == await idem.run("b", lambda: now())


class Model(pydantic.BaseModel):
    """What a service returns."""

    id: int
    amount: Decimal


async def test_the_codec_of_a_library_is_chosen_by_the_annotation() -> None:
    """Models of pydantic come back as models."""
    idem = ar.Idempotency(codec=pydantic_codecs.codec_for)
    made: list[int] = []

    @idem(key=lambda number: number)
    async def fetch(number: int) -> list[Model]:
        made.append(number)
        return [Model(id=number, amount=Decimal("1.10"))]

    for _ in range(2):
        assert await fetch(7) == [Model(id=7, amount=Decimal("1.10"))]
    assert made == [7]


def test_one_object_on_two_loops() -> None:
    """Made before there is a loop, used on two: a result of the first is there on the second."""
    idem, till = ar.Idempotency(), Till(0.0)

    async def use() -> Receipt:
        return await idem.run("k", till.charge, "o")

    assert asyncio.run(use()) == asyncio.run(use())
    assert till.charged == ["o"]


@dataclass
class Later:
    """Defined after its use."""

    n: int
