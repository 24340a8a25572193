"""Parses a request body as strict JSON.

A body that two parsers could read differently is refused, because the provider must read what the gateway checked.
"""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any, NoReturn

import msgspec

from app.errors import BadRequest
from app.json_structure import (
    FEW_ELEMENTS,
    count_commas,
    count_elements,
    decode_many,
    extract_structure,
    find_marks,
    is_deeper_than,
)
from app.lenient_json import encode
from app.yielding import PASS_S

# Real requests nest the JSON schemas of tools a dozen levels deep. Parsers recurse, so there must be a bound.
MAX_DEPTH = 64

# More than any request needs: a conversation of ten thousand messages in parts has 70,000. The worst body with this
# many takes 30 ms, during which the worker serves no other request; a plain body of MAX_BODY_BYTES takes longer.
MAX_ELEMENTS = 100_000
# The values of arrays and objects are bounded too, counted by the commas between them. Prompts of token ids have the
# most: as many as the longest context, and OpenAI accepts as many in one request for embeddings. This many whole
# numbers take 5 ms, and long fractions 150 ms.
MAX_VALUES = 300_000

# For a longer body each step of the checks takes some tenths of a millisecond, so streams get a turn after it.
_PACED_BODY_BYTES = 1 << 18

# Longer bodies are protected from numbers of hundreds of digits, which take msgspec 20 µs each.
_LONG_BODY_BYTES = 65_536
# Values of this average length or shorter are cheap.
_SHORT_VALUE_BYTES = 5

# From this average length of the values on, walking over them is faster than encoding the body.
_WALKED_VALUE_BYTES = 16
_WALKED_BODY_BYTES = 4_096


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number out of range")
    return value


_decode = msgspec.json.Decoder().decode
_decode_long_numbers = msgspec.json.Decoder(float_hook=_parse_float).decode


def parse_body(content: bytes) -> dict[str, Any]:
    """Returns a request body as a JSON object.

    Args:
        content: the body; UTF-8, no NaN, no duplicate keys, nested at most MAX_DEPTH levels. Lone surrogates pass if
            they are escaped, as JSON requires.

    Returns:
        The object.

    Raises:
        BadRequest: the body is anything else, or has more than MAX_ELEMENTS objects, arrays and keys, or more than
            MAX_VALUES values.
    """
    marks = find_marks(content)
    quotes, commas = marks.count(b'"'), marks.count(b",")
    elements = len(marks) - quotes - commas  # Upper bound: characters inside strings are counted too.
    _raise_if_too_many(content, elements, commas)
    is_paced = len(content) > _PACED_BODY_BYTES
    if is_paced:
        _pause()
    body = _parse(content, commas, elements > FEW_ELEMENTS)
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object. GET /openapi.json lists its fields.", code="invalid_json")
    if is_paced:
        _pause()
    if not _is_walked(content, body, quotes):
        if elements - marks.count(b":") > MAX_DEPTH and _is_too_deep(content, body, elements):
            raise _make_depth_error()
        _raise_on_duplicate_keys(content, body, quotes)
    if is_paced:
        _pause()  # Encoding the body takes as long again.
    return body


def _raise_if_too_many(content: bytes, elements: int, commas: int) -> None:
    """Raises BadRequest if a body has too many elements or values.

    Args:
        content: the body.
        elements: an upper bound on their number, because characters inside strings are counted too.
        commas: likewise.
    """
    if elements > MAX_ELEMENTS and count_elements(extract_structure(content, MAX_ELEMENTS, _pause)) > MAX_ELEMENTS:
        raise _make_size_error(f"{MAX_ELEMENTS:,} objects, arrays and keys. Split it into several requests.")
    if commas > MAX_VALUES and count_commas(content, MAX_VALUES, _pause) > MAX_VALUES:
        raise _make_size_error(
            f"{MAX_VALUES:,} values. Split it into several requests, or send prompts as strings in place of token ids."
        )


def _make_size_error(rest: str) -> BadRequest:
    return BadRequest(f"The body has more than {rest}", code="too_many_elements")


def _pause() -> None:
    time.sleep(PASS_S)


def _parse(content: bytes, commas: int, has_many_elements: bool) -> Any:
    decode = _decode
    if len(content) > _LONG_BODY_BYTES and commas * _SHORT_VALUE_BYTES < len(content):
        decode = _decode_long_numbers
    try:
        return decode_many(decode, content) if has_many_elements else decode(content)
    except RecursionError:
        raise _make_depth_error() from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        return _parse_with_surrogates(content, error)


