"""Calling a service: who is picked, what is recorded, who is taken out and comes back, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.backend import MemoryBackend
from aresilience.registry import Instance, OutliersChanged, Pick
from aresilience.registry.balance import Node
from aresilience.registry.rotation import Rotation
from aresilience.testing import FaultyBackend, Recorder, VirtualLoop, cancel_sweep
from aresilience.testing.faulty import Fault


class Fleet:
    """Instances of users that answer, each in its own way."""

    def __init__(self, many: int = 4, backend: MemoryBackend | None = None) -> None:
        self.backend = MemoryBackend() if backend is None else backend
        self.recorder = Recorder()
        self.registry = ar.ServiceRegistry(
            ttl=1e6, resync=1e6, backend=self.backend, listeners=[self.recorder]
        )
        self.instances = [Instance("users", "h", 1 + n, id=f"i{n}") for n in range(many)]
        self.broken: set[str] = set()
        self.slow: dict[str, float] = {}
        self.calls: Counter[str] = Counter()

    async def start(self) -> Fleet:
        """All are up."""
        for instance in self.instances:
            await self.registry.announce(instance)
        return self

    async def answer(self, instance: Instance) -> str:
        """What an instance does."""
        self.calls[instance.id] += 1
        await asyncio.sleep(self.slow.get(instance.id, 0.01))
        if instance.id in self.broken:
            raise ConnectionError(instance.id)
        return instance.id

    async def call(self, users: ar.Service, **options: object) -> str | None:
        """One call; None if it failed."""
        try:
            async with users.pick(**options) as instance:  # type: ignore[arg-type]
                return await self.answer(instance)
        except ConnectionError:
            return None


@pytest.fixture
async def fleet() -> Fleet:
    """Four instances."""
    return await Fleet().start()


async def raising(users: ar.Service, error: BaseException, pick: Pick | None = None) -> None:
    """A call that ends so, and says where it was; if `pick` is given, one that was told a failure."""
    pick = pick or users.pick()
    async with pick as instance:
        assert sum(node.in_flight for node in users._chooser._nodes.values()) == 1
        pick.failed()
        error.args = (instance.id,)
        raise error


async def test_each_pick_is_given_back_on_every_exit(fleet: Fleet) -> None:
    """Success, failure, refusal, cancellation, an interpreter's exit: nothing stays in flight."""
    users = fleet.registry.service("users", balancer=ar.LeastRequest())
    await fleet.call(users)
    for error in (
        ConnectionError(),
        ar.CircuitOpen(),
        asyncio.CancelledError(),
        SystemExit(),
    ):
        with pytest.raises(type(error)):
            await raising(users, error)
    assert all(node.in_flight == 0 for node in users._chooser._nodes.values())
    assert sum(node.failures for node in users._chooser._nodes.values()) == pytest.approx(1.0, abs=0.01)


async def test_a_call_that_is_closed_is_given_back_too(fleet: Fleet) -> None:
    """A coroutine that is closed in the middle of its call, as by a loop that is gone."""
    users = fleet.registry.service("users")
    await fleet.call(users)
    calling = raising(users, OSError(), Holding(users))
    calling.send(None)
    assert sum(node.in_flight for node in users._chooser._nodes.values()) == 1
    calling.close()
    assert sum(node.in_flight for node in users._chooser._nodes.values()) == 0


class Holding(Pick):
    """A pick whose body never gets on."""

    def __init__(self, users: ar.Service) -> None:
        super().__init__(users._chooser, None, ())

    async def __aenter__(self) -> Instance:
        await super().__aenter__()
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        raise AssertionError


async def test_a_failure_that_raises_nothing_can_be_told(fleet: Fleet) -> None:
    """An answer of 503: `pick.failed()`; what the error says goes before."""
    users = fleet.registry.service("users")
    pick = users.pick()
    async with pick:
        pick.failed("503")
    assert sum(node.failures for node in users._chooser._nodes.values()) == pytest.approx(1.0, abs=0.01)
    pick = users.pick()
    with pytest.raises(asyncio.CancelledError):
        await raising(users, asyncio.CancelledError(), pick)
    assert sum(node.failures for node in users._chooser._nodes.values()) == pytest.approx(1.0, abs=0.01)


