"""Makes the events of a chat stream from a whole completion, for a provider that sent it in place of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from app.lenient_json import encode

# Fields that each chunk of OpenAI repeats. All others are in the first chunk only.
_REPEATED = ("id", "created", "model", "system_fingerprint", "service_tier")


def make_chat_events(completion: dict[str, Any]) -> bytes:
    """Returns the stream that a client collects into this completion.

    Args:
        completion: normalised as by `normalise_completion`.

    Returns:
        For each choice a chunk with its whole content and one with its finish reason, if it has one; then the usage and
        the end marker.

    Raises:
        ValueError: the completion is nested too deeply.
    """
    return encode_chunks(_make_chunks(completion))


def encode_chunks(chunks: Iterable[dict[str, Any]]) -> bytes:
    """Returns chunks as the events of a whole stream, which ends with the end marker.

    Raises:
        ValueError: a chunk is nested too deeply.
    """
    return b"".join(b"data: %b\n\n" % encode(chunk) for chunk in chunks) + b"data: [DONE]\n\n"


def _make_chunks(completion: dict[str, Any]) -> Iterator[dict[str, Any]]:
    repeated = {name: completion[name] for name in _REPEATED if name in completion}
    repeated["object"] = "chat.completion.chunk"
    envelope = {name: value for name, value in completion.items() if name not in {"choices", "usage"}} | repeated
    for position, choice in enumerate(completion["choices"]):
        index = choice["index"] if isinstance(choice["index"], int) else position
        others = {name: value for name, value in choice.items() if name not in {"message", "finish_reason"}}
        delta = make_delta(choice["message"])
        yield {**envelope, "choices": [{**others, "index": index, "delta": delta, "finish_reason": None}]}
        envelope = repeated
        if isinstance(choice["finish_reason"], str):
            end = {"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}
            yield {**envelope, "choices": [end]}
    if completion["choices"] and completion["usage"] is not None:
        yield {**repeated, "choices": [], "usage": completion["usage"]}


def make_delta(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message as a delta, in which each tool call has an index."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    indexed = [{**call, "index": position} for position, call in enumerate(calls) if isinstance(call, dict)]
    return {**message, "tool_calls": indexed}
