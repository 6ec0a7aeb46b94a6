"""The machine that decides: what is to be done next, given what the journal says. It is told everything.

               all steps done
    RUNNING ───────────────────────────────▶ DONE
       │  │
       │  │ a step said Fail; or is unknown and is to be compensated; abort or deadline before the pivot
       │  └──────────▶ COMPENSATING ──(all undone)──▶ COMPENSATED
       │                 ▲      │ a compensation could not be done
       │          resume,│      ▼
       │      retry, skip└─── STUCK
       │ unknown and not to be undone, poison, another version
       └──▶ PARKED ──(resume, retry, skip)──▶ RUNNING        any but an end ──(force)──▶ FORCED

    a step:  PENDING ▶ STARTED ▶ DONE | FAILED | UNKNOWN
             DONE, UNKNOWN, STARTED ▶ UNDOING ▶ UNDONE | STUCK

An attempt is started, on paper, before it is made; so what is STARTED when another worker takes over may
have happened or not: going forward it is made again, under the same key, and going back it is undone.
Compensation is in reverse of completion, what is unknown first, one at a time, when nothing runs any more.
The pivot counts as passed as soon as it is STARTED, unless it fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aresilience.saga.plan import Kind, Plan
from aresilience.saga.record import Did, Entry, SagaState, StepState

__all__ = ["Course", "Move", "Progress"]


@dataclass(slots=True)
class Progress:
    """Where one step is. The attempts of the action and of the compensation are counted apart."""

    state: StepState = StepState.PENDING
    tries: int = 0
    """Attempts of the action so far,"""
    forgiven: int = 0
    """and how many of these do not count any more, since a person said: again."""
    undo_tries: int = 0
    undo_forgiven: int = 0
    result: bytes | None = None
    error: str = ""
    order: int = 0
    """Its place among what was completed."""
    given: bool = False
    """A person gave the result: it is as good as done, also if the result is None."""


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be done: nothing (wait for what runs), or one of these."""

    start: tuple[str, ...] = ()
    undo: str | None = None
    turn: str | None = None
    """Go back from here; the step that is the cause, or "" for an abort or the deadline."""
    park: str | None = None
    """The step of which nobody knows whether it happened."""
    finish: SagaState | None = None


_WAIT = Move()


