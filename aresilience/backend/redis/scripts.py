"""A Lua script, from the file beside its machine."""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = ["Script"]


class Script:
    """Constant text; data comes only as KEYS and ARGV.

    The convention: ARGV[1] is the nonce of the request, which the script returns as its first item.
    """

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def beside(cls, package: str, name: str) -> Script:
        """The script `name` that lies in the folder of `package`."""
        return cls(name, files(package).joinpath(name).read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"
