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
from typing import Any

import msgspec

from app.lenient_json import decode_leniently, encode
from app.yielding import with_pauses

_NAME = b'"embedding"'
_COLON = re.compile(rb"\s*:\s*")

# A place is written where a vector was cut out. No vector in base64 begins with this character.
_PLACE = "#"

_NUMBER_BYTES = b"0123456789+-.eE, \t\r\n"
_BASE64_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

# Converting this much text takes 2 ms at most.
_SLICE_BYTES = 300_000

_decode_floats = msgspec.json.Decoder(list[float]).decode
_encode_floats = msgspec.json.Encoder().encode


class VectorResponse(dict[str, Any]):
    """A response as JSON values, in which a string stands for each vector: `get_vector` returns the vector.

    Attributes:
        content: the response as it was received.
        is_changed: whether the values differ from the content, so that it cannot be sent as it is.
    """

    def __init__(self, values: dict[str, Any], content: bytes, vectors: list[bytes]) -> None:
        super().__init__(values)
        self.content = content
        self.is_changed = False
        self._vectors = vectors

    def get_vector(self, item: dict[str, Any]) -> bytes | None:
        """Returns the vector of an entry as JSON, a list of numbers or a string in base64; None if it has none."""
        value = item.get("embedding")
        if isinstance(value, str) and value.startswith(_PLACE) and value[1:].isdigit():
            place = int(value[1:])
            return self._vectors[place] if place < len(self._vectors) else None
        return encode(value) if isinstance(value, str | list) else None


def decode_vectors(content: bytes) -> Any:
    """Returns a response as JSON values with its vectors cut out, if it is an object.

    Raises:
        ValueError: the content is not JSON.
    """
    vectors, rest = _cut(content)
    try:
        values, is_strict = msgspec.json.decode(rest), True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        values, is_strict = decode_leniently(rest), False
    if not isinstance(values, dict):
        return values
    response = VectorResponse(values, content, vectors)
    response.is_changed = not is_strict
    return response


def _cut(content: bytes) -> tuple[list[bytes], bytes]:
    """Returns the vectors, and the rest of the document with a place in the stead of each."""
    vectors: list[bytes] = []
    pieces: list[bytes] = []
    done = at = 0
    while (found := content.find(_NAME, at)) >= 0:
        at = found + len(_NAME)
        colon = _COLON.match(content, at)
        if colon is None:
            continue  # A value: `"object": "embedding"`.
        start = at = colon.end()
        closing = {b"[": b"]", b'"': b'"'}.get(content[start : start + 1])
        end = 0 if closing is None else content.find(closing, start + 1) + 1
        vector = content[start:end]
        if not vector or b"\\" in vector:
            continue  # The parser reads it, whatever it is.
        pieces += [content[done:start], b'"%b%d"' % (_PLACE.encode(), len(vectors))]
        vectors.append(vector)
        done = at = end
    return vectors, b"".join([*pieces, content[done:]])


def encode_vectors(response: VectorResponse, *, as_base64: bool) -> bytes:
    """Returns a response as JSON, with all vectors in one form; it pauses while it converts them.

    Args:
        response: the response; its entries are `data`.
        as_base64: whether the vectors are to be little-endian 32-bit floats in base64, or else lists of numbers.

    Raises:
        ValueError: a vector is none, or has something that is no finite number.
    """
    vectors = [response.get_vector(item) or b"" for item in response["data"]]
    opening = b'"' if as_base64 else b"["
    if not response.is_changed and all(_is_plain(vector, opening) for vector in vectors):
        return response.content
    convert = _to_base64 if as_base64 else _to_numbers
    longest = max(map(len, vectors))
    slices = with_pauses(vectors, slice_items=max(1, _SLICE_BYTES // (longest + 1)))
    converted = [vector if _is_plain(vector, opening) else convert(vector) for vector in slices]
    items = [
        {**item, "embedding": msgspec.Raw(vector)} for item, vector in zip(response["data"], converted, strict=True)
    ]
    return encode({**response, "data": items})


def _is_plain(vector: bytes, opening: bytes) -> bool:
    """Returns whether a vector has the form that begins with `opening`, and nothing in it that this form lacks."""
    if not vector.startswith(opening):
        return False
    return not vector[1:-1].translate(None, _BASE64_BYTES if opening == b'"' else _NUMBER_BYTES)


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
