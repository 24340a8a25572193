"""Repairs chunks of a chat stream that are readable, but not by every SDK or by the programs that use SDKs."""

from __future__ import annotations

import json
from typing import Any

from app.services.endpoints.chat_events import make_delta
from app.services.endpoints.deltas import as_index
from app.services.endpoints.odd_chunks import refuse, repair_frame
from app.services.endpoints.stream_summary import StreamSummary

_NUMBERS = frozenset({int, float, bool})


def repair(value: dict[str, Any], choices: list[dict[str, Any]], summary: StreamSummary) -> bool:
    """Repairs parts that SDKs, or the loops of programs that use them, cannot read; returns whether anything changed.

    Args:
        value: the chunk.
        choices: its choices that are not null.
        summary: the summary before this chunk.
    """
    is_changed = repair_frame(value, choices)
    for position, choice in enumerate(choices):
        if choice.get("delta") is None and _move_whole_output(choice, position, summary):
            value["object"], is_changed = "chat.completion.chunk", True
        if _repair_choice(choice, position):
            is_changed = True
    return is_changed


def _move_whole_output(choice: dict[str, Any], position: int, summary: StreamSummary) -> bool:
    """Turns a whole message or a legacy completion's text into a delta; returns whether there is one."""
    message, text = choice.get("message"), choice.get("text")
    # After other output, a message only repeats it.
    if isinstance(message, dict) and not (summary.output_events and _get_index(choice, position) in summary.begun):
        choice["delta"] = make_delta(choice.pop("message"))
    elif text and isinstance(text, str):
        choice["delta"] = {"content": choice.pop("text")}
    else:
        return False
    return True


def _repair_choice(choice: dict[str, Any], position: int) -> bool:
    has_index, delta = type(choice.get("index")) is int, choice.get("delta")
    if not has_index:
        choice["index"] = _get_index(choice, position)
    if isinstance(delta, dict):
        return _repair_delta(delta) or not has_index
    if delta:
        refuse()
    choice["delta"] = {}
    return True


def _repair_delta(delta: dict[str, Any]) -> bool:
    is_changed = False
    for name in ("content", "reasoning_content"):  # Programs concatenate these.
        if type(delta.get(name)) in _NUMBERS:
            delta[name], is_changed = json.dumps(delta[name]), True
    calls = delta.get("tool_calls")
    if calls is not None and not _are_indexed(calls):
        delta["tool_calls"], is_changed = _index_calls(calls), True
    return is_changed


def _get_index(item: dict[str, Any], position: int) -> int:
    index = as_index(item.get("index"))
    return position if index is None else index


def _are_indexed(calls: Any) -> bool:
    return isinstance(calls, list) and all(isinstance(call, dict) and type(call.get("index")) is int for call in calls)


def _index_calls(calls: Any) -> list[dict[str, Any]]:
    """Returns the pieces of tool calls, each with an index; other values are left out."""
    pieces = [call for call in (calls if isinstance(calls, list) else [calls]) if call and isinstance(call, dict)]
    return [{**call, "index": _get_index(call, position)} for position, call in enumerate(pieces)]
