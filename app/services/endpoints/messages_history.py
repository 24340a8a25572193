"""Anthropic's conversations as chat messages.

The order is the client's, with one exception: chat servers refuse a tool's result that is not directly after its call,
so the results of a turn come first in it, in the order of the calls. Images in results, which chat does not allow
there, follow in a user message.
"""

from __future__ import annotations

import json
from typing import Any

from app.errors import BadRequest
from app.services.endpoints.endpoint import make_parameter_error
from app.services.endpoints.messages_blocks import (
    Omit,
    join_parts,
    make_parts,
    make_text_parts,
    read_blocks,
)
from app.services.endpoints.tool_names import restore_id, shorten_name

_ROLES = ("user", "assistant", "system")
_IMAGE_ELSEWHERE = "[image: see the next user message]"

# A message of the request with its position.
_Entry = tuple[int, dict[str, Any]]


def translate_messages(messages: list[Any], omit: Omit) -> list[dict[str, Any]]:
    """Returns the chat messages of a conversation; those with the role system keep their role and position.

    Args:
        messages: the request's messages.
        omit: gets the names of the fields without a counterpart.

    Raises:
        BadRequest: a message is malformed or cannot be expressed in chat, or a tool call has not exactly one result.
    """
    entries = [(position, _check(message, position, omit)) for position, message in enumerate(messages)]
    translated: list[dict[str, Any]] = []
    start = 0
    while start < len(entries):
        end = _find_other(entries, start, is_assistant=True)
        answer = entries[start:end]
        calls: dict[str, str] = {}
        if answer:
            message, calls = _translate_assistant(answer, omit)
            translated.append(message)
        start = _find_other(entries, end, is_assistant=False)
        translated += _translate_turn(entries[end:start], calls, omit)
    return translated


def _find_other(entries: list[_Entry], start: int, *, is_assistant: bool) -> int:
    """Returns the position of the first message from `start` on that is not, or is, the assistant's."""
    while start < len(entries) and (entries[start][1]["role"] == "assistant") is is_assistant:
        start += 1
    return start


def _check(message: Any, position: int, omit: Omit) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise make_parameter_error(f"messages[{position}]", "be an object with `role` and `content`")
    role = message.get("role")
    if role not in _ROLES:
        place = f"messages[{position}].role"
        raise make_parameter_error(place, f"be one of {', '.join(_ROLES)}", is_missing=role is None)
    for name in message:
        if name not in ("role", "content"):
            omit(f"messages[].{name}")
    return message


class _Answer:
    """The content of adjacent messages of the assistant.

    Attributes:
        texts, thoughts: the texts, and the thinking before them.
        calls: the client's id of a tool call → the call in chat's form.
    """

    def __init__(self, omit: Omit) -> None:
        self._omit = omit
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: dict[str, dict[str, Any]] = {}

    def add(self, block: dict[str, Any], path: str) -> None:
        kind = block["type"]
        if kind == "tool_use":
            call = _make_call(block, path)
            if call["id"] in self.calls:
                raise make_parameter_error(f"{path}.id", "differ from the ids of the other calls of this turn")
            self.calls[call["id"]] = call
        elif kind == "thinking":
            self.thoughts.append(str(block.get("thinking") or ""))
        elif kind == "redacted_thinking":
            self._omit("content[].redacted_thinking")
        else:
            parts = make_parts(block, path, self._omit)
            if any(part["type"] != "text" for part in parts):
                raise make_parameter_error(f"{path}.type", "not be an image in a message of the assistant")
            self.texts += [part["text"] for part in parts]


