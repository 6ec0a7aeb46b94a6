"""`python -m examples.shop`: the demo. Exit status 0 if every promise was kept, 1 if not, 2 if it could not
begin."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from rich.console import Console

import aresilience as ar
from examples.shop.day import a_day
from examples.shop.promises import promises
from examples.shop.protection import REPLICAS
from examples.shop.report import books, by_phase, events, greed, orders, promised, punctuality, side_by_side
from examples.shop.timeline import timeline


async def replicas_on(url: str) -> int:
    """The number of processes of a shop with its state there. Raises a `BackendError` if nobody answers."""
    async with ar.connect(url) as backend:
        await backend.ping()
        return 1 if isinstance(backend, ar.MemoryBackend) else REPLICAS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument(
        "--url", default="memory://", help="where the protected shop keeps its state: redis://…"
    )
    parser.add_argument("--picture", type=Path, default=Path("build/demo.png"), help="PNG or SVG file")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic and of the bad day")
    options = parser.parse_args()
    if options.picture.suffix not in (".png", ".svg"):
        parser.error(f"--picture: must end in .png or .svg, got {str(options.picture)!r}")
    logging.getLogger("aresilience").addHandler(logging.NullHandler())  # we tell it ourselves
    try:
        replicas = asyncio.run(replicas_on(options.url))
    except (ar.BackendError, ValueError) as error:
        parser.error(f"--url: {error}")
    console = Console()
    try:
        plain, protected = asyncio.run(a_day(console, options.url, replicas, options.seed))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    side_by_side(console, [plain, protected])
    by_phase(console, [plain, protected])
    greed(console, [plain, protected])
    books(console, [plain, protected])
    orders(console, [plain, protected])
    punctuality(console, [plain, protected])
    events(console, protected)
    timeline(console, protected)
    verdict = list(promises(plain, protected))
    promised(console, verdict)
    # Only now: what matplotlib brings along would make the garbage collector pause while we measure.
    from examples.shop.picture import draw

    draw(plain, protected, options.picture)
    console.print(f"the picture: {options.picture}")
    return 0 if all(promise.kept for promise in verdict) else 1


if __name__ == "__main__":
    sys.exit(main())
