"""The lock in one process, in virtual time: who has it, who waits, and what becomes of both."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import aresilience as ar
from aresilience.lock.desk import desk_of
from aresilience.testing import FaultyBackend, Recorder, cancel_sweep, run_virtual
from aresilience.testing.faulty import Fault


async def hold(lock: ar.Lock, seconds: float, log: list[Any] | None = None, name: Any = None) -> None:
    """A section."""
    async with lock:
        if log is not None:
            log.append(name)
        await asyncio.sleep(seconds)


async def test_one_at_a_time_first_come_first_served() -> None:
    """Ten tasks: one inside at once, in the order in which they asked; fences rise."""
    lock = ar.Lock("a")
    inside, order, fences = 0, [], []

    async def section(number: int) -> None:
        nonlocal inside
        async with lock as lease:
            inside += 1
            assert inside == 1
            order.append(number)
            fences.append(lease.fence)
            await asyncio.sleep(1)
            inside -= 1

    await asyncio.gather(*(section(n) for n in range(10)))
    assert order == list(range(10))
    assert fences == sorted(set(fences))


async def test_a_name_is_shared_without_a_backend() -> None:
    """Two locks of one name exclude each other in a process; two names do not."""
    first, second, other = ar.Lock("a"), ar.Lock("a"), ar.Lock("b")
    async with first:
        assert await second.try_acquire() is None
        lease = await other.try_acquire()
        assert lease is not None
        await lease.release()
    again = await second.try_acquire()
    assert again is not None
    await again.release()


async def test_backends_are_worlds_of_their_own() -> None:
    """The same name on two backends is two locks."""
    async with ar.connect("memory://") as one, ar.connect("memory://") as two:
        first, second = ar.Lock("a", backend=one), ar.Lock("a", backend=two, wait=0)
        async with first, second:
            pass


async def test_l12_wait_is_never_cut_to_zero() -> None:
    """L12: 0 is one try, at once; 0.5 waits half a second; None waits for ever."""
    loop = asyncio.get_running_loop()
    holder = asyncio.ensure_future(hold(ar.Lock("a"), 100.0))
    await asyncio.sleep(0)
    for wait in (0.0, 0.5):
        began = loop.time()
        with pytest.raises(ar.LockTimeout):
            await ar.Lock("a", wait=wait).acquire()
        assert loop.time() - began == pytest.approx(wait, abs=1e-6)
    began = loop.time()
    lease = await ar.Lock("a").acquire()
    assert loop.time() - began == pytest.approx(99.5, abs=0.1)
    await lease.release()
    await holder


async def test_a_refusal_says_who_and_when() -> None:
    """`LockTimeout` is a `Rejected`: when to come back, and who has it."""
    async with ar.connect("memory://") as backend:
        store = desk_of(backend, "Lock").store
        mine = ar.Lock("a", owner="somebody", ttl=7.0, backend=backend)
        await store.acquire(mine._ask(), False)  # of another process: nobody has the turn here
        seen = Recorder()
        with pytest.raises(ar.LockTimeout, match="'a' is held by 'somebody'") as caught:
            await ar.Lock("a", wait=2.0, backend=backend, listeners=[seen]).acquire()
    assert isinstance(caught.value, ar.Rejected)
    assert caught.value.retry_after == pytest.approx(5.0, abs=0.1)
    assert caught.value.owner == "somebody"
    assert len(seen.of(ar.CallRejected)) == 1


async def test_the_ambient_deadline_ends_a_wait() -> None:
    """Nobody waits longer than the deadline around him."""
    loop = asyncio.get_running_loop()
    holder = asyncio.ensure_future(hold(ar.Lock("a"), 100.0))
    await asyncio.sleep(0)
    with pytest.raises((ar.LockTimeout, ar.DeadlineExceeded)), ar.deadline(3.0):
        await ar.Lock("a").acquire()
    assert loop.time() == pytest.approx(3.0)
    holder.cancel()
    await asyncio.wait([holder])


async def test_l10_reentry_is_an_error() -> None:
    """L10: the task that holds it and asks again is told, at once; a try is only refused."""
    lock = ar.Lock("a")
    async with lock:
        with pytest.raises(RuntimeError, match="held by this task"):
            await lock.acquire()
        with pytest.raises(RuntimeError, match="held by this task"):
            await ar.Lock.all("b", "a").acquire()
        assert await lock.try_acquire() is None
    async with lock:
        pass


async def test_l3_release_twice_is_once() -> None:
    """L3: the second release does nothing, also when somebody else has it by then."""
    lock = ar.Lock("a")
    lease = await lock.acquire()
    await lease.release()
    other = await lock.acquire()
    await lease.release()
    assert other.held
    with pytest.raises(ar.LockLost, match="released"):
        lease.check()
    await other.release()


async def lost_by_time(lock: ar.Lock, backend: FaultyBackend) -> None:
    """Let no renewal through any more."""
    backend.plan(Fault.NOT_SENT, verb="renew", times=100)


async def test_l2_release_after_the_end_is_a_loss() -> None:
    """L2: released when it was over, `LockLost`, and who has it by then keeps it."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=10.0, backend=backend)
        lease = await lock.acquire()
        await lost_by_time(lock, backend)
        await asyncio.sleep(11)
        assert lease.lost
        other = await lock.acquire()
        with pytest.raises(ar.LockLost):
            await lease.release()
        other.check()
        await other.release()


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.NOT_SENT, Fault.LOST_REQUEST, Fault.LATE])
async def test_l4_the_body_is_cancelled_before_the_ttl(fault: Fault) -> None:
    """L4: no renewal is confirmed: the body is cancelled at nine tenths of the ttl, `LockLost` comes out."""
    loop = asyncio.get_running_loop()
    seen = Recorder()
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=10.0, backend=backend, listeners=[seen])
        backend.plan(fault, verb="renew", times=100)
        ended = 0.0
        with pytest.raises(ar.LockLost, match="not confirmed within 9 s") as caught:  # noqa: PT012 - the body is what fails
            async with lock as lease:
                try:
                    await asyncio.sleep(100)
                finally:
                    ended = loop.time()
                    assert lease.lost
                    assert lease.remaining == 0
        assert ended == pytest.approx(9.0)
        assert caught.value.fence == lease.fence
        assert [event.why for event in seen.of(ar.LeaseLost)] == ["it was not confirmed within 9 s"]
        await backend.settle()
        backend.heal()
        async with lock:  # and it is free
            pass


