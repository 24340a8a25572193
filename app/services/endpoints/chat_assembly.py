"""Chat completions as dictionaries: normalises a whole one, and assembles one from the chunks of a stream."""

from __future__ import annotations

from typing import Any

from app.errors import UpstreamCut
from app.lenient_json import decode_leniently
from app.services.endpoints.deltas import Calls, as_index, finish, merge


def normalise_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that a provider omitted from a chat completion. Existing fields are not changed.

    Fireworks omits `content` if reasoning used up the budget or only tools were called; OpenAI's schema has null there.
    Unknown values are null here too, never zero or empty.

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
    """Assembles the chunks of a stream into the completion that an unstreamed request would have returned.

    It makes a completion of anything a provider sends: parts of the wrong type are left out.
    """

    def __init__(self) -> None:
        self._completion: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def add(self, data: bytes) -> None:
        """Adds one chunk, given as JSON.

        Raises:
            UpstreamCut: it is not JSON, or is nested too deeply.
        """
        try:
            chunk = decode_leniently(data)
        except ValueError:
            raise UpstreamCut("The provider sent a part of its response that is not JSON. Retry.") from None
        if isinstance(chunk, dict):
            self.add_chunk(chunk)

    def add_chunk(self, chunk: dict[str, Any]) -> None:
        """Adds one chunk. Later chunks may change its parts."""
        for name, value in chunk.items():
            if name not in {"choices", "object"} and (value is not None or name not in self._completion):
                self._completion[name] = value
        choices = chunk.get("choices")
        for position, piece in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(piece, dict):
                index = as_index(piece.get("index"))
                index = position if index is None else index
                if index not in self._choices:
                    self._choices[index] = _Choice()
                self._choices[index].add(piece)

    def make_response(self) -> dict[str, Any]:
        """Returns the completion, normalised as `normalise_completion` does."""
        choices = [self._choices[index].make(index) for index in sorted(self._choices)]
        return normalise_completion({**self._completion, "object": "chat.completion", "choices": choices})


class _Choice:
    """One choice of the completion, as far as received."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._calls: Calls | None = None

    def add(self, piece: dict[str, Any]) -> None:
        delta = piece.get("delta")
        if delta is None and not self._message:
            delta = piece.get("message")  # Some providers send a whole completion as the only event.
        if isinstance(delta, dict):
            self._add_delta(delta)
        for name, value in piece.items():
            if name in {"index", "delta", "message"} or value is None:
                continue
            before = self._fields.get(name)
            if name == "logprobs" and isinstance(before, dict) and isinstance(value, dict):
                merge(before, value)
            elif isinstance(value, list) and isinstance(before, list):
                before.extend(value)  # For example Fireworks' `token_ids`, of which each chunk has a part.
            else:
                self._fields[name] = value

    def _add_delta(self, delta: dict[str, Any]) -> None:
        pieces = delta.get("tool_calls")
        if pieces is not None:
            self._calls = self._calls or Calls()
            self._calls.add(pieces)
            delta = {name: value for name, value in delta.items() if name != "tool_calls"}
        merge(self._message, delta)

    def make(self, index: int) -> dict[str, Any]:
        message = finish(self._message)
        if self._calls is not None:
            message["tool_calls"] = self._calls.make()
        return {"index": index, "message": message, **finish(self._fields)}
