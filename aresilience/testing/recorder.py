"""A listener that remembers."""

from __future__ import annotations

from typing import TypeVar

from aresilience.events import Event

__all__ = ["Recorder"]

E = TypeVar("E", bound=Event)


class Recorder:
    """`policy.listen(recorder)`, then look at `recorder.events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget everything."""
        self.events.clear()

    def __repr__(self) -> str:
        return f"<Recorder of {len(self.events)} events>"