def _translate_assistant(entries: list[_Entry], omit: Omit) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns one message for adjacent ones of the assistant, and its calls: the client's id → the provider's."""
    answer = _Answer(omit)
    for position, message in entries:
        for path, block in read_blocks(message.get("content"), f"messages[{position}].content", omit):
            answer.add(block, path)
    calls = answer.calls
    translated: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(answer.texts)}
    if calls and not answer.texts:
        translated["content"] = None
    if any(answer.thoughts):
        translated["reasoning_content"] = "\n\n".join(thought for thought in answer.thoughts if thought)
    ids = _restore_ids(list(calls))
    if calls:
        translated["tool_calls"] = [{**call, "id": ids[made]} for made, call in calls.items()]
    return translated, ids


def _make_call(block: dict[str, Any], path: str) -> dict[str, Any]:
    for name in ("id", "name"):
        value = block.get(name)
        if not isinstance(value, str) or not value:
            raise make_parameter_error(f"{path}.{name}", "be a string that is not empty", is_missing=value is None)
    if not isinstance(block.get("input"), dict):
        raise make_parameter_error(f"{path}.input", "be an object", is_missing=block.get("input") is None)
    # With spaces, as most models write JSON, so that more of it matches the provider's cache.
    arguments = json.dumps(block["input"], ensure_ascii=False)
    function = {"name": shorten_name(block["name"]), "arguments": arguments}
    return {"id": block["id"], "type": "function", "function": function}


def _restore_ids(made: list[str]) -> dict[str, str]:
    """Returns the provider's ids of one turn's calls; all keep the client's if a provider repeated one in it."""
    restored = {each: restore_id(each) for each in made}
    return restored if len(set(restored.values())) == len(made) else {each: each for each in made}


def _translate_turn(entries: list[_Entry], calls: dict[str, str], omit: Omit) -> list[dict[str, Any]]:
    """Returns the messages between two of the assistant: the results of its calls, then the user's and the system's."""
    results: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    others: list[dict[str, Any]] = []
    for position, message in entries:
        parts: list[dict[str, Any]] = []
        blocks = read_blocks(message.get("content"), f"messages[{position}].content", omit)
        for path, block in blocks:
            if block["type"] == "tool_result" and message["role"] == "user":
                call_id = _get_call_id(block, path, calls, results)
                results[call_id] = _make_result(block, path, calls[call_id], omit)
            else:
                parts += make_parts(block, path, omit)
        if parts or all(block["type"] != "tool_result" for _, block in blocks):
            others.append({"role": message["role"], "content": parts})
    _raise_if_missing(calls, results)
    ordered = [results[call_id] for call_id in calls]
    images = [part for message, shown in ordered for part in _label(message["tool_call_id"], shown)]
    if images and others and others[0]["role"] == "user":
        others[0]["content"] = images + others[0]["content"]
    elif images:
        others.insert(0, {"role": "user", "content": images})
    return [message for message, _ in ordered] + [
        {**message, "content": join_parts(message["content"])} for message in others
    ]


def _raise_if_missing(calls: dict[str, str], results: dict[str, Any]) -> None:
    for call_id in calls:
        if call_id not in results:
            raise BadRequest(
                f"The tool call {call_id[:200]!r} has no tool_result in the next message of the user. Send one for "
                "each tool_use.",
                param="messages",
                code="missing_tool_result",
            )


def _label(call_id: str, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return make_text_parts(f"Image from tool call {call_id}:" if images else "") + images


def _get_call_id(block: dict[str, Any], path: str, calls: dict[str, str], results: dict[str, Any]) -> str:
    call_id = block.get("tool_use_id")
    if not isinstance(call_id, str) or call_id not in calls:
        must = "be the id of a tool_use in the previous message"
        raise make_parameter_error(f"{path}.tool_use_id", must, is_missing=call_id is None)
    if call_id in results:
        raise make_parameter_error(f"{path}.tool_use_id", "not be that of another result")
    return call_id


def _make_result(
    block: dict[str, Any], path: str, call_id: str, omit: Omit
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the message with a tool's result, and the images in it."""
    texts, images = [], []
    for where, inner in read_blocks(block.get("content"), f"{path}.content", omit):
        for part in make_parts(inner, where, omit):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                texts.append(_IMAGE_ELSEWHERE)
                images.append(part)
    text = "\n\n".join(texts)
    content = f"[error] {text}".rstrip() if block.get("is_error") is True else text
    return {"role": "tool", "tool_call_id": call_id, "content": content}, images
