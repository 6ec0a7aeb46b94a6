"""Looking for the refusal in what an application raised."""

from __future__ import annotations

from aresilience.errors import AresilienceError

__all__ = ["refusal_in"]


def refusal_in(error: BaseException, kinds: tuple[type[AresilienceError], ...]) -> AresilienceError | None:
    """The error, if it is of those kinds; of a group of such errors, the one that asks for the longest wait.

    A group with any other error in it is that error's business, not a refusal: None.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, kinds) else None
    longest: AresilienceError | None = None
    for each in error.exceptions:
        found = refusal_in(each, kinds)
        if found is None:
            return None
        if longest is None or _wait(found) > _wait(longest):
            longest = found
    return longest


def _wait(error: AresilienceError) -> float:
    wait = getattr(error, "retry_after", None)
    return wait if isinstance(wait, int | float) else 0.0
