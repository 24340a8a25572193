"""Samples of a JSON Schema: pydantic validates those of its own fields, and the others have expected values."""

import ipaddress
import json
import re
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    UUID1,
    UUID3,
    UUID4,
    UUID5,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    Base64Str,
    BaseModel,
    ByteSize,
    ConfigDict,
    DirectoryPath,
    Discriminator,
    Field,
    FilePath,
    FileUrl,
    FiniteFloat,
    FtpUrl,
    FutureDate,
    FutureDatetime,
    HttpUrl,
    ImportString,
    IPvAnyAddress,
    IPvAnyInterface,
    IPvAnyNetwork,
    Json,
    KafkaDsn,
    NegativeFloat,
    NegativeInt,
    NonNegativeInt,
    NonPositiveFloat,
    PastDate,
    PastDatetime,
    PositiveFloat,
    PositiveInt,
    PostgresDsn,
    RedisDsn,
    RootModel,
    Secret,
    SecretStr,
    StrictBool,
    StrictInt,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    WebsocketUrl,
    create_model,
)
from typing_extensions import TypedDict

from app.sandbox.samples import UnsupportedSchema, make_sample
from tests.sandbox.client import PLAIN, Server
from tests.support.sdks import openai
from tests.support.soak import examples


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 3
    HIGH = 7


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Options(TypedDict, total=False):
    verbose: bool
    depth: int


@dataclass
class Size:
    width: Annotated[int, Field(gt=0)]
    unit: Literal["mm", "cm"]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = Field(min_length=2)


class Node(BaseModel):
    """A list that refers to itself."""

    value: int
    next: "Node | None"


class Tree(BaseModel):
    """A tree that refers to itself, and requires children at its top."""

    name: str
    children: list["Tree"]


class Forest(BaseModel):
    trees: Annotated[list[Tree], Field(min_length=2)]


class Odd(BaseModel):
    model_config = ConfigDict(extra="allow")
    first_name: Annotated[str, Field(alias="firstName")]


class Defaults(BaseModel):
    good: int = 12
    wrong: PositiveInt = -1
    none: date | None = None
    made: list[Cat] = Field(default_factory=list)


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")
    by: str