async def test_errors_that_are_no_failures_of_the_instance(fleet: Fleet) -> None:
    """`failure_on` says which are: another error means that it answered."""
    users = fleet.registry.service(
        "users", failure_on=(OSError, TimeoutError), outliers=ar.OutlierPolicy(failures=1)
    )
    for _ in range(20):
        with pytest.raises(KeyError):
            async with users.pick():
                raise KeyError
    assert users.ejected == ()
    with pytest.raises(TimeoutError):
        async with users.pick():
            raise TimeoutError
    assert len(users.ejected) == 1


async def test_a_pick_is_entered_once(fleet: Fleet) -> None:
    """It is one call."""
    pick = fleet.registry.service("users").pick()
    async with pick:
        with pytest.raises(RuntimeError, match="entered once"):
            await pick.__aenter__()


async def test_d11_no_instances_is_an_error_at_once() -> None:
    """Nobody is up: `NoInstances`, a refusal, without waiting."""
    registry = ar.ServiceRegistry(backend=MemoryBackend())
    users = registry.service("users")
    for _ in range(2):
        with pytest.raises(ar.NoInstances, match="no instance of 'users' is up") as caught:
            async with users.pick():
                pass
        assert caught.value.service == "users"
    assert isinstance(caught.value, ar.Rejected)


async def test_nothing_known_and_no_registry_is_a_backend_error() -> None:
    """It is not "nobody": nobody knows."""
    backend = FaultyBackend()
    backend.plan(Fault.NOT_SENT, times=5)
    users = ar.ServiceRegistry(backend=backend).service("users")
    with pytest.raises(ar.NotSent):
        async with users.pick():
            pass


async def test_a_retry_avoids_the_instance_that_failed(fleet: Fleet) -> None:
    """Not chosen while there are others; chosen all the same when there are none."""
    users = fleet.registry.service("users", balancer=ar.Random())
    for _ in range(200):
        assert await fleet.call(users, avoid={"i0", "i2"}) in ("i1", "i3")
    assert await fleet.call(users, avoid={"i0", "i1", "i2", "i3"}) is not None


async def test_the_same_key_goes_to_the_same_instance(fleet: Fleet) -> None:
    """By `Rendezvous`; avoided, to another."""
    users = fleet.registry.service("users", balancer=ar.Rendezvous())
    first = await fleet.call(users, key="ada")
    assert {await fleet.call(users, key="ada") for _ in range(20)} == {first}
    second = {await fleet.call(users, key="ada", avoid={str(first)}) for _ in range(20)}
    assert len(second) == 1, "the key's next choice"
    assert second != {first}
    assert len({await fleet.call(users, key=f"user-{n}") for n in range(50)}) == 4


async def test_a_key_stays_in_its_zone() -> None:
    """Where calls spill over into another zone it is always the same keys that do."""
    registry = ar.ServiceRegistry(ttl=1e6, backend=MemoryBackend())
    for n, zone in enumerate("abbb"):
        await registry.announce(Instance("users", "h", 1 + n, zone=zone))
    users = registry.service("users", balancer=ar.Rendezvous(), zone="a")
    places: dict[str, set[str]] = {}
    for _ in range(5):
        for n in range(40):
            async with users.pick(f"key-{n}") as instance:
                places.setdefault(f"key-{n}", set()).add(instance.id)
    assert all(len(each) == 1 for each in places.values())
    assert len(set().union(*places.values())) == 4


async def test_a_registry_that_is_closed_is_asked_anew(fleet: Fleet) -> None:
    """Its watches end; a service goes on with what it knows when it is asked again."""
    users = fleet.registry.service("users")
    await fleet.call(users)
    watch = users.watch()
    assert len(await anext(watch)) == 4
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await fleet.registry.aclose()
    assert await waiting is None
    await fleet.registry.announce(Instance("users", "h", 99, id="i9"))
    for _ in range(100):
        assert await fleet.call(users) is not None
    assert fleet.calls["i9"] > 0


