"""Writes a Responses stream from the chunks of a chat stream."""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import GatewayError, UpstreamSuspended
from app.lenient_json import encode
from app.services.endpoints.chat_reading import read_chunk
from app.services.endpoints.output_sequence import CallHead, ItemKind, OutputSequence
from app.services.endpoints.responses_context import (
    ResponseContext,
    make_status,
    make_usage,
    read_created_s,
    read_model,
)
from app.services.endpoints.responses_output import Output, OutputItem
from app.services.endpoints.stream_summary import Usage
from app.services.endpoints.usage import merge_usages, read_usage

# The events that add to an item, the events that end the added content, and the field with the whole content.
_EVENTS = {
    ItemKind.REASONING: (b"response.reasoning_text.delta", b"response.reasoning_text.done", "text"),
    ItemKind.TEXT: (b"response.output_text.delta", b"response.output_text.done", "text"),
    ItemKind.CALL: (
        b"response.function_call_arguments.delta",
        b"response.function_call_arguments.done",
        "arguments",
    ),
}
_CUSTOM_EVENTS = (b"response.custom_tool_call_input.delta", b"response.custom_tool_call_input.done", "input")

# The texts have no half surrogate pairs, which it would refuse.
_encode_text = msgspec.json.Encoder().encode


class ResponsesWriter(Output):
    """Writes the events of one response, numbered from zero; see `EventWriter`.

    Attributes:
        heartbeat: a comment, which all clients ignore.
    """

    heartbeat = b": keep-alive\n\n"

    def __init__(self, context: ResponseContext, request_id: str) -> None:
        super().__init__(context, request_id)
        self._request_id = request_id
        self._sequence = OutputSequence(self)
        self._number = 0
        self._written: list[bytes] = []
        self._place = self._delta_begin = self._delta_middle = self._delta_end = b""
        self._usage: Usage | None = None
        self._model: str | None = None
        self._created_s = read_created_s(None)

    def write(self, data: bytes) -> bytes:
        """Returns the events for one chunk."""
        chunk = read_chunk(data)
        if not self._number:
            self._model = read_model(chunk.model)
            self._created_s = read_created_s(chunk.created)
            self._begin()
        if chunk.usage is not None:
            usage = read_usage(chunk.usage)
            self._usage = self._usage if usage is None else merge_usages(self._usage, usage)
        self._sequence.add(chunk)
        return self._take_written()

    def _take_written(self) -> bytes:
        written = self._written
        if not written:
            return b""
        self._written = []
        return written[0] if len(written) == 1 else b"".join(written)

    def _begin(self) -> None:
        for name in (b"response.created", b"response.in_progress"):
            self._write_response(name, status="in_progress", output=[])

    def _write_event(self, name: bytes, fields: bytes) -> None:
        self._written.append(
            b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (name, name, self._number, fields)
        )
        self._number += 1

    def open_item(self, kind: ItemKind, call: CallHead | None) -> None:
        """Begins an item, and writes the events for that."""
        super().open_item(kind, call)
        item = self._item
        assert item is not None
        self._place = b'"item_id":"%b","output_index":%d,' % (item.id.encode(), self.opened - 1)
        self._write_item(b"response.output_item.added", item.make("in_progress", with_content=False))
        if call is None:
            self._place += b'"content_index":0,'
            part = encode(item.make_parts()[0])
            self._write_event(b"response.content_part.added", b'%b"part":%b' % (self._place, part))
        name = _get_events(item)[0]
        self._delta_begin = b'event: %b\ndata: {"type":"%b","sequence_number":' % (name, name)
        self._delta_middle = b',%b"delta":' % self._place
        self._delta_end = b',"logprobs":[]}\n\n' if kind is ItemKind.TEXT else b"}\n\n"

    def _add(self, item: OutputItem, text: str, logprobs: list[dict[str, Any]]) -> None:
        # Called for nearly every chunk, so the constant part of an item's deltas is built once.
        item.add(text, logprobs)
        end = b',"logprobs":%b}\n\n' % encode(logprobs) if logprobs else self._delta_end
        self._written.append(
            b"%b%d%b%b%b" % (self._delta_begin, self._number, self._delta_middle, _encode_text(text), end)
        )
        self._number += 1

    def _end(self, item: OutputItem, status: str) -> None:
        super()._end(item, status)
        made, place = self.items[-1], self._place
        _, event, name = _get_events(item)
        whole = {name: item.text}
        if item.kind is ItemKind.TEXT:
            whole["logprobs"] = made["content"][0]["logprobs"]
        elif item.kind is ItemKind.CALL and item.custom_input is None:
            whole["name"] = made["name"]
        self._write_event(event, place + encode(whole)[1:-1])
        if item.kind is not ItemKind.CALL:
            self._write_event(b"response.content_part.done", b'%b"part":%b' % (place, encode(made["content"][0])))
        self._write_item(b"response.output_item.done", made)

    def _write_item(self, name: bytes, item: dict[str, Any]) -> None:
        self._write_event(name, b'"output_index":%d,"item":%b' % (self.opened - 1, encode(item)))

    def end(self) -> bytes:
        """Returns the last events of a complete stream: the ends of open items, and the whole response."""
        self.finish_reason = self._sequence.finish_reason
        self._sequence.finish()
        fields = make_status(self.finish_reason)
        self._write_response(
            b"response.%b" % fields["status"].encode(), **fields, output=self.items, usage=make_usage(self._usage)
        )
        return self._take_written()

    def fail(self, error: GatewayError) -> bytes:
        """Returns the event for `error`. Its response has the completed items; an open one is not ended."""
        if not self._number:
            self._begin()
        shown = {"code": _get_code(error), "message": _get_message(error)}
        self._write_response(b"response.failed", status="failed", error=shown, output=self.items)
        return self._take_written()

    def _write_response(self, event: bytes, **fields: Any) -> None:
        response = self._context.make_response(
            self._request_id, model=self._model or self._context.model, created_at=self._created_s, **fields
        )
        self._write_event(event, b'"response":%b' % encode(response))


def _get_events(item: OutputItem) -> tuple[bytes, bytes, str]:
    return _EVENTS[item.kind] if item.custom_input is None else _CUSTOM_EVENTS


def _get_code(error: GatewayError) -> str:
    """Returns the code for agents, which do not retry for a prompt that is too long, or without quota."""
    if error.code == "context_length_exceeded":
        return error.code
    if isinstance(error, UpstreamSuspended):
        return "insufficient_quota"
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status in {400, 413, 422} else "server_error"


def _get_message(error: GatewayError) -> str:
    """Returns the message; for a limit, with the pause in the words that agents look for."""
    if error.status == 429 and error.retry_after_s is not None:
        return f"{error.message} Please try again in {max(1, round(error.retry_after_s))}s."
    return error.message
