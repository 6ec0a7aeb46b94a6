"""The recorder remembers events in order, by kind, until it is cleared."""

from __future__ import annotations

import aresilience as ar
from aresilience.testing import Recorder

REFUSED = ar.CallRejected("full", 0.0, None)
TIMED_OUT = ar.TimeoutExpired("limit", 1.0, 1.0)


def test_it_remembers_in_order() -> None:
    """Events are kept as they were told, and found by their kind."""
    recorder = Recorder()
    for event in (REFUSED, TIMED_OUT, REFUSED):
        recorder(event)
    assert recorder.events == [REFUSED, TIMED_OUT, REFUSED]
    assert recorder.of(ar.CallRejected) == [REFUSED, REFUSED]
    assert recorder.of(ar.Event) == recorder.events
    assert recorder.of(ar.FallbackUsed) == []
    assert repr(recorder) == "<Recorder of 3 events>"


def test_it_can_be_cleared() -> None:
    """After `clear` it has seen nothing, and goes on recording."""
    recorder = Recorder()
    recorder(REFUSED)
    recorder.clear()
    recorder(TIMED_OUT)
    assert recorder.events == [TIMED_OUT]


async def test_it_is_a_listener() -> None:
    """It can be given to a policy when that is made, or later."""
    first, later = Recorder(), Recorder()
    bulkhead = ar.Bulkhead(1, name="full", listeners=[first])
    bulkhead.listen(later)
    fallback = ar.Fallback("instead")
    async with bulkhead:
        assert await ar.Pipeline(fallback, bulkhead).call(bulkhead.__aenter__) == "instead"
    assert first.events == later.events == [REFUSED]