async def test_a_held_lock_outlives_its_ttl() -> None:
    """Renewed, it is held for as long as the body runs."""
    lock = ar.Lock("a", ttl=1.0)
    async with lock as lease:
        await asyncio.sleep(100)
        lease.check()
        assert 0.5 < lease.remaining <= 0.9


async def test_lost_replies_of_renewals_do_no_harm() -> None:
    """A renewal that is not answered happened or not; the next one tells."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=10.0, backend=backend)
        async with lock:
            for _ in range(20):
                backend.plan(Fault.LOST_REPLY, None, Fault.LOST_REQUEST, verb="renew")
                await asyncio.sleep(10)


async def test_flag_leaves_the_body_alone() -> None:
    """`on_lost="flag"`: the body goes on and can ask; at its end it is told all the same."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=1.0, on_lost="flag", backend=backend)
        await lost_by_time(lock, backend)
        finished = False
        with pytest.raises(ar.LockLost):  # noqa: PT012 - the body is what fails
            async with lock as lease:
                await asyncio.sleep(5)
                assert lease.lost
                with pytest.raises(ar.LockLost):
                    lease.check()
                finished = True
        assert finished


async def test_an_error_of_the_body_wins_over_the_loss() -> None:
    """The body fails on its way out of a lost lock: its error comes out, with a note."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend)
        await lost_by_time(lock, backend)
        with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012 - the body is what fails
            async with lock:
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    raise ValueError("mine") from None
        assert "not ours any more" in caught.value.__notes__[0]
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_l14_an_error_of_the_body_wins_over_a_failed_release() -> None:
    """L14: the body's error wins, the release's is a note; alone it is raised."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend)
        backend.plan(Fault.NOT_SENT, Fault.NOT_SENT, verb="release")
        with pytest.raises(ValueError, match="mine") as caught:
            async with lock:
                raise ValueError("mine")
        assert "release failed: NotSent" in caught.value.__notes__[0]
        await asyncio.sleep(1)
        with pytest.raises(ar.NotSent):
            async with lock:
                pass