async def test_peak_ewma_leaves_a_slow_instance_alone(fleet: Fleet) -> None:
    """One of four is thirty times as slow: it gets a few calls of a thousand, and is asked now and then."""
    fleet.slow["i1"] = 0.3
    users = fleet.registry.service("users", balancer=ar.PeakEwma())
    for _ in range(20):
        await asyncio.gather(*[fleet.call(users) for _ in range(20)])
    assert 1 <= fleet.calls["i1"] < 40


async def test_news_arrives_without_a_restart(fleet: Fleet) -> None:
    """Who comes gets calls, who goes gets none, a new weight counts; what is known of the others stays."""
    users = fleet.registry.service("users", balancer=ar.Random(), slow_start=0)
    await fleet.call(users)
    known = dict(users._chooser._nodes)
    await fleet.registry.deregister("users", "i0")
    await fleet.registry.announce(Instance("users", "h", 99, id="i9", weight=2.0))
    await asyncio.sleep(0.1)
    fleet.calls.clear()
    for _ in range(500):
        await fleet.call(users)
    assert fleet.calls["i0"] == 0
    assert 140 < fleet.calls["i9"] < 260
    assert users._chooser._nodes["i1"] is known["i1"]


async def test_envoy_an_instance_that_restarts_is_a_new_one(fleet: Fleet) -> None:
    """The same id, another process: its failures and latencies are forgotten, and it starts slowly."""
    users = fleet.registry.service("users", outliers=ar.OutlierPolicy(failures=1), balancer=ar.Random())
    fleet.broken.add("i1")
    await until_out(fleet, users)
    old = users._chooser._nodes["i1"]
    fleet.broken.clear()
    await fleet.registry.announce(fleet.instances[1])
    await asyncio.sleep(0.1)
    await fleet.call(users)
    assert users._chooser._nodes["i1"] is not old
    assert users.ejected == ()
    assert users._chooser._nodes["i1"].share(users._chooser.now()) < 0.2


# Outliers


async def until_out(fleet: Fleet, users: ar.Service) -> None:
    """Call until somebody is ejected."""
    for _ in range(1000):
        if users.ejected:
            return
        await fleet.call(users)
    raise AssertionError(f"nobody was ejected: {fleet.calls}")


async def until_called(fleet: Fleet, users: ar.Service, who: str, calls: int) -> None:
    """Call, ten times a second, until it is called again."""
    for _ in range(1000):
        if fleet.calls[who] > calls:
            return
        await asyncio.gather(*[fleet.call(users) for _ in range(5)], asyncio.sleep(0.5))
    raise AssertionError(f"{who} was not called again: {fleet.calls}")


async def test_an_outlier_is_ejected_and_returns_by_one_probe(fleet: Fleet) -> None:
    """Five failures in a row; nothing for 30 s and a little; one call; out for twice that; one call; back."""
    users = fleet.registry.service("users", outliers=ar.OutlierPolicy(), balancer=ar.Random(), slow_start=0)
    fleet.broken.add("i2")
    await until_out(fleet, users)
    assert fleet.calls["i2"] == 5
    loop = asyncio.get_running_loop()
    out = loop.time()
    await until_called(fleet, users, "i2", 5)
    assert 30 <= loop.time() - out < 33.6
    assert fleet.calls["i2"] == 6, "one probe, of five calls at once"
    out = loop.time()
    fleet.broken.clear()
    await until_called(fleet, users, "i2", 6)
    assert 60 <= loop.time() - out < 66.6
    assert users.ejected == ()
    events = fleet.recorder.of(OutliersChanged)
    assert [(event.ejected, event.total, event.panic) for event in events] == [(1, 4, False), (0, 4, False)]


async def test_successes_between_do_not_eject(fleet: Fleet) -> None:
    """Four failures, one success, for ever: never five in a row."""
    users = fleet.registry.service("users", outliers=ar.OutlierPolicy(), balancer=ar.Random())
    for n in range(200):
        fleet.broken = set() if n % 5 == 0 else {"i0", "i1", "i2", "i3"}
        for instance in fleet.instances:
            await fleet.call(users, avoid={i.id for i in fleet.instances if i is not instance})
    assert users.ejected == ()


