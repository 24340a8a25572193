"""Reads and writes responses that consist of vectors, without parsing the numbers where that can be avoided.

A hundred vectors of 4,096 numbers are six megabytes. Parsing and writing all of them takes a worker 60 ms, during which
its streams stand still. So a response is cut where its vectors begin and end, only what is left is parsed, and the
vectors pass as the bytes that they are. Those that must be converted are converted a few at a time.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from app.lenient_json import decode_leniently, encode
from app.yielding import with_pauses

_NAME = b'"embedding"'
_COLON = re.compile(rb"\s*:\s*")
_END = {b"[": b"]", b'"': b'"'}

# A place is written where a vector was cut out. No vector in base64 begins with this character.
_PLACE = "#"

# One of these is in everything that a list of numbers must not hold: null, true, false, NaN, Infinity, texts, lists.
# Searching for single bytes takes a tenth of the time of looking at each.
_NO_NUMBERS = (b"u", b"a", b"n", b'"', b"[", b"{")

# Converting this much text takes 2 ms at most.
_SLICE_BYTES = 300_000

_decode_floats = msgspec.json.Decoder(list[float]).decode
_encode_floats = msgspec.json.Encoder().encode


class _Span(NamedTuple):
    """Where a vector is in a response, whether it is in base64, and whether it holds nothing that its form lacks."""

    start: int
    end: int
    is_packed: bool
    is_plain: bool


class VectorResponse(dict[str, Any]):
    """A response as JSON values, in which a string stands for each vector.

    Attributes:
        content: the response as it was received.
        is_changed: whether the values differ from the content, so that it cannot be sent as it is.
    """

    def __init__(self, values: dict[str, Any], content: bytes, spans: list[_Span]) -> None:
        super().__init__(values)
        self.content = content
        self.is_changed = False
        self._spans = spans

    def has_vector(self, item: dict[str, Any]) -> bool:
        """Returns whether an entry has a vector, or something in its place that may be one."""
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
        """Returns whether the vector of an entry has the form that was asked for, and can pass as it is."""
        span = self._get_span(item)
        return span is not None and span.is_plain and span.is_packed is is_packed


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
    """Returns where the vectors are, and the rest of the document with a place in the stead of each."""
    spans: list[_Span] = []
    pieces: list[bytes] = []
    done = at = 0
    while (found := content.find(_NAME, at)) >= 0:
        at = found + len(_NAME)
        colon = _COLON.match(content, at)
        if colon is None:
            continue  # A value: `"object": "embedding"`.
        start = at = colon.end()
        opening = content[start : start + 1]
        end = content.find(_END[opening], start + 1) + 1 if opening in _END else 0
        if not end or (opening == b'"' and content.find(b"\\", start, end) >= 0):
            continue  # The parser reads it, whatever it is.
        pieces += [content[done:start], b'"%b%d"' % (_PLACE.encode(), len(spans))]
        # Looked at while it is in the processor's cache.
        is_plain = opening == b'"' or (
            end - start > 2 and all(content.find(c, start + 1, end) < 0 for c in _NO_NUMBERS)
        )
        spans.append(_Span(start, end, opening == b'"', is_plain))
        done = at = end
    return spans, b"".join([*pieces, content[done:]])


def encode_vectors(response: VectorResponse, *, as_base64: bool) -> bytes:
    """Returns a response as JSON, with all vectors in one form; it pauses while it converts them.

    Args:
        response: the response; its entries are `data`, each with a vector.
        as_base64: whether the vectors are to be little-endian 32-bit floats in base64, or else lists of numbers.

    Raises:
        ValueError: a vector is none, or has something that is no finite number.
    """
    items = response["data"]
    have_form = [response.has_form(item, is_packed=as_base64) for item in items]
    if not response.is_changed and all(have_form):
        return response.content
    convert = _to_base64 if as_base64 else _to_numbers
    at_once = max(1, _SLICE_BYTES * len(items) // len(response.content))
    converted = [
        msgspec.Raw(response.get_vector(item) if has_form else convert(response.get_vector(item)))
        for item, has_form in with_pauses(zip(items, have_form, strict=True), slice_items=at_once)
    ]
    written = [{**item, "embedding": vector} for item, vector in zip(items, converted, strict=True)]
    return encode({**response, "data": written})


def _to_base64(vector: bytes) -> bytes:
    packed = array("f", _read(vector))
    _raise_unless_finite(packed)  # Also of numbers that are too large for 32 bits.
    return b'"%b"' % b64encode(_to_little_endian(packed).tobytes())


def _to_numbers(vector: bytes) -> bytes:
    numbers = _read(vector)
    _raise_unless_finite(numbers)
    return _encode_floats(numbers)


def _read(vector: bytes) -> list[float]:
    """Returns the numbers of a vector in either form."""
    try:
        if not vector.startswith(b'"'):
            return _decode_floats(vector)
        packed = array("f")
        packed.frombytes(b64decode(msgspec.json.decode(vector), validate=True))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("a vector is no list of numbers") from error
    return _to_little_endian(packed).tolist()


def _raise_unless_finite(numbers: Sequence[float]) -> None:
    # A sum of finite numbers is finite, because an embedding's are far from the largest that there is.
    if not numbers or not math.isfinite(sum(numbers)):
        raise ValueError("a vector has no numbers, or some that are not finite")


def _to_little_endian(packed: array[float]) -> array[float]:
    if sys.byteorder == "big":
        packed.byteswap()
    return packed
