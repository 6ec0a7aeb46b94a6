"""Fleets in virtual time: what one slow host does to everybody's latency, by balancer. And a picture of it.

`python -m benchmarks.fleets` draws `benchmarks/fleets.png`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aresilience as ar
from aresilience.testing import VirtualLoop
from benchmarks.fresh import in_fresh_process
from benchmarks.harness import SEED, Done, Settings, short
from benchmarks.results import Report, Verdict

__all__ = ["ALL", "Fleet"]

_HOSTS, _WORKERS = 10, 4
_WORK = 0.010
"""Mean seconds of service, exponential;"""
_SLOW = 10.0
"""and so many times that on the slow host."""
_LOAD = 0.6
"""The share of what the hosts can bear together, the slow one counted as it is."""
_SECONDS = 30.0
_SETTLED = 5.0
"""Seconds that are not counted: nothing is known yet."""

_BALANCERS: dict[str, Callable[[], ar.Balancer]] = {
    "RoundRobin": ar.RoundRobin,
    "Random": ar.Random,
    "LeastRequest": ar.LeastRequest,
    "PeakEwma": ar.PeakEwma,
}
_PICTURE = Path(__file__).with_name("fleets.png")


@dataclass(slots=True)
class _Host:
    """A queue before some workers."""

    scale: float
    chance: random.Random
    workers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WORKERS))

    async def serve(self) -> None:
        """One request."""
        async with self.workers:
            await asyncio.sleep(self.chance.expovariate(1 / (_WORK * self.scale)))


async def _latencies(balancer: ar.Balancer, slow: float, seed: int) -> tuple[list[float], float]:
    """Seconds of each request, by arrival; and the slow host's share of them."""
    chance = random.Random(seed)
    hosts = {f"h{n}": _Host(slow if n == 0 else 1.0, random.Random(seed + n)) for n in range(_HOSTS)}
    registry = ar.ServiceRegistry(ttl=1e6, resync=1e6, backend=ar.MemoryBackend())
    for n, who in enumerate(hosts):
        await registry.announce(ar.Instance("users", "10.0.0.1", 1 + n, id=who))
    users = registry.service("users", balancer=balancer)
    await registry.discover("users")
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    slow_ones = 0

    async def request() -> None:
        nonlocal slow_ones
        began = loop.time()
        async with users.pick() as instance:
            await hosts[instance.id].serve()
        if began >= _SETTLED:
            taken.append(loop.time() - began)
            slow_ones += instance.id == "h0"

    capacity = sum(_WORKERS / (_WORK * host.scale) for host in hosts.values())
    async with asyncio.TaskGroup() as group:
        while loop.time() < _SECONDS:
            await asyncio.sleep(chance.expovariate(capacity * _LOAD))
            group.create_task(request())
    return taken, slow_ones / len(taken)


def _simulated(name: str, slow: float, seed: int) -> tuple[list[float], float]:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(_latencies(_BALANCERS[name](), slow, seed))


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True, slots=True)
class Fleet:
    """One host of ten is ten times as slow as the others."""

    name: str = "registry-fleets"
    title: str = "Registry, simulated: one host of ten is ten times as slow"

    def measure(self, settings: Settings, done: Done) -> Report:
        """Each balancer in a process of its own; the same arrivals for all."""
        header = ("balancer", "p50, ms", "p99, ms", "p99 with no slow host, ms", "share of the slow host")
        report = Report(self.title, header)
        report.notes = [
            f"Virtual time; {_HOSTS} hosts of {_WORKERS} workers, {_WORK * 1e3:g} ms each in the mean, "
            f"exponential; Poisson arrivals at {_LOAD:.0%} of what they can bear together; "
            f"{_SECONDS - _SETTLED:g} s of one seed. The slow host can bear one call in a hundred: who sends "
            "it more has a queue there that grows for as long as it lasts.",
            "`python -m benchmarks.fleets` draws benchmarks/fleets.png.",
        ]
        p99: dict[str, float] = {}
        times: dict[str, float] = {}
        for part, name in enumerate(_BALANCERS):
            (taken, share), (even, _) = in_fresh_process(self.name, part, settings)
            done((part + 1) / len(_BALANCERS))
            ordered = sorted(taken)
            p99[name] = _quantile(ordered, 0.99)
            without = _quantile(sorted(even), 0.99)
            times[name] = p99[name] / without
            report.rows.append(
                (
                    name,
                    short(statistics.median(ordered) * 1e3),
                    short(p99[name] * 1e3),
                    short(without * 1e3),
                    f"{share:.2%}",
                )
            )
        report.verdicts = [
            Verdict(f"{name}: p99 ≤ {most:g}× of that without", f"{times[name]:.2f}×", times[name] <= most)
            for name, most in (("LeastRequest", 2.5), ("PeakEwma", 1.25))
        ]
        return report

    def sample(self, part: int, settings: Settings) -> tuple[tuple[list[float], float], ...]:
        """One balancer, with a slow host and without."""
        name = list(_BALANCERS)[part]
        return _simulated(name, _SLOW, SEED), _simulated(name, 1.0, SEED)


ALL = (Fleet(),)


def _draw() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name in _BALANCERS:
        taken, _ = _simulated(name, _SLOW, SEED)
        ordered = sorted(taken)
        shares = [1 - (place + 0.5) / len(ordered) for place in range(len(ordered))]
        label = f"{name}: p99 {_quantile(ordered, 0.99) * 1e3:,.0f} ms"
        axes.plot([each * 1e3 for each in ordered], shares, label=label)
    axes.axhline(0.01, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(1, None),
        ylim=(1e-3, 1),
        xlabel="latency, ms",
        ylabel="share of calls that take longer",
        title=f"One host of {_HOSTS} is {_SLOW:g} times as slow ({_LOAD:.0%} load, simulated)",
    )
    axes.legend()
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.tight_layout()
    figure.savefig(_PICTURE, dpi=110)


if __name__ == "__main__":
    _draw()
