"""The README's example of a saga runs as it is written."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import aresilience as ar

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.search(
    r"^## All or nothing\n.*?```python\n(.*?)```", README.read_text(), re.MULTILINE | re.DOTALL
)


@dataclass
class Cart:
    """What is bought."""

    items: list[str] = field(default_factory=lambda: ["book"])
    total: int = 990


async def test_the_example_in_the_readme() -> None:
    """Everything is called, once, with a key."""
    assert BLOCK is not None
    async with ar.connect() as backend:
        names: dict[str, Any] = {
            "ar": ar,
            "backend": backend,
            "Cart": Cart,
            "cart": Cart(),
            **{name: AsyncMock() for name in ("stock", "payments", "shipping", "create", "delete")},
        }
        names["stock"].reserve.return_value = "r-1"
        names["payments"].charge.return_value = "c-1"
        code = compile(BLOCK[1], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        work = eval(code, names)
        assert inspect.iscoroutine(work)
        await work
        assert names["result"].results == {"reserve": "r-1", "charge": "c-1", "ship": None}
        names["shipping"].send.assert_awaited_once()
        names["delete"].assert_not_awaited()
        names["payments"].charge.side_effect = ar.Fail("no money")
        try:
            await names["checkout"].run(Cart(["pen"]), id="order-43")
        except ar.SagaFailed:
            names["stock"].release.assert_awaited_once()
        else:
            raise AssertionError("it was paid without money")