async def test_a_release_that_failed_can_be_repeated() -> None:
    """The token is kept until the store has answered."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=100.0, backend=backend)
        lease = await lock.acquire()
        backend.plan(Fault.LOST_REQUEST, verb="release")
        with pytest.raises(ar.OutcomeUnknown):
            await lease.release()
        assert await lock.try_acquire() is None
        await lease.release()
        async with lock:
            pass


async def test_l7_an_unknown_acquire_is_released_and_raises() -> None:
    """L7: asked, and not answered: what may be held is let go, and the error comes out."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=100.0, backend=backend)
        backend.plan(Fault.LOST_REPLY, verb="acquire")
        with pytest.raises(ar.OutcomeUnknown):
            await lock.acquire()
        lease = await lock.try_acquire()
        assert lease is not None
        await lease.release()


@pytest.mark.parametrize("fault", [Fault.NOT_SENT, Fault.REFUSED])
async def test_an_error_of_the_store_is_everybody_s_in_line(fault: Fault) -> None:
    """Who waits behind the one who asked is told the same, instead of asking one after the other."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", backend=backend)
        lease = await lock.acquire()
        waiters = [asyncio.ensure_future(lock.acquire()) for _ in range(5)]
        await asyncio.sleep(1)
        backend.plan(fault, verb="acquire")
        await lease.release()
        answers = await asyncio.gather(*waiters, return_exceptions=True)
        assert {type(a) for a in answers} <= {ar.NotSent, ar.Refused}
        assert await lock.try_acquire() is not None


async def test_the_same_token_has_the_same_grant() -> None:
    """Asked twice with one token: one grant, one fence; another token is refused."""
    async with ar.connect("memory://") as backend:
        lock = ar.Lock("a", backend=backend)
        store = desk_of(backend, "Lock").store
        ask = lock._ask()
        first, again = await store.acquire(ask, False), await store.acquire(ask, False)
        assert first.fence == again.fence  # type: ignore[union-attr]
        assert await lock.try_acquire() is None
        assert await store.release(ask)
        assert not await store.release(ask)


async def test_l1_release_by_another_token_touches_nothing() -> None:
    """L1: only the token that holds it lets it go."""
    async with ar.connect("memory://") as backend:
        lock = ar.Lock("a", backend=backend)
        store = desk_of(backend, "Lock").store
        async with lock as lease:
            assert not await store.release(lock._ask())
            assert not await store.tell(lock._ask())
            lease.check()
            assert await lock.try_acquire() is None


async def test_all_or_none() -> None:
    """Several names in one: it excludes each of them, and holds none while it waits."""
    pair = ar.Lock.all("b", "a")
    a, b, c = ar.Lock("a"), ar.Lock("b"), ar.Lock("c")
    async with pair as lease:
        assert lease.names == ("a", "b")
        assert [await lock.try_acquire() for lock in (a, b)] == [None, None]
        free = await c.try_acquire()
        assert free is not None
        await free.release()
    async with a:
        waiting = asyncio.ensure_future(pair.acquire())
        await asyncio.sleep(1)
        lease = await b.try_acquire()  # type: ignore[assignment]
        assert lease is not None  # nothing is held while it waits
        await lease.release()
    both = await waiting
    await both.release()


async def test_two_pairs_do_not_lock_each_other_out() -> None:
    """a and b, b and a, each fifty times: no deadlock, and one at a time."""
    inside = 0

    async def many(*names: str) -> None:
        nonlocal inside
        for _ in range(50):
            async with ar.Lock.all(*names):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0.01)
                inside -= 1

    await asyncio.gather(many("a", "b"), many("b", "a"))


async def test_take_over() -> None:
    """By force: a higher fence, and the one before is told when it renews."""
    lock = ar.Lock("a", ttl=9.0)
    loop = asyncio.get_running_loop()
    ended: list[float] = []
    fences: list[int] = []

    async def holder() -> None:
        with pytest.raises(ar.LockLost, match="not ours any more"):  # noqa: PT012 - the body is what fails
            async with lock as lease:
                fences.append(lease.fence)
                try:
                    await asyncio.sleep(100)
                finally:
                    ended.append(loop.time())

    task = asyncio.ensure_future(holder())
    await asyncio.sleep(1)
    async with await ar.Lock("a", ttl=9.0).take_over() as mine:
        await task
        assert ended == [3.0]
        assert mine.fence > fences[0]
        mine.check()


async def test_lock_delay_after_an_unclean_end() -> None:
    """Ended without a release, nobody has it for `lock_delay` more seconds; after a release at once."""
    loop = asyncio.get_running_loop()
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=10.0, lock_delay=15.0, on_lost="flag", backend=backend)
        async with lock:
            pass
        began = loop.time()
        lease = await lock.acquire()
        assert loop.time() == began
        backend.plan(Fault.NOT_SENT, verb="renew", times=100)
        await asyncio.sleep(9.5)
        assert lease.lost
        backend.heal()
        await lock.acquire()
        assert loop.time() - began == pytest.approx(25, abs=0.1)


async def test_a_late_renewal_brings_nothing_back() -> None:
    """Renewing never re-creates: once over, in its delay too, it is over."""
    async with ar.connect("memory://") as backend:
        lock = ar.Lock("a", ttl=1.0, lock_delay=5.0, backend=backend)
        desk = desk_of(backend, "Lock")
        ask = lock._ask()
        grant = await desk.store.acquire(ask, False)
        lease = lock.new_lease(desk, ask, grant, False)  # type: ignore[arg-type]
        assert (await desk.store.renew([lease]))[0] is not None
        await asyncio.sleep(1.5)
        assert await desk.store.renew([lease]) == [None]
        await asyncio.sleep(10)
        assert await desk.store.renew([lease]) == [None]
        assert await lock.try_acquire() is not None


async def test_who_and_since_when() -> None:
    """The holder's own words, its fence and its times can be read by all."""
    lock = ar.Lock("a", owner="node-1", ttl=30.0)
    assert await lock.holder() is None
    async with lock as lease:
        await asyncio.sleep(12)
        holder = await ar.Lock("a").holder()
        assert holder is not None
        assert (holder.owner, holder.fence) == ("node-1", lease.fence)
        assert holder.held_for == pytest.approx(12)
        assert holder.expires_in == pytest.approx(28)


