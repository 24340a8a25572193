"""Reads and writes responses that consist of vectors, without parsing the numbers if that can be avoided.

A hundred vectors of 4,096 numbers are six megabytes. Parsing and writing all of them takes a worker 60 ms, during which
its streams stand still. So a response is cut at the beginnings and ends of its vectors, only the rest is parsed, and
the vectors pass as their original bytes. Vectors that must be converted are converted a few at a time.
"""

from __future__ import annotations

import math
import re
import struct
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from app.lenient_json import decode_leniently, encode
from app.yielding import PASS_S, with_pauses

_BEGIN = re.compile(rb'"embedding"\s*:\s*["\[]')
_QUOTE, _BACKSLASH = b'"\\'

# The placeholder for a vector that was cut out. No vector in base64 begins with this character.
_PLACE = "#"

# Converting this much text takes half a millisecond, on a slow machine one. Base64 of as many bytes holds four times as
# many numbers.
_SLICE_BYTES = 100_000
_DENSITY = 4

_decode_floats = msgspec.json.Decoder(list[float]).decode
_encode_floats = msgspec.json.Encoder().encode


class _Span(msgspec.Struct, gc=False):
    """A vector's position in a response, whether it is base64, and whether its contents are valid in that form."""

    start: int
    end: int
    is_packed: bool
    is_plain: bool


class VectorResponse(dict[str, Any]):
    """A response as JSON values, with a string in place of each vector.

    Attributes:
        content: the response as it was received.
        is_changed: whether the values differ from the content, so that it cannot be sent unchanged.
    """

    def __init__(self, values: dict[str, Any], content: bytes, spans: list[_Span]) -> None:
        super().__init__(values)
        self.content = content
        self.is_changed = False
        self._spans = spans

    def has_vector(self, item: dict[str, Any]) -> bool:
        """Returns whether an entry has a vector, or a value in its place that may be one."""
        return isinstance(item.get("embedding"), str | list)

    def get_vector(self, item: dict[str, Any]) -> bytes:
        """Returns the vector of an entry as JSON: a list of numbers, or a string in base64."""
        span = self._get_span(item)
        return encode(item["embedding"]) if span is None else self.content[span.start : span.end]

    def _get_span(self, item: dict[str, Any]) -> _Span | None:
        value = item["embedding"]
        if isinstance(value, str) and value.startswith(_PLACE) and value[1:].isdigit():
            place = int(value[1:])
            return self._spans[place] if place < len(self._spans) else None
        return None

    def has_form(self, item: dict[str, Any], *, is_packed: bool) -> bool:
        """Returns whether an entry's vector has the requested form and can pass unchanged."""
        span = self._get_span(item)
        return span is not None and span.is_plain and span.is_packed is is_packed

    def can_pass(self, *, is_packed: bool) -> bool:
        """Returns whether the content can be sent unchanged: no value differs, and all vectors have the right form."""
        if self.is_changed or any(not span.is_plain or span.is_packed is not is_packed for span in self._spans):
            return False
        return [item["embedding"] for item in self["data"]] == [f"{_PLACE}{at}" for at in range(len(self._spans))]


def decode_vectors(content: bytes) -> Any:
    """Returns a response as JSON values with its vectors cut out, if it is an object.

    Raises:
        ValueError: the content is not JSON.
    """
    spans, rest = _cut(content)
    try:
        values, is_strict = msgspec.json.decode(rest), True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        values, is_strict = decode_leniently(rest), False
    if not isinstance(values, dict):
        return values
    response = VectorResponse(values, content, spans)
    response.is_changed = not is_strict
    return response


def _cut(content: bytes) -> tuple[list[_Span], bytes]:
    """Returns the positions of the vectors, and the rest of the document with a placeholder for each."""
    spans: list[_Span] = []
    pieces: list[bytes] = []
    done = at = 0
    while (found := _BEGIN.search(content, at)) is not None:
        at = found.end()
        start, is_packed = at - 1, content[at - 1] == _QUOTE
        end = content.find(b'"' if is_packed else b"]", at) + 1
        if not end or (is_packed and content[end - 2] == _BACKSLASH):
            continue  # The parser finds the end, or reports that there is none.
        pieces += (content[done:start], f'"{_PLACE}{len(spans)}"'.encode())
        spans.append(_Span(start, end, is_packed, is_packed or _has_only_numbers(content, at, end)))
        done = at = end
    return spans, b"".join([*pieces, content[done:]])


