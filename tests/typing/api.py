"""The public face, written down as code that must type-check. It is never executed.

mypy --strict tests/typing
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, assert_type

import aresilience as ar
from aresilience.testing import Recorder, SweepReport, VirtualLoop, cancel_sweep, run_virtual

P = ParamSpec("P")
T = TypeVar("T")


class User:
    """What is fetched."""


async def fetch(user_id: int, *, deep: bool = False) -> User:
    """A call."""
    return User()


class Client:
    """A call that is a method."""

    @ar.Timeout(1.0)
    async def get(self, user_id: int) -> User:
        """Decorated in the class."""
        return User()


# Every policy: decorator, wrap and call keep the signature and the type

POLICIES: list[ar.Policy] = [
    ar.Timeout(1.0, name="limit", listeners=[print]),
    ar.Timeout(timedelta(seconds=1)),
    ar.Bulkhead(10, max_waiting=100, max_wait=1.0),
    ar.Hedge(delay=0.05, max_hedges=1, budget=ar.RetryBudget(), dispose=print),
    ar.Hedge(delay=ar.Percentile(0.95, initial=timedelta(seconds=1))),
    ar.Fallback([], on=(OSError, lambda error: "busy" in str(error))),
    ar.Retry(
        on=ConnectionError, attempts=3, backoff=ar.Backoff.exponential(), deadline=timedelta(minutes=1)
    ),
    ar.Retry(on=(ConnectionError, ar.BulkheadFull), until=bool),
    ar.CircuitBreaker("payments", failure_rate=0.5, window=ar.Window.calls(100), ignore=KeyError),
    ar.CircuitBreaker(failure_threshold=5, recovery_timeout=ar.Backoff.constant(30.0)),
    ar.CircuitBreakers("hosts", key=lambda url: url, failure_threshold=3),
    ar.Pipeline(ar.Timeout(10.0), ar.Retry(on=OSError), ar.CircuitBreaker(), ar.Timeout(1.0)),
    ar.Pipeline.standard(retry=ar.Retry(on=OSError), attempt_timeout=ar.Timeout(1.0)),
]


async def uses_of_a_policy(policy: ar.Policy) -> None:
    """What wraps `fetch` is called like `fetch`, and gives what it gives."""
    decorated = policy(fetch)
    assert_type(await decorated(1, deep=True), User)
    assert_type(await policy.wrap(fetch)(1), User)
    assert_type(await policy.call(fetch, 1, deep=False), User)
    assert_type(await policy.call(lambda: fetch(1)), User)
    assert_type(await Client().get(1), User)
    await decorated("1")  # type: ignore[arg-type]
    await decorated(1, shallow=True)  # type: ignore[call-arg]
    await policy.call(fetch)  # type: ignore[call-arg]
    policy.wrap(len)  # type: ignore[arg-type]
    end: Callable[[], None] = policy.listen(Recorder())
    end()


@ar.Retry(on=OSError)
@ar.CircuitBreaker()
async def stacked(name: str) -> list[int]:
    """Two decorators."""
    return [len(name)]


async def decorators_keep_types() -> None:
    """However many."""
    assert_type(await stacked("x"), list[int])
    await stacked(5)  # type: ignore[arg-type]


# Each one's own face


async def retry_as_an_iterator() -> User:
    """`async for attempt in retry: async with attempt:`"""
    retry = ar.Retry(on=OSError)
    async for attempt in retry:
        async with attempt:
            assert_type(attempt.number, int)
            assert_type(attempt.elapsed, float)
            return await fetch(1)
    raise AssertionError


async def breaker_by_hand(breaker: ar.CircuitBreaker) -> None:
    """Guard, admit and record, states and switches."""
    async with breaker.guard() as call:
        call.result = await fetch(1)
    permit = await breaker.admit()
    await breaker.record(permit, error=OSError())
    await breaker.isolate()
    await breaker.reset()
    breaker.disable()
    breaker.shadow()
    assert_type(breaker.state, ar.BreakerState)
    assert_type(breaker.snapshot().probes, int)
    breakers = ar.CircuitBreakers(failure_threshold=1)
    assert_type(breakers["host"], ar.CircuitBreaker)


async def bulkhead_as_a_block(bulkhead: ar.Bulkhead) -> int:
    """`async with bulkhead:`"""
    async with bulkhead:
        return bulkhead.running + bulkhead.waiting


async def deadlines() -> None:
    """The ambient deadline."""
    with ar.deadline(5.0) as limit:
        assert_type(ar.time_remaining(), float | None)
    assert_type(limit.expired, bool)
    with ar.deadline(None), ar.deadline(timedelta(seconds=1)), ar.deadline(0):
        pass


async def errors() -> None:
    """What is raised, and what it knows."""
    try:
        await stacked("x")
    except ar.CircuitOpen as refused:
        assert_type(refused.retry_after, float | None)
        assert_type(refused.last_failure, Exception | None)
    except ar.Rejected as refused:
        assert_type(refused.retry_after, float | None)
    except ar.TimedOut as late:
        as_builtin: TimeoutError = late
        assert_type(ar.retry_history(as_builtin), tuple[ar.Attempt, ...])
    except ar.AresilienceError as error:
        assert_type(error.outcome, ar.Outcome)
    assert_type(ar.retry_after_hint(object()), float | None)


def listeners(event: ar.Event) -> None:
    """Events tell their facts."""
    assert_type(event.policy, str)
    assert_type(event.at, float)
    if isinstance(event, ar.RetryScheduled):
        assert_type(event.delay, float)
    elif isinstance(event, ar.BreakerChanged):
        assert_type(event.new, ar.BreakerState)
    elif isinstance(event, ar.CallRejected):
        assert_type(event.retry_after, float | None)


ar.Pipeline(*POLICIES).listen(listeners)
ar.Timeout(1.0, listeners=[listeners, ar.LoggingListener()])


# A policy of one's own


class Audit(ar.Policy):
    """Typed like ours."""

    layer = ar.Layer.OTHER

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Around a call."""

        async def audited(*args: P.args, **kwargs: P.kwargs) -> T:
            return await fn(*args, **kwargs)

        return audited


