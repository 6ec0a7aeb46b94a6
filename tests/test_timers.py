"""Many deadlines of one length for one timer: they expire on time, in order, unless they were stopped."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aresilience.testing import VirtualLoop, run_virtual
from aresilience.timers import EqualTimers

EPSILON = 1e-6


@pytest.mark.parametrize(
    ("starts", "stops", "expired"),
    [
        ({"a": 0.0}, {}, [("a", 2.0)]),
        ({"a": 0.0, "b": 0.0, "c": 1.5}, {}, [("a", 2.0), ("b", 2.0), ("c", 3.5)]),
        ({"a": 0.0, "b": 1.0}, {"a": 2.0 - EPSILON}, [("b", 3.0)]),
        ({"a": 0.0, "b": 1.0}, {"a": 2.0 + EPSILON}, [("a", 2.0), ("b", 3.0)]),
        ({"a": 0.0, "b": 1.0, "c": 1.0}, {"b": 1.5}, [("a", 2.0), ("c", 3.0)]),
        ({"a": 0.0, "b": 5.0}, {"a": 0.5}, [("b", 7.0)]),
        ({"a": 0.0, "b": 2.0}, {}, [("a", 2.0), ("b", 4.0)]),
    ],
)
async def test_each_ends_on_time_unless_stopped(
    starts: dict[str, float], stops: dict[str, float], expired: list[tuple[str, float]]
) -> None:
    """Timers of two seconds: started and stopped at these times, expired at those."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, float]] = []
    timers: EqualTimers[str, str] = EqualTimers(loop, 2.0, lambda _, item: seen.append((item, loop.time())))
    for key, when in starts.items():
        loop.call_at(when, timers.start, key, key)
    for key, when in stops.items():
        loop.call_at(when, timers.stop, key)
    await asyncio.sleep(100.0)
    assert seen == expired


STEPS = st.sampled_from([0.0, 1.0, 2.0 - EPSILON, 2.0, 2.0 + EPSILON, 5.0])
OPERATIONS = st.lists(
    st.tuples(st.just("start"), STEPS)
    | st.tuples(st.just("stop"), st.integers(0, 8))
    | st.tuples(st.just("wait"), STEPS),
    max_size=30,
)


class LiveTimers(VirtualLoop):
    """Knows how many timers it has been given and not yet run."""

    live = 0

    def call_at(
        self, when: float, callback: object, *args: object, **kwargs: object
    ) -> asyncio.TimerHandle:
        """As ever; one more until it runs."""
        if getattr(callback, "__self__", None).__class__ is not EqualTimers:
            return super().call_at(when, callback, *args, **kwargs)  # type: ignore[arg-type]
        self.live += 1

        def run() -> None:
            self.live -= 1
            callback()  # type: ignore[operator]

        return super().call_at(when, run)


@given(OPERATIONS)
@settings(max_examples=50, deadline=None)
def test_any_history_is_that_of_a_list_of_deadlines(history: list[tuple[str, float]]) -> None:
    """Against a model that looks through all deadlines each time: same expiries, same answers, one timer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LiveTimers)
        expired: list[tuple[int, float]] = []
        timers: EqualTimers[int, int] = EqualTimers(
            loop, 2.0, lambda _, item: expired.append((item, loop.time()))
        )
        running: dict[int, float] = {}
        expected: list[tuple[int, float]] = []
        keys = 0
        for verb, number in history:
            if verb == "start":
                timers.start(keys, keys)
                running[keys] = loop.time() + 2.0
                keys += 1
            elif verb == "stop":
                assert timers.stop(int(number)) == (running.pop(int(number), None) is not None)
            else:
                await asyncio.sleep(number)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                due = sorted((when, key) for key, when in running.items() if when <= loop.time())
                expected += [(key, when) for when, key in due]
                for _, key in due:
                    del running[key]
            assert expired == expected
            assert loop.live <= 1
            assert (loop.live == 1) or not running

    with asyncio.Runner(loop_factory=LiveTimers) as runner:
        runner.run(main())


def test_an_expiry_may_start_and_stop_timers() -> None:
    """What is called at an expiry may start the next timer, or stop one that is still running."""

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        def expire(key: str, item: str) -> None:
            seen.append((item, loop.time()))
            if item == "a":
                timers.start("next", "next")
                timers.stop("b")

        timers: EqualTimers[str, str] = EqualTimers(loop, 1.0, expire)
        timers.start("a", "a")
        loop.call_at(0.5, timers.start, "b", "b")
        await asyncio.sleep(10.0)
        return seen

    assert run_virtual(main()) == [("a", 1.0), ("next", 2.0)]
