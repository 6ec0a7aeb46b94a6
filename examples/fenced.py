"""Two workers, one lock, and a pause at the wrong moment: what a fence is for.

    python -m examples.fenced [URL]

A worker takes the lock, is stopped for longer than the lock lives, and goes on writing: by then another has
the lock. Without a guard the late write lands on top of the new one. With a guard at the resource, in Redis or
in SQL, it is refused.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys

import aresilience as ar


async def late_and_in_time(backend: ar.Backend) -> tuple[ar.Lease, ar.Lease]:
    """The lease of a worker that was stopped too long, and that of the one who followed."""
    lock = ar.Lock("report", ttl=0.2, on_lost="flag", backend=backend)
    late = await lock.acquire()
    in_time = await lock.take_over()  # what the end of the ttl would do, without waiting for it
    return late, in_time


async def in_redis(backend: ar.Backend, late: ar.Lease, in_time: ar.Lease) -> None:
    """The guarded value: checked and written in one step."""
    guard = ar.FencedGuard("reports", backend=backend)
    await guard.write("2026-11", "by the second worker", in_time)
    try:
        await guard.write("2026-11", "by the first worker, too late", late)
    except ar.StaleFence as error:
        print(f"Redis: {error}")
    value, _ = await guard.read("2026-11")
    print(f"Redis: the report is {value!r}")


def in_sql(late: ar.Lease, in_time: ar.Lease) -> None:
    """The same in a table with a column for the fence."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE report (month TEXT PRIMARY KEY, text TEXT, fence INTEGER NOT NULL)")
    database.execute("INSERT INTO report VALUES ('2026-11', '', 0)")
    guard = ar.FencedGuard("reports")

    def write(text: str, lease: ar.Lease) -> None:
        done = database.execute(
            f"UPDATE report SET text = ?, fence = ? WHERE month = ? AND {guard.SQL}",
            (text, lease.fence, "2026-11", lease.fence),
        )
        guard.confirm(done.rowcount, lease)

    write("by the second worker", in_time)
    try:
        write("by the first worker, too late", late)
    except ar.StaleFence as error:
        print(f"SQL: {error}")
    print(f"SQL: the report is {database.execute('SELECT text FROM report').fetchone()[0]!r}")
    database.close()


async def main(url: str = "memory://") -> None:
    """Both forms."""
    async with ar.connect(url) as backend:
        late, in_time = await late_and_in_time(backend)
        await in_redis(backend, late, in_time)
        in_sql(late, in_time)
        await in_time.release()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