Text = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}\d{4}$")]
SLUG = r"^[a-z0-9]+(?:-[a-z0-9]+)*$"
# Name → type of a field. Each is requested alone, so that a failure names its kind.
FIELDS: dict[str, Any] = {
    "text": str,
    "length": Annotated[str, Field(min_length=30, max_length=40)],
    "short text": Annotated[str, Field(max_length=2)],
    "pattern": Text,
    "slug": Annotated[str, Field(pattern=SLUG, min_length=5, max_length=12)],
    "alternatives in a pattern": Annotated[str, Field(pattern=r"^(GET|POST) /\w+(\?\w+=\d+)?$")],
    "digits of a length": Annotated[str, Field(pattern=r"^\+?\d+$", min_length=8, max_length=8)],
    "loose pattern": Annotated[str, Field(pattern=r"\d", min_length=20)],
    "to lower case": Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=3)],
    "any": Any,
    "bool": bool,
    "strict bool": StrictBool,
    "none": None,
    "int": int,
    "strict int": StrictInt,
    "positive": PositiveInt,
    "negative": NegativeInt,
    "not negative": NonNegativeInt,
    "bounds": Annotated[int, Field(gt=10, lt=12)],
    "multiple": Annotated[int, Field(ge=10, multiple_of=7)],
    "multiple below": Annotated[int, Field(lt=0, multiple_of=5)],
    "float": float,
    "finite": FiniteFloat,
    "positive float": PositiveFloat,
    "negative float": NegativeFloat,
    "no positive float": NonPositiveFloat,
    "narrow float": Annotated[float, Field(gt=0.1, lt=0.2)],
    "float multiple": Annotated[float, Field(ge=1, multiple_of=0.25)],
    "decimal": Decimal,
    "bounded decimal": Annotated[Decimal, Field(gt=1, lt=2, max_digits=3, decimal_places=1)],
    "fraction": Fraction,
    "complex by example": Annotated[complex, Field(examples=["1+2j"])],
    "date": date,
    "datetime": datetime,
    "time": time,
    "timedelta": timedelta,
    "past": PastDate,
    "past datetime": PastDatetime,
    "aware": AwareDatetime,
    "uuid": uuid.UUID,
    "uuid1": UUID1,
    "uuid3": UUID3,
    "uuid4": UUID4,
    "uuid5": UUID5,
    "url": AnyUrl,
    "http url": HttpUrl,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "ipv4 network": ipaddress.IPv4Network,
    "ipv6 network": ipaddress.IPv6Network,
    "ipv4 interface": ipaddress.IPv4Interface,
    "ipv6 interface": ipaddress.IPv6Interface,
    "any ip": IPvAnyAddress,
    "any network": IPvAnyNetwork,
    "any interface": IPvAnyInterface,
    "bytes": bytes,
    "base64": Base64Bytes,
    "base64 text": Base64Str,
    "json": Json[list[date]],
    "secret": SecretStr,
    "secret date": Secret[date],
    "regular expression": re.Pattern[str],
    "path": Path,
    "file": FilePath,
    "directory": DirectoryPath,
    "byte size": ByteSize,
    "enum": Colour,
    "int enum": Level,
    "literal": Literal["a", 2, True, None],
    "optional": Optional[Annotated[int, Field(ge=5)]],  # noqa: UP045 - the older spelling is a case of its own.
    "union": Annotated[int, Field(ge=5)] | date,
    "discriminated union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "list": list[date],
    "list of a length": Annotated[list[int], Field(min_length=3, max_length=3)],
    "deque": deque[uuid.UUID],
    "sequence": Sequence[float],
    "set": Annotated[set[int], Field(min_length=12)],
    "set of dates": Annotated[set[date], Field(min_length=3)],
    "set of patterns": Annotated[set[Text], Field(min_length=4)],
    "set of literals": Annotated[set[Literal["a", "b", "c"]], Field(min_length=3)],
    "set of unions": Annotated[set[int | str], Field(min_length=3)],
    "frozenset": frozenset[Colour],
    "tuple": tuple[int, date, Literal["x"]],
    "tuple of any length": tuple[int, ...],
    "named tuple": Point,
    "dict": dict[str, int],
    "dict of a length": Annotated[dict[str, date], Field(min_length=3, max_length=3)],
    "dict by int": dict[int, str],
    "dict by uuid": dict[uuid.UUID, float],
    "dict by literal": Annotated[dict[Literal["x", "y"], int], Field(min_length=2)],
    "dict by pattern": Annotated[dict[Text, int], Field(min_length=2)],
    "mapping": Mapping[str, list[int]],
    "typed dict": Options,
    "dataclass": Size,
    "model": Cat,
    "recursive": Node,
    "tree": Tree,
    "forest": Forest,
    "alias": Odd,
    "no more": Exact,
    "root model": RootModel[list[Cat]],
    "nested": dict[str, list[tuple[Colour, Cat | None]]],
    "defaults": Defaults,
    "example": Annotated[WebsocketUrl, Field(examples=["wss://example.com"])],
    "imported by example": Annotated[ImportString[Any], Field(examples=["math.pi"])],
    "tagged union": Annotated[
        Annotated[int, Tag("number")] | Annotated[list[int], Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "number"),
    ],
}


