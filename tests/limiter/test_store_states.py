"""Fault case 13: every state of the server × every `on_store_error`, on real Redis. The rows of the tables in
the docstring of `aresilience.limiter`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from servers import eventually
from states import BY_NAME, STATES, State, app_url, begun

import aresilience as ar
import aresilience.limiter
from aresilience.errors import BackendError
from aresilience.testing import Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

POLICIES = ("allow", "refuse", "raise", "local")
DEADLINE = 0.15
SLACK = 0.4

state_of_the_server = pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
policy_of_the_limiter = pytest.mark.parametrize("policy", POLICIES)


@asynccontextmanager
async def limiters(
    server: RedisServer, state: State, policy: Any, **options: Any
) -> AsyncIterator[tuple[ar.RateLimiter, Recorder, ar.Backend]]:
    """A limit of ten an hour, one of whose tokens was taken while all was well; and what it tells."""
    async with ar.connect(app_url(server) if state.as_app else server.url, deadline=DEADLINE) as backend:
        limiter = ar.RateLimiter(
            "10/h", name="x", on_store_error=policy, local_share=0.3, backend=backend, **options
        )
        assert (await limiter.try_acquire("k")).remaining in (9, 10 - options.get("lease", 1))
        seen = Recorder()
        limiter.listen(seen)
        yield limiter, seen, backend


async def told(asked: Awaitable[object]) -> object:
    """What somebody was told: "yes", "no", or the type of an error; never later than the deadline."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer: object
    try:
        said = await asked
        answer = "yes" if said or isinstance(said, ar.Reservation) else "no"
    except ar.RateLimited:
        answer = "no"
    except BackendError as error:
        answer = type(error)
    assert loop.time() - started < DEADLINE + SLACK
    return answer


def expected(state: State, policy: str, answers: list[object]) -> bool:
    """Whether four who asked, one after the other, were told what the table says."""
    if policy == "raise":
        return all(isinstance(a, type) and issubclass(a, state.errors) for a in answers)
    return answers == {"allow": ["yes"] * 4, "refuse": ["no"] * 4, "local": ["yes"] * 3 + ["no"]}[policy]


async def recovered(limiter: ar.RateLimiter) -> ar.Decision:
    """What is left, once the server answers as before."""

    async def decision() -> ar.Decision | None:
        try:
            said = await limiter.try_acquire("k")
            return None if said.degraded else said
        except BackendError:
            return None

    found = await eventually(decision)
    assert isinstance(found, ar.Decision)
    return found


@state_of_the_server
@policy_of_the_limiter
async def test_every_state_and_every_policy(
    troubled_server: RedisServer, state: State, policy: str
) -> None:
    """In the state each is told what the policy says, within the deadline, with one event for each kind of
    error; after it the store answers again, by its count or, where that was lost, a full one."""
    async with limiters(troubled_server, state, policy) as (limiter, seen, backend):
        async with begun(state, troubled_server, backend):
            answers = await asyncio.gather(*(told(limiter.try_acquire("k")) for _ in range(4)))
            outage = seen.of(ar.StoreDegraded)
            if state.errors:
                assert expected(state, policy, answers)
                assert {e.answer for e in outage} == {policy}
                assert {type(e.error) for e in outage} <= set(state.errors)
                assert len(outage) == len({type(e.error) for e in outage})
                assert state.code in str(outage[0].error)
            else:
                assert (answers, outage) == (["yes"] * 4, [])
        left = (await recovered(limiter)).remaining
        if not state.errors:
            assert left == (4 if state.keeps else 5)
        elif not state.keeps:
            assert left == 9
        else:  # what is unknown may have been counted; nothing was sent twice
            unknown = sum(issubclass(type(e.error), ar.OutcomeUnknown) for e in outage)
            assert 8 - 4 * unknown - 1 <= left <= 8


FORMS: dict[str, tuple[dict[str, Any], Callable[[ar.RateLimiter], Awaitable[object]]]] = {
    "reserve": ({}, lambda limiter: limiter.reserve("k", max_wait=0)),
    "reserve later": ({}, lambda limiter: limiter.reserve("k", 2, max_wait=600)),
    "acquire": ({}, lambda limiter: limiter.acquire("k", timeout=0)),
    "acquire in time": ({}, lambda limiter: limiter.acquire("k", timeout=5)),
    "acquire_all": ({}, lambda limiter: ar.acquire_all((limiter, "k"))),
    "as a policy": ({"key": lambda: "k"}, lambda limiter: limiter.call(works)),
    "leased": ({"lease": 2, "lease_time": 0.001}, lambda limiter: limiter.try_acquire("k")),
    "with a deny cache": ({"deny_cache": True}, lambda limiter: limiter.try_acquire("k")),
}


