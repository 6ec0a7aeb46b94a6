"""The blocks of the README on idempotency run as they stand."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import aresilience as ar

README = Path(__file__).parents[2] / "README.md"


@dataclass
class Receipt:
    """What the bank answers."""

    order_id: str
    amount: int


class Bank:
    """Remembers with which keys it was asked."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def charge(self, order_id: str, amount: int, key: str) -> Receipt:
        """Charge."""
        self.keys.append(key)
        await asyncio.sleep(1)
        return Receipt(order_id, amount)


async def test_the_section_on_idempotency_runs() -> None:
    """The decorated function charges once, for everybody; the middleware can be put around an application."""
    section = re.search(r"^## Once\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    assert len(blocks) == 2
    bank = Bank()

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    space: dict[str, Any] = {
        "ar": ar, "Receipt": Receipt, "bank": bank, "backend": ar.MemoryBackend(), "app": app
    }  # fmt: skip
    for block in blocks:
        exec(compile(block, str(README), "exec"), space)
    charge = space["charge"]
    assert await asyncio.gather(*(charge("o-1", 5) for _ in range(10))) == [Receipt("o-1", 5)] * 10
    assert len(bank.keys) == 1
    with pytest.raises(ar.KeyReused):
        await charge("o-1", 6)
    assert space["app"] is not app