def _has_only_numbers(content: bytes, start: int, end: int) -> bool:
    """Returns whether the range from `start` to `end - 1` is not empty and has no null, false, NaN, infinity or text.

    Each of these contains one of three characters. Searching for each takes a twentieth of the time of examining all
    characters, and the vector is in the processor's cache. A list in the list is invalid JSON once its end is cut off.
    """
    find = content.find
    return end - start > 1 and find(b"n", start, end) < 0 and find(b"a", start, end) < 0 and find(b'"', start, end) < 0


def encode_vectors(response: VectorResponse, *, as_base64: bool) -> bytes:
    """Returns a response as JSON, with all vectors in one form; it pauses while it converts them.

    Args:
        response: the response; its entries are `data`, each with a vector.
        as_base64: whether to return the vectors as little-endian 32-bit floats in base64, or as lists of numbers.

    Raises:
        ValueError: a vector is invalid, or contains a value that is not a finite number.
    """
    if response.can_pass(is_packed=as_base64):
        return response.content
    items = response["data"]
    have_form = [response.has_form(item, is_packed=as_base64) for item in items]
    convert = _to_base64 if as_base64 else _to_numbers
    at_once = max(1, _SLICE_BYTES * len(items) // (len(response.content) * (1 if as_base64 else _DENSITY)))
    if all(have_form):
        at_once = len(items)  # Copying takes almost no time.
    else:
        time.sleep(PASS_S)  # Receiving and cutting the response took a moment too.
    pieces: list[bytes] = []
    for item, has_form in with_pauses(zip(items, have_form, strict=True), slice_items=at_once, pause_s=PASS_S):
        vector = response.get_vector(item)
        others = {name: value for name, value in item.items() if name != "embedding"}
        pieces += [
            b"," if pieces else b"[",
            encode(others)[:-1],
            b',"embedding":',
            vector if has_form else convert(vector),
            b"}",
        ]
    rest = {name: value for name, value in response.items() if name != "data"}
    # Joined, because an encoder that writes megabytes keeps others from running for milliseconds.
    content = b"".join([encode(rest)[:-1], b',"data":', *pieces, b"]}"])
    if not all(have_form):
        time.sleep(PASS_S)  # Sending it takes a moment again.
    return content


def _to_base64(vector: bytes) -> bytes:
    numbers = _read(vector)
    try:
        packed = _get_packing(len(numbers)).pack(*numbers)
    except OverflowError as error:
        raise ValueError("a vector has a number that is too large for 32 bits") from error
    return b'"%b"' % b2a_base64(packed, newline=False)


def _to_numbers(vector: bytes) -> bytes:
    return _encode_floats(_read(vector))


def _read(vector: bytes) -> Sequence[float]:
    """Returns the numbers of a vector in either form; raises ValueError if there are none, or not all are finite."""
    try:
        if vector.startswith(b'"'):
            packed = a2b_base64(msgspec.json.decode(vector), strict_mode=True)
            numbers: Sequence[float] = _get_packing(len(packed) // 4).unpack(packed)
        else:
            numbers = _decode_floats(vector)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, struct.error) as error:
        raise ValueError("a vector is not a list of numbers") from error
    # A sum of finite numbers is finite here, because the numbers of embeddings are far from the largest float.
    if not numbers or not math.isfinite(sum(numbers)):
        raise ValueError("a vector has no numbers, or some that are not finite")
    return numbers


@lru_cache(maxsize=16)
def _get_packing(count: int) -> struct.Struct:
    """Returns the `struct` format of some little-endian 32-bit floats. The vectors of a response have one length."""
    return struct.Struct(f"<{count}f")