# Locks


async def locks(backend: ar.Backend) -> None:
    """Leases, and what is made of them."""
    lock = ar.Lock("a", ttl=30.0, wait=None, fair=True, on_lost="flag", backend=backend)
    async with lock as lease:
        assert_type(lease, ar.Lease)
        assert_type(lease.fence, int)
        assert_type(lease.remaining, float)
        assert_type(lease.lost, bool)
        lease.check()
    assert_type(await lock.acquire(timeout=1), ar.Lease)
    assert_type(await lock.try_acquire(), ar.Lease | None)
    assert_type(await lock.take_over(), ar.Lease)
    assert_type(await lock.holder(), ar.Holder | None)
    assert_type(ar.Lock.all("a", "b", group="g"), ar.Lock)
    async with ar.Semaphore("a", permits=3, backend=backend) as permit:
        assert_type(permit, ar.Lease)
    async with ar.ReadWriteLock("a").read() as reading, ar.ReadWriteLock("b").write() as writing:
        assert_type(reading, ar.Lease)
        assert_type(writing, ar.Lease)
    election = ar.LeaderElection("a", candidate="me", backend=backend)
    async with election.campaign(metadata="x") as leadership:
        assert_type(leadership, ar.Leadership)
        await leadership.proclaim("y")
        await leadership.resign()
    assert_type(await election.leader(), ar.Leader | None)
    async for leader in election.observe():
        assert_type(leader, ar.Leader | None)
    guard = ar.FencedGuard("a", backend=backend)
    await guard.write("k", b"v", lease)
    assert_type(await guard.read("k", 7), tuple[bytes | None, int])


# Idempotency

