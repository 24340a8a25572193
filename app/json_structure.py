"""The structure of a JSON text: its brackets and colons outside of strings, found without building any object.

Objects cost fifty times as much CPU per byte as text does, so what others send is counted before it is parsed.
Everything here takes time in proportion to the text, some nanoseconds per byte, whatever the text contains.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

# With fewer objects, arrays and keys than this, a text takes some milliseconds at most.
FEW_ELEMENTS = 25_000

# So much of a text full of escapes takes a millisecond.
_PIECE_BYTES = 128 << 10

_OTHER_BYTES = bytes(set(range(256)) - set(b'"[]{}:'))
_NO_COMMAS = bytes(set(range(256)) - set(b'",'))
_NO_BEGINNINGS = bytes(set(range(256)) - set(b"[{:"))
_NO_MARKS = bytes(set(range(256)) - set(b'"[{:,'))
_TO_SQUARE_BRACKETS = bytes.maketrans(b"{}", b"[]")
_TO_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # As signed bytes: 1 at an opening bracket, -1 at a closing one.


def get_structure(content: bytes, most: int) -> bytes | None:
    """Returns `extract_structure(content, most)`, or None if there are few elements in any case."""
    return extract_structure(content, most) if len(content.translate(None, _NO_BEGINNINGS)) > FEW_ELEMENTS else None


def find_marks(content: bytes) -> bytes:
    """Returns the quotes, opening brackets, opening braces, colons and commas of a text, wherever they are.

    They are a tenth of most texts. One pass to find them takes as long as counting a single one of them.
    """
    return content.translate(None, _NO_MARKS)


def extract_structure(content: bytes, most: int, pause: Callable[[], None] | None = None) -> bytes:
    """Returns the brackets, braces and colons that are outside of strings; of more than `most` elements, a part.

    Args:
        content: the text.
        most: as above.
        pause: is called after each millisecond or so of a long text with backslashes.
    """
    # Two quotes side by side are an empty string or the border between two strings. Without them, the bytes between
    # keep their side, and there are few quotes left: something outside of strings lies between any two strings.
    return _take_outside(_find_true_marks(content, _OTHER_BYTES, pause), 4 * most + 2)


def count_commas(content: bytes, most: int, pause: Callable[[], None] | None = None) -> int:
    """Returns how many commas are outside of strings; if there are more than `most`, some number above that.

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
    """Yields all bytes but `others`, which have no quotes, and without the quotes that are escaped."""
    if b"\\" not in content:
        yield content.translate(None, others)
        return
    at = 0
    while at < len(content):
        piece = content[at : at + _PIECE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # It ends within an escape.
            piece = content[at : at + _PIECE_BYTES + 1]
        at += len(piece)
        yield piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, others)
        if pause is not None:
            pause()


def count_elements(structure: bytes) -> int:
    """Returns how many objects, arrays and keys there are."""
    return structure.count(b"[") + structure.count(b"{") + structure.count(b":")


def is_deeper_than(structure: bytes, depth: int) -> bool:
    """Returns whether the brackets of valid JSON are nested more than `depth` levels deep."""
    # Without the innermost level, of which a wide body mostly consists: adding up takes longer than replacing.
    outer = structure.translate(_TO_SQUARE_BRACKETS, b":").replace(b"[]", b"")
    return max(accumulate(memoryview(outer.translate(_TO_STEPS)).cast("b")), default=0) >= depth


def decode_many(decode: Callable[[bytes], Any], content: bytes) -> Any:
    """Returns `decode(content)` for a text of many elements, without collecting garbage meanwhile.

    While objects are made, collecting garbage takes ten times as long as making them.
    """
    if not gc.isenabled():
        return decode(content)
    gc.disable()
    try:
        return decode(content)
    finally:
        gc.enable()
