"""Writes a chat stream as a stream of Anthropic's API.

Anthropic's streams have one open block at a time, and a closed block never opens again. Chat streams may mix texts and
the pieces of several tool calls. So while a tool call is open and incomplete, everything else waits for its end. A
failure never closes an open tool block, because clients execute the tool of a closed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from app.errors import GatewayError
from app.lenient_json import encode
from app.services.endpoints.chat_reading import Delta, ToolCall, read_calls, read_chunk
from app.services.endpoints.deltas import Calls, finish
from app.services.endpoints.messages_body import MessagesContext
from app.services.endpoints.messages_errors import make_error_event
from app.services.endpoints.messages_response import (
    find_stop_sequence,
    make_arguments_error,
    make_message_id,
    make_stop,
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
        self._index = -1  # That of the last block.
        self._open: str | ToolCall | None = None  # The open block: "text", "thinking" or a call.
        self._delta_start = b""  # The bytes of an event for the open block, up to its text.
        self._chat_calls = Calls()
        self._calls: dict[int, ToolCall] = {}  # By the identity of the call, which `_chat_calls` keeps alive.
        self._waiting: list[tuple[str, str]] = []  # Texts that wait for the end of an open call, with their kind.
        self._ids = ToolIds(request_id)
        self._reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage: Usage | None = None
        self._outputs = 0
        self._has_tool = False

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
            written += self._write_calls(delta)
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
        if isinstance(self._open, ToolCall) and not self._open.is_complete():
            self._waiting.append((kind, text))
            return b""
        written = self._close()
        if self._open is not None:  # By a text that waited.
            return written + self._write_text(kind, text)
        return written + self._open_text(kind) + self._delta_start + _encode(text) + _END

    def _open_text(self, kind: str) -> bytes:
        name = "thinking" if kind == "thinking" else "text"
        block = {"type": kind, name: ""} | ({"signature": ""} if kind == "thinking" else {})
        return self._begin(kind, block, kind + "_delta", name)

    def _begin(self, opened: str | ToolCall, block: dict[str, Any], delta: str, field: str) -> bytes:
        """Returns the start of the next block, whose deltas of the type `delta` have their text in `field`."""
        self._index += 1
        self._open = opened
        self._delta_start = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta.encode(), field.encode())
        )
        return _make_event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        """Returns the end of the open block, if there is one, and everything that waited for it."""
        if self._open is None:
            return b""
        if isinstance(self._open, ToolCall):
            self._open.is_over = True
        self._open = None
        written = _make_event("content_block_stop", {"index": self._index})
        waiting, self._waiting = self._waiting, []
        for kind, text in waiting:
            written += self._write_text(kind, text)
        return written

    def _write_calls(self, delta: Delta) -> bytes:
        """Returns the events for pieces of tool calls."""
        pieces = delta.tool_calls or read_calls({"function_call": delta.function_call})
        written = b""
        for chat_call, piece in self._chat_calls.add(pieces):
            call = self._calls.get(id(chat_call))
            if call is None:
                call = self._calls[id(chat_call)] = ToolCall(chat_call)
            function = piece.get("function")
            arguments = function.get("arguments") if isinstance(function, dict) else None
            if arguments:
                written += self._write_arguments(call, arguments)
        return written

    def _write_arguments(self, call: ToolCall, arguments: Any) -> bytes:
        if call.is_over:
            if isinstance(arguments, str) and not arguments.strip():
                return b""
            raise make_arguments_error(call.get_name())
        if call is self._open:
            return (
                self._delta_start
                + _encode(arguments if isinstance(arguments, str) else encode(arguments).decode())
                + _END
            )
        # A block begins with the arguments and not with the name, which may come in pieces.
        if not call.get_name() or (isinstance(self._open, ToolCall) and not self._open.is_complete()):
            return b""
        return b"".join(self._catch_up(call))

    def _catch_up(self, last: ToolCall) -> Iterator[bytes]:
        """Yields the events that end the open block, and those of the calls that wait, up to `last`."""
        yield self._close()
        for call in self._calls.values():
            if not call.is_begun and call.get_name() and call.get_arguments():
                if isinstance(self._open, ToolCall) and not self._open.is_complete():
                    return
                yield self._close() + self._open_call(call)
            if call is last:
                return

    def _open_call(self, call: ToolCall) -> bytes:
        """Returns the start of a call's block and its arguments so far; `{}` for a call that has none."""
        call.is_begun = self._has_tool = True
        name = call.get_name()
        shown = self._context.tool_names.get(name, name)
        block = {"type": "tool_use", "id": self._ids.make_id(finish(call.call.get("id"))), "name": shown, "input": {}}
        begin = self._begin(call, block, "input_json_delta", "partial_json")
        arguments = call.get_arguments()
        return begin + self._delta_start + _encode(arguments if arguments.strip() else "{}") + _END

    def end(self) -> bytes:
        """Returns the end of the stream: what is still to be sent of the calls, why it stopped, and the usage."""
        is_cut = self._reason == "length" and any(call.is_cut() for call in self._calls.values())
        written = (b"" if self._is_started else self._start(None)) + self._close()
        for call in self._calls.values():
            if not call.is_begun and call.get_name():
                written += self._close() + self._open_call(call)
        written += self._close()
        delta = make_stop(self._reason, self._has_tool and not is_cut, self._stop_sequence)
        usage = make_usage(self._usage, self._context, self._outputs)
        return written + _make_event("message_delta", {"delta": delta, "usage": usage}) + _STOP

    def fail(self, error: GatewayError) -> bytes:
        """Returns the error event; no block is closed, and nothing says why the model stopped."""
        return make_error_event(error, self._request_id)


def _make_event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))


def _encode(text: str) -> bytes:
    try:
        return _encode_text(text)
    except UnicodeEncodeError:
        return encode(text)  # A lone surrogate is escaped.
