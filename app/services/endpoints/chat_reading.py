"""Chat responses in the form that translations read: whole ones, and chunks that were observed and repaired before."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app.lenient_json import decode_leniently
from app.services.endpoints.deltas import as_index

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class Delta(msgspec.Struct, gc=False):
    """The part of the message in one chunk."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk. In two of the fields, some servers name the stop sequence that matched."""

    delta: Delta
    finish_reason: str | None = None
    stop_reason: Any = None
    matched_stop: Any = None
    index: int = 0
    logprobs: Any = None


class Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that are translated."""

    choices: list[Choice]
    model: str | None = None
    usage: dict[str, Any] | None = None
    created: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> Chunk:
    """Returns a chunk of the kind CONTENT or USAGE, which has been observed and repaired."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return make_chunk(decode_leniently(data))


def make_chunk(value: dict[str, Any]) -> Chunk:
    """Returns a chunk of JSON values with unusual types: texts in parts, lone surrogates, odd fields."""
    choices = []
    for choice in value.get("choices") or ():
        delta, reason = choice.get("delta") or {}, choice.get("finish_reason")
        content, first, second = (read_text(delta.get(name)) for name in ("content", "reasoning_content", "reasoning"))
        made = Delta(content, first or read_thought(delta.get("content")), second, read_calls(delta) or None)
        index, reason = as_index(choice.get("index")) or 0, str(reason) if reason else None
        stop, matched = choice.get("stop_reason"), choice.get("matched_stop")
        choices.append(Choice(made, reason, stop, matched, index, choice.get("logprobs")))
    model, usage = value.get("model"), value.get("usage")
    model, usage = model if isinstance(model, str) else None, usage if isinstance(usage, dict) else None
    return Chunk(choices, model, usage, value.get("created"))


def read_text(value: Any) -> str:
    """Returns the text of a content or of reasoning, even if it is in parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    texts = (part if isinstance(part, str) else part.get("text") for part in value if isinstance(part, str | dict))
    return "".join(text for text in texts if isinstance(text, str))


def read_thought(content: Any) -> str:
    """Returns the reasoning that some models write as parts of the content: `{"type": "thinking", "thinking": …}`."""
    if not isinstance(content, list):
        return ""
    return "".join(read_text(part.get("thinking")) for part in content if isinstance(part, dict))


def read_token_logprobs(logprobs: Any) -> list[Any] | None:
    """Returns the log probabilities of a choice's tokens, or None."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return tokens if isinstance(tokens, list) else None


def read_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the tool calls of a message or a delta, including the one in the legacy `function_call`."""
    calls = message.get("tool_calls")
    found = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    if not found and isinstance(message.get("function_call"), dict):
        return [{"index": 0, "function": message["function_call"]}]
    return found


def is_json_object(text: str) -> bool:
    """Returns whether a text is one JSON object."""
    if not text.rstrip().endswith("}"):
        return False  # The usual case in a stream needs no parsing.
    try:
        return isinstance(decode_leniently(text.encode(errors="surrogatepass")), dict)
    except ValueError:
        return False


def is_open_json(text: str) -> bool:
    """Returns whether a text begins like a JSON object but ends within it, as when it was cut."""
    if not text.lstrip().startswith("{"):
        return False
    rest = _STRINGS.sub("", text)
    return '"' in rest or rest.count("{") > rest.count("}") or rest.count("[") > rest.count("]")
