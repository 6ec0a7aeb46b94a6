"""The public face is a tested file: every name, with its signature, is in `public_api.txt`.

After a change that is meant:  PYTHONPATH=. python tests/test_public_api.py
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import inspect
import pkgutil
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import aresilience

LISTED = Path(__file__).with_name("public_api.txt")
PUBLIC = ["aresilience", "aresilience.testing"]
"""The modules that people import from."""
SPECIAL = {
    "__call__",
    "__aiter__",
    "__aenter__",
    "__enter__",
    "__getitem__",
    "__len__",
    "__contains__",
    "__add__",
}


def described() -> str:
    """Every public name of every public module, and every public member, one to a line."""
    lines: list[str] = []
    for name in [*PUBLIC, *optional()]:
        module = importlib.import_module(name)
        lines.append(f"\n# {name}\n")
        for public in sorted(module.__all__):
            lines += described_object(public, getattr(module, public))
    return "\n".join(lines).lstrip() + "\n"


def optional() -> list[str]:
    """The public rooms that need an extra, or are not built yet."""
    found = {module.name for module in pkgutil.iter_modules(aresilience.__path__)}
    return [f"aresilience.{room}" for room in ("asgi",) if room in found]


def described_object(name: str, thing: object) -> Iterator[str]:
    """A class with its public members, a function with its signature, a constant with its type."""
    if isinstance(thing, type) and issubclass(thing, enum.Enum):
        yield f"enum {name}: {', '.join(member.name for member in thing)}"
    elif isinstance(thing, type):
        bases = [base.__name__ for base in thing.__bases__ if base is not object]
        kind = "dataclass" if dataclasses.is_dataclass(thing) else "class"
        yield f"{kind} {name}({', '.join(base for base in bases if not base.startswith('_'))})"
        if "__init__" in vars(thing):
            yield f"  {name}{signature(thing)}"
        yield from members(thing)
    elif typing.get_origin(thing) is not None:
        yield f"alias {name}"
    elif callable(thing):
        yield f"def {name}{signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def members(cls: type) -> Iterator[str]:
    """What a class itself defines under a public name."""
    for name, member in sorted(vars(cls).items()):
        if name.startswith("_") and name not in SPECIAL:
            continue
        if inspect.ismemberdescriptor(member) and not dataclasses.is_dataclass(cls):
            yield f"  .{name}"
        elif isinstance(member, property):
            yield f"  .{name}: {returned(member.fget)}"
        elif isinstance(member, classmethod | staticmethod):
            yield f"  .{name}{signature(getattr(cls, name))}"
        elif inspect.iscoroutinefunction(member):
            yield f"  async .{name}{signature(member)}"
        elif inspect.isfunction(member):
            yield f"  .{name}{signature(member)}"


def signature(function: object) -> str:
    """As it is written, without what differs from process to process."""
    text = str(inspect.signature(function))  # type: ignore[arg-type]
    text = re.sub(r"<(function|class|Logger) '?([\w.]+)[^>]*>", r"\2", text)
    return re.sub(r"(?<=[:>] )'([^']*)'|(?<=[:>] )\"([^\"]*)\"", r"\1\2", text)


def returned(function: object) -> str:
    """The annotation of what a property is."""
    return str(inspect.signature(function).return_annotation)  # type: ignore[arg-type]


def test_the_public_face_is_the_listed_one() -> None:
    """Nothing public appears, disappears or changes its signature without a change in public_api.txt."""
    difference = difflib.unified_diff(
        LISTED.read_text().splitlines(), described().splitlines(), "public_api.txt", "reality", lineterm=""
    )
    shown = "\n".join(difference)
    assert not shown, f"{shown}\nif it is meant: PYTHONPATH=. python {Path(__file__).name}"


def test_all_is_what_there_is() -> None:
    """`__all__` is sorted, without repeats, has nothing that is missing, and misses nothing of ours."""
    for name in PUBLIC:
        module = importlib.import_module(name)
        listed = list(module.__all__)
        assert listed == sorted(set(listed))
        assert [public for public in listed if not hasattr(module, public)] == []
        ours = {
            public
            for public, thing in vars(module).items()
            if not public.startswith("_") and getattr(thing, "__module__", "").startswith("aresilience")
        }
        assert ours <= set(listed)


def test_every_module_says_what_it_offers() -> None:
    """Every module's `__all__` names things that it has, and a star import of it works."""
    for info in pkgutil.walk_packages(aresilience.__path__, "aresilience."):
        if "integrations" in info.name:  # each needs a library of its own
            continue
        module = importlib.import_module(info.name)
        listed = getattr(module, "__all__", [])
        missing = [name for name in listed if not hasattr(module, name)]
        assert missing == [], info.name


def test_everything_public_is_documented() -> None:
    """Every public class and function, and every public method and property, has a docstring."""
    bare: list[str] = []
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if not (isinstance(thing, type) or inspect.isfunction(thing)):
                continue
            if not (thing.__doc__ or "").strip() or (thing.__doc__ or "").startswith(f"{name}("):
                bare.append(f"{module_name}.{name}")
            if isinstance(thing, type) and not issubclass(thing, enum.Enum):
                bare += [
                    f"{name}.{member}"
                    for member, value in vars(thing).items()
                    if not member.startswith("_")
                    and (inspect.isfunction(value) or isinstance(value, property | classmethod))
                    and not inspect.getdoc(getattr(thing, member))
                ]
    assert bare == []


if __name__ == "__main__":
    LISTED.write_text(described())
    sys.stdout.write(f"{LISTED}: {len(described().splitlines())} lines\n")