@pytest.mark.parametrize("required_only", [False, True])
@pytest.mark.parametrize("kind", FIELDS)
def test_pydantic_accepts_the_sample_of_a_field(kind: str, required_only: bool) -> None:
    model = create_model("Model", field=(FIELDS[kind], ...))
    sample = make_sample(model.model_json_schema(), "Oslo", required_only=required_only)
    model.model_validate_json(json.dumps(sample))
    assert sample == make_sample(model.model_json_schema(), "Oslo", required_only=required_only)


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (PostgresDsn, "postgres://user@example.com/db"),
        (KafkaDsn, "kafka://example.com:9092"),
        (RedisDsn, "redis://example.com/0"),
        (WebsocketUrl, "wss://example.com"),
        (FtpUrl, "ftp://example.com/a"),
        (FileUrl, "file:///etc/hosts"),
        (FutureDate, "2999-01-01"),
        (FutureDatetime, "2999-01-01T00:00:00Z"),
        (complex, "1+2j"),
        (ImportString, "math.pi"),
    ],
)
def test_what_pydantic_demands_beyond_its_schema_needs_an_example(kind: Any, example: str) -> None:
    """The types that docs/sandbox.md lists; one that starts to work without an example can be removed there."""
    plain = create_model("Model", field=(kind, ...))
    with pytest.raises(ValidationError):
        plain.model_validate(make_sample(plain.model_json_schema(), "Oslo", required_only=False))
    model = create_model("Model", field=(Annotated[kind, Field(examples=[example])], ...))
    sample = make_sample(model.model_json_schema(), "Oslo", required_only=False)
    assert sample == {"field": example} and model.model_validate(sample)


def test_all_fields_together_through_the_openai_client(server: Server) -> None:
    """The SDK's helper makes a strict schema from the model, and parses the response into it."""
    fields = {f"f{number}": (kind, ...) for number, kind in enumerate(FIELDS.values())}
    model = create_model("Everything", **fields)  # type: ignore[call-overload]
    messages = [{"role": "user", "content": "Everything about Oslo"}]
    with openai.OpenAI(base_url=server.url + "/inference/v1", api_key="sandbox", max_retries=0) as client:
        completion = client.chat.completions.parse(model=PLAIN, messages=messages, response_format=model)
        parsed = completion.choices[0].message.parsed
        assert isinstance(parsed, model) and parsed.f0 == "Oslo"
        tool = openai.pydantic_function_tool(model, name="tell")
        completion = client.chat.completions.parse(model=PLAIN, messages=messages, tools=[tool])
        [call] = completion.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, model)


def test_a_recursive_model_has_one_more_level_and_then_ends() -> None:
    tree = make_sample(Tree.model_json_schema(), "Oslo", required_only=False)
    assert tree == {"name": "Oslo", "children": [{"name": "Oslo", "children": []}]}