async def works() -> str:
    """What is limited."""
    return "done"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("state", [BY_NAME["SIGSTOP"], BY_NAME["OOM"]], ids=lambda state: state.name)
@policy_of_the_limiter
async def test_every_form_of_asking(
    troubled_server: RedisServer, state: State, policy: str, form: str
) -> None:
    """However it is asked, a limiter without its store answers what the policy says, within one deadline."""
    options, ask = FORMS[form]
    async with limiters(troubled_server, state, policy, **options) as (limiter, seen, backend):
        async with begun(state, troubled_server, backend):
            answers = await asyncio.gather(*(told(ask(limiter)) for _ in range(4)))
            if form == "reserve later" and policy == "local":  # 3 here: one at once, two later
                assert answers[0] == "yes"
            else:
                assert expected(state, policy, answers)
            kinds = [type(e.error) for e in seen.of(ar.StoreDegraded)]
            assert len(kinds) == len(set(kinds)) > 0
        assert not (await recovered(limiter)).degraded


@state_of_the_server
async def test_peek_and_giving_back_raise_whatever_the_policy(
    troubled_server: RedisServer, state: State
) -> None:
    """`peek`, `cancel` and `settle` have no other answer than the store's: they raise, within the deadline;
    where only writes are refused, what needs none is answered."""
    reads_on = {"OOM", "READONLY", "MISCONF", "NOREPLICAS"}
    async with limiters(troubled_server, state, "local") as (limiter, seen, backend):
        held, other = await limiter.reserve("k"), await limiter.reserve("k")
        async with begun(state, troubled_server, backend):
            peeked, cancelled, settled = await asyncio.gather(
                told(limiter.peek("k")), told(held.cancel()), told(other.settle(3))
            )
            if not state.errors:
                assert (peeked, cancelled, settled) == ("yes", "no", "no")  # None is what they return
            else:
                assert isinstance(settled, type)
                assert issubclass(settled, state.errors)
                assert isinstance(cancelled, type)
                if state.name not in reads_on:
                    assert peeked in state.errors
            if state.name in reads_on:
                assert (await limiter.peek("k")).remaining == 7
            assert not seen.of(ar.StoreDegraded)
        await recovered(limiter)


@pytest.mark.parametrize("name", ["OOM", "READONLY", "MISCONF", "NOREPLICAS"])
async def test_where_only_writes_are_refused_refusals_go_on(
    troubled_server: RedisServer, name: str
) -> None:
    """What the limit refuses is not written, so it is refused as ever, not by the policy."""
    state = BY_NAME[name]
    async with limiters(troubled_server, state, "allow") as (limiter, seen, backend):
        assert await limiter.try_acquire("k", 9)
        async with begun(state, troubled_server, backend):
            decision = await limiter.try_acquire("k")
            assert (decision.allowed, decision.degraded) == (False, False)
            assert not seen.of(ar.StoreDegraded)


@pytest.mark.parametrize("name", ["WRONGTYPE", "garbage"])
async def test_a_corrupt_key_harms_no_other(troubled_server: RedisServer, name: str) -> None:
    """One key of a turn is corrupt: who asks for it hears the policy, the others of the same call the store."""
    state = BY_NAME[name]
    async with limiters(troubled_server, state, "refuse") as (limiter, _, backend):  # noqa: SIM117
        async with begun(state, troubled_server, backend):
            good, bad, later = await asyncio.gather(
                limiter.try_acquire("good"), limiter.try_acquire("k"), limiter.try_acquire("later", 2)
            )
            assert (good.allowed, good.degraded) == (True, False)
            assert (bad.allowed, bad.degraded) == (False, True)
            assert (later.remaining, later.degraded) == (8, False)


async def test_all_of_a_turn_have_an_error_of_their_own(troubled_server: RedisServer) -> None:
    """Twenty who ask the same in one turn share the question, not the error: each may add to it."""
    async with limiters(troubled_server, BY_NAME["OOM"], "raise") as (limiter, _, backend):
        async with begun(BY_NAME["OOM"], troubled_server, backend):
            asked = [limiter.try_acquire("k") for _ in range(20)]
            errors = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in errors} == {ar.Refused}
        assert len({id(error) for error in errors}) == 20


async def test_a_block_lasts_through_an_outage(troubled_server: RedisServer) -> None:
    """Leased tokens need no store: the answers go on, untold, until the block is used up."""
    state = BY_NAME["SIGSTOP"]
    async with (
        limiters(troubled_server, state, "refuse", lease=5, lease_time=60) as (
            limiter,
            seen,
            backend,
        ),
        begun(state, troubled_server, backend),
    ):
        assert [bool(await limiter.try_acquire("k")) for _ in range(4)] == [True] * 4
        assert not seen.of(ar.StoreDegraded)
        assert not await limiter.try_acquire("k")
        assert seen.of(ar.StoreDegraded)


