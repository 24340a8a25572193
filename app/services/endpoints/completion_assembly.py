"""Completions as dictionaries: normalises a whole one, assembles one from chunks, and makes chunks of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.errors import UpstreamCut
from app.lenient_json import decode_leniently
from app.services.endpoints.chat_events import encode_chunks
from app.services.endpoints.deltas import as_index, finish, merge

# Fields of a choice that are complete in one chunk. All others grow: the text, the logprobs, the token ids.
_WHOLE = frozenset({"index", "finish_reason", "prompt_token_ids"})


def normalise_text_completion(completion: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that a provider omitted from a completion, in place; unknown values are null.

    Returns:
        The same dictionary, with `object`, `usage` and for each choice `index`, `text`, `logprobs` and `finish_reason`.
    """
    completion.setdefault("object", "text_completion")
    completion.setdefault("usage", None)
    for position, choice in enumerate(completion.get("choices") or ()):
        choice.setdefault("index", position)
        if choice.get("text") is None:
            choice["text"] = ""  # No SDK expects null here.
        choice.setdefault("logprobs", None)
        choice.setdefault("finish_reason", None)
    return completion


class CompletionCollector:
    """Assembles the chunks of a stream into the completion that an unstreamed request would have returned."""

    def __init__(self) -> None:
        self._completion: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, data: bytes) -> None:
        """Adds one chunk, given as JSON.

        Raises:
            UpstreamCut: it is not JSON, or is nested too deeply.
        """
        try:
            chunk = decode_leniently(data)
        except ValueError:
            raise UpstreamCut("The provider sent a part of its response that is not JSON. Retry.") from None
        if not isinstance(chunk, dict):
            return
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in self._completion):
                self._completion[name] = value
        choices = chunk.get("choices")
        for position, piece in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(piece, dict):
                index = as_index(piece.get("index"))
                self._add_piece(position if index is None else index, piece)

    def _add_piece(self, index: int, piece: dict[str, Any]) -> None:
        choice = self._choices.setdefault(index, {})
        for name in _WHOLE & piece.keys():
            if piece[name] is not None:
                choice[name] = piece[name]
        merge(choice, {name: value for name, value in piece.items() if name not in _WHOLE})

    def make_response(self) -> dict[str, Any]:
        """Returns the completion, normalised as `normalise_text_completion` does."""
        choices = [{**finish(self._choices[index]), "index": index} for index in sorted(self._choices)]
        return normalise_text_completion({**self._completion, "choices": choices})


def make_completion_events(completion: dict[str, Any]) -> bytes:
    """Returns the stream that a client collects into this completion: its choices, the usage, and the end marker.

    Raises:
        ValueError: the completion is nested too deeply.
    """
    return encode_chunks(_make_chunks(completion))


def _make_chunks(completion: dict[str, Any]) -> Iterator[dict[str, Any]]:
    envelope = {name: value for name, value in completion.items() if name not in {"choices", "usage"}}
    for position, choice in enumerate(completion["choices"]):
        index = choice["index"] if isinstance(choice["index"], int) else position
        yield {**envelope, "choices": [{**choice, "index": index}]}
    if completion["choices"] and completion["usage"] is not None:
        yield {**envelope, "choices": [], "usage": completion["usage"]}
