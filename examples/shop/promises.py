"""What the protected shop promises, and whether it kept it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from examples.shop.books import TTL, UNITS
from examples.shop.figures import Kind, Side, fullest, percentile, share
from examples.shop.protection import AT_ONCE, PER_MINUTE
from examples.shop.script import LENGTH, NEWCOMER, OUTAGE, RECOVERY, span

__all__ = ["P99", "Promise", "promises"]

P99 = 1.0
"""Seconds within which 99 of 100 answers come."""
_SETTLED = 2.5
"""Seconds after the outage from which everything is as before."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, what was measured, and whether that keeps it."""

    text: str
    measured: str
    kept: bool


def promises(plain: Side, protected: Side) -> Iterator[Promise]:
    """Every promise, judged by the measurement. A figure that is missing (nan) keeps none."""
    answered = share(protected.answers, Kind.FRESH, Kind.DEGRADED)
    yield Promise("answered, fresh or degraded: ≥ 99.5 %", f"{answered:.2%}", answered >= 0.995)

    p99 = percentile(protected.answers, 0.99)
    yield Promise(f"p99 of all answers: ≤ {P99:g} s", f"{p99:.3f} s", p99 <= P99)

    sent, reference = len(protected.calls[OUTAGE]), len(plain.calls[OUTAGE])
    measured = f"{sent} of {reference}"
    yield Promise("calls during the outage: ≤ 20 % of the unprotected", measured, sent <= 0.2 * reference)

    yield from _breaker(protected)

    for text, least, (begin, end) in (
        ("fresh while calm: ≥ 99 %", 0.99, span("calm")),
        ("fresh while flaky: ≥ 85 %", 0.85, span("flaky")),
        (f"fresh from {_SETTLED:g} s after the outage: ≥ 99 %", 0.99, (span(OUTAGE)[1] + _SETTLED, LENGTH)),
    ):
        fresh = share(protected.between(begin, end), Kind.FRESH)
        yield Promise(text, f"{fresh:.2%}", fresh >= least)

    came = protected.between(NEWCOMER, span("flaky")[0])
    fresh = sum(answer.kind is Kind.FRESH for answer in came)
    yield Promise(
        "an inventory killed, another added: all answers fresh",
        f"{fresh} of {len(came)}; {protected.newcomer} calls for the new one",
        bool(came) and fresh == len(came) and protected.newcomer > 0,
    )
    yield from _limits(protected)
    yield from _books(protected)
    yield from _orders(protected)


def _breaker(protected: Side) -> Iterator[Promise]:
    down, up = span(OUTAGE)
    opened = [t - down for t, state in protected.states if state == "open" and down <= t < up]
    yield Promise(
        "breaker open: ≤ 2 s into the outage",
        f"{opened[0]:.2f} s" if opened else "never",
        bool(opened) and opened[0] <= 2.0,
    )
    t, state = protected.states[-1] if protected.states else (0.0, "never open")
    yield Promise(
        f"breaker closed for good: ≤ {_SETTLED:g} s into the {RECOVERY}",
        f"{t - up:.2f} s" if state == "closed" else state,
        state == "closed" and t - up <= _SETTLED,
    )


def _limits(protected: Side) -> Iterator[Promise]:
    window = fullest(protected.knocks, lambda seconds: AT_ONCE + PER_MINUTE / 60 * seconds)
    yield Promise(
        f"greedy user let in, in any window: ≤ {AT_ONCE} + {PER_MINUTE}/min",
        f"{window.let_in} of {window.allowed:.2f} in {window.seconds:.2f} s" if window else "never",
        window is not None and window.let_in <= window.allowed,
    )
    back = [knock.let_in for knock in protected.knocks if knock.obedient]
    yield Promise(
        "greedy user, back when told: ≥ 99 % let in",
        f"{sum(back)} of {len(back)}",
        bool(back) and sum(back) >= 0.99 * len(back),
    )
    told = [knock.told for knock in protected.knocks if knock.refused]
    yield Promise(
        "Retry-After of every refusal: ≥ 1 s",
        f"{min(told)} to {max(told)} s ({len(told)} refusals)" if told else "none",
        bool(told) and min(told) >= 1,
    )
    others = sum(answer.kind is Kind.REFUSED for answer in protected.answers)
    yield Promise(
        "other visitors refused: none",
        f"{others} of {len(protected.answers)}",
        bool(protected.answers) and others == 0,
    )


def _books(protected: Side) -> Iterator[Promise]:
    units = [entry.unit for entry in protected.books]
    yield Promise(
        f"each quarter second booked once, in order: {UNITS}",
        f"{len(set(units))}, {len(units) - len(set(units))} of them again",
        units == list(range(UNITS)),
    )
    died, name = protected.killed
    terms = protected.leaders()
    after = [begin - died for by, begin, _ in terms if by != name and begin > died]
    yield Promise(
        f"leader killed: one other takes over within {TTL + 1:g} s",
        f"{len(after)} did, after {after[0]:.2f} s" if after else "nobody did",
        len(after) == 1 and after[0] <= TTL + 1,
    )


def _orders(protected: Side) -> Iterator[Promise]:
    orders = protected.orders
    complete = [order for order in orders if set(protected.standing(order)) == {1}]
    undone = [order for order in orders if set(protected.standing(order)) == {0}]
    yield Promise(
        f"each of {len(orders)} orders complete, or undone",
        f"{len(complete)} complete, {len(undone)} undone",
        bool(complete) and bool(undone) and len(complete) + len(undone) == len(orders),
    )
    bank = protected.accounts["bank"]
    most = max((bank.done.get(order.ref, 0) for order in orders), default=0)
    sent = sum(order.sent for order in orders)
    yield Promise("no order charged twice", f"at most {most} times, of {sent} requests", most == 1)
    right = sum(len(set(o.answers)) == 1 and bool(o.answers[0]) for o in complete)
    right += sum(set(o.answers) == {""} for o in undone)
    yield Promise(
        "each customer told the truth, the same each time",
        f"{right} of {len(orders)}",
        right == len(orders),
    )
