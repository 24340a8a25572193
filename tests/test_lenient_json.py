"""Providers' lenient JSON is read, and the JSON that is written is valid for every strict parser."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.lenient_json import decode_as_text, decode_leniently, encode
from tests.support.soak import examples

ODD: list[tuple[bytes, Any]] = [
    (b'{"a": "\\ud83d", "b": "\\ude00 x"}', {"a": "\ud83d", "b": "\ude00 x"}),
    (b'{"\\ud83d": 1}', {"\ud83d": 1}),
    (b'{"a": "\xed\xa0\xbd"}', {"a": "\ud83d"}),
    (b'{"a": "\\ud83d\\ude00", "b": "\\ud83d"}', {"a": "\U0001f600", "b": "\ud83d"}),
    (b"[NaN, Infinity, -Infinity, 1e400, -1e400, 0.5]", [None, None, None, None, None, 0.5]),
    (b"[" + b"9" * 5_000 + b"]", [None]),
    (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    (b'{"a": "\xff"}', {"a": "\ufffd"}),
    (b'{"a": "1\n2"}', {"a": "1\n2"}),
]


@pytest.mark.parametrize(("content", "value"), ODD)
def test_what_providers_send_beside_the_standard_is_read(content: bytes, value: Any) -> None:
    assert decode_leniently(content) == value


@pytest.mark.parametrize(("content", "value"), ODD)
def test_what_was_read_is_written_for_strict_parsers(content: bytes, value: Any) -> None:
    written = encode(decode_leniently(content))
    assert json.loads(written.decode("utf-8"), parse_constant=pytest.fail) == value


@pytest.mark.parametrize(("content", "value"), ODD)
def test_a_document_that_is_kept_can_be_written_as_utf_8(content: bytes, value: Any) -> None:
    kept = decode_as_text(content)
    as_text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert kept == json.loads(as_text)
    assert msgspec.json.decode(msgspec.json.encode(kept)) == kept


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1,]", b"{} {}", b"<html>", b'{"a": \\ud83d}', b"[" * 100_000, b"data: {}\n\n"]
)
def test_what_is_no_json_is_a_value_error(content: bytes) -> None:
    for decode in (decode_leniently, decode_as_text):
        with pytest.raises(ValueError, match="."):
            decode(content)


@pytest.mark.parametrize("leaf", [b"1", b'"\\ud83d"', b"NaN"])
def test_depth_is_a_value_error_whoever_meets_it(leaf: bytes) -> None:
    for depth in (50, 900, 950, 980, 990, 1_000, 5_000):
        try:
            encode(decode_leniently(b"[" * depth + leaf + b"]" * depth))
        except ValueError:
            assert depth > 500


def test_a_number_that_is_too_long_for_python_is_none_whatever_the_limit() -> None:
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        assert decode_leniently(b'["\\ud83d", ' + b"9" * 700 + b", 12]") == ["\ud83d", None, 12]
    finally:
        sys.set_int_max_str_digits(limit)


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_value_error(content: bytes) -> None:
    for framed in (content, b'{"a":"' + content + b'"}', b'["\\ud83d",' + content + b"]"):
        try:
            encode(decode_leniently(framed))
            msgspec.json.encode(decode_as_text(framed))
        except ValueError:
            continue


@settings(max_examples=examples(60), deadline=None)
@given(st.text(st.characters(), max_size=20), st.text(st.characters(categories=["Cs"]), max_size=3))
def test_every_string_comes_back_from_what_was_written(text: str, lone: str) -> None:
    value = {"a": text + lone, text: [lone]}
    assert json.loads(encode(value)) == json.loads(json.dumps(value))
