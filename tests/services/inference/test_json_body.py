"""Bodies are read as strict JSON: anything that two parsers could read differently is refused, the rest is exact."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import json_structure
from app.errors import BadRequest
from app.json_structure import count_elements, extract_structure, is_deeper_than
from app.services.inference.json_body import MAX_DEPTH, MAX_ELEMENTS, MAX_VALUES, parse_body
from tests.support.soak import examples

# Mostly characters around which counting quotes could go wrong.
TEXTS = st.text(st.sampled_from('"\\/u0022c5{}[]:, \n\té🌍') | st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
BODIES = st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4)


class Writer:
    """Writes JSON with each character escaped in some allowed way, and repeats a key of the `doubled`-th object."""

    def __init__(self, seed: int, doubled: int | None = None) -> None:
        self.chance = random.Random(seed)
        self.doubled = doubled
        self.objects = 0

    def write(self, value: Any) -> str:
        blank = self.chance.choice(["", "", " ", "\n\t"])
        if isinstance(value, str):
            return '"' + "".join(map(self._character, value)) + '"'
        if isinstance(value, list):
            return "[" + blank + ",".join(map(self.write, value)) + "]"
        if isinstance(value, dict):
            return "{" + blank + ("," + blank).join(self._members(value)) + "}"
        return json.dumps(value)

    def _members(self, value: dict[str, Any]) -> list[str]:
        number, self.objects = self.objects, self.objects + bool(value)
        members = [f"{self.write(name)}:{self.write(content)}" for name, content in value.items()]
        if value and number == self.doubled:
            again = self.chance.choice([*value.values(), "x\\", '"', {}, 1])
            where = self.chance.randint(0, len(members))
            members.insert(where, f"{self.write(self.chance.choice(list(value)))}:{self.write(again)}")
        return members

    def _character(self, character: str) -> str:
        way = self.chance.randrange(3)
        if way == 0 or ord(character) < 0x20:
            units = character.encode("utf-16-be")
            return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
        if character in '"\\' or (character == "/" and way == 1):
            return "\\" + character
        return character


def beside_text(body: bytes) -> bytes:
    """Returns an object with `body` and with enough text and quotes that it is checked as a large one."""
    return b'{"text": ' + json.dumps('said "yes" \\\n' * 500).encode() + b', "body": ' + body + b"}"


def count_objects(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict) and bool(value)) + sum(map(count_objects, children))


@settings(max_examples=examples(120), deadline=None)
@given(BODIES, st.integers(0, 2**32))
def test_a_body_without_a_key_twice_is_read_exactly(body: dict[str, Any], seed: int) -> None:
    written = Writer(seed).write(body).encode()
    assert repr(parse_body(written)) == repr(body)
    assert repr(parse_body(beside_text(written))["body"]) == repr(body)


@settings(max_examples=examples(120), deadline=None)
@given(BODIES, st.integers(0, 2**32), st.integers(0, 1000))
def test_a_body_with_a_key_twice_at_any_depth_is_refused(body: dict[str, Any], seed: int, which: int) -> None:
    written = Writer(seed, doubled=which % count_objects(body)).write(body).encode()
    for content in (written, beside_text(written)):
        with pytest.raises(BadRequest) as caught:
            parse_body(content)
        assert (caught.value.code, caught.value.status) == ("duplicate_key", 400)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a\\"": 1, "a\\u0022": 2}',
        b'{"a\\\\": "\\\\", "a\\u005c": "\\\\"}',
        b'{"x": {"y": [{"deep": 1, "z": {}, "deep": 2}]}}',
        b'{"": 1, "": 2}',
        b'{"a": "\\"\\"", "a": ""}',
        b'{"a": "", "a": "\\"\\"\\"\\""}',
        b'{"model": "cheap", "messages": [], "model": "dear"}',
        b'{"a": 1, "a": "\\u0022\\u0022"}',  # Escaped quotes that make up for those of the dropped key.
    ],
)
def test_a_key_twice_is_refused_however_it_is_written(body: bytes) -> None:
    for content in (body, beside_text(body)):
        with pytest.raises(BadRequest) as caught:
            parse_body(content)
        assert caught.value.code == "duplicate_key" and caught.value.param is not None


def nested(depth: int, opening: str, closing: str) -> bytes:
    """Returns an object whose arrays or objects are nested `depth` levels deep, including the outermost one."""
    inner = depth - 1
    return f'{{"a":{opening * inner}1{closing * inner}}}'.encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_may_be_nested_to_the_limit_and_no_deeper(opening: str, closing: str) -> None:
    assert MAX_DEPTH == 64
    assert parse_body(nested(64, opening, closing)) and parse_body(beside_text(nested(63, opening, closing)))
    with pytest.raises(BadRequest, match="nested more than 64 levels"):
        parse_body(beside_text(nested(64, opening, closing)))
    for depth in (65, 66, 500, 5_000, 40_000):
        with pytest.raises(BadRequest, match="nested more than 64 levels"):
            parse_body(nested(depth, opening, closing))


@pytest.mark.parametrize("count", [10_000, 90_000])
def test_a_wide_body_is_not_a_deep_one(count: int) -> None:
    assert parse_body(b'{"a": [' + b"{}," * count + b"[]]}")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [64, 65])
def test_the_limit_on_depth_is_the_same_in_a_wide_body(opening: str, closing: str, depth: int) -> None:
    body = b'{"b": [' + b"{}," * 30_000 + b"1], " + nested(depth, opening, closing)[1:]
    if depth == 64:
        assert parse_body(body)
        return
    with pytest.raises(BadRequest, match="nested more than 64 levels"):
        parse_body(body)


@pytest.mark.parametrize("unit", [b"{}", b"[]", b'{"a": 1}', b'[{"a": []}]'])
def test_a_body_of_too_many_elements_is_refused(unit: bytes) -> None:
    each = unit.count(b"{") + unit.count(b"[") + unit.count(b":")
    count = (MAX_ELEMENTS - 3) // each  # Three are the outer object, its key and the array.
    assert parse_body(b'{"a": [' + b",".join([unit] * count) + b"]}")
    with pytest.raises(BadRequest) as caught:
        parse_body(b'{"a": [' + b",".join([unit] * (count + 1)) + b"]}")
    assert (caught.value.code, caught.value.status) == ("too_many_elements", 400)
    assert "100,000" in caught.value.message


@pytest.mark.parametrize("unit", [b"1", b'"a"', b'"a,b"', rb'"\\\",\\"', b'""'])
def test_a_body_of_too_many_values_is_refused(unit: bytes) -> None:
    assert parse_body(b'{"a": [' + unit + (b"," + unit) * MAX_VALUES + b"]}")
    with pytest.raises(BadRequest) as caught:
        parse_body(b'{"a": [' + unit + (b"," + unit) * (MAX_VALUES + 1) + b"]}")
    assert (caught.value.code, caught.value.status) == ("too_many_elements", 400)
    assert "300,000" in caught.value.message


@pytest.mark.parametrize("text", ["a, b, c, ", '", "\\', ",", '","'])
def test_commas_in_texts_are_no_values(text: str) -> None:
    body = {"a,": text * MAX_VALUES, "b": ["", ",", "x"]}
    assert parse_body(json.dumps(body).encode()) == body


def test_brackets_and_colons_in_texts_are_no_elements() -> None:
    text = '{"a\\": [1, {}]} \\' * 100_000
    assert parse_body(json.dumps({"[{:": text, "b": ["", "{", "}"]}).encode()) == {"[{:": text, "b": ["", "{", "}"]}


def count_elements_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count_elements_of, value.values()))
    return 1 + sum(map(count_elements_of, value)) if isinstance(value, list) else 0


def depth_of(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


@settings(max_examples=examples(200), deadline=None)
@given(BODIES, st.integers(0, 2**32), st.integers(1, 50))
def test_elements_and_depth_are_found_in_the_text_however_it_is_written(
    body: dict[str, Any], seed: int, piece_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "_PIECE_BYTES", piece_bytes)
        structure = extract_structure(Writer(seed).write(body).encode(), MAX_ELEMENTS)
    assert count_elements(structure) == count_elements_of(body)
    assert not is_deeper_than(structure, depth_of(body)) and is_deeper_than(structure, depth_of(body) - 1)


def test_numbers_in_long_bodies_are_read_as_in_short_ones() -> None:
    numbers = ["0.1", "-1.5e-7", "1e308", "5e-324", "0." + "123456789" * 30, "1" * 639]
    short = [parse_body(f'{{"a": {number}}}'.encode())["a"] for number in numbers]
    long = parse_body(f'{{"a": [{",".join(numbers)}], "b": "{"word " * 20_000}"}}'.encode())["a"]
    assert list(map(repr, long)) == list(map(repr, short)) == [repr(json.loads(number)) for number in numbers]
    for number in ("1e999", "1" * 641, "-1e400"):
        with pytest.raises(BadRequest) as caught:
            parse_body(f'{{"a": {number}, "b": "{"word " * 20_000}"}}'.encode())
        assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"5",
        b"{}{}",
        b'{"a": 1},',
        b"{'a': 1}",
        b'{"a": 1,}',
        b"{a: 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 01}',
        b'{"a": .5}',
        b'{"a": +1}',
        b'{"a": 0x10}',
        b'{"a": /* no */ 1}',
        b'{"a": "\t"}',
        b'{"a": "\x00"}',
        b'{"a": "\\x41"}',
        b'{"a": "\\ud800", "b": NaN}',
        b'{"a": "\\ud800", "b": 1e999}',
        b'{"a": "\\ud800", "b": "\t"}',
        b'{"a": "\\ud800", "b": "\xff"}',
        b'{"a": "\\ud800"',
        b'\xef\xbb\xbf{"a": "\\ud800"}',
        b'{"a": "\\ud800", "b": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b'{"a": "\xc0\xaf"}',
        b'{"a": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"9" * 5000 + b"}",
        b"a=1&b=2",
        b"--boundary\r\n",
        b"\x1f\x8b\x08",
    ],
)
def test_anything_but_one_json_object_in_utf_8_is_a_400(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 300
    caught.value.to_json()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b'{"a": "\\uDC00 text \\ud83d\\ude00", "b": 0.5}', {"a": "\udc00 text \U0001f600", "b": 0.5}),
        (b'{"\\ud83d": 1}', {"\ud83d": 1}),
    ],
)
def test_half_an_emoji_passes(written: bytes, read: dict[str, Any]) -> None:
    assert parse_body(written) == read


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1, "a": 1, "b": "\\ud800"}', b'{"\\ud800": 1, "\\ud800": 2}', b'{"\\ud800": 1, "b": {"c": 1, "c": 2}}'],
)
def test_a_key_twice_beside_half_an_emoji_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(body)
    assert caught.value.code == "duplicate_key" and json.loads(caught.value.to_json())


def test_depth_beside_half_an_emoji_is_refused() -> None:
    for depth in (65, 500, 5_000, 50_000):
        with pytest.raises(BadRequest, match="nested more than 64 levels"):
            parse_body(b'{"e": "\\ud800", ' + nested(depth, "[", "]")[1:])


def test_a_reason_is_the_true_one() -> None:
    with pytest.raises(BadRequest, match="no number NaN"):
        parse_body(b'{"a": "\\ud800", "b": NaN}')


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" * 100, "1e-999", "-0.0", "0.1"])
def test_numbers_are_read_exactly(number: str) -> None:
    assert repr(parse_body(f'{{"a": {number}}}'.encode())) == repr({"a": json.loads(number)})


def test_a_large_body_is_read_whole_with_plain_and_with_odd_escapes() -> None:
    text = 'x"\\' * 350_000
    for written in (json.dumps(text), '"' + "x\\u0022\\u005c" * 350_000 + '"'):
        assert parse_body(b'{"a": ' + written.encode() + b', "b": "\\/"}') == {"a": text, "b": "/"}


@pytest.mark.parametrize("character", [b"[", b'{"a":', b'"', b"\\", b"1", b"\xff"])
def test_a_megabyte_of_anything_is_refused(character: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_body(b'{"a":' + character * (1_000_000 // len(character)))


@settings(max_examples=examples(120), deadline=None)
@given(st.binary(max_size=60) | TEXTS.map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_a_400(body: bytes) -> None:
    for content in (body, b'{"a":' + body + b"}"):
        try:
            assert isinstance(parse_body(content), dict)
        except BadRequest as error:
            assert error.status == 400
