"""The output of the Responses API, item by item, and whole responses for whole chat completions."""

from __future__ import annotations

from typing import Any

from app.errors import UpstreamError
from app.lenient_json import replace_surrogates
from app.services.endpoints.chat_events import make_delta
from app.services.endpoints.chat_reading import is_json_object, is_open_json, make_chunk
from app.services.endpoints.output_sequence import CallHead, ItemKind, OutputSequence
from app.services.endpoints.responses_context import (
    ResponseContext,
    find_incomplete_reason,
    make_status,
    make_usage,
    read_created_s,
    read_model,
    to_hex,
)
from app.services.endpoints.responses_custom import CustomInput
from app.services.endpoints.responses_tools import Tool
from app.services.endpoints.usage import read_usage


def make_logprobs(tokens: list[Any] | None) -> list[dict[str, Any]]:
    """Returns the log probabilities of tokens; entries without the token or its number are left out."""
    return [
        {**_make_logprob(token), "top_logprobs": [_make_logprob(each) for each in _filter(token.get("top_logprobs"))]}
        for token in _filter(tokens)
    ]


def _filter(tokens: Any) -> list[dict[str, Any]]:
    return [
        token
        for token in (tokens if isinstance(tokens, list) else ())
        if isinstance(token, dict)
        and isinstance(token.get("token"), str)
        and isinstance(token.get("logprob"), int | float)
    ]


def _make_logprob(token: dict[str, Any]) -> dict[str, Any]:
    content = token.get("bytes")
    if not isinstance(content, list):
        content = list(token["token"].encode(errors="surrogatepass"))
    return {"token": replace_surrogates(token["token"]), "bytes": content, "logprob": token["logprob"]}