async def test_two_tasks_never_share_a_lease() -> None:
    """A lease that is entered cannot be entered again."""
    lease = await ar.Lock("a").acquire()
    async with lease:
        with pytest.raises(RuntimeError, match="entered already"):
            async with lease:
                pass
    with pytest.raises(ar.LockLost):
        async with lease:
            pass


async def test_leaving_the_backend_releases_what_is_held() -> None:
    """The body is cancelled, the lock free."""
    backend = ar.connect("memory://")
    lock = ar.Lock("a", backend=backend)
    told: list[type] = []

    async def holder() -> None:
        try:
            async with lock:
                await asyncio.sleep(100)
        except ar.LockLost as error:
            told.append(type(error))

    async with backend:
        task = asyncio.ensure_future(holder())
        await asyncio.sleep(1)
    await task
    assert told == [ar.LockLost]
    async with backend:
        assert await lock.try_acquire() is not None


async def test_nobody_has_it_before_the_body_of_a_closed_backend_has_ended() -> None:
    """Leaving the backend waits for bodies to end, within its deadline, before their locks are free."""
    backend = ar.connect("memory://", deadline=1.0)
    lock = ar.Lock("a", backend=backend)
    loop, free = asyncio.get_running_loop(), []

    async def holder(clean_up: float) -> None:
        async with lock:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(clean_up)
                free.append(await lock.holder() is None)

    for clean_up, left in ((0.5, 0.5), (5.0, 1.0)):
        await backend.__aenter__()
        task = asyncio.ensure_future(holder(clean_up))
        await asyncio.sleep(1)
        began = loop.time()
        await backend.__aexit__(None, None, None)
        assert loop.time() - began == pytest.approx(left)
        await asyncio.wait([task])
        assert isinstance(task.exception(), ar.LockLost)
    assert free == [False, False]


