"""The structure of a JSON text: its brackets and colons outside of strings, found without building objects.

Objects cost fifty times as much CPU per byte as text, so foreign JSON is measured before it is parsed. Everything here
takes time proportional to the text, some nanoseconds per byte, whatever the text contains.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

# With fewer objects, arrays and keys than this, a text takes some milliseconds at most.
FEW_ELEMENTS = 25_000

# This much of a text full of escapes takes a millisecond.
_PIECE_BYTES = 128 << 10

_OTHER_BYTES = bytes(set(range(256)) - set(b'"[]{}:'))
_NO_COMMAS = bytes(set(range(256)) - set(b'",'))
_NO_BEGINNINGS = bytes(set(range(256)) - set(b"[{:"))
_NO_MARKS = bytes(set(range(256)) - set(b'"[{:,'))
_TO_SQUARE_BRACKETS = bytes.maketrans(b"{}", b"[]")
_TO_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # As signed bytes: 1 at an opening bracket, -1 at a closing one.


def get_structure(content: bytes, most: int) -> bytes | None:
    """Returns `extract_structure(content, most)`, or None if there certainly are few elements."""
    return extract_structure(content, most) if len(content.translate(None, _NO_BEGINNINGS)) > FEW_ELEMENTS else None


def find_marks(content: bytes) -> bytes:
    """Returns the quotes, opening brackets, opening braces, colons and commas of a text, inside strings too.

    They are a tenth of most texts. Finding all in one pass takes as long as counting a single one of them.
    """
    return content.translate(None, _NO_MARKS)


def extract_structure(content: bytes, most: int, pause: Callable[[], None] | None = None) -> bytes:
    """Returns the brackets, braces and colons outside of strings; if there are more than `most` elements, a part.

    Args:
        content: the text.
        most: as above.
        pause: called after about each millisecond of a long text with backslashes.
    """
    # Two adjacent quotes are an empty string or the border between two strings. Removing them keeps the other bytes on
    # their side, and few quotes are left, because something outside of strings lies between any two strings.
    return _take_outside(_find_true_marks(content, _OTHER_BYTES, pause), 4 * most + 2)


def count_commas(content: bytes, most: int, pause: Callable[[], None] | None = None) -> int:
    """Returns the number of commas outside of strings; if there are more than `most`, some number above that.

    Args:
        content: the text. It has fewer keys than `most`.
        most: as above.
        pause: as in `extract_structure`.
    """
    return _take_outside(_find_true_marks(content, _NO_COMMAS, pause), 4 * most + 2).count(b",")


def _take_outside(pieces: Iterable[bytes], quotes: int) -> bytes:
    """Returns the bytes outside of strings, up to this many quotes."""
    return b"".join(b"".join(pieces).replace(b'""', b"").split(b'"', quotes)[::2])


def _find_true_marks(content: bytes, others: bytes, pause: Callable[[], None] | None) -> Iterator[bytes]:
    """Yields all bytes except `others`, which has no quotes, and except escaped quotes."""
    if b"\\" not in content:
        yield content.translate(None, others)
        return
    at = 0
    while at < len(content):
        piece = content[at : at + _PIECE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # The piece ends within an escape.
            piece = content[at : at + _PIECE_BYTES + 1]
        at += len(piece)
        yield piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, others)
        if pause is not None:
            pause()


def count_elements(structure: bytes) -> int:
    """Returns the number of objects, arrays and keys."""
    return structure.count(b"[") + structure.count(b"{") + structure.count(b":")


def is_deeper_than(structure: bytes, depth: int) -> bool:
    """Returns whether the brackets of valid JSON are nested more than `depth` levels deep."""
    # Without the innermost level, which is most of a wide body, because adding up takes longer than replacing.
    outer = structure.translate(_TO_SQUARE_BRACKETS, b":").replace(b"[]", b"")
    return max(accumulate(memoryview(outer.translate(_TO_STEPS)).cast("b")), default=0) >= depth


def decode_many(decode: Callable[[bytes], Any], content: bytes) -> Any:
    """Returns `decode(content)` for a text of many elements, with garbage collection paused.

    During the creation of objects, garbage collection takes ten times as long as creating them.
    """
    if not gc.isenabled():
        return decode(content)
    gc.disable()
    try:
        return decode(content)
    finally:
        gc.enable()
