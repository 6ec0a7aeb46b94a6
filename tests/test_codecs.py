"""Codecs: what is kept comes back equal and of the same type, or is refused when it is stored."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import sys
import typing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aresilience.codecs import (
    BytesCodec,
    Codec,
    JsonCodec,
    NotStorable,
    checked_codec,
    codec_for,
    pack,
    returned_by,
    unpack,
)
from aresilience.errors import CorruptState
from aresilience.integrations import msgspec as ours_msgspec
from aresilience.integrations import pydantic as ours_pydantic


class Colour(enum.Enum):
    """Two of them."""

    RED = 1
    BLUE = 2


class Rights(enum.Flag):
    """To be combined."""

    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: str


class Note(TypedDict):
    """A typed dict."""

    text: str
    by: NotRequired[str]


@dataclass(frozen=True)
class Line:
    """A part of a receipt."""

    sku: str
    count: int = 1


@dataclass
class Receipt:
    """All that a dataclass may have."""

    id: UUID
    amount: Decimal
    at: datetime
    lines: list[Line]
    colour: Colour = Colour.RED
    note: Note | None = None
    tags: frozenset[str] = frozenset()
    by_day: dict[date, tuple[int, ...]] = field(default_factory=dict)
    total: int = field(init=False, default=0)


@dataclass
class Tree:
    """A type that contains itself."""

    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass(frozen=True)
class Other(Line):
    """A subclass, which would come back as its parent."""


@dataclass
class Initial:
    """Has what is not kept."""

    x: dataclasses.InitVar[int]


AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
RECEIPT = Receipt(
    UUID(int=7),
    Decimal("9.90"),
    AT,
    [Line("a"), Line("b", 2)],
    Colour.BLUE,
    {"text": "‘thanks’ \ud800"},
    frozenset({"x"}),
    {date(2026, 1, 1): (1, 2)},
)

VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (Any, {"a": [1, 2.5, "ü", None, True]}),
    (int, 10**30),
    (float, 0.1),
    (bool, False),
    (str, "line\r\n\x00"),
    (Receipt, RECEIPT),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (list[Pair], [Pair(1, "x")]),
    (tuple[int, str], (1, "x")),
    (tuple[()], ()),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (Rights, Rights.READ | Rights.WRITE),
    (Line | None, None),
    (Line | None, Line("x")),
    (Line | Tree | str, Tree(1)),
    (int | str, "7"),
    (bool | int, 1),
    (dict[str, Decimal], {"x": Decimal("-Infinity")}),
    (dict[Colour, bytes], {Colour.RED: b"\x00\xff"}),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (date | datetime, datetime(2026, 1, 1)),
    (time, time(23, 59, tzinfo=UTC)),
    (Literal["a", 1], 1),
    (typing.Annotated[int, "of apples"], 3),
    (typing.NewType("OrderId", str), "o-1"),
    (list, [1]),
    (dict, {"x": 1}),
    (bytes, b"\x00raw"),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda v: getattr(v, "__name__", None))
def test_what_is_kept_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    """Equal, and of the same type, for every type that has a form."""
    codec = codec_for(annotation)
    back = unpack(codec, pack(codec, value))
    assert back == value
    assert type(back) is type(value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_without_an_annotation_json_itself_comes_back(value: Any) -> None:
    """Whatever JSON knows, lone surrogates included."""
    codec = codec_for()
    assert unpack(codec, pack(codec, value)) == value


@dataclass
class Total:
    """One field is not its constructor's."""

    id: str
    total: int = field(init=False, default=0)


@dataclass
class Upper:
    """Its constructor changes a field: once."""

    name: str

    def __post_init__(self) -> None:
        """In capitals."""
        self.name = self.name.upper()


@dataclass
class Cents:
    """Its constructor changes a field: each time."""

    cents: int

    def __post_init__(self) -> None:
        """Of euros."""
        self.cents = self.cents * 100


@dataclass
class Even:
    """Its constructor raises what it likes."""

    x: int

    def __post_init__(self) -> None:
        """Even only."""
        if self.x % 2:
            raise LookupError


def changed(value: Any, **fields: Any) -> Any:
    """The value, with other fields than its constructor gave it."""
    for name, part in fields.items():
        setattr(value, name, part)
    return value


def test_a_constructor_of_its_own_is_no_hindrance() -> None:
    """If it makes the same again."""
    for value in (Total("a"), Upper("a"), Cents(0), Even(2)):
        codec = codec_for(type(value))
        assert unpack(codec, pack(codec, value)) == value


def test_a_constructor_that_refuses_what_is_stored_is_a_corrupt_state() -> None:
    """Whatever it raises."""
    with pytest.raises(CorruptState, match="is no Even: LookupError"):
        unpack(codec_for(Even), b'json/1 {"x":1}')


