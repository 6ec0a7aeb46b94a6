"""What a call amounted to, in three values, and which errors count as what.

Two values are too few: with only success and failure, a rate limiter's refusal below a half-open
breaker would either close the circuit or keep it open, and it is evidence for neither.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias

from aresilience import arguments

__all__ = ["ErrorMatcher", "ErrorSpec", "Outcome", "is_neutral"]


class Outcome(enum.Enum):
    """How a call counts."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """The call says nothing about what was called: cancelled, refused on the way, or excluded."""


_ALLOWED = "must be exception types or predicates, or a tuple of them"

_Part: TypeAlias = type[Exception] | Callable[[Exception], bool]
ErrorSpec: TypeAlias = _Part | tuple[_Part, ...]
"""Exception types and predicates: one, or a tuple of them, any of which may match."""


class ErrorMatcher:
    """Answers whether an error is meant by an `ErrorSpec`.

    - Only `Exception`s are ever asked about: cancellation, `KeyboardInterrupt`, `SystemExit` and
      `GeneratorExit` are decided before a matcher is reached, whatever the user wrote.
    - An error that is neutral (`AresilienceError.outcome` is `IGNORED`: a refusal, say) matches
      only where the specification names its type, or another neutral one above it: neither
      `Exception` nor a predicate covers it.
      With `neutral=True` it is an error like any other.
    - An `ExceptionGroup` matches if `"any"` or `"all"` of its leaves do, as `groups` says, or if
      the specification names a group type that it is.
    """

    __slots__ = ("_every", "_groups", "_named", "_neutral", "_predicates", "types")

    def __init__(self, where: str, spec: ErrorSpec, *, groups: str = "all", neutral: bool = False) -> None:
        parts = spec if isinstance(spec, tuple) else (spec,)
        types: list[type[Exception]] = []
        predicates: list[Callable[[Exception], bool]] = []
        for part in parts:
            if isinstance(part, type):
                types.append(_error_type(where, part))
            else:
                predicates.append(_predicate(where, part))
        if groups not in ("any", "all"):
            raise ValueError(f"{where}: groups must be 'any' or 'all', got {groups!r}")
        self.types = tuple(types)
        self._named = tuple(t for t in types if getattr(t, "outcome", None) is Outcome.IGNORED)
        self._groups = tuple(t for t in types if issubclass(t, ExceptionGroup))
        self._predicates = tuple(predicates)
        self._every = groups == "all"
        self._neutral = neutral

    def __call__(self, error: Exception) -> bool:
        if isinstance(error, ExceptionGroup) and not isinstance(error, self._groups):
            verdicts = (self(leaf) for leaf in error.exceptions)
            return all(verdicts) if self._every else any(verdicts)
        if not self._neutral and is_neutral(error):
            return isinstance(error, self._named)
        return isinstance(error, self.types) or any(p(error) for p in self._predicates)

    def names(self, error: type[Exception]) -> bool:
        """Whether every error of this (neutral) type would match."""
        return issubclass(error, self._named)


def is_neutral(error: Exception) -> bool:
    """Whether the error says of itself that it counts nowhere; a group, if all its leaves do."""
    if isinstance(error, ExceptionGroup):
        return all(is_neutral(leaf) for leaf in error.exceptions)
    return getattr(error, "outcome", None) is Outcome.IGNORED


def _error_type(where: str, part: type) -> type[Exception]:
    if issubclass(part, Exception):
        return part
    if issubclass(part, BaseException):
        raise ValueError(
            f"{where} must name subclasses of Exception, got {part.__name__}: cancellation and "
            "interpreter exits are never handled; write Exception to mean every error"
        )
    raise TypeError(f"{where} {_ALLOWED}, got the class {part!r}")


def _predicate(where: str, part: object) -> Callable[[Exception], bool]:
    if not callable(part):
        raise TypeError(f"{where} {_ALLOWED}, got {part!r}")
    return arguments.plain_function(where, part)