async def test_the_last_one_is_never_ejected() -> None:
    """One instance, or two of which one is out: it is called, however often it fails."""
    for many, out in ((1, 0), (2, 1)):
        fleet = await Fleet(many).start()
        users = fleet.registry.service(
            "users", outliers=ar.OutlierPolicy(max_ejected=1.0, panic=None), balancer=ar.Random()
        )
        fleet.broken = {i.id for i in fleet.instances}
        for _ in range(50):
            await fleet.call(users)
        assert len(users.ejected) == out


async def test_at_most_a_share_is_ejected_and_below_that_nobody_is() -> None:
    """Ten, three of them bad, 20 % allowed: two out. Six bad: fewer than half are good, and all are called."""
    fleet = await Fleet(10).start()
    users = fleet.registry.service(
        "users", outliers=ar.OutlierPolicy(max_ejected=0.2, failures=1), balancer=ar.Random()
    )
    fleet.broken = {"i0", "i1", "i2"}
    for _ in range(200):
        await fleet.call(users)
    assert len(users.ejected) == 2
    fleet.broken = {f"i{n}" for n in range(6)}
    for _ in range(300):
        await fleet.call(users)
    assert users.ejected == ()
    assert fleet.recorder.of(OutliersChanged)[-1].panic
    fleet.broken = set()
    for _ in range(300):
        await fleet.call(users)
    assert not users._chooser._rotation.panicking  # type: ignore[union-attr]
    await asyncio.sleep(120)
    for _ in range(300):
        await fleet.call(users)
    assert users.ejected == ()


async def test_small_clusters_can_do_without() -> None:
    """`minimum_hosts`: below that nobody is ejected."""
    fleet = await Fleet(4).start()
    users = fleet.registry.service(
        "users", outliers=ar.OutlierPolicy(minimum_hosts=5, failures=1), balancer=ar.Random()
    )
    fleet.broken = {"i0"}
    for _ in range(100):
        await fleet.call(users)
    assert users.ejected == ()


async def test_a_cancelled_probe_is_made_again(fleet: Fleet) -> None:
    """It says nothing: the next call is the probe."""
    users = fleet.registry.service("users", outliers=ar.OutlierPolicy(failures=1), balancer=ar.RoundRobin())
    fleet.broken.add("i2")
    await until_out(fleet, users)
    await asyncio.sleep(34)
    with pytest.raises(asyncio.CancelledError, match="i2"):
        await raising(users, asyncio.CancelledError())
    assert users.ejected == ("i2",)
    fleet.broken.clear()
    assert await fleet.call(users) == "i2"
    assert users.ejected == ()


# With the toolkit's own breakers


def with_breakers(fleet: Fleet, **options: object) -> tuple[ar.Service, ar.CircuitBreakers]:
    """A service whose outliers are those whose circuit is open."""
    breakers = ar.CircuitBreakers(
        "users", **{"failure_threshold": 3, "recovery_timeout": 20.0, "success_threshold": 1, **options}
    )
    policy = ar.OutlierPolicy(breakers=breakers)
    return fleet.registry.service("users", outliers=policy, balancer=ar.Random(), slow_start=0), breakers


async def test_an_open_circuit_is_out_of_rotation_and_half_open_is_one_probe(fleet: Fleet) -> None:
    """Three failures open it; nobody is refused, the others are called; in 20 s one probe, and it is back."""
    users, breakers = with_breakers(fleet)
    fleet.broken.add("i3")
    await until_out(fleet, users)
    assert fleet.calls["i3"] == 3
    assert len(breakers) == 4
    await until_called(fleet, users, "i3", 3)
    assert 20 <= asyncio.get_running_loop().time() < 22
    assert fleet.calls["i3"] == 4
    assert users.ejected == ("i3",)
    fleet.broken.clear()
    await asyncio.sleep(21)
    for _ in range(100):
        assert await fleet.call(users) is not None
    assert users.ejected == ()