async def test_who_waits_for_a_block_waits_for_one_deadline(troubled_server: RedisServer) -> None:
    """Many ask while one takes a block, and the server is silent: all hear of it at that one's deadline."""
    async with ar.connect(app_url(troubled_server), deadline=0.5) as backend:
        limiter = ar.RateLimiter("100/h", name="x", lease=10, on_store_error="raise", backend=backend)
        await limiter.peek("k")
        async with begun(BY_NAME["SIGSTOP"], troubled_server, backend):
            loop = asyncio.get_running_loop()
            started = loop.time()
            asked = [limiter.try_acquire("k") for _ in range(20)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert loop.time() - started < 0.95
            assert {type(answer) for answer in answers} == {ar.OutcomeUnknown}
            assert len({id(answer) for answer in answers}) == 20


async def test_remembered_refusals_last_through_an_outage(troubled_server: RedisServer) -> None:
    """What the deny cache knows needs no store; what the policy refuses is not remembered."""
    state = BY_NAME["SIGSTOP"]
    async with limiters(troubled_server, state, "refuse", deny_cache=True) as (limiter, seen, backend):
        assert not await limiter.try_acquire("full", 10) or not await limiter.try_acquire("full")
        async with begun(state, troubled_server, backend):
            refused = await limiter.try_acquire("full")
            assert (refused.allowed, refused.degraded) == (False, False)
            assert not seen.of(ar.StoreDegraded)
            assert (await limiter.try_acquire("k")).degraded
        assert await recovered(limiter)


async def test_all_of_several_ask_each_policy_and_tell_once(troubled_server: RedisServer) -> None:
    """`acquire_all` without its store: each limiter answers by its own policy and tells once in an outage, not
    for every call; if one refuses, what others counted here comes back."""
    state = BY_NAME["OOM"]
    async with ar.connect(app_url(troubled_server), deadline=DEADLINE) as backend:
        local, second, refusing = (
            ar.RateLimiter("10/h", name=name, on_store_error=policy, backend=backend)
            for name, policy in (("a", "local"), ("b", "allow"), ("c", "refuse"))
        )
        seen = Recorder()
        for limiter in (local, second, refusing):
            limiter.listen(seen)
        async with begun(state, troubled_server, backend):
            for _ in range(5):
                decisions = await ar.acquire_all((local, "k"), (local, "l"), (second, "k"))
                assert [d.degraded for d in decisions] == [True] * 3
            assert [(e.policy, e.answer) for e in seen.of(ar.StoreDegraded)] == [
                ("a", "local"),
                ("b", "allow"),
            ]
            for _ in range(5):
                with pytest.raises(ar.RateLimited) as caught:
                    await ar.acquire_all((local, "k"), (refusing, "k"))
                assert caught.value.limiter is refusing
            assert len(seen.of(ar.StoreDegraded)) == 3
            assert (await local.try_acquire("k")).remaining == 4  # five of the first, one of now


async def test_who_waits_here_waits_his_turn(troubled_server: RedisServer) -> None:
    """`acquire` with "local": the share of the limit, first come, first served, in this process."""
    state = BY_NAME["OOM"]
    async with ar.connect(app_url(troubled_server), deadline=DEADLINE) as backend:
        limiter = ar.RateLimiter("100/s", burst=1, name="x", local_share=0.5, backend=backend)
        async with begun(state, troubled_server, backend):
            loop = asyncio.get_running_loop()
            began, order = loop.time(), []

            async def one(number: int) -> None:
                await limiter.acquire("k", timeout=5)
                order.append(number)

            await asyncio.gather(*map(one, range(6)))
            assert order == sorted(order)
            assert loop.time() - began >= 5 / 50


def test_the_table_in_the_docstring_is_what_is_tested() -> None:
    """Each state is in a row of the docstring's table, with the kinds of errors that its tests expect."""
    doc = aresilience.limiter.__doc__ or ""
    rows = [line for line in doc.splitlines() if line.startswith("|")]
    for state in STATES:
        word = "evict" if state.name.startswith(("allkeys", "volatile")) else state.name.split("-in-")[0]
        (row,) = [row for row in rows if re.search(rf"\b{word}", row)]
        assert {e.__name__ for e in state.errors} == set(
            re.findall(r"NotSent|OutcomeUnknown|Refused|ConfigurationError|CorruptState", row)
        ), state.name