idem = ar.Idempotency(ttl=60.0, lease=timedelta(seconds=30), store_errors=[ValueError], cache=100)


@idem(key=lambda user_id: user_id)
async def fetch_once(user_id: int) -> User:
    """Once for each user."""
    return await fetch(user_id)


@ar.Idempotency(key=lambda user_id: str(user_id))
async def fetch_by_policy(user_id: int) -> User:
    """The same as a policy."""
    return await fetch(user_id)


async def find_out(claim: ar.Claim[Any]) -> None:
    """What became of it."""
    assert_type(claim.attempt, int)


async def idempotency() -> None:
    """Calls, claims, operators."""
    assert_type(await fetch_once(1), User)
    assert_type(await fetch_by_policy(1), User)
    assert_type(await idem.run("k", fetch, 1, fingerprint=[1]), User)
    async with idem.claim(("tenant", 1), fingerprint=b"x", returns=User) as claim:
        assert_type(claim, ar.Claim[Any])
        claim.check()
        assert_type(claim.downstream_key("stripe"), str)
        claim.complete(User())
    assert_type(await idem.get("k"), ar.KeyState | None)
    assert_type(await idem.in_flight(), list[ar.KeyState])
    assert_type(await idem.evict("k"), bool)
    ar.Idempotency(on_abandoned=find_out, codec=ar.JsonCodec(User, version=2))
    codec: ar.Codec[bytes] = ar.BytesCodec()
    ar.Idempotency(codec=codec)


ar.Idempotency(in_flight="run")  # type: ignore[arg-type]
ar.Idempotency(on_abandoned=print)  # type: ignore[arg-type]
ar.Idempotency("payments")  # type: ignore[call-arg, arg-type]
# Sagas

checkout = ar.Saga("checkout", version=2, deadline=timedelta(minutes=1), lease=30, listeners=[Recorder()])


@checkout.step
async def create_order(ctx: ar.SagaContext[User]) -> str:
    """A step."""
    assert_type(ctx.input, User)
    return ctx.idempotency_key


@create_order.compensate
async def delete_order(ctx: ar.SagaContext[User], order: str | None) -> None:
    """How it is undone."""


@checkout.step(
    after=[create_order], retry=ar.Retry(on=OSError), timeout=ar.Timeout(1.0), on_exhausted="park"
)
async def count_stock(ctx: ar.SagaContext[User]) -> int:
    """A step beside others."""
    assert_type(ctx.result(create_order), str)
    raise ar.RetryStep(after=5.0)


@count_stock.compensate(attempts=3, backoff=ar.Backoff.constant(1.0))
async def uncount(ctx: ar.SagaContext[User], counted: int | None) -> None:
    """With options."""


@checkout.pivot(timeout=5.0)
async def charge(ctx: ar.SagaContext[User]) -> None:
    """The point of no return."""
    raise ar.Fail("no money")


@checkout.retriable
async def ship(ctx: ar.SagaContext[User]) -> bytes:
    """After it."""
    return b""


async def sagas(user: User) -> None:
    """Running them, and looking after them."""
    result = await checkout.run(user, id="1")
    assert_type(result[count_stock], int)
    assert_type(result[ship], bytes)
    assert_type(create_order, ar.Step[str])
    handle = await checkout.start(user)
    assert_type(await handle.abort("no"), bool)
    assert_type(await handle.result(), ar.SagaResult)
    assert_type(await checkout.get("1"), ar.SagaRecord | None)
    async for record in checkout.list(state=ar.SagaState.STUCK):
        assert_type(record.remaining, tuple[str, ...])
        assert_type(await checkout.resume(record.id), ar.SagaHandle)
        assert_type(await checkout.skip(record.id, count_stock, 3), ar.SagaHandle)
        await checkout.force(record.id, "enough")
    async with checkout.worker(concurrency=10, every=1.0) as worker:
        assert_type(worker.taken, int)
    async with ar.saga(undo_budget=10) as s:
        found = await s.do(fetch(1), undo=lambda user: user)
        assert_type(found, User)
    await result["create_order"]  # type: ignore[index]
    checkout.step(after=3)  # type: ignore[call-overload]
    checkout.step(on_exhausted="ignore")  # type: ignore[call-overload]


