"""Reads the JSON that providers write, and writes JSON that every strict parser reads.

Providers send three things that msgspec refuses: lone surrogates (half of an emoji, at the end of a token or at a
limit), `NaN` and infinities (in logprobs), and bytes that are not UTF-8. An answer with them is paid for, so it is read
all the same. msgspec reads everything first; the slower parser here runs only if it has refused.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

# Converting whole numbers takes quadratic time, so longer ones are refused in the whole process. This is the lowest
# limit that Python allows, 640 digits.
sys.set_int_max_str_digits(sys.int_info.str_digits_check_threshold)

_SURROGATES = re.compile("[\ud800-\udfff]")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_leniently(content: bytes) -> Any:
    """Returns a JSON document as Python values.

    Numbers that JSON lacks or that are too large (`NaN`, `Infinity`, `1e400`) become None, lone surrogates are kept,
    and bytes that are not UTF-8 are replaced with U+FFFD. A byte order mark and control characters in strings are
    accepted.

    Raises:
        ValueError: the content is not JSON, or is nested too deeply.
    """
    try:
        return _decode(content)
    except RecursionError:
        raise _make_depth_error() from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_odd(content)


def _decode_odd(content: bytes) -> Any:
    try:
        text = content.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError:
        text = content.decode("utf-8-sig", "replace")
    try:
        return _odd_decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _long_number_decoder.decode(text)
    except RecursionError:
        raise _make_depth_error() from None


def _read_int(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:  # Python refuses to read thousands of digits, because that takes quadratic time.
        return None


def _read_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _make_decoder(parse_int: Callable[[str], int | None] | None) -> json.JSONDecoder:
    return json.JSONDecoder(
        strict=False, parse_int=parse_int, parse_float=_read_float, parse_constant=lambda name: None
    )


_odd_decoder = _make_decoder(None)
_long_number_decoder = _make_decoder(_read_int)  # Calling a function for each number takes several times as long.


def decode_as_text(content: bytes) -> Any:
    """Like `decode_leniently`, with each lone surrogate replaced by U+FFFD.

    For documents that the gateway keeps, because stored or sent UTF-8 cannot contain lone surrogates.

    Raises:
        ValueError: as for `decode_leniently`.
    """
    try:
        return _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode(replace_surrogates(_write(decode_leniently(content), ensure_ascii=False)))


def replace_surrogates(text: str) -> str:
    """Returns `text` with each lone surrogate, which UTF-8 cannot represent, replaced by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def encode(value: Any) -> bytes:
    """Returns JSON values as bytes; lone surrogates are escaped (`\\ud83d`), which every parser reads.

    Raises:
        ValueError: the value is nested too deeply.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _write(value).encode()
    except RecursionError:
        raise _make_depth_error() from None


def _write(value: Any, *, ensure_ascii: bool = True) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=ensure_ascii)
    except RecursionError:
        raise _make_depth_error() from None


def _make_depth_error() -> ValueError:
    return ValueError("the document is nested too deeply")
