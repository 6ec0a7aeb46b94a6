"""How values of a type are written as JSON, and read back: equal, and of the same type.

| type                                       | as JSON                                             |
|--------------------------------------------|-----------------------------------------------------|
| None, bool, int, float, str                | as they are; no infinity, no NaN                    |
| datetime, date, time                       | ISO 8601; a zone comes back as its offset           |
| UUID, Decimal                              | text                                                |
| timedelta                                  | [days, seconds, microseconds]                       |
| bytes                                      | base64                                              |
| an Enum                                    | the member's name; a Flag by its value              |
| list, set, frozenset, tuple                | a list                                              |
| dict                                       | an object, or [key, value] pairs if no key is text  |
| dataclass, NamedTuple, TypedDict           | an object of its fields                             |
| X or None                                  | null, or as X                                       |
| another union                              | [name of the type, value]                           |
| Any                                        | what JSON itself knows, and nothing else            |

A dataclass or TypedDict may gain fields with defaults, and lose fields: what is stored and not known is left
out, what is missing has its default. A subclass in place of the annotated class is refused: it would come back
as something else. So is a dataclass that its own constructor would not make again as it is.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence, Set
from typing import Any

from aresilience.codecs.atoms import ATOMS, Shape, UnfitError, stepped, unfit

__all__ = ["shape_of"]


def shape_of(annotation: Any) -> Shape:
    """The shape of a type. Raises `TypeError` for a type that has none."""
    return _Maker().make(annotation)


_SEQUENCES: dict[Any, type] = {
    list: list, Sequence: list, set: set, Set: set, frozenset: frozenset
}  # fmt: skip
_MAPPINGS = (dict, Mapping)


class _Maker:
    """Makes the shapes of one type and of all that it consists of; a type that contains itself, once."""

    def __init__(self) -> None:
        self._made: dict[Any, Shape] = {}

    def make(self, annotation: Any) -> Shape:
        if isinstance(annotation, str):
            raise TypeError(f"the annotation {annotation!r} is a text that was not resolved")
        try:
            simple = ATOMS.get(annotation)
        except TypeError:
            simple = None  # not hashable
        if simple is not None:
            return simple
        if isinstance(annotation, typing.NewType):
            return self.make(annotation.__supertype__)
        origin = typing.get_origin(annotation)
        if origin is typing.Unpack or getattr(annotation, "__unpacked__", False) is True:
            raise TypeError(
                "a tuple of a length that varies can be stored as tuple[X, ...], and not unpacked"
            )
        if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
            return self.make(typing.get_args(annotation)[0])
        if hasattr(annotation, "__value__"):  # type X = …, of Python 3.12
            return self.make(annotation.__value__)
        if origin in (typing.Union, types.UnionType):
            return self._union(typing.get_args(annotation))
        if origin is typing.Literal:
            return _literal(typing.get_args(annotation))
        if origin is not None or annotation in (*_SEQUENCES, *_MAPPINGS, tuple):
            return self._container(annotation, origin or annotation, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        raise _no_shape(annotation)

    def _class(self, cls: Any) -> Shape:
        if issubclass(cls, enum.Enum):
            return _enum(cls)
        if dataclasses.is_dataclass(cls) or typing.is_typeddict(cls) or hasattr(cls, "_fields"):
            return self._record(cls)
        raise _no_shape(cls)

    def _container(self, annotation: Any, kind: Any, args: tuple[Any, ...]) -> Shape:
        if kind in _SEQUENCES:
            return self._sequence(_SEQUENCES[kind], self.make(args[0] if args else Any))
        if kind in _MAPPINGS:
            key, value = (self.make(arg) for arg in args or (str, Any))
            return _mapping(key, value, pairs=bool(args) and args[0] is not str)
        if kind is tuple and annotation not in (tuple, typing.Tuple):  # noqa: UP006
            if args and args[-1] is Ellipsis:
                return self._sequence(tuple, self.make(args[0]))
            return self._tuple([self.make(arg) for arg in args])
        raise _no_shape(kind)

    def _sequence(self, kind: Any, item: Shape) -> Shape:
        def dump(value: Any) -> list[Any]:
            if type(value) is not kind:
                raise unfit(kind.__name__, value)
            return [stepped(f"[{i}]", item.dump, part) for i, part in enumerate(value)]

        def load(value: Any) -> Any:
            if type(value) is not list:
                raise unfit(f"{kind.__name__} as a list", value)
            return kind(stepped(f"[{i}]", item.load, part) for i, part in enumerate(value))

        return Shape(dump, load, kind.__name__)

    def _tuple(self, items: list[Shape]) -> Shape:
        def dump(value: Any) -> list[Any]:
            if type(value) is not tuple or len(value) != len(items):
                raise UnfitError(f"must be a tuple of {len(items)}, is {type(value).__name__}")
            parts = enumerate(zip(items, value, strict=True))
            return [stepped(f"[{i}]", item.dump, part) for i, (item, part) in parts]

        def load(value: Any) -> Any:
            if type(value) is not list or len(value) != len(items):
                raise UnfitError(f"must be a tuple of {len(items)} as a list")
            parts = enumerate(zip(items, value, strict=True))
            return tuple(stepped(f"[{i}]", item.load, part) for i, (item, part) in parts)

        return Shape(dump, load, "tuple")

    def _record(self, cls: Any) -> Shape:
        known = self._made.get(cls)
        if known is not None:
            return known
        fields: dict[str, Shape] = {}
        hints = typing.get_type_hints(cls, include_extras=True)
        shape = self._made[cls] = _record(cls, fields, _required(cls, hints))
        fields.update({name: self.make(hints.get(name, Any)) for name in _field_names(cls, hints)})
        return shape

    def _union(self, members: tuple[Any, ...]) -> Shape:
        some = [member for member in members if member not in (None, type(None))]
        if len(some) == 1:
            return _optional(self.make(some[0]))
        shapes = [self.make(member) for member in members]
        names = [shape.name for shape in shapes]
        if len(set(names)) < len(names):
            raise TypeError(
                f"a union of types that are all named {names[0]} cannot be told apart: wrap them"
            )
        return _tagged(shapes)


def _no_shape(annotation: Any) -> TypeError:
    name = getattr(annotation, "__name__", None) or repr(annotation)
    hint = ""
    if hasattr(annotation, "model_validate") or hasattr(annotation, "__pydantic_validator__"):
        hint = "; for pydantic, codec=aresilience.integrations.pydantic.codec_for"
    elif hasattr(annotation, "__struct_fields__"):
        hint = "; for msgspec, codec=aresilience.integrations.msgspec.codec_for"
    return TypeError(
        f"values of type {name} cannot be stored as JSON: return a dataclass, or pass a codec{hint}"
    )


def _field_names(cls: Any, hints: dict[str, Any]) -> Sequence[str]:
    if not dataclasses.is_dataclass(cls):
        return list(hints) if typing.is_typeddict(cls) else list(cls._fields)
    if any(isinstance(hint, dataclasses.InitVar) for hint in hints.values()):
        raise TypeError(f"{cls!r} has InitVar fields, which are not kept: they cannot be stored")
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _required(cls: Any, hints: dict[str, Any]) -> set[str]:
    """Keys that a TypedDict must have: its own list does not see through annotations that were texts."""
    listed = getattr(cls, "__required_keys__", ())
    marks = {name: typing.get_origin(hint) for name, hint in hints.items()}
    return {
        name
        for name, mark in marks.items()
        if mark is typing.Required or (name in listed and mark is not typing.NotRequired)
    }


def _record(cls: Any, fields: dict[str, Shape], required: set[str]) -> Shape:
    """An object of fields, which are filled in later: a type may contain itself."""
    name, is_dict = cls.__name__, typing.is_typeddict(cls)
    kind = dict if is_dict else cls
    makes_itself = dataclasses.is_dataclass(cls) and _makes_itself(cls)

    def dump(value: Any) -> dict[str, Any]:
        if type(value) is not kind:
            raise unfit(name, value)
        if is_dict:
            if unknown := next((key for key in value if key not in fields), None):
                raise UnfitError(f"has {unknown!r}, which {name} has not")
            if missing := required - value.keys():
                raise UnfitError(f"has no {min(missing)}")
            return {key: stepped(f".{key}", fields[key].dump, part) for key, part in value.items()}
        plain = {key: stepped(f".{key}", shape.dump, getattr(value, key)) for key, shape in fields.items()}
        if makes_itself:
            _made_again(value, load(plain), fields, plain)
        return plain

    def load(value: Any) -> Any:
        if type(value) is not dict:
            raise unfit(f"{name} as an object", value)
        found = {
            key: stepped(f".{key}", shape.load, value[key]) for key, shape in fields.items() if key in value
        }
        if is_dict and (missing := required - found.keys()):
            raise UnfitError(f"has no {min(missing)}")
        try:
            return kind(**found)
        except TypeError as error:
            raise UnfitError(f"is no {name}: {error}") from error
        except Exception as error:
            raise UnfitError(f"is no {name}: {type(error).__name__}") from error

    return Shape(dump, load, name)


def _makes_itself(cls: Any) -> bool:
    """Whether a dataclass is more than the fields that its constructor is given."""
    own = vars(cls)
    ours = "__dataclass_params__" in own and own["__dataclass_params__"].init
    return not ours or hasattr(cls, "__post_init__") or not all(f.init for f in dataclasses.fields(cls))


def _made_again(value: Any, again: Any, fields: dict[str, Shape], plain: dict[str, Any]) -> None:
    """Raise if what was made of its fields is not what it was."""
    for field in dataclasses.fields(value):
        name, shape = field.name, fields.get(field.name)
        one, other = getattr(value, name, None), getattr(again, name, None)
        if (shape.dump(other) != plain[name]) if shape else (type(one) is not type(other) or one != other):
            raise UnfitError(f"would not come back with the same {name}: its constructor makes another")


def _enum(cls: type[enum.Enum]) -> Shape:
    by_value = issubclass(cls, enum.Flag)

    def dump(value: Any) -> Any:
        if not isinstance(value, cls):
            raise unfit(cls.__name__, value)
        return value.value if by_value else value.name

    def load(value: Any) -> Any:
        try:
            return cls(value) if by_value else cls[value]
        except (KeyError, ValueError, TypeError) as error:
            raise UnfitError(f"is no {cls.__name__}") from error

    return Shape(dump, load, cls.__name__)


def _literal(options: tuple[Any, ...]) -> Shape:
    if any(type(option) not in (str, int, bool, type(None)) for option in options):
        raise TypeError("a Literal can be stored if it consists of text, numbers, booleans and None")

    def check(value: Any) -> Any:
        if not any(value == option and type(value) is type(option) for option in options):
            raise UnfitError("is none of the values of its Literal")
        return value

    return Shape(check, check, "Literal")


def _mapping(key: Shape, item: Shape, *, pairs: bool) -> Shape:
    def dump(value: Any) -> Any:
        if type(value) is not dict:
            raise unfit("dict", value)
        entries = [
            (stepped(f"[key {i}]", key.dump, k), stepped(f"[item {i}]", item.dump, v))
            for i, (k, v) in enumerate(value.items())
        ]
        return [list(entry) for entry in entries] if pairs else dict(entries)

    def load(value: Any) -> Any:
        kind = list if pairs else dict
        if not isinstance(value, kind):
            raise unfit("dict", value)
        entries: Any = value if isinstance(value, list) else value.items()
        try:
            return {key.load(k): stepped(f"[item {i}]", item.load, v) for i, (k, v) in enumerate(entries)}
        except (TypeError, ValueError) as error:
            if isinstance(error, UnfitError):
                raise
            raise UnfitError("is no dict of pairs") from error

    return Shape(dump, load, "dict")


def _optional(shape: Shape) -> Shape:
    return Shape(
        lambda value: None if value is None else shape.dump(value),
        lambda value: None if value is None else shape.load(value),
        f"{shape.name}|None",
    )


def _tagged(shapes: list[Shape]) -> Shape:
    by_name = {shape.name: shape for shape in shapes}

    def dump(value: Any) -> list[Any]:
        for shape in shapes:
            try:
                return [shape.name, shape.dump(value)]
            except UnfitError:
                continue
        raise unfit(" or ".join(by_name), value)

    def load(value: Any) -> Any:
        if type(value) is not list or len(value) != 2 or value[0] not in by_name:
            raise unfit(" or ".join(by_name), value)
        return by_name[value[0]].load(value[1])

    return Shape(dump, load, "|".join(by_name))
