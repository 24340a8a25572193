"""The chunks of a streamed completion, in the forms and the order of the providers.

Order: a role chunk for each choice, the reasoning, the text or the tool calls (choices take turns), a finish chunk for
each choice, sometimes a chunk with only the usage, `[DONE]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from app.sandbox.choices import Choice
from app.sandbox.completions import Chat, make_logprobs
from app.sandbox.web import dump_json

DONE = b"data: [DONE]\n\n"


@dataclass
class Event:
    """One piece of a response body."""

    payload: bytes
    tokens: int = 0
    """The number of its completion tokens."""
    wait_s: float = 0.0
    """The pause before it is sent."""
    then: Literal["", "cut", "reset", "stall"] = ""
    """The action of the connection after it is sent."""
    stage: Literal["role", "delta", "finish", "usage", "done", "noise"] = "delta"


def make_events(chat: Chat, first_s: float, pace_s: float) -> Iterator[Event]:
    """Yields the events of a stream: the first after `first_s` seconds, one at every `pace_s` from then on."""
    wait_s = first_s
    for line in chat.provider.noise:
        yield Event(line, stage="noise")
    sent = 0
    for chunk in _make_chunks(chat):
        sent += chunk.tokens
        usage = chat.make_usage(sent) if chat.model.usage == "every" else None
        chunk.fields.setdefault("usage", usage)
        yield Event(_encode(chat, chunk.fields), chunk.tokens, wait_s, stage=chunk.stage)
        # Only text takes time: a finish chunk follows the last piece at once.
        wait_s = pace_s if chunk.tokens or chunk.stage == "role" else 0.0
    yield Event(DONE, stage="done")


@dataclass
class _Chunk:
    fields: dict[str, Any]
    tokens: int
    stage: Literal["role", "delta", "finish", "usage"]


def _encode(chat: Chat, fields: dict[str, Any]) -> bytes:
    head = {
        "id": "chatcmpl-" + chat.id_hex,
        "object": "chat.completion.chunk",
        "created": chat.created,
        "model": chat.model.id,
    }
    return b"data: " + dump_json(head | fields) + b"\n\n"


def _make_chunks(chat: Chat) -> Iterator[_Chunk]:
    for choice in chat.choices:
        role = {"index": choice.index, "delta": {"role": "assistant"}, "finish_reason": None}
        yield _Chunk({"choices": [role]}, 0, "role")
    running = [_make_choice_chunks(chat, choice) for choice in chat.choices]
    while running:
        # Each pass takes one chunk of every choice that has any left.
        for chunks in list(running):
            chunk = next(chunks, None)
            if chunk is None:
                running.remove(chunks)
                continue
            if chunk.stage == "finish" and len(running) == 1:
                _add_usage(chat, chunk)
            yield chunk
    if chat.model.usage == "every" or (chat.model.usage == "separate" and _asks_for_usage(chat)):
        yield _Chunk({"choices": [], "usage": chat.make_usage(), **_make_metrics(chat)}, 0, "usage")


def _asks_for_usage(chat: Chat) -> bool:
    return bool((chat.body.get("stream_options") or {}).get("include_usage"))


def _add_usage(chat: Chat, chunk: _Chunk) -> None:
    """Puts the usage into the last finish chunk if the model does that."""
    placement = chat.model.usage
    if placement == "finish" or (placement == "finish-if-asked" and _asks_for_usage(chat)):
        chunk.fields |= {"usage": chat.make_usage(), **_make_metrics(chat)}


def _make_metrics(chat: Chat) -> dict[str, Any]:
    if not chat.body.get("perf_metrics_in_response"):
        return {}
    # A stream's durations are not measured: clients are tested for finding the object, not for its values.
    return {"perf_metrics": chat.make_perf_metrics(0.05, 0.5)}


def _make_choice_chunks(chat: Chat, choice: Choice) -> Iterator[_Chunk]:
    """Yields the chunks of a choice after its role: one for each token, then the finish."""
    pieces = [*_make_reasoning_pieces(chat, choice), *_make_text_pieces(chat, choice)]
    pieces += _make_call_pieces(choice)
    last: dict[str, Any] = {"delta": {}}
    if chat.model.text_in_finish and pieces and choice.finish_reason == "stop":
        last = pieces.pop()
    for piece in pieces:
        fields = {"index": choice.index, "finish_reason": None} | piece
        yield _Chunk({"choices": [_order(chat, fields)]}, int(piece.get("counts", True)), "delta")
    fields = {"index": choice.index, "finish_reason": choice.finish_reason} | last
    yield _Chunk({"choices": [_order(chat, fields)]}, int(bool(last["delta"])), "finish")


def _order(chat: Chat, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a choice with its keys in the order of the providers; Fireworks adds a null `raw_output`."""
    names = ("index", "delta", "logprobs", "finish_reason")
    ordered = {name: fields[name] for name in names if name in fields}
    return ordered | ({"raw_output": None} if chat.provider.name == "fireworks" else {})


def _make_reasoning_pieces(chat: Chat, choice: Choice) -> Iterator[dict[str, Any]]:
    for token in choice.reasoning:
        yield {"delta": {chat.provider.reasoning_key: token}}


def _make_text_pieces(chat: Chat, choice: Choice) -> Iterator[dict[str, Any]]:
    offset = 0
    for token in choice.content or ():
        piece: dict[str, Any] = {"delta": {"content": token}}
        if chat.body.get("logprobs") and chat.provider.gives_logprobs:
            piece["logprobs"] = make_logprobs(chat.body, [token], offset)
        offset += len(token)
        yield piece


def _make_call_pieces(choice: Choice) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(choice.tool_calls):
        head = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        # The first piece names the call and has none of its tokens.
        yield {"delta": {"tool_calls": [{"index": index, **head}]}, "counts": False}
        for token in call.arguments:
            yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": token}}]}}