def _parse_with_surrogates(content: bytes, refused: Exception) -> Any:
    """Parses a body that msgspec refused because of lone surrogates: the halves of an emoji that was cut.

    JSON allows escaped surrogates (RFC 8259, section 8.2), and clients send back text written by models.

    Args:
        content: the body.
        refused: the error of msgspec; the reason for the client if the body has no escaped surrogate.

    Raises:
        BadRequest: the body is not valid for another reason.
    """
    reason = str(refused).removeprefix("JSON is malformed: ")
    if re.search(rb"\\u[dD][89a-fA-F]", content):
        try:
            return json.loads(content.decode("utf-8"), parse_constant=_refuse_number, parse_float=_read_float)
        except RecursionError:
            raise _make_depth_error() from None
        except ValueError as error:  # UnicodeDecodeError is one too.
            reason = str(error)
    raise BadRequest(f"The body is not valid JSON: {reason}. Send one JSON object in UTF-8.", code="invalid_json")


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"JSON has no number {text[:40]}")


def _read_float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _make_depth_error() -> BadRequest:
    return BadRequest(f"The body is nested more than {MAX_DEPTH} levels deep. Flatten it.", code="invalid_json")


def _is_walked(content: bytes, body: dict[str, Any], quotes: int) -> bool:
    """Returns whether a walk over a body shows that it is not too deep and has no key twice.

    Each string in the JSON text has two quotes around it, plus escaped ones within it. So the parsed strings and their
    quotes account for all quotes of the text, unless a key was dropped with its quotes. Only a quote written as a code
    point (`\\u0022`) would be counted in excess and hide a dropped one.

    Args:
        content: the body.
        body: the same, parsed.
        quotes: how many quotes the text has.

    Returns:
        False if it is not certain: there is a quote of that form, or there are too many values to walk over.

    Raises:
        BadRequest: the body is too deep.
    """
    if len(content) < _WALKED_BODY_BYTES:
        return False
    has_escapes = b"\\" in content
    if has_escapes and b"u0022" in content:
        return False
    left = len(content) // _WALKED_VALUE_BYTES
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        values = _get_values(level, left)
        if values is None:
            return False
        left -= len(values)
        others = [value for value in values if type(value) is not str]
        quotes -= 2 * (len(values) - len(others))
        if has_escapes:
            quotes -= "".join([value for value in values if type(value) is str]).count('"')
        level = [value for value in others if isinstance(value, dict | list)]
        if not level:
            return quotes == 0
    raise _make_depth_error()


def _get_values(nodes: list[Any], most: int) -> list[Any] | None:
    """Returns the keys and values of objects, and the values of arrays; None if there are more than about `most`."""
    values: list[Any] = []
    for node in nodes:
        if len(node) + len(values) > most:
            return None
        values += node  # Adds the keys, if it is an object.
        if type(node) is dict:
            values += node.values()
    return values


def _is_too_deep(content: bytes, body: dict[str, Any], elements: int) -> bool:
    if elements > FEW_ELEMENTS:  # Searching the text for brackets then takes a third of the time.
        return is_deeper_than(extract_structure(content, MAX_ELEMENTS, _pause), MAX_DEPTH)
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _raise_on_duplicate_keys(content: bytes, body: dict[str, Any], quotes: int) -> None:
    """Raises BadRequest if an object has a key twice, because parsers would read it differently.

    A parser that drops a key drops its quotes too. So equal numbers of string delimiters before and after parsing prove
    that no key was dropped. Unusual escapes make the numbers differ as well; then a slower parser decides.
    """
    encoded = encode(body)
    if quotes - _count_escaped(content) != encoded.count(b'"') - _count_escaped(encoded):
        json.loads(content, object_pairs_hook=_make_dict)


def _count_escaped(text: bytes) -> int:
    # Searching for two bytes takes 1 ms per megabyte, searching for one byte a hundredth of that, and most prompts have
    # no backslash.
    return text.count(b'\\"') if b"\\" in text else 0


def _make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = _find_repeated([name for name, _ in pairs])
        raise BadRequest(
            f"The body contains the key {name[:100]!r} twice. Send it once.", code="duplicate_key", param=name[:100]
        )
    return found


def _find_repeated(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