async def test_events() -> None:
    """Granted, released: with the fence and the times."""
    seen = Recorder()
    lock = ar.Lock("a", listeners=[seen])
    stop = lock.listen(seen)
    stop()
    async with lock as lease:
        await asyncio.sleep(2)
    assert [type(event) for event in seen.events] == [ar.LeaseGranted, ar.LeaseReleased]
    assert (seen.events[1].fence, seen.events[1].held) == (lease.fence, 2.0)  # type: ignore[attr-defined]


async def test_a_thousand_waiters_that_give_up_leave_nothing() -> None:
    """Timed out or cancelled, they leave the line, and the next one is served."""
    lock = ar.Lock("a")
    desk = desk_of(None, "Lock")
    lease = await lock.acquire()
    some = [asyncio.ensure_future(lock.acquire(timeout=5)) for _ in range(500)]
    others = [asyncio.ensure_future(lock.acquire()) for _ in range(500)]
    await asyncio.sleep(1)
    for task in others:
        task.cancel()
    await asyncio.gather(*some, *others, return_exceptions=True)
    assert all(isinstance(task.exception(), ar.LockTimeout) for task in some)
    last = asyncio.ensure_future(lock.acquire())
    await asyncio.sleep(1)
    await lease.release()
    await (await last).release()
    assert len(desk.lines) == 0
    assert not desk.inside


async def test_l15_cancelled_in_a_group_while_another_releases() -> None:
    """L15: the group is cancelled while the lease is being released: one release, and the cancel goes on."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", backend=backend)
        lease = await lock.acquire()
        backend.plan(Fault.SLOW, verb="release")

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(lease.release())
                tasks.create_task(lease.release())

        task = asyncio.ensure_future(group())
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert sum(call.verb == "release" for call in backend.calls) == 1
        assert await lock.try_acquire() is not None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": -1.0}, ValueError, "ttl"),
        ({"ttl": float("nan")}, ValueError, "ttl"),
        ({"ttl": float("inf")}, ValueError, "ttl"),
        ({"ttl": 2.0**63}, ValueError, "from 0.01 to"),
        ({"ttl": 0.001}, ValueError, "from 0.01 to"),
        ({"ttl": True}, TypeError, "ttl"),
        ({"ttl": "10"}, TypeError, "ttl"),
        ({"wait": -1}, ValueError, "wait"),
        ({"on_lost": "shout"}, ValueError, "'cancel', 'flag'"),
        ({"lock_delay": -1}, ValueError, "lock_delay"),
        ({"wait_replicas": -1}, ValueError, "wait_replicas"),
        ({"owner": ""}, ValueError, "owner"),
        ({"group": 7}, TypeError, "group"),
        ({"backend": object()}, TypeError, "backend"),
    ],
)
def test_l9_bad_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """L9: refused when the lock is made, before any I/O, naming the argument."""
    with pytest.raises(error, match=words):
        ar.Lock("a", **options)


def test_l11_bad_names() -> None:
    """L11: no name, no string: refused. `all` takes different names."""
    for name, error in (("", ValueError), (7, TypeError), (None, TypeError)):
        with pytest.raises(error):
            ar.Lock(name)  # type: ignore[arg-type]
    for names in ((), ("a", "a"), ("a", "")):
        with pytest.raises(ValueError, match="names"):
            ar.Lock.all(*names)


@pytest.mark.parametrize("name", ["a" * 10_000_000, "\0", "\r\n", "{}", "{a}", "\ud800", " "])
async def test_l11_any_text_is_a_name(name: str) -> None:
    """L11: ten megabytes, NUL, line ends, braces, a lone surrogate."""
    async with ar.Lock(name):
        assert await ar.Lock(name).try_acquire() is None


def test_a_lock_can_be_made_before_there_is_a_loop() -> None:
    """At import time; and it shows itself."""
    assert repr(ar.Lock("a", ttl=5)) == "<Lock 'a' ttl 5 s>"


async def test_a_cancel_that_comes_with_an_error_stays_a_cancel() -> None:
    """Told of the store's failure and cancelled in one turn: cancelled, and the line is empty."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", backend=backend)
        lease = await lock.acquire()
        first, second = (asyncio.ensure_future(lock.acquire()) for _ in range(2))
        await asyncio.sleep(1)
        backend.plan(Fault.NOT_SENT, verb="acquire")
        first.add_done_callback(lambda _: second.cancel())
        await lease.release()
        await asyncio.wait([first, second])
        assert isinstance(first.exception(), ar.NotSent)
        assert second.cancelled() or isinstance(second.exception(), ar.NotSent)
        assert len(lock.desk.lines) == 0