class OutputItem:
    """One item of the output, as far as received.

    Args:
        kind: its kind.
        item_id: its id.
        call: the call, if it is one.
        tool: the called tool.
    """

    def __init__(self, kind: ItemKind, item_id: str, call: CallHead | None = None, tool: Tool | None = None) -> None:
        self.kind = kind
        self.id = item_id
        self.tool = tool
        self.custom_input = CustomInput() if tool is not None and tool.is_custom else None
        self._call = call
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> None:
        """Adds a piece of its text, of its arguments, or of its custom input."""
        self._texts.append(text)
        if logprobs:
            self._logprobs += logprobs

    @property
    def text(self) -> str:
        """Its text, arguments or custom input so far."""
        return "".join(self._texts)

    @property
    def arguments(self) -> str:
        """The arguments of a call as the model wrote them, so far."""
        return self.text if self.custom_input is None else self.custom_input.get_arguments()

    def make_parts(self) -> list[dict[str, Any]]:
        """Returns the parts of its content; there is exactly one."""
        if self.kind is ItemKind.REASONING:
            return [{"type": "reasoning_text", "text": self.text}]
        return [{"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}]

    def make(self, status: str, *, with_content: bool = True) -> dict[str, Any]:
        """Returns the item with a status: in_progress, completed or incomplete."""
        if self.tool is not None and self._call is not None:
            return self._make_call(self.tool, self._call, status)
        content = self.make_parts() if with_content else []
        if self.kind is ItemKind.REASONING:
            item = {"id": self.id, "type": "reasoning", "summary": [], "content": content}
            return {**item, "encrypted_content": None, "status": status}
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _make_call(self, tool: Tool, call: CallHead, status: str) -> dict[str, Any]:
        is_custom = self.custom_input is not None
        item: dict[str, Any] = {"id": self.id, "type": "custom_tool_call" if is_custom else "function_call"}
        item |= {"status": status, "call_id": call.id, "name": tool.name}
        if tool.namespace is not None:
            item["namespace"] = tool.namespace
        item["input" if is_custom else "arguments"] = self.text
        return item


class Output:
    """Collects the items of an output; it is an `ItemSink`.

    Args:
        context: the context of the request.
        request_id: the gateway's id of the request, from which the ids of the items are made.

    Attributes:
        items: the ended items.
        opened: the number of opened items; a call that was cut is opened but never ended.
        finish_reason: chat's finish reason, which must be set before the last items are closed.
    """

    def __init__(self, context: ResponseContext, request_id: str) -> None:
        self.items: list[dict[str, Any]] = []
        self.opened = 0
        self.finish_reason: str | None = None
        self._context = context
        self._hex = to_hex(request_id)
        self._item: OutputItem | None = None
        self._half = ""  # Half of a surrogate pair at the end of the last piece.

    def open_item(self, kind: ItemKind, call: CallHead | None) -> None:
        """Begins an item."""
        number = self.opened
        self.opened += 1
        if call is None:
            prefix = "rs" if kind is ItemKind.REASONING else "msg"
            self._item = OutputItem(kind, self._make_id(prefix, number))
            return
        tool = self._context.tools.find_tool(call.name)
        call = CallHead(call.id or self._make_id("call", number), call.name)
        self._item = OutputItem(kind, self._make_id("ctc" if tool.is_custom else "fc", number), call, tool)

    def _make_id(self, prefix: str, number: int) -> str:
        return f"{prefix}_{self._hex}{number:04x}"

    def add_to_item(self, text: str, logprobs: list[Any] | None) -> None:
        """Adds a piece to the open item."""
        item = self._item
        assert item is not None
        if item.custom_input is not None:
            text = item.custom_input.add(text)
        if self._half or not text.isascii():
            text = self._join_halves(text)
        if text:
            self._add(item, text, make_logprobs(logprobs) if logprobs and self._context.wants_logprobs else [])

    def _join_halves(self, text: str) -> str:
        """Returns a text without half surrogate pairs, which strict parsers refuse; one at the end waits for more."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] < "\udc00":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _add(self, item: OutputItem, text: str, logprobs: list[dict[str, Any]]) -> None:
        item.add(text, logprobs)

    def close_item(self, *, is_last: bool) -> None:
        """Ends the open item, unless it is a call that was cut: agents execute every ended call.

        Raises:
            UpstreamError: the arguments of a call are incomplete, although the output was not cut.
        """
        item = self._item
        assert item is not None
        is_cut = find_incomplete_reason(self.finish_reason) is not None
        if item.tool is not None and self._is_part(item, item.tool, is_cut=is_cut):
            self._half = ""
            self._item = None
            return
        if rest := self._join_halves(self._finish_text(item)) + "\ufffd" * len(self._half):
            self._add(item, rest, [])
        self._half = ""
        self._item = None
        self._end(item, "incomplete" if is_cut and is_last and item.tool is None else "completed")

    def _is_part(self, item: OutputItem, tool: Tool, *, is_cut: bool) -> bool:
        """Returns whether only part of a call has arrived; `is_cut` tells whether the whole output was cut."""
        if is_cut:
            return not is_json_object(item.arguments)
        if is_open_json(item.arguments):
            raise UpstreamError(
                f"The model called the tool {tool.name[:200]!r} with incomplete arguments. Send the request "
                "again, or simplify the tool's schema."
            )
        return False

    def _end(self, item: OutputItem, status: str) -> None:
        self.items.append(item.make(status))

    def _finish_text(self, item: OutputItem) -> str:
        """Returns the missing end of a call's arguments or input."""
        if item.custom_input is not None:
            return item.custom_input.finish()
        return "{}" if item.tool is not None and not item.text else ""


def translate_response(response: dict[str, Any], context: ResponseContext, request_id: str) -> dict[str, Any]:
    """Returns the response for a whole chat completion.

    Args:
        response: the completion, normalised.
        context: the context of the request.
        request_id: the gateway's id of the request.

    Raises:
        UpstreamError: it has more than a thousand tool calls, or one with incomplete arguments.
    """
    output = Output(context, request_id)
    sequence = OutputSequence(output)
    if response["choices"]:
        choice = response["choices"][0]
        sequence.add(make_chunk({"choices": [{**choice, "delta": make_delta(choice["message"])}]}))
    output.finish_reason = sequence.finish_reason
    sequence.finish()
    return context.make_response(
        request_id,
        **make_status(output.finish_reason),
        created_at=read_created_s(response.get("created")),
        model=read_model(response.get("model")) or context.model,
        output=output.items,
        usage=make_usage(read_usage(response["usage"])),
    )
