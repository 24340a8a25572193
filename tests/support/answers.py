"""Complete responses of a scripted upstream: JSON, Server-Sent Events in any framing, and several endings."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from tests.support.scripts import Script, Step, close, hang, reset, send

Event = dict[str, Any] | bytes | Step

DONE = b"data: [DONE]\n\n"
_SERVED_MODEL = "accounts/fireworks/models/scripted"

# How a stream ends after its last event. "end" is correct; a gateway must notice the others.
ENDINGS: dict[str, Script] = {
    "end": [send(b"0\r\n\r\n")],
    "fin": [close()],
    "reset": [reset()],
    "hang": [hang()],
    "half chunk": [send(b'40\r\ndata: {"id": "cut'), close()],
    "bad chunk": [send(b"zz\r\nnot a chunk\r\n"), close()],
}


def json_answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Script:
    """Returns the script of a complete response that keeps the connection open.

    Args:
        body: anything JSON can hold; bytes are sent as they are.
        headers: further headers, which replace the usual ones of the same name (in lower case).
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {"content-type": "application/json", "content-length": str(len(content))}
    return [send(head(status, usual | dict(headers or {})) + content)]


def redirect(location: str, status: int = 307) -> Script:
    """Returns the script of a redirect to `location`."""
    return json_answer(b"", status, {"location": location})


def chat_answer(content: str, *, model: str = _SERVED_MODEL, usage: dict[str, Any] | None = None) -> Script:
    """Returns the script of a chat completion with one choice; `usage` is 11 and 3 tokens when not given."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
    }
    counted = usage_of(11, 3) if usage is None else usage
    return json_answer(_envelope("chat.completion", model) | {"choices": [choice], "usage": counted})


def catalog_answer(*models: str) -> Script:
    """Returns the script of a model list with these ids, in Fireworks' form."""
    rows = [
        {
            "id": model,
            "object": "model",
            "owned_by": "fireworks",
            "created": 1_756_000_000,
            "kind": "HF_BASE_MODEL",
            "supports_chat": True,
            "supports_tools": True,
            "context_length": 131_072,
        }
        for model in models
    ]
    return json_answer({"object": "list", "data": rows})


def usage_of(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    """Returns a usage object with its total; `more` are further fields."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total} | more


def chunk(
    content: str | None = None,
    *,
    finish: str | None = None,
    usage: dict[str, Any] | None = None,
    index: int = 0,
    model: str = _SERVED_MODEL,
) -> dict[str, Any]:
    """Returns one streamed chunk of a choice; `usage` is left out when None."""
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    counted = {} if usage is None else {"usage": usage}
    return _envelope("chat.completion.chunk", model) | {"choices": [choice]} | counted


def usage_chunk(usage: dict[str, Any] | None = None, model: str = _SERVED_MODEL) -> dict[str, Any]:
    """Returns the event that holds usage and no choice; 11 and 3 tokens when not given."""
    counted = usage_of(11, 3) if usage is None else usage
    return _envelope("chat.completion.chunk", model) | {"choices": [], "usage": counted}


def whole_stream(*words: str) -> list[Event]:
    """Returns the events of a complete stream: the words, the finish chunk, the usage chunk and `[DONE]`."""
    return [*(chunk(word) for word in words), chunk(finish="stop"), usage_chunk(), DONE]


def error_event(message: str = "The model is overloaded.", **more: Any) -> dict[str, Any]:
    """Returns the error object that Fireworks sends inside a 200 stream."""
    return {"error": {"message": message, "type": "server_error", "code": 503} | more}


def sse_stream(
    events: Iterable[Event],
    *,
    ending: str = "end",
    cut_at: int | None = None,
    newline: bytes = b"\n",
    compress: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Script:
    """Returns the script of a chunked event stream.

    Args:
        events: dicts become `data: {json}` events, bytes are sent as they are, steps run in between.
        ending: a key of `ENDINGS`.
        cut_at: the size of each HTTP chunk (and each send) in bytes, which cuts events, lines and characters; by
            default one chunk is one event.
        newline: the line ending of the events made from dicts and, in bytes, the replacement of each LF.
        compress: gzip, flushed after every piece, with its `content-encoding`.
    """
    usual = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    encoding = {"content-encoding": "gzip"} if compress else {}
    encode = _gzip() if compress else _unchanged
    steps = [send(head(200, usual | encoding | dict(headers or {})))]
    for run in _split_at_steps(events, newline):
        if callable(run):
            steps.append(run)
        else:
            steps += [send(_framed(encode(piece))) for piece in _pieces(run, cut_at)]
    return steps + ENDINGS[ending]


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Returns the status line and headers of an HTTP/1.1 response, with the empty line after them."""
    known = status in HTTPStatus._value2member_map_
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase if known else 'Unknown'}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def event_bytes(event: dict[str, Any] | bytes, newline: bytes = b"\n") -> bytes:
    """Returns one event as it is sent, with non-ASCII characters in UTF-8."""
    if isinstance(event, dict):
        event = b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
    return event.replace(b"\n", newline)


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": 1_756_000_000, "model": model}


def _split_at_steps(events: Iterable[Event], newline: bytes) -> Iterable[list[bytes] | Step]:
    """Yields the events between two steps as one list, because a chunk may hold parts of two events, but no step."""
    run: list[bytes] = []
    for event in events:
        if callable(event):
            yield run
            yield event
            run = []
        else:
            run.append(event_bytes(event, newline))
    yield run


def _pieces(run: list[bytes], cut_at: int | None) -> list[bytes]:
    if cut_at is None:
        return run
    whole = b"".join(run)
    return [whole[start : start + cut_at] for start in range(0, len(whole), cut_at)]


def _framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _unchanged(data: bytes) -> bytes:
    return data


def _gzip() -> Callable[[bytes], bytes]:
    # Window bits above 16 select the gzip container; a sync flush lets the reader decode each piece at once.
    compressor = zlib.compressobj(wbits=31)
    return lambda data: compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
