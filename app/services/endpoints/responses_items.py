"""Translates the input of a Responses request into chat messages.

The API has one item for each part of a model's turn: reasoning, message, call. Chat has one message for the turn,
followed by the outputs of its calls, in the order of the calls. Models' templates fail on any other order.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NoReturn

from app.errors import BadRequest
from app.lenient_json import encode
from app.services.endpoints.endpoint import make_parameter_error
from app.services.endpoints.responses_content import make_content, read_output, read_reasoning, read_texts
from app.services.endpoints.responses_tools import Tools

_ROLES = ("user", "system", "developer")

# Replaces an image in the text of a tool's output; the image itself follows in a user message.
_IMAGE_NOTE = "[The image is in the next message of the user.]"


class _Turn:
    """One turn of the model: its reasoning and texts, its calls, and their outputs once they have arrived."""

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.texts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.outputs: dict[int, tuple[str, list[dict[str, Any]]]] = {}

    def make_messages(self) -> list[dict[str, Any]]:
        message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(self.texts)}
        if self.reasoning:
            message["reasoning_content"] = "\n\n".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
            message["content"] = message["content"] or None
        messages = [message]
        images: list[dict[str, Any]] = []
        for position, call in enumerate(self.calls):
            text, its_images = self.outputs[position]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
            images += its_images
        return [*messages, {"role": "user", "content": images}] if images else messages


class Conversation:
    """Collects the items of an input.

    Args:
        tools: the request's tools, for the names of their functions; tools in the input are added to them.

    Attributes:
        dropped: the names of the removed fields.
    """

    def __init__(self, tools: Tools) -> None:
        self.dropped: dict[str, None] = {}
        self._tools = tools
        self._parts: list[_Turn | dict[str, Any]] = []
        self._turn: _Turn | None = None  # The turn that the next part belongs to.
        # Calls without an output, by id. Some models number the calls of each turn from zero.
        self._waiting: defaultdict[str, deque[tuple[_Turn, int, str]]] = defaultdict(deque)

    def add_message(self, role: str, content: Any) -> None:
        """Adds a message that is not the model's."""
        self._turn = None
        self._parts.append({"role": role, "content": content})

    def add_item(self, item: Any, place: str) -> None:
        """Adds one item of the input; `place` is its path in the request, for error messages.

        Raises:
            BadRequest: it is malformed, or its type has no counterpart in chat.
        """
        if not isinstance(item, dict):
            raise make_parameter_error(place, "be an object with a `type` or a `role`")
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if not isinstance(kind, str):
            raise make_parameter_error(f"{place}.type", "be a string")
        add = _ADD.get(kind)
        if add is None:
            _refuse_item(kind, place)
        add(self, item, place)

    def _add_message_item(self, item: dict[str, Any], place: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role == "assistant":
            self._get_turn().texts += read_texts(content, f"{place}.content")
        elif role in _ROLES:
            self.add_message(role, make_content(content, f"{place}.content", self.dropped))
        else:
            must = "be `user`, `assistant`, `system` or `developer`"
            raise make_parameter_error(f"{place}.role", must, is_missing=role is None)

    def _add_reasoning(self, item: dict[str, Any], place: str) -> None:
        text = read_reasoning(item)
        if text:
            self._get_turn().reasoning.append(text)
        elif item.get("encrypted_content"):
            self.dropped[f"{place.partition('[')[0]}[].encrypted_content"] = None

    def _add_function_call(self, item: dict[str, Any], place: str) -> None:
        self._add_call(item, _get_string(item, "arguments", place) or "{}", place)

    def _add_custom_call(self, item: dict[str, Any], place: str) -> None:
        text = encode(_get_string(item, "input", place)).decode()
        self._add_call(item, f'{{"input": {text}}}', place)

    def _add_call(self, item: dict[str, Any], arguments: str, place: str) -> None:
        call_id, name = _get_string(item, "call_id", place), _get_string(item, "name", place)
        namespace = item.get("namespace")
        if namespace is not None:
            namespace = _get_string(item, "namespace", place)
        if not call_id or not name:
            raise make_parameter_error(f"{place}.{'name' if call_id else 'call_id'}", "not be empty")
        turn = self._get_turn()
        function = {"name": self._tools.find_function(name, namespace), "arguments": arguments}
        self._waiting[call_id].append((turn, len(turn.calls), place))
        turn.calls.append({"id": call_id, "type": "function", "function": function})

    def _add_output(self, item: dict[str, Any], place: str) -> None:
        call_id = _get_string(item, "call_id", place)
        if not self._waiting[call_id]:
            raise BadRequest(
                f"`{place}` is the output of the call {call_id[:100]!r}, which is not in the input before it. Send the "
                "call too: the gateway keeps no earlier responses.",
                param=f"{place}.call_id",
                code="call_not_found",
            )
        text, images = read_output(item.get("output"), f"{place}.output", self.dropped)
        if images:
            text = "\n\n".join(filter(None, [text, _IMAGE_NOTE]))
        turn, position, _ = self._waiting[call_id].popleft()
        turn.outputs[position] = (text, images)
        if turn is self._turn:
            self._turn = None

    def _add_tools(self, item: dict[str, Any], place: str) -> None:
        if not isinstance(item.get("tools"), list):
            is_missing = item.get("tools") is None
            raise make_parameter_error(f"{place}.tools", "be a list of tools", is_missing=is_missing)
        self._tools.add(item["tools"], f"{place}.tools")

    def _get_turn(self) -> _Turn:
        """Returns the current turn, or a new one if an output or a message of another role has ended the last."""
        if self._turn is None:
            self._turn = _Turn()
            self._parts.append(self._turn)
        return self._turn

    def make_messages(self) -> list[dict[str, Any]]:
        """Returns the messages.

        Raises:
            BadRequest: a call has no output.
        """
        for call_id, waiting in self._waiting.items():
            for _, _, place in waiting:
                raise BadRequest(
                    f"The call {call_id[:100]!r} has no output in the input. Send its output, or leave the call out.",
                    param=f"{place}.call_id",
                    code="call_without_output",
                )
        messages: list[dict[str, Any]] = []
        for part in self._parts:
            if isinstance(part, dict):
                messages.append(part)
            else:
                messages += part.make_messages()
        return messages


_ADD: dict[str, Callable[[Conversation, dict[str, Any], str], None]] = {
    "message": Conversation._add_message_item,
    "reasoning": Conversation._add_reasoning,
    "function_call": Conversation._add_function_call,
    "custom_tool_call": Conversation._add_custom_call,
    "function_call_output": Conversation._add_output,
    "custom_tool_call_output": Conversation._add_output,
    "additional_tools": Conversation._add_tools,
}


def _get_string(item: dict[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise make_parameter_error(f"{place}.{name}", "be a string", is_missing=value is None)
    return value


def _refuse_item(kind: str, place: str) -> NoReturn:
    shown = kind[:100]
    what = (
        "refers to something that the gateway does not keep. Send the item itself, as clients do with `store` set to "
        "false"
        if kind == "item_reference"
        else "has no counterpart in chat requests, with which the gateway serves this endpoint. Leave it out, or send "
        "its content as a message"
    )
    raise BadRequest(f"`{place}` has the type {shown!r}, which {what}.", param=f"{place}.type", code="unsupported_item")
