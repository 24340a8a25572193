"""The length of a request body, and the decoding of its Content-Encoding, in small steps and never beyond the limit."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any

from werkzeug.sansio import utils

from app.errors import BadRequest, BodyTooLarge, UnsupportedCoding
from app.yielding import PAUSE_S

_GZIP_NAMES = frozenset({"gzip", "x-gzip"})  # RFC 9110 section 8.4.1.3 treats both as the same.

# Window bits above 16 select the gzip container.
_GZIP_WBITS = 31

# zlib decodes some 300 MB/s, so a step takes about 1 ms. Other requests get a turn after each step.
_STEP_BYTES = 256 << 10


def get_content_length(environ: Mapping[str, Any]) -> int | None:
    """Returns the Content-Length of a request from its WSGI environ; None if it has none or a chunked body."""
    return utils.get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))


def raise_if_unsupported(coding: str | None) -> None:
    """Raises unless a body with this Content-Encoding can be decoded; None and `identity` need no decoding.

    Raises:
        UnsupportedCoding: the body has another coding than gzip, or several.
    """
    if coding is not None and coding.strip().lower() not in _GZIP_NAMES | {"identity", ""}:
        raise UnsupportedCoding(
            f"The body has the content-encoding {coding[:50]!r}. Send it with gzip or without a content-encoding.",
            param="content-encoding",
        )


def decode_body(content: bytes, coding: str | None, max_bytes: int) -> bytes:
    """Returns a body without its content coding.

    Args:
        content: the body as sent.
        coding: its Content-Encoding, which `raise_if_unsupported` accepts.
        max_bytes: the longest allowed length of the decoded body.

    Raises:
        BodyTooLarge: it is longer.
        BadRequest: it is not valid gzip, or data follows the end of the gzip data.
    """
    if coding is None or coding.strip().lower() not in _GZIP_NAMES:
        return content
    decoder = zlib.decompressobj(_GZIP_WBITS)
    rest, tail, pieces, size = memoryview(content), b"", [b""], 0
    try:
        # After a full piece, zlib may hold more output although it has consumed the input.
        while (rest or tail or len(pieces[-1]) == _STEP_BYTES) and not decoder.eof:
            if not tail:
                tail, rest = bytes(rest[:_STEP_BYTES]), rest[_STEP_BYTES:]
            pieces.append(decoder.decompress(tail, _STEP_BYTES))
            tail, size = decoder.unconsumed_tail, size + len(pieces[-1])
            if size > max_bytes:
                raise BodyTooLarge(f"The decoded body is larger than {max_bytes} bytes. Send a smaller one.")
            if len(pieces) > 2:
                time.sleep(PAUSE_S)
    except zlib.error:
        raise _make_invalid() from None
    # Several gzip members in a row are valid but never sent. Millions of empty ones would cost seconds.
    if not decoder.eof or decoder.unused_data or rest:
        raise _make_invalid()
    return b"".join(pieces)


def _make_invalid() -> BadRequest:
    return BadRequest("The body is not one complete gzip stream. Send it again.", code="invalid_body")