class Course:
    """The state of one saga, replayed from its journal, entry by entry. Each costs the same however many
    steps there are."""

    __slots__ = (
        "_again",
        "_count",
        "_failed",
        "_left",
        "_missing",
        "_plan",
        "_ready",
        "_stack",
        "_todo",
        "_turned_for",
        "_unknown",
        "abort",
        "by_hand",
        "cause",
        "cause_step",
        "state",
        "steps",
        "turned",
    )

    def __init__(self, plan: Plan, entries: Iterable[Entry] = ()) -> None:
        self._plan = plan
        self.steps: dict[str, Progress] = {}
        self.state = SagaState.RUNNING
        self.turned = False
        self.cause = ""
        """Why it is undone, or waits for a person, in words,"""
        self.cause_step = ""
        """and at which step."""
        self.abort: str | None = None
        self.by_hand = False
        """A person said that it is to go on: its deadline does not count any more."""
        self._again: set[str] = set()  # a person said so, and it has not ended yet
        self._count = 0
        self._failed: list[str] = []
        self._unknown: list[str] = []
        self._missing: dict[str, int] = {}
        self._left = len(plan.compensable)
        self._todo = len(plan.steps)
        self._stack: list[str] = []
        self._turned_for = ("", "")
        self._ready: dict[str, None] = dict.fromkeys(s for s in plan.compensable if not plan.steps[s].after)
        if not plan.compensable:
            self._pass_compensable()
        for entry in entries:
            self.apply(entry)

    def progress(self, step: str) -> Progress:
        """Where a step is."""
        found = self.steps.get(step)
        if found is None:
            found = self.steps[step] = Progress()
        return found

    @property
    def past_pivot(self) -> bool:
        """Whether there is no way back: the pivot may have happened, or all that comes before did."""
        pivot = self._plan.pivot
        if pivot is None:
            return self._left == 0 and bool(self._plan.retriable) and not self.turned
        if pivot not in self.steps:
            return False
        state = self.steps[pivot].state
        return state in _BEGUN or (state is StepState.UNKNOWN and not self._plan.steps[pivot].undoable)

    def take_over(self) -> None:
        """Nothing runs: what was started and has not ended is to be made again."""
        if not self.turned:
            for step, progress in self.steps.items():
                if progress.state is StepState.STARTED:
                    self._ready[step] = None

    def next(self, running: int, *, late: bool = False) -> Move:
        """What to do while so many steps run; `late`: the deadline of the forward part has passed."""
        if self.turned:
            return self._next_back(running)
        if self._todo == 0 and self.abort is None:
            return Move(finish=SagaState.DONE)
        leave = ((late and not self.by_hand) or self.abort is not None) and not self.past_pivot
        if self._failed or self._unknown or leave:
            if self._again and not (self._failed or leave):
                return Move(start=tuple(step for step in self._ready if step in self._again))
            if running:
                return _WAIT  # first let the siblings settle
            decided = self._failed or (leave and self.abort is not None)
            unsure = () if decided else (*self._unknown, *self._ready)
            parked = next((s for s in unsure if self._parks(s)), None)
            return Move(park=parked) if parked else Move(turn=next(iter(self._failed or self._unknown), ""))
        if self._ready:
            return Move(start=tuple(self._ready))
        if self._todo == 0:
            return Move(finish=SagaState.DONE)
        return _WAIT

    def winding_down(self) -> bool:
        """Whether no attempt should be made again: some step failed, or it was aborted."""
        unknown = self._unknown and not self._again
        return bool(self._failed or unknown or self.abort is not None) and not self.past_pivot

    def remaining(self) -> tuple[str, ...]:
        """What is still to be undone, in order."""
        return tuple(reversed(self._stack))

    def _next_back(self, running: int) -> Move:
        if running:
            return _WAIT
        if not self._stack:
            return Move(finish=SagaState.COMPENSATED)
        return Move(undo=self._stack[-1])

    def _parks(self, step: str) -> bool:
        unsure = step in self.steps and self.steps[step].state in _UNSURE
        return unsure and self._plan.steps[step].parks

    def _pivot_done(self) -> bool:
        pivot = self._plan.pivot
        return pivot is None or (pivot in self.steps and self.steps[pivot].state in _SETTLED)

    def apply(self, entry: Entry) -> None:
        """One more fact."""
        _APPLY[entry.did](self, entry)

    def _start(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.STARTED
        progress.tries = max(progress.tries, entry.number)
        progress.order = self._next_order()
        if entry.payload:
            progress.error = entry.text
        self._ready.pop(entry.step, None)
        if entry.step in self._unknown:
            self._unknown.remove(entry.step)

    def _drop(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.PENDING
        self._ready[entry.step] = None

    def _done(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.DONE
        progress.result = entry.payload
        progress.order = self._next_order()
        self._again.discard(entry.step)
        self._settle(entry.step)

    def _end_badly(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.FAILED if entry.did is Did.FAILED else StepState.UNKNOWN
        progress.error = entry.text
        progress.order = self._next_order()
        self._again.discard(entry.step)
        (self._failed if entry.did is Did.FAILED else self._unknown).append(entry.step)

    def _abort(self, entry: Entry) -> None:
        if self.abort is None:
            self.abort = entry.text

    def _turn(self, entry: Entry) -> None:
        self.turned = True
        self.state = SagaState.COMPENSATING
        self.cause, self.cause_step = entry.text, entry.step
        back = [
            (progress.order, step)
            for step, progress in self.steps.items()
            if progress.state in _MAY_HAVE_HAPPENED and self._plan.steps[step].undoable
        ]
        unsure = [(order, step) for order, step in back if self.steps[step].state not in _SETTLED]
        sure = [(order, step) for order, step in back if self.steps[step].state in _SETTLED]
        self._stack = [step for _, step in (*sorted(sure), *sorted(unsure))]

    def _undo(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.UNDOING
        progress.undo_tries = max(progress.undo_tries, entry.number)
        if entry.payload:
            progress.error = entry.text

    def _undone(self, entry: Entry) -> None:
        self.progress(entry.step).state = StepState.UNDONE
        self._off_the_stack(entry.step)

    def _stuck(self, entry: Entry) -> None:
        progress = self.progress(entry.step)
        progress.state = StepState.STUCK
        progress.error = entry.text
        self.state = SagaState.STUCK

    def _park(self, entry: Entry) -> None:
        self.state = SagaState.PARKED
        self._turned_for = self.cause, self.cause_step
        self.cause, self.cause_step = entry.text, entry.step

    def _go_on(self) -> None:
        """A person said so."""
        self.by_hand = True
        if self.state is SagaState.PARKED:
            self.cause, self.cause_step = self._turned_for
        self.state = SagaState.COMPENSATING if self.turned else SagaState.RUNNING

    def _end(self, entry: Entry) -> None:
        self.state = SagaState(entry.text.partition(" ")[0])
        if self.state is SagaState.FORCED:
            self.cause = entry.text.partition(" ")[2]

    def _recover(self, entry: Entry) -> None:
        pass  # for people

    def _retry(self, entry: Entry) -> None:
        """Again, by hand: one step, or ("") all that it waits for."""
        self._go_on()
        for step in [entry.step] if entry.step else [*self._unknown, *self._stack[-1:]]:
            progress = self.progress(step)
            if self.turned:
                progress.undo_forgiven = progress.undo_tries
            else:
                progress.forgiven = progress.tries
                progress.state = StepState.STARTED
                self._ready[step] = None
                self._again.add(step)
                if step in self._unknown:
                    self._unknown.remove(step)

    def _skip(self, entry: Entry) -> None:
        self._go_on()
        progress = self.progress(entry.step)
        progress.state = StepState.SKIPPED
        if self.turned:
            self._off_the_stack(entry.step)
            return
        progress.result = entry.payload or None
        progress.given = True
        progress.order = self._next_order()
        self._ready.pop(entry.step, None)
        self._again.discard(entry.step)
        if entry.step in self._unknown:
            self._unknown.remove(entry.step)
        self._settle(entry.step)

    def _off_the_stack(self, step: str) -> None:
        if self._stack and self._stack[-1] == step:
            self._stack.pop()
        elif step in self._stack:
            self._stack.remove(step)

    def _next_order(self) -> int:
        self._count += 1
        return self._count

    def _settle(self, step: str) -> None:
        """It is done: who waited for it may start."""
        plan = self._plan
        kind = plan.steps[step].kind
        self._todo -= 1
        if kind is Kind.COMPENSABLE:
            self._left -= 1
            if self._left == 0:
                self._pass_compensable()
        elif kind is Kind.PIVOT:
            self._open_gate()
        for other in plan.dependents[step]:
            missing = self._missing.get(other, len(plan.steps[other].after)) - 1
            self._missing[other] = missing
            if missing == 0:
                del self._missing[other]
                if plan.steps[other].kind is not Kind.RETRIABLE or self._gate_open():
                    self._ready[other] = None

    def _pass_compensable(self) -> None:
        if self._plan.pivot is not None:
            self._ready[self._plan.pivot] = None
        else:
            self._open_gate()

    def _gate_open(self) -> bool:
        return self._left == 0 and self._pivot_done()

    def _open_gate(self) -> None:
        for step in self._plan.retriable:
            after = self._plan.steps[step].after
            if all(s in self.steps and self.steps[s].state in _SETTLED for s in after):
                self._ready[step] = None


_UNSURE = frozenset({StepState.STARTED, StepState.UNKNOWN})
_SETTLED = frozenset({StepState.DONE, StepState.SKIPPED})
_BEGUN = frozenset({StepState.STARTED, StepState.DONE, StepState.SKIPPED})
_MAY_HAVE_HAPPENED = _SETTLED | {StepState.UNKNOWN, StepState.STARTED}

_APPLY = {
    Did.START: Course._start,
    Did.DROP: Course._drop,
    Did.DONE: Course._done,
    Did.FAILED: Course._end_badly,
    Did.UNKNOWN: Course._end_badly,
    Did.ABORT: Course._abort,
    Did.TURN: Course._turn,
    Did.UNDO: Course._undo,
    Did.UNDONE: Course._undone,
    Did.STUCK: Course._stuck,
    Did.PARK: Course._park,
    Did.END: Course._end,
    Did.RECOVER: Course._recover,
    Did.RETRY: Course._retry,
    Did.SKIP: Course._skip,
}