A_TO_C = {"properties": {name: {"type": "integer"} for name in "abc"}}
# Schemas that pydantic does not write, with a sample of each: the keywords of all drafts, alone and together.
SCHEMAS: list[tuple[Any, Any]] = [
    ({}, "Oslo"),
    (True, "Oslo"),
    ({"type": ["integer", "null"]}, 1),
    ({"type": "null"}, None),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"enum": ["a", 2], "type": "integer"}, 2),
    ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 4),
    ({"type": "integer", "exclusiveMinimum": 2.5, "multipleOf": 1.5}, 3),
    ({"type": "number", "maximum": -0.5}, -0.5),
    ({"type": "number", "exclusiveMaximum": 1.5}, 0.5),
    ({"type": "number", "minimum": 0.1, "multipleOf": 0.1}, 0.1),
    ({"type": "string", "minLength": 6}, "Oslo.."),
    ({"type": "string", "maxLength": 0}, ""),
    ({"type": "string", "format": "email", "minLength": 30}, "sandbox" + "x" * 11 + "@example.com"),
    ({"type": "string", "format": "unheard-of"}, "Oslo"),
    ({"type": "string", "pattern": "^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d]{8,}$"}, "A0aaaaaaaa"),
    ({"type": "string", "pattern": "^(?<year>\\d{4})-(?:0[1-9]|1[0-2])$"}, "0000-01"),
    ({"type": "string", "pattern": "^O\\w+$"}, "Oslo"),
    ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}, {"minLength": 4}]}, "aaab"),
    ({"not": {"type": "string"}}, None),
    ({"type": "string", "not": {"enum": ["Oslo"]}}, "Oslo1"),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True}, [True, False]),
    ({"type": "array", "items": [{"type": "integer"}, {"const": "x"}], "additionalItems": False}, [1, "x"]),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 3}, [1, None, None]),
    ({"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 7}, "minContains": 2}, [7, 7]),
    ({"type": "array", "maxItems": 0}, []),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}, {"1": 1, "2": 1}),
    ({"type": "object", "patternProperties": {"^x_": {"type": "null"}}, "minProperties": 2}, {"x_": None, "x_1": None}),
    ({"type": "object", "propertyNames": {"format": "date"}, "minProperties": 1}, {"2026-01-15": "Oslo"}),
    ({**A_TO_C, "maxProperties": 2, "required": ["c"]}, {"a": 1, "c": 1}),
    ({"required": ["a"], "dependentRequired": {"a": ["b"], "b": ["c"]}}, {"a": "Oslo", "b": "Oslo", "c": "Oslo"}),
    ({**A_TO_C, "dependencies": {"a": ["b"], "c": {"properties": {"b": {"minimum": 5}}}}}, {"a": 1, "b": 5, "c": 1}),
    ({"anyOf": [False, {"type": "integer", "minimum": 2, "maximum": 1}, {"const": "x"}]}, "x"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1.5),
    ({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer", "minimum": 6}, None),
    ({"allOf": [A_TO_C, {"properties": {"a": {"minimum": 3}}, "required": ["a"]}]}, {"a": 3, "b": 1, "c": 1}),
    ({"allOf": [{"type": ["number", "string"]}, {"type": "integer"}], "anyOf": [{"minimum": 4}]}, 4),
    (
        {"properties": {"a": {"const": 1}}, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"a": 1, "b": "Oslo"},
    ),
    ({"type": "object", "properties": {"a": {"type": "string", "nullable": True}}}, {"a": "Oslo"}),
    ({"properties": {"a/b~c": {"$ref": "#/$defs/x~1y"}}, "$defs": {"x/y": {"type": "null"}}}, {"a/b~c": None}),
    ({"$ref": "#/definitions/n", "default": 7, "definitions": {"n": {"type": "integer"}}}, 7),
    ({"type": "object", "properties": {"me": {"$ref": "#"}}}, {"me": {"me": {}}}),
    ({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "integer"}]}, [[1]]),
    ({"type": "integer", "examples": ["x", 40]}, 40),
    ({"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "null"}}, "null"),
]


@pytest.mark.parametrize(("schema", "sample"), SCHEMAS)
def test_the_sample_of_a_schema(schema: Any, sample: Any) -> None:
    if sample is None and schema != {"type": "null"}:
        # The schema has values, but the sandbox finds none and says so.
        with pytest.raises(UnsupportedSchema, match="no value was found at"):
            make_sample(schema, "Oslo", required_only=False)
    else:
        made = make_sample(schema, "Oslo", required_only=False)
        assert (made, type(made)) == (sample, type(sample))


def nest(depth: int) -> dict[str, Any]:
    """Returns a schema of objects within objects."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


BIG = {"type": "array", "minItems": 1000}
WIDE = {
    f"t{number}": {"properties": {f"p{to}": {"$ref": f"#/$defs/t{to}"} for to in range(30)}} for number in range(30)
}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, "at $: no number that is different"),
        (
            {"properties": {"a": {"items": {"type": "nothing"}, "minItems": 1}}, "required": ["a"]},
            "at $.a.0: there is no type",
        ),
        ({"type": "string", "pattern": "\\p{Lu}"}, "cannot be read: bad escape"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "no text was found for pattern ^a$, minLength 2"),
        ({"type": "string", "minLength": 10**6}, "more than 10,000 characters"),
        ({"type": "array", "minItems": 1001}, "more than 1,000 items"),
        ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "uniqueItems": True}, "no 3 different items"),
        (
            {"type": "object", "required": ["a"], "additionalProperties": False},
            "at $.a: the schema allows no value here",
        ),
        ({"properties": {"me": {"$ref": "#"}}, "required": ["me"]}, "never end"),
        ({"$ref": "https://example.com/schema"}, "leads out of the schema"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        (False, "the schema allows no value here"),
        (BIG | {"items": BIG | {"items": BIG}}, "too large"),
        ({"properties": 1, "required": ["x"]}, "could not understand the instance"),
        ({"type": "integer", "minimum": float("inf")}, "could not understand the instance"),
        ("{no json", "could not understand the instance"),
    ],
)
def test_a_schema_without_a_sample_is_explained(server: Server, schema: Any, problem: str) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        make_sample(schema, "Oslo", required_only=False)
    assert problem in str(caught.value)


@pytest.mark.parametrize("base", ["/inference/v1", "/deepinfra/v1/openai", "/featherless/v1", "/chutes/v1"])
def test_every_provider_says_what_is_wrong_with_a_schema(server: Server, base: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["a"]}}}
    form["json_schema"]["schema"]["properties"] = {"a": {"type": "integer", "minimum": 2, "maximum": 1}}  # type: ignore[index]
    response = server.chat("sandbox/sandbox-crlf" if base != "/inference/v1" else PLAIN, base, response_format=form)
    assert response.status_code == 400
    assert "JSON Schema not supported: no value was found at $.a: no number" in response.text


def test_hostile_schemas_are_bounded() -> None:
    """Schemas that refer to everything else, nest deeply or match slowly have a small sample or none."""
    wide = {"$ref": "#/$defs/t0", "$defs": WIDE}
    assert len(json.dumps(make_sample(wide, "Oslo", required_only=False))) < 100_000
    assert make_sample(nest(25), "Oslo", required_only=True)
    with pytest.raises(UnsupportedSchema):
        make_sample(nest(300), "Oslo", required_only=True)
    with pytest.raises(UnsupportedSchema, match="too long to find"):
        choices = [{"anyOf": [{"minLength": 1}, {"minLength": 2}]}] * 40
        make_sample({"allOf": [*choices, False]}, "Oslo", required_only=True)
    alternatives = {"type": "string", "pattern": "^(a|aa|a.)*b$", "minLength": 200}
    with pytest.raises(UnsupportedSchema, match="no text was found"):
        make_sample(alternatives, "a" * 200, required_only=True)
    slow = {"oneOf": [{"pattern": "^(a+)+$"}, {"const": "a" * 40 + "b"}], "type": "string"}
    assert make_sample(slow, "Oslo", required_only=False) == "a"


def fits(adapter: TypeAdapter[Any], value: float) -> bool:
    """Returns whether pydantic accepts a value."""
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


WHOLE = (int, st.integers(-30, 30), st.sampled_from([None, 1, 2, 7]))
HUNDREDTHS = st.integers(-3_000, 3_000).map(lambda number: number / 100)
BROKEN = (float, HUNDREDTHS, st.sampled_from([None, 0.5, 0.25, 3.0]))


@pytest.mark.parametrize(("kind", "lows", "steps"), [WHOLE, BROKEN])
@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_a_number_is_found_within_any_bounds_that_allow_one(kind: type, lows: Any, steps: Any, data: Any) -> None:
    low, step = data.draw(lows), data.draw(steps)
    high = kind(low + data.draw(st.integers(0, 4)))
    limits = {"gt": low, "lt": high} if data.draw(st.booleans()) else {"ge": low, "le": high}
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[kind, Field(**limits, multiple_of=step)])
    try:
        sample = make_sample(adapter.json_schema(), "Oslo", required_only=False)
    except UnsupportedSchema:
        hundredths = (kind(low + number / 100) for number in range(401))
        assert not any(fits(adapter, number) for number in hundredths)
    else:
        assert fits(adapter, sample)