# The registry


async def registry_and_services(backend: ar.Backend) -> None:
    """To be found, to find, to call."""
    registry = ar.ServiceRegistry(ttl=timedelta(seconds=10), snapshot="known.json", backend=backend)
    me = ar.Instance("users", "h", 80, zone="a", weight=2, metadata={"a": "b"}, state=ar.InstanceState.UP)
    async with registry.register(me, health=lambda: True, propagation=1) as registration:
        assert_type(registration, ar.Registration)
        assert_type(await registration.update(weight=0.1), bool)
        assert_type(registration.registered, bool)
        assert_type(registration.status, ar.RegistrationStatus)
        await registration.drain()
    assert_type(await registry.discover("users"), tuple[ar.Instance, ...])
    async for instances in registry.watch("users"):
        assert_type(instances, tuple[ar.Instance, ...])
    assert_type(await registry.announce(me, ttl=5), str)
    assert_type(await registry.heartbeat("users", "id", token="t"), bool)
    assert_type(await registry.deregister("users", "id"), bool)
    breakers = ar.CircuitBreakers("users", failure_threshold=3)
    policy = ar.OutlierPolicy(breakers=breakers, panic=None)
    users = registry.service("users", balancer=ar.PeakEwma(), outliers=policy, zone="a", failure_on=OSError)
    async with users.pick(key="k", avoid=["i1"]) as instance:
        assert_type(instance, ar.Instance)
    assert_type(users.snapshot, ar.Snapshot)
    assert_type(users.snapshot.age, float | None)
    balancers: list[ar.Balancer] = [
        ar.RoundRobin(),
        ar.Random(),
        ar.LeastRequest(choices=3),
        ar.Rendezvous(),
    ]
    assert balancers


# Wrong uses

ar.Instance("users", "h")  # type: ignore[call-arg]
ar.Instance("users", "h", "80")  # type: ignore[arg-type]
ar.ServiceRegistry().service("users", balancer="random")  # type: ignore[arg-type]

ar.Lock(7)  # type: ignore[arg-type]
ar.Lock("a", on_lost="shout")  # type: ignore[arg-type]
ar.Semaphore("a")  # type: ignore[call-arg]

ar.Timeout()  # type: ignore[call-arg]
ar.Timeout("1")  # type: ignore[arg-type]
ar.Timeout(1.0, "name")  # type: ignore[call-arg]
ar.Bulkhead(1.5)  # type: ignore[arg-type]
ar.Hedge(delay=None)  # type: ignore[arg-type]
ar.Retry()  # type: ignore[call-arg]
ar.Retry(on="OSError")  # type: ignore[arg-type]
ar.Retry(on=OSError, nested="never")  # type: ignore[arg-type]
ar.Backoff.exponential(jitter="half")  # type: ignore[arg-type]
ar.Fallback([], on=BaseException)  # type: ignore[arg-type]
ar.Pipeline(5)  # type: ignore[arg-type]


# The testing kit


async def stream() -> AsyncIterator[int]:
    """A generator has no single result."""
    yield 1


ar.Timeout(1.0).wrap(stream)  # type: ignore[arg-type]


def testing_kit() -> None:
    """Virtual time, recorder, sweep."""
    assert_type(run_virtual(fetch(1), seed=7), User)
    recorder = Recorder()
    assert_type(recorder.of(ar.RetryScheduled), list[ar.RetryScheduled])
    report = cancel_sweep(Client().get, make=lambda: 1, check=print, loop_factory=VirtualLoop)
    assert_type(report, SweepReport)
    assert_type(sum([report], SweepReport()), SweepReport)
