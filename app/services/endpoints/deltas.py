"""Merges the deltas of a stream: texts and lists grow, and the pieces of tool calls are assigned to their calls.

Growing texts are kept in pieces and joined at the end, because appending to a text of many pieces takes quadratic time.
"""

from __future__ import annotations

from typing import Any

from app.errors import UpstreamCut

# Deltas of real providers nest three levels deep. Below this depth, a value replaces the earlier one.
_MAX_DEPTH = 16

_MAX_NAME_PIECES = 100

# Models make a handful of calls.
_MAX_CALLS = 1_000


class Pieces(list[str]):
    """A text in pieces."""


def merge(whole: dict[str, Any], delta: dict[str, Any], depth: int = 0) -> None:
    """Adds a delta to the earlier ones, in place. Use `finish` to read the result."""
    for name, value in delta.items():
        if value is not None:
            before = whole.get(name)
            whole[name] = value if before is None else _join(name, before, value, depth)


def _join(name: str, before: Any, value: Any, depth: int) -> Any:
    """Returns the value of a field after both; objects and lists grow in place."""
    if name in {"role", "type"}:
        return value or before  # They come once, or whole in each piece.
    if name == "id":
        return before or value  # Some providers invent a new id for each piece of a call; the first is kept.
    if isinstance(value, str) and isinstance(before, str | Pieces):
        return _add_text(name, before, value)
    if isinstance(value, dict) and isinstance(before, dict) and depth < _MAX_DEPTH:
        merge(before, value, depth + 1)
        return before
    if isinstance(value, list) and isinstance(before, list) and not isinstance(before, Pieces):
        before.extend(value)
        return before
    return value


def _add_text(name: str, before: str | Pieces, value: str) -> str | Pieces:
    text = before if isinstance(before, Pieces) else Pieces([before])
    # A name comes in pieces, or whole in each piece. No name has a hundred pieces, and joining them each time is slow.
    if name != "name" or len(text) > _MAX_NAME_PIECES or value != "".join(text):
        text.append(value)
    return text


def finish(value: Any, depth: int = 0) -> Any:
    """Returns the result of `merge`, with each text in one piece."""
    if isinstance(value, Pieces):
        return "".join(value)
    if isinstance(value, dict) and depth <= _MAX_DEPTH + 1:
        return {name: finish(each, depth + 1) for name, each in value.items()}
    return value


def as_index(value: Any) -> int | None:
    """Returns an index, even if written as "0" or 0.0; None for other values."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class Calls:
    """The tool calls of one message, in the order of their beginnings."""

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []
        self._last_at: dict[int | None, dict[str, Any]] = {}  # Index → the call that began last there.
        self._by_id: dict[tuple[int | None, str], dict[str, Any]] = {}

    def add(self, pieces: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Adds the `tool_calls` of one delta; values that are not pieces of a call are left out.

        Returns:
            For each piece, its call as far as received, and the piece. `finish` turns the parts of a call into texts; a
            call is always the same object.

        Raises:
            UpstreamCut: there are more than a thousand calls.
        """
        added: list[tuple[dict[str, Any], dict[str, Any]]] = []
        named: set[int | None] = set()  # The indexes at which this delta has named a call.
        for piece in pieces if isinstance(pieces, list) else [pieces]:
            if isinstance(piece, dict):
                index, call_id = as_index(piece.get("index")), piece.get("id")
                call_id, has_name = call_id if isinstance(call_id, str) else "", _has_name(piece)
                is_another = has_name and not call_id and index in named
                call = self._begin(index) if is_another else self._find(index, call_id, has_name)
                if has_name:
                    named.add(index)
                merge(call, {name: value for name, value in piece.items() if name != "index"})
                added.append((call, piece))
        return added

    def _find(self, index: int | None, call_id: str, has_name: bool) -> dict[str, Any]:
        """Returns the call that a piece belongs to, possibly a new one.

        A piece belongs to the call with its id at its index. One without an id continues the last call at its index. A
        new id begins a call if it comes with a name, even in a later piece: some providers number all parallel calls 0,
        and others invent a new id for each piece.
        """
        call = self._by_id.get((index, call_id)) if call_id else None
        if call is not None and has_name and call.get("id") != call_id and _has_name(call):
            call = None  # The id was mistaken for an invented one.
        if call is None:
            call = self._last_at.get(index)
            if call is None or (call_id and call.get("id") and (has_name or index is None)):
                call = self._begin(index)
        if call_id:
            self._by_id[index, call_id] = call
        self._last_at[index] = self._last_at[None] = call
        return call

    def _begin(self, index: int | None) -> dict[str, Any]:
        if len(self._calls) >= _MAX_CALLS:
            raise UpstreamCut(f"The provider's response has more than {_MAX_CALLS:,} tool calls. Retry.")
        call: dict[str, Any] = {}
        self._calls.append(call)
        self._last_at[index] = self._last_at[None] = call
        return call

    def make(self) -> list[dict[str, Any]]:
        """Returns the calls, without the index that only deltas have."""
        return [finish(call) for call in self._calls]


def _has_name(piece: dict[str, Any]) -> bool:
    function = piece.get("function")
    return isinstance(function, dict) and bool(function.get("name"))