async def test_a_lease_that_is_lost_before_its_body_begins() -> None:
    """Acquired, and not ours any more when the body would begin: `LockLost`, and nothing stays behind."""
    async with FaultyBackend(deadline=30.0) as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend)
        lease = await lock.acquire()
        backend.plan(Fault.NOT_SENT, verb="renew", times=100)
        await asyncio.sleep(2)
        with pytest.raises(ar.LockLost):
            await lease.__aenter__()
        assert len(backend.keeper) == 0


def test_a_loop_takes_its_memory_with_it() -> None:
    """What is shared without a backend is the loop's, and goes when the loop goes."""

    async def use() -> weakref.ref[Any]:
        async with ar.Lock("a"):
            pass
        return weakref.ref(asyncio.get_running_loop())

    loops = [run_virtual(use()) for _ in range(3)]
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


# Cancelled at every await.


class World:
    """A lock, and what it must leave behind: nothing."""

    def __init__(self, **options: Any) -> None:
        self.lock = ar.Lock("a", wait=5.0, **options)
        self.other = ar.Lock("a", wait=5.0, **options)

    async def idle(self) -> None:
        """Nobody holds it, nobody waits."""
        desk = self.lock.desk
        lease = await self.other.try_acquire()
        assert lease is not None, "held"
        await lease.release()
        assert len(desk.lines) == 0
        assert not desk.inside
        assert len(desk.keeper) == 0


def test_cancel_sweep_of_a_section() -> None:
    """Taken, held, released."""

    async def use(world: World) -> None:
        async with world.lock as lease:
            await asyncio.sleep(1)
            lease.check()

    cancel_sweep(use, make=World, check=World.idle)


def test_cancel_sweep_of_a_wait() -> None:
    """Waited for behind another of this process, then held."""

    async def use(world: World) -> None:
        async def first() -> None:
            async with world.other:
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            await asyncio.sleep(0)
            async with world.lock:
                await asyncio.sleep(1)

    cancel_sweep(use, make=World, check=World.idle)


def test_cancel_sweep_of_everything_else() -> None:
    """By hand, by force, several at once, and a try."""

    async def use(world: World) -> None:
        lease = await world.lock.try_acquire()
        assert lease is not None
        async with lease:
            await asyncio.sleep(0.1)
        async with await world.lock.take_over():
            await asyncio.sleep(0.1)
        async with ar.Lock.all("a", "b"):
            await asyncio.sleep(0.1)
        await world.lock.holder()

    cancel_sweep(use, make=World, check=World.idle)


def test_cancel_sweep_with_a_slow_store() -> None:
    """Every answer is late."""

    def make() -> World:
        return World(backend=FaultyBackend(seed=1, rate=1.0, faults=[Fault.SLOW]))

    async def use(world: World) -> None:
        async with world.lock:
            await asyncio.sleep(1)

    cancel_sweep(use, make=make, check=World.idle)