async def test_who_returns_has_his_turns_and_no_more() -> None:
    """Out for a while, a node is not given the turns that the others had meanwhile."""
    registry = ar.ServiceRegistry(ttl=1000)
    for n in range(3):
        await registry.announce(Instance("users", f"h{n}", 80, id=f"i{n}"))
    policy = ar.OutlierPolicy(failures=3, ejection=30)
    users = registry.service("users", outliers=policy, balancer=ar.RoundRobin(), slow_start=0)
    called: Counter[str] = Counter()
    for second in range(60):
        if second == 45:
            called.clear()
        for _ in range(30):
            with contextlib.suppress(OSError):
                async with users.pick() as instance:
                    called[instance.id] += 1
                    if instance.id == "i0" and second < 5:
                        raise OSError
        await asyncio.sleep(1)
    assert users.ejected == ()
    assert called == {"i0": 150, "i1": 150, "i2": 150}


async def test_a_lone_host_is_called_although_its_circuit_is_open() -> None:
    """Never the last: well again, it is called every time, and the circuit closes in its own time."""
    registry = ar.ServiceRegistry(ttl=1000)
    await registry.announce(Instance("users", "h", 80))
    breakers = ar.CircuitBreakers("users", failure_threshold=3, recovery_timeout=60, success_threshold=1)
    users = registry.service("users", outliers=ar.OutlierPolicy(breakers=breakers))
    for _ in range(3):
        with pytest.raises(OSError):
            async with users.pick():
                raise OSError
    (key,) = breakers
    for _ in range(10):
        async with users.pick():
            assert breakers[key].state is ar.BreakerState.OPEN
    await asyncio.sleep(61)
    for _ in range(3):
        async with users.pick():
            pass
    assert breakers[key].state is ar.BreakerState.CLOSED
    assert users.ejected == ()


async def test_a_circuit_that_opens_behind_our_back_is_seen(fleet: Fleet) -> None:
    """Opened by another process, say: the call goes to another instance, and this one is out."""
    users, breakers = with_breakers(fleet)
    await fleet.call(users)
    key = next(iter(breakers))
    await breakers[key].isolate()
    for _ in range(50):
        assert await fleet.call(users) is not None
    assert len(users.ejected) == 1
    await breakers[key].reset()
    await asyncio.sleep(1.1)
    await fleet.call(users)
    assert users.ejected == ()


async def test_all_circuits_open_is_panic_and_everybody_is_called(fleet: Fleet) -> None:
    """Below half: their breakers are not asked, and who answers is let back in by its probe."""
    users, _ = with_breakers(fleet)
    fleet.broken = {i.id for i in fleet.instances}
    for _ in range(60):
        await fleet.call(users)
    assert users.ejected == ()
    assert sum(fleet.calls.values()) == 60
    fleet.broken = set()
    await asyncio.sleep(21)
    for _ in range(20):
        assert await fleet.call(users) is not None
    assert not users._chooser._rotation.panicking  # type: ignore[union-attr]


async def test_a_slow_answer_can_open_it_too(fleet: Fleet) -> None:
    """The breakers' own options: slow calls count."""
    users, _ = with_breakers(
        fleet,
        failure_threshold=None,
        failure_rate=0.5,
        minimum_calls=4,
        window=ar.Window.calls(4),
        slow_call_duration=0.1,
        slow_call_rate=0.5,
    )
    fleet.slow["i0"] = 0.5
    for _ in range(100):
        await fleet.call(users)
    assert users.ejected == ("i0",)


# Everything together


@pytest.mark.parametrize("breakers", [False, True])
def test_a_cancel_at_any_await_leaves_nothing_in_flight(breakers: bool) -> None:
    """Picking, calling, failing, being probed, cut anywhere: no call in flight, no probe taken, no task."""

    class State:
        def __init__(self) -> None:
            self.fleet = Fleet(3, FaultyBackend(faults=(Fault.SLOW,), rate=1.0))
            self.breakers = ar.CircuitBreakers(
                "users", failure_threshold=1, recovery_timeout=1.0, success_threshold=1
            )
            policy = ar.OutlierPolicy(
                failures=1, ejection=1.0, breakers=self.breakers if breakers else None
            )
            self.users = self.fleet.registry.service("users", outliers=policy, balancer=ar.RoundRobin())

        def check(self) -> None:
            assert all(node.in_flight == 0 for node in self.users._chooser._nodes.values())
            for key in self.breakers:
                assert self.breakers[key].snapshot().probes == 0
            if self.users._chooser._rotation is not None:
                assert not any(record.probing for record in self.users._chooser._rotation._records.values())

    async def make() -> State:
        state = State()
        await state.fleet.start()
        await (
            state.users._chooser.known()
        )  # which the keeper goes on with when the one who waits is cancelled
        return state

    async def use(state: State) -> None:
        state.fleet.broken = {"i0"}
        for _ in range(6):
            await state.fleet.call(state.users)
        await asyncio.sleep(1.2)
        state.fleet.broken = set()
        for _ in range(3):
            await state.fleet.call(state.users)

    for loop in (VirtualLoop, lambda: VirtualLoop(3)):
        report = cancel_sweep(use, make=make, check=State.check, loop_factory=loop)
        assert report.points >= 10


