"""Going on with a saga that was claimed, or parking it where nobody should guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aresilience.codecs import unpack
from aresilience.errors import BackendError, CorruptState
from aresilience.saga.conductor import Conductor
from aresilience.saga.facts import SagaTakenOver
from aresilience.saga.record import Did, Entry, SagaState
from aresilience.saga.store import Claim, Write

if TYPE_CHECKING:
    from aresilience.saga.running import Running

__all__ = ["take"]


def take(saga: Running, claim: Claim) -> Conductor | None:
    """Go on with what was claimed; or park it, if that cannot be."""
    found = claim.found
    saga.tell(lambda at: SagaTakenOver(saga.name, at, found.recoveries))
    definition = saga.definition_of(found.head)
    why = ""
    input = None
    if definition is None:
        plans = sorted((each.plan for each in saga.definitions()), key=lambda plan: plan.version)
        known = ", ".join(f"{plan.version} ({plan.fingerprint})" for plan in plans)
        why = (
            f"it was begun with version {found.head.version} ({found.head.fingerprint}) of the definition; "
            f"known here: {known}. Register that one, Saga(…, older=[…]), and resume it"
        )
    elif found.recoveries > saga.max_recoveries:
        why = f"it was taken over {found.recoveries} times without getting any further"
    else:
        try:
            definition.check()
            if found.head.input:  # or it was undone before it began
                input = unpack(definition.input_codec(), found.head.input)
        except (CorruptState, TypeError, ValueError) as error:
            why = f"its input cannot be read: {error}"
    if definition is None or why:
        saga.store.keeper.aside(_park(saga, claim, why))
        return None
    run = Conductor(saga, definition, saga.store, input, claim)
    run.course.take_over()
    saga.conduct(run)
    return run


async def _park(saga: Running, claim: Claim, why: str) -> None:
    entry = Entry(Did.PARK, "", claim.fence, why.encode("utf-8", "replace"))
    write = Write(claim.found.head.id, claim.fence, [entry], SagaState.PARKED, 0)
    try:
        await saga.store.append(write)
    except BackendError as error:
        saga.tell_degraded(error)  # its lease ends, and it is claimed again
        return
    saga.tell_change(claim.found.state, SagaState.PARKED)