REFUSED: list[tuple[Any, Any, str]] = [
    (Any, (1, 2), "is tuple, which would not come back"),
    (Any, {1: "x"}, "has a key that is no text, but int"),
    (Any, [{"x": float("nan")}], r"result\[0\]\[item 0\] must be finite"),
    (Any, object(), "is object, which would not come back"),
    (Any, Colour.RED, "annotation"),
    (Line, Other("x"), "must be Line, is Other"),
    (Line, {"sku": "x"}, "must be Line, is dict"),
    (Receipt, dataclasses.replace(RECEIPT, lines=[Line("x"), Line(3)]), r"\.lines\[1\]\.sku must be str"),  # type: ignore[arg-type]
    (Receipt, dataclasses.replace(RECEIPT, lines=(Line("x"),)), r"\.lines must be list, is tuple"),  # type: ignore[arg-type]
    (int, True, "must be int, is bool"),
    (int, 1.0, "must be int, is float"),
    (float, float("inf"), "finite"),
    (int | str, 1.5, "must be int or str, is float"),
    (Literal["a"], "b", "Literal"),
    (Note, {"text": "x", "secret": "y"}, "'secret'"),
    (tuple[int, int], (1,), "tuple of 2"),
    (bytes, "text", "BytesCodec keeps bytes, got str"),
    (int, 10**5000, "no form in JSON"),
    (float, 10**400, "larger than any float"),
    (Note, {}, "has no text"),
    (Total, changed(Total("a"), total=5), "the same total"),
    (list[Cents], [Cents(1)], r"\[0\] would not come back with the same cents"),
    (Even, changed(Even(2), x=3), "is no Even: LookupError"),
    (time, time(12, tzinfo=ZoneInfo("Europe/Berlin")), "has a zone"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_would_not_come_back_is_refused_when_it_is_stored(
    annotation: Any, value: Any, message: str
) -> None:
    """A clear error says where in the value, and what it should be."""
    with pytest.raises(NotStorable, match=message):
        pack(codec_for(annotation), value)


def test_a_list_that_holds_itself_is_refused() -> None:
    """No endless recursion."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotStorable):
        JsonCodec().encode(endless)


def test_an_error_never_shows_the_value() -> None:
    """Results may be secrets."""
    with pytest.raises(NotStorable) as caught:
        pack(codec_for(int), "card 4111")
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (object().__class__.__mro__[0], None),
        (complex, "complex cannot be stored"),
        (tuple, "tuple cannot be stored"),
        (typing.Tuple, "tuple cannot be stored"),  # noqa: UP006
        (tuple[int, *tuple[str, ...]], "not unpacked"),
        (typing.Callable, "cannot be stored"),
        ("Receipt", "not resolved"),
        (Initial, "InitVar"),
        (Literal[b"x"], "Literal"),
        (list[complex], "complex cannot be stored"),
        (set[int] | set[str], "cannot be told apart"),
    ],
)
def test_a_type_without_a_form_is_refused_when_the_codec_is_made(
    annotation: Any, message: str | None
) -> None:
    """Not at night: when it is decorated."""
    if message is None:
        codec_for(annotation)
        return
    with pytest.raises(TypeError, match=message):
        codec_for(annotation)


def test_the_models_of_others_are_pointed_to_their_codec() -> None:
    """The error says which integration to pass."""
    with pytest.raises(TypeError, match=r"integrations\.pydantic\.codec_for"):
        codec_for(Model)
    with pytest.raises(TypeError, match=r"integrations\.msgspec\.codec_for"):
        codec_for(Struct)


def test_fields_may_come_and_go() -> None:
    """What is stored and not known is left out; what is missing has its default, or is an error."""
    codec = codec_for(Line)
    assert unpack(codec, b'json/1 {"sku":"x","old":1}') == Line("x")
    with pytest.raises(CorruptState, match="is no Line"):
        unpack(codec, b'json/1 {"count":1}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"json/1",
        b"json/1 {",
        b"json/1 [1]",
        b'json/1 {"sku":7}',
        b"json/1 \xff\xfe",
        b"json/2 {}",
        b"pickle/1 x",
        b"[" * 100_000,
        b"json/1 " + b"[" * 100_000,
    ],
)
def test_what_we_did_not_write_is_an_error(data: bytes) -> None:
    """Garbage, another codec, another version: `CorruptState`."""
    with pytest.raises(CorruptState):
        unpack(codec_for(Line), data)


def test_what_another_version_stored_is_not_read() -> None:
    """The tag of the stored value decides, and the error names both."""
    with pytest.raises(CorruptState, match="'json/1', and is to be read by json/2"):
        unpack(JsonCodec(Line, version=2), pack(JsonCodec(Line), Line("x")))


def test_a_result_has_a_largest_size() -> None:
    """The limit itself fits, one byte more does not."""
    assert pack(BytesCodec(), b"x" * 10, max_bytes=10) == b"bytes/1 " + b"x" * 10
    with pytest.raises(NotStorable, match="11 bytes is larger than what is kept, 10"):
        pack(BytesCodec(), b"x" * 11, max_bytes=10)


def test_bytes_that_may_change_are_copied() -> None:
    """A bytearray that changes later does not change what is kept."""
    buffer = bytearray(b"abc")
    kept = pack(BytesCodec(), buffer)
    buffer[:] = b"xyz"
    assert unpack(BytesCodec(), kept) == b"abc"


async def annotated() -> Receipt:
    """Say what it returns."""
    return RECEIPT


async def bare():  # type: ignore[no-untyped-def]
    """Say nothing."""


class Callable_:  # noqa: N801
    """An object that is called like a function."""

    async def __call__(self) -> Line:
        """Say what it returns."""
        return Line("x")

    async def method(self) -> bytes:
        """Say what it returns."""
        return b""


def test_the_annotation_of_a_function_is_found() -> None:
    """Of functions, methods, partials, wrapped functions and objects that are called."""

    @functools.wraps(annotated)
    async def wrapper(*args: Any) -> Any:
        return await annotated(*args)

    assert returned_by(annotated) is Receipt
    assert returned_by(functools.partial(annotated)) is Receipt
    assert returned_by(wrapper) is Receipt
    assert returned_by(Callable_()) is Line
    assert returned_by(Callable_().method) is bytes
    assert returned_by(bare) is inspect.Signature.empty
    assert returned_by(len) is inspect.Signature.empty


@pytest.mark.parametrize("codec", [None, "json", JsonCodec, object()])
def test_what_is_no_codec_is_refused(codec: object) -> None:
    """Neither a codec nor a function that chooses one."""
    with pytest.raises(TypeError, match=r"X: codec must be a codec"):
        checked_codec("X: codec", codec)


class Odd(BytesCodec):
    """Has a name with a space, which would end the tag early."""

    name = "a b"


def test_a_codecs_name_is_checked() -> None:
    """And its version."""
    checked_codec("X: codec", BytesCodec())
    checked_codec("X: codec", codec_for)
    with pytest.raises(ValueError, match="1 to 32"):
        checked_codec("X: codec", Odd())


class Model(pydantic.BaseModel):
    """A pydantic model."""

    id: int
    amount: Decimal = Decimal(0)
    secret: str = pydantic.Field(default="", exclude=True)


class Struct(msgspec.Struct):
    """A msgspec struct."""

    id: int
    amount: Decimal = Decimal(0)


@pytest.mark.parametrize(
    ("choose", "annotation", "value"),
    [
        (ours_pydantic.codec_for, Model, Model(id=1, amount=Decimal("1.10"))),
        (ours_pydantic.codec_for, list[Model] | None, [Model(id=1)]),
        (ours_pydantic.codec_for, Line, Line("x")),
        (ours_msgspec.codec_for, Struct, Struct(1, Decimal("1.10"))),
        (ours_msgspec.codec_for, dict[str, Struct], {"x": Struct(1)}),
        (ours_pydantic.codec_for, bytes, b"\xff"),
        (ours_msgspec.codec_for, Any, [1]),
    ],
)
def test_models_and_structs_come_back(choose: Any, annotation: Any, value: Any) -> None:
    """With the codec of their library, chosen from the annotation."""
    codec: Codec[Any] = choose(annotation)
    back = unpack(codec, pack(codec, value))
    assert back == value
    assert type(back) is type(value)
    with pytest.raises(CorruptState):
        unpack(codec, b"other/1 x")


def test_what_a_library_would_not_bring_back_is_refused() -> None:
    """A field that is left out, a value of another type, a type that it does not know."""
    with pytest.raises(NotStorable, match="would come back as something else"):
        pack(ours_pydantic.codec_for(Model), Model(id=1, secret="x"))
    with pytest.raises(NotStorable):
        pack(ours_pydantic.codec_for(Model), {"id": 1})
    with pytest.raises(NotStorable):
        pack(ours_msgspec.codec_for(Struct), {"id": "x"})
    with pytest.raises(CorruptState, match="does not fit"):
        unpack(ours_pydantic.codec_for(Model), b'pydantic/1 {"id":"x"}')
    with pytest.raises(CorruptState, match="does not fit"):
        unpack(ours_msgspec.codec_for(Struct), b"msgspec/1 \x90")
    with pytest.raises(TypeError, match="knows no form"):
        ours_pydantic.codec_for(type("Unknown", (), {}))
    with pytest.raises(TypeError, match="knows no form"):
        ours_msgspec.codec_for(Struct | Model | dict[str, int])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type aliases by statement are of Python 3.12")
def test_aliases_by_statement_are_seen_through() -> None:
    """type Money = Decimal."""
    space: dict[str, Any] = {"Decimal": Decimal}
    exec("type Money = Decimal", space)
    codec = codec_for(space["Money"])
    assert unpack(codec, pack(codec, Decimal("1.10"))) == Decimal("1.10")


def test_whatever_a_codec_raises_the_state_is_corrupt() -> None:
    """Who reads what was stored expects one error, of any codec."""

    class Careless:
        name = "careless"
        version = 1

        def encode(self, value: object) -> bytes:
            return b"x"

        def decode(self, data: bytes) -> object:
            raise KeyError(data)

    with pytest.raises(CorruptState, match="cannot be read by careless/1: KeyError"):
        unpack(Careless(), pack(Careless(), 1))