steps = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "bad", "cut", "wait", "restart"]),
        st.integers(0, 5),
        st.sampled_from([0.0, 1.0, 30.0, 33.0, 61.0]),
    ),
    max_size=120,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 6), st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([None, 0.5]))
def test_in_any_history_the_rotation_keeps_its_rules(
    history: list, many: int, most: float, panic: float | None
) -> None:
    """Never the last, never more than the share; one probe at a time; and in the end, with nothing but
    successes, everybody is back."""
    policy = ar.OutlierPolicy(failures=2, max_ejected=most, panic=panic)
    rotation = Rotation(policy)
    those = [Node(Instance("s", "h", 1 + n)) for n in range(many)]
    rotation.set_nodes(those)
    chance, now = random.Random(1), 0.0
    for what, n, gap in history:
        node = those[n % many]
        if what == "wait":
            now += gap
        elif what == "restart":
            those[n % many] = Node(node.instance)
            rotation.set_nodes(those)
        else:
            probe = rotation.probe(now)
            if probe is not None:
                assert rotation.probe(now) is not probe
                node = probe
            elif node in rotation.out:
                continue
            if what == "cut":
                rotation.given_back(node, now)
            else:
                rotation.ended(node, what == "ok", now, chance.random())
        assert len(rotation.out) <= policy.most_out(many) <= many - 1 or many == 1
        assert rotation.out <= set(those)
        assert not (rotation.panicking and rotation.out)
    for _ in range(20):
        now += 400.0
        while (probe := rotation.probe(now)) is not None:
            rotation.ended(probe, True, now, 0.0)
        for node in those:
            if node not in rotation.out:
                rotation.ended(node, True, now, 0.0)
    assert not rotation.out
    assert not rotation.panicking


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"failures": 0}, "OutlierPolicy: failures must be"),
        ({"max_ejected": 0}, "OutlierPolicy: max_ejected must be greater than 0"),
        ({"max_ejection": 1.0}, "max_ejection must be at least ejection"),
        ({"panic": 2}, "OutlierPolicy: panic must be"),
        ({"minimum_hosts": 1}, "minimum_hosts must be a whole number of at least 2"),
    ],
)
def test_an_outlier_policy_is_checked(options: dict, complaint: str) -> None:
    """When it is made."""
    with pytest.raises(ValueError, match=complaint):
        ar.OutlierPolicy(**options)


def test_a_service_is_checked() -> None:
    """Its balancer and policy must be such, and its name one."""
    registry = ar.ServiceRegistry()
    with pytest.raises(TypeError, match="balancer must be a Balancer"):
        registry.service("users", balancer="random")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="outliers must be"):
        registry.service("users", outliers=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="breakers must have"):
        ar.OutlierPolicy(breakers=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="service must be 1 to 128"):
        registry.service("a/b")
    assert repr(registry.service("users")) == "<Service 'users' LeastRequest 0 up, 0 ejected>"


async def test_d11_a_pick_costs_the_same_among_ten_thousand() -> None:
    """Not counted in time but in work: two loads are compared, however many there are."""
    fleet = await Fleet(2_000).start()
    for balancer in (ar.LeastRequest(), ar.PeakEwma()):
        looked = 0
        original = type(balancer).load

        class Counting(type(balancer)):  # type: ignore[misc]
            def load(self, node: Node, now: float) -> float:
                nonlocal looked
                looked += 1
                return original(self, node, now)  # type: ignore[no-any-return]  # noqa: B023

        users = fleet.registry.service("users", balancer=Counting())
        async with users.pick():
            pass
        assert looked == 2
