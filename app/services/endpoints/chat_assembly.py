"""Chat completions as dictionaries: normalises a whole one, and assembles one from the chunks of a stream."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


def normalise_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that a provider omitted from a chat completion. Fields that are present are not changed.

    Fireworks omits `content` when reasoning used up the budget or only tools were called; OpenAI's schema has null
    there. Unknown values are null here too, never zero or empty.

    Args:
        completion: a provider's response; it is changed in place.

    Returns:
        The same dictionary, with `object`, `usage` and for each choice `index`, `message.role`, `message.content`,
        `finish_reason` and `logprobs` present.
    """
    completion.setdefault("object", "chat.completion")
    completion.setdefault("usage", None)
    for position, choice in enumerate(completion.get("choices") or ()):
        choice.setdefault("index", position)
        if choice.get("message") is None:
            choice["message"] = {}
        message = choice["message"]
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        choice.setdefault("logprobs", None)
        choice.setdefault("finish_reason", None)
    return completion


class ChatCollector:
    """Assembles the chunks of a stream into the completion that an unstreamed request would have returned."""

    def __init__(self) -> None:
        self._completion: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, data: bytes) -> None:
        """Adds one chunk, given as JSON."""
        self.add_chunk(_decode(data))

    def add_chunk(self, chunk: dict[str, Any]) -> None:
        """Adds one chunk."""
        for name, value in chunk.items():
            if name not in {"choices", "object"} and (value is not None or name not in self._completion):
                self._completion[name] = value
        for position, piece in enumerate(chunk.get("choices") or ()):
            index = position if piece.get("index") is None else piece["index"]
            self._add_choice(self._choices.setdefault(index, {"index": index, "message": {}}), piece)

    def _add_choice(self, choice: dict[str, Any], piece: dict[str, Any]) -> None:
        _merge(choice["message"], piece.get("delta") or {})
        for name, value in piece.items():
            if name in {"index", "delta"} or value is None:
                continue
            before = choice.get(name)
            if name == "logprobs" and isinstance(before, dict) and isinstance(value, dict):
                _merge(before, value)
            elif isinstance(value, list) and isinstance(before, list):
                choice[name] = before + value  # For example Fireworks' `token_ids`, of which each chunk has a part.
            else:
                choice[name] = value

    def make_response(self) -> dict[str, Any]:
        """Returns the completion, normalised as `normalise_completion` does."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            for call in choice["message"].get("tool_calls") or ():
                call.pop("index", None)
        return normalise_completion({**self._completion, "object": "chat.completion", "choices": choices})


# These come once, or whole in each piece of a tool call. Other strings, such as arguments, come in pieces.
_UNSPLIT = frozenset({"role", "id", "type", "name", "index"})


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Adds a delta to what came before it: strings and lists are appended, and tool calls are matched by index."""
    for name, value in piece.items():
        if value is None:
            continue
        before = whole.get(name)
        if name == "tool_calls":
            whole[name] = _merge_calls(before or [], value)
        elif before is None or name in _UNSPLIT:
            whole[name] = value or before if name in _UNSPLIT else value
        elif isinstance(value, dict) and isinstance(before, dict):
            _merge(before, value)
        elif type(value) is type(before) and type(value) in (str, list):
            whole[name] = before + value
        else:
            whole[name] = value


def _merge_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for piece in pieces:
        index = piece.get("index")
        if index is None:
            # A piece without an index continues the last call, unless it starts a new one with an id of its own.
            starts_new = not calls or (piece.get("id") and piece["id"] != calls[-1].get("id"))
            index = calls[-1]["index"] + (1 if starts_new else 0) if calls else 0
        call = next((call for call in calls if call["index"] == index), None)
        if call is None:
            call = {"index": index}
            calls.append(call)
        _merge(call, {**piece, "index": index})
    return calls
