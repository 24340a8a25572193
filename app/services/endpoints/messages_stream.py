"""Writes a chat stream in the format of Anthropic's streams.

Texts are passed on as they arrive. Tool calls come at the end, each complete: clients execute the tool of a closed
block, and the SDKs complete the arguments of an open one, so clients could not distinguish part of a call from a whole
one. So a stream has the same blocks as the whole response, and neither has a call that the output limit cut.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import GatewayError
from app.lenient_json import encode
from app.services.endpoints.chat_reading import Delta, read_calls, read_chunk
from app.services.endpoints.deltas import Calls
from app.services.endpoints.messages_body import MessagesContext
from app.services.endpoints.messages_errors import make_error_event
from app.services.endpoints.messages_response import (
    find_stop_sequence,
    make_message_id,
    make_stop,
    make_tool_blocks,
    make_usage,
)
from app.services.endpoints.stream_summary import Usage
from app.services.endpoints.tool_names import ToolIds
from app.services.endpoints.usage import merge_usages, read_usage

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_END = b"}}\n\n"

_encode_text = msgspec.json.Encoder().encode


class MessagesWriter:
    """Writes one stream; see `EventWriter`."""

    heartbeat = _PING

    def __init__(self, context: MessagesContext, request_id: str) -> None:
        self._context = context
        self._request_id = request_id
        self._is_started = False
        self._index = -1  # The index of the last block.
        self._open: str | None = None  # The open block: "text" or "thinking".
        self._delta_start = b""  # The bytes of an event for the open block, up to its text.
        self._calls = Calls()
        self._reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage: Usage | None = None
        self._outputs = 0

    def write(self, data: bytes) -> bytes:
        """Returns the events for one chunk; see `EventWriter.write`."""
        chunk = read_chunk(data)
        written = b"" if self._is_started else self._start(chunk.model)
        if chunk.usage is not None and (usage := read_usage(chunk.usage)) is not None:
            self._usage = merge_usages(self._usage, usage)
        if not chunk.choices:
            return written
        choice = chunk.choices[0]  # The only one, because the request asked for one.
        if choice.finish_reason:
            self._reason = self._reason or choice.finish_reason
            ends = {"stop_reason": choice.stop_reason, "matched_stop": choice.matched_stop}
            self._stop_sequence = find_stop_sequence(ends, self._context)
        return written + self._write_delta(choice.delta)

    def _write_delta(self, delta: Delta) -> bytes:
        written = b""
        self._outputs += 1
        thinking = delta.reasoning_content or delta.reasoning
        if thinking and self._context.shows_thinking:
            written = self._write_text("thinking", thinking)
        if delta.content:
            written += self._write_text("text", delta.content)
        if delta.tool_calls or delta.function_call:
            self._calls.add(delta.tool_calls or read_calls({"function_call": delta.function_call}))
            # It shows the client that the model is still writing, and the gateway whether the client is still there.
            written = written or _PING
        return written

    def _start(self, model: str | None) -> bytes:
        self._is_started = True
        message: dict[str, Any] = {
            "id": make_message_id(self._request_id),
            "type": "message",
            "role": "assistant",
            "model": model or self._context.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # The true numbers come at the end, as from other servers of this API that do not count beforehand.
            "usage": dict.fromkeys(make_usage(None, self._context, 0), 0),
        }
        return _make_event("message_start", {"message": message})

    def _write_text(self, kind: str, text: str) -> bytes:
        """Returns the events for a text or for thinking."""
        if self._open == kind:
            return self._delta_start + _encode(text) + _END
        return self._close() + self._open_text(kind) + self._delta_start + _encode(text) + _END

    def _open_text(self, kind: str) -> bytes:
        name = "thinking" if kind == "thinking" else "text"
        block = {"type": kind, name: ""} | ({"signature": ""} if kind == "thinking" else {})
        self._open = kind
        return self._begin(block, kind + "_delta", name)

    def _begin(self, block: dict[str, Any], delta: str, field: str) -> bytes:
        """Returns the start of the next block, whose deltas have the type `delta` and their text in `field`."""
        self._index += 1
        self._delta_start = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta.encode(), field.encode())
        )
        return _make_event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        """Returns the end of the open block, if there is one."""
        if self._open is None:
            return b""
        self._open = None
        return _make_stop_event(self._index)

    def _write_call(self, block: dict[str, Any]) -> bytes:
        """Returns the events for a whole tool call; in streams, the arguments have a delta of their own."""
        begin = self._begin({**block, "input": {}}, "input_json_delta", "partial_json")
        arguments = encode(block["input"]).decode()
        return begin + self._delta_start + _encode(arguments) + _END + _make_stop_event(self._index)

    def end(self) -> bytes:
        """Returns the end of the stream: the tool calls, the stop reason, and the usage.

        Raises:
            UpstreamError: the arguments of a tool call are not a JSON object, although the output was not cut.
        """
        message = {"tool_calls": self._calls.make()}
        calls, is_cut = make_tool_blocks(message, self._context, ToolIds(self._request_id), self._reason)
        written = (b"" if self._is_started else self._start(None)) + self._close()
        written += b"".join(map(self._write_call, calls))
        delta = make_stop(self._reason, bool(calls) and not is_cut, self._stop_sequence)
        usage = make_usage(self._usage, self._context, self._outputs)
        return written + _make_event("message_delta", {"delta": delta, "usage": usage}) + _STOP

    def fail(self, error: GatewayError) -> bytes:
        """Returns the error event; no block is closed, and there is no stop reason."""
        return make_error_event(error, self._request_id)


def _make_stop_event(index: int) -> bytes:
    return _make_event("content_block_stop", {"index": index})


def _make_event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))


def _encode(text: str) -> bytes:
    try:
        return _encode_text(text)
    except UnicodeEncodeError:
        return encode(text)  # A lone surrogate is escaped.
