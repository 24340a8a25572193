"""Chat completions as dictionaries: a whole one is normalised, and one is put together from the chunks of a stream."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


def normalise_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """Fills in what a provider left out of a chat completion. Nothing that is there is changed.

    Fireworks omits `content` when reasoning used up the budget or only tools were called; OpenAI's schema has null
    there. What is unknown is null here too, never zero or empty.

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
    """Puts the chunks of a stream together to the completion that an unstreamed request would have had."""

    def __init__(self) -> None:
        self._completion: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, data: bytes) -> None:
        """Takes in one chunk, as JSON."""
        self.add_chunk(_decode(data))

    def add_chunk(self, chunk: dict[str, Any]) -> None:
        """Takes in one chunk."""
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
                choice[name] = before + value  # As Fireworks' `token_ids`, a piece of which comes with each chunk.
            else:
                choice[name] = value

    def make_response(self) -> dict[str, Any]:
        """Returns the completion, normalised as `normalise_completion` does."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            for call in choice["message"].get("tool_calls") or ():
                call.pop("index", None)
        return normalise_completion({**self._completion, "object": "chat.completion", "choices": choices})


# These come once, or whole in each piece of a tool call. Other texts, such as arguments, come in pieces.
_WHOLE = frozenset({"role", "id", "type", "name", "index"})


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Adds a delta to what came before it: texts and lists grow, and tool calls are matched by index."""
    for name, value in piece.items():
        if value is None:
            continue
        before = whole.get(name)
        if name == "tool_calls":
            whole[name] = _merge_calls(before or [], value)
        elif before is None or name in _WHOLE:
            whole[name] = value or before if name in _WHOLE else value
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
            # A piece without an index continues the last call, unless it opens a new one with an id of its own.
            opens = not calls or (piece.get("id") and piece["id"] != calls[-1].get("id"))
            index = calls[-1]["index"] + (1 if opens else 0) if calls else 0
        call = next((call for call in calls if call["index"] == index), None)
        if call is None:
            call = {"index": index}
            calls.append(call)
        _merge(call, {**piece, "index": index})
    return calls
