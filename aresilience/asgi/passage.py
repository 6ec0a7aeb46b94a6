"""What a request has passed already, kept in its scope.

Mounted applications often carry a middleware that the outer one carries too. By this record a limiter charges
a request once for a key, a bulkhead holds one permit for it, and the outermost `RejectedMiddleware` that there
is decides how all refusals are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aresilience.asgi.types import Scope

if TYPE_CHECKING:
    from aresilience.asgi.answers import Answers

__all__ = ["Passage", "passage"]

_KEY = "aresilience"


class Passage:
    """One request's record. It is put into the scope itself, not into a copy: what the application writes
    there (its route, say) must stay visible to those outside."""

    __slots__ = ("answers", "bulkheads", "charged", "claimed", "refused")

    def __init__(self) -> None:
        self.answers: Answers | None = None
        """How refusals are answered, if somebody outside has said."""
        self.bulkheads: set[int] = set()
        """The bulkheads that it holds a permit of, by identity."""
        self.charged: set[tuple[int, str]] = set()
        """Limiters, by identity, and the keys that they have charged it for."""
        self.claimed = False
        """Whether an idempotency key of its is being worked on."""
        self.refused = False
        """Whether a refusal of ours answers it: of this moment, and never to be kept."""


def passage(scope: Scope) -> Passage:
    """The record of a request, made when first asked for."""
    found = scope.get(_KEY)
    if not isinstance(found, Passage):
        found = scope[_KEY] = Passage()
    return found
