"""Several limiters and keys at once: all or none."""

from __future__ import annotations

from datetime import timedelta

from aresilience.errors import BackendError
from aresilience.limiter.decision import Decision, RateLimited
from aresilience.limiter.limiter import RateLimiter
from aresilience.limiter.reservation import Reservation
from aresilience.limiter.store import Ask, Grant, LimiterStore

__all__ = ["acquire_all"]

Wanted = tuple[RateLimiter, str] | tuple[RateLimiter, str, int]


async def acquire_all(*wanted: Wanted, timeout: float | timedelta | None = 0) -> tuple[Decision, ...]:
    """Take tokens of several limiters and keys: `acquire_all((gateway, ""), (per_user, user_id, 5))`.

    All are taken or none is. Waits for at most `timeout` seconds (0: refuses at once; None: for ever). Raises
    `RateLimited` of the limiter that refused, which its `limiter` names.

    Limiters on one backend are one decision and one round trip. On a cluster, where keys of different limiters
    lie in different slots, and for limiters on different backends, they are taken one after the other, and
    given back if a later one refuses; each then has a deadline of its own. When the store fails
    each limiter answers by its own `on_store_error`; what others took is given back if one refuses or raises.
    """
    claims = _merged(wanted)
    if not claims:
        return ()
    store = claims[0][0].store
    whole = tuple(part for _, ask in claims for part in ask)
    at_once = (
        all(limiter.store is store and not limiter.shadowed for limiter, _ in claims)
        and all(limiter.never(ask) is None for limiter, ask in claims)
        and store.one_slot(whole)
    )
    held = await (_together(claims, whole, store, timeout) if at_once else _in_turn(claims, timeout))
    try:
        for reservation in held:
            await reservation.wait()
    except BaseException:
        for reservation in held:
            reservation.return_later()
        raise
    return tuple(reservation.decision for reservation in held)


def _merged(wanted: tuple[Wanted, ...]) -> list[tuple[RateLimiter, Ask]]:
    """What is wanted of each limiter and key, counted together."""
    costs: dict[tuple[int, str], int] = {}
    limiters: dict[int, RateLimiter] = {}
    for item in wanted:
        if not isinstance(item, tuple) or not 2 <= len(item) <= 3 or not isinstance(item[0], RateLimiter):
            raise TypeError(f"acquire_all takes (limiter, key) or (limiter, key, cost), got {item!r}")
        limiter, key, cost = item if len(item) == 3 else (*item, 1)
        limiter.ask(key, cost)
        limiters[id(limiter)] = limiter
        place = (id(limiter), key)
        costs[place] = costs.get(place, 0) + cost
    return [(limiters[i], limiters[i].ask(key, cost)) for (i, key), cost in costs.items()]


async def _together(
    claims: list[tuple[RateLimiter, Ask]],
    whole: Ask,
    store: LimiterStore,
    timeout: float | timedelta | None,
) -> list[Reservation]:
    limit = min(limiter.longest_wait(timeout) for limiter, _ in claims)
    try:
        grant = await store.acquire(whole, limit)
    except BackendError as error:
        return _without_store(claims, error, limit)
    parts: list[tuple[RateLimiter, Ask, Grant]] = []
    views = list(grant.views)
    for limiter, ask in claims:
        mine, views = views[: len(ask)], views[len(ask) :]
        parts.append((limiter, ask, Grant(grant.allowed, grant.now, grant.at, tuple(mine))))
    if not grant.allowed:  # by the one that lacks most
        limiter, ask, mine_of_it = min(parts, key=_lacking)
        limiter.reserved(store, ask, mine_of_it)
    return [limiter.reserved(store, ask, mine) for limiter, ask, mine in parts]


def _lacking(part: tuple[RateLimiter, Ask, Grant]) -> float:
    _, ask, grant = part
    return min(
        (left - cost) / meter.algorithm.capacity
        for (left, _), (meter, _, cost) in zip(grant.views, ask, strict=True)
    )


def _without_store(
    claims: list[tuple[RateLimiter, Ask]], error: BackendError, limit: int
) -> list[Reservation]:
    held: list[Reservation] = []
    try:
        for limiter, ask in claims:
            held.append(limiter.reserve_without_store(error, ask, limit))
    except (RateLimited, BackendError):
        for reservation in held:
            reservation.return_later()
        raise
    return held


async def _in_turn(
    claims: list[tuple[RateLimiter, Ask]], timeout: float | timedelta | None
) -> list[Reservation]:
    held: list[Reservation] = []
    try:
        for limiter, ask in claims:
            _, key, cost = ask[0]
            held.append(await limiter.reserve(key, cost, max_wait=timeout))
    except BaseException:
        for reservation in held:
            reservation.return_later()
        raise
    return held
