"""Any graph, run: what is parallel runs in parallel, what waits waits, and all is undone in reverse."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.testing import run_virtual

LOST = "its process dies"


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[list[int], int, Any]]:
    """For each step: what it waits for, how long it takes, and how it ends."""
    steps = []
    for i in range(draw(st.integers(1, 7))):
        after = draw(st.lists(st.integers(0, i - 1), unique=True)) if i else []
        ends = draw(st.sampled_from([None] * 6 + [ar.Fail, OSError, LOST]))
        steps.append((after, draw(st.integers(0, 5)), ends))
    return steps


class History:
    """One run of a graph, by as many processes as it takes."""

    def __init__(self, graph: list[tuple[list[int], int, Any]], abort_at: float) -> None:
        self.graph = graph
        self.abort_at = abort_at
        self.log: list[tuple[float, str, int]] = []
        self.lost: set[int] = set()

    def note(self, what: str, step: int) -> None:
        """With the time."""
        self.log.append((asyncio.get_running_loop().time(), what, step))

    def declared(self, backend: ar.Backend) -> ar.Saga:
        """The saga of this graph."""
        saga = ar.Saga("graph", backend=backend)
        for i, (after, takes, ends) in enumerate(self.graph):

            @saga.step(name=str(i), after=[str(other) for other in after], attempts=1)
            async def act(
                ctx: ar.SagaContext[None], i: int = i, takes: int = takes, ends: Any = ends
            ) -> int:
                for other in self.graph[i][0]:
                    assert ctx.result(saga.steps[str(other)]) == other
                self.note("begins", i)
                await asyncio.sleep(takes)
                if ends is LOST and i not in self.lost:
                    self.lost.add(i)
                    saga.running["it"].stop()
                    await asyncio.sleep(60)
                if ends in (ar.Fail, OSError):
                    raise ends
                self.note("ends", i)
                return i

            @act.compensate
            async def undo(ctx: ar.SagaContext[None], result: int | None, i: int = i) -> None:
                assert result == (None if ctx.outcome_unknown else i)
                await asyncio.sleep(1)
                self.note("undone", i)

        return saga

    async def run(self) -> bool:
        """True if it was done, False if undone."""
        async with ar.connect() as backend:
            saga = self.declared(backend)
            handle = await saga.start(None, id="it")
            aborting = asyncio.create_task(self.abort(saga))
            while True:
                try:
                    await handle.result()
                    return True
                except ar.SagaFailed:
                    return False
                except ar.SagaInterrupted:
                    saga = self.declared(backend)
                    handle = saga.attach("it")
                finally:
                    if not saga.running:
                        aborting.cancel()

    async def abort(self, saga: ar.Saga) -> None:
        """At its time, if it is still there."""
        await asyncio.sleep(self.abort_at)
        await saga.abort("it", "enough")

    def times(self, what: str) -> dict[int, float]:
        """When each step did this, the last time."""
        return {step: at for at, did, step in self.log if did == what}


@settings(max_examples=250, deadline=None)
@given(graph=graphs(), abort_at=st.sampled_from([3.5, 8.5, 1e6, 1e6]), seed=st.integers(0, 99))
def test_any_graph(graph: list[tuple[list[int], int, Any]], abort_at: float, seed: int) -> None:
    """Whatever its steps do, whoever dies, whenever it is aborted."""
    history = History(graph, abort_at)
    done = run_virtual(history.run(), seed=seed)
    begins, ends, undone = (history.times(what) for what in ("begins", "ends", "undone"))
    for step, (after, _, _) in enumerate(graph):
        for other in after:
            assert step not in begins or ends[other] <= begins[step], "it waits for what it needs"
    fails = [step for step, (_, _, how) in enumerate(graph) if how in (ar.Fail, OSError)]
    if done:
        assert set(ends) == set(range(len(graph)))
        assert undone == {}
        assert fails == []
    else:
        assert fails or abort_at < 1e6
        assert set(ends) <= set(undone), "all that was done is undone"
        if not history.lost:  # else it may have been cut before it said so
            assert not any(graph[step][2] is ar.Fail for step in undone), "what said that it failed is not"
        by_end = sorted(ends, key=lambda step: ends[step])
        for i, first in enumerate(by_end):
            for second in by_end[i + 1 :]:
                assert ends[first] == ends[second] or undone[first] > undone[second], "in reverse"
        if undone and begins:
            assert min(undone.values()) > max(ends.values(), default=0), "first the siblings settle"
    if done and not history.lost:
        length: dict[int, int] = {}
        for step, (after, takes, _) in enumerate(graph):
            length[step] = takes + max((length[other] for other in after), default=0)
        assert max(ends.values()) == max(length.values()), "as long as its longest way"
