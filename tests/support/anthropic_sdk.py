"""Reads Anthropic's answers as its official SDK does, but strictly by its declared types."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter

from tests.support.sdks import anthropic, httpx2

# A minimal request. Its contents do not matter, because the answer is fixed.
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}


@functools.cache
def _get_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(anthropic.types.RawMessageStreamEvent)


def read_message(value: dict[str, Any]) -> anthropic.types.Message:
    """Returns a whole message; pydantic raises if a field is missing or has another type than declared."""
    return anthropic.types.Message.model_validate(value, strict=True)


def read_stream(content: bytes, *, is_strict: bool = True) -> anthropic.types.Message:
    """Returns the SDK's message for a stream; by default each event is also validated strictly.

    Raises:
        anthropic.APIError: the stream contains an error.
        AssertionError: an event is out of the order of Anthropic's API.
    """
    if is_strict:
        check_order(content)
    head = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, headers=head, content=content))
    with (
        httpx2.Client(transport=transport) as http,
        anthropic.Anthropic(api_key="x", base_url="http://gateway", http_client=http, max_retries=0) as client,
        client.messages.stream(**ASKED) as stream,
    ):
        return stream.get_final_message()


def check_order(content: bytes) -> list[Any]:
    """Returns the strictly typed events of a stream, after checking that blocks open and close one after the other."""
    open_index, next_index, events = None, 0, []
    for part in content.split(b"\n\n"):
        name, _, data = part.partition(b"\ndata: ")
        if name in (b"event: ping", b"event: error", b"") or part.startswith(b":"):
            continue
        event = _get_adapter().validate_json(data, strict=True)
        assert name == b"event: " + event.type.encode()
        if event.type == "content_block_start":
            assert open_index is None and event.index == next_index
            open_index, next_index = event.index, next_index + 1
        elif event.type == "content_block_delta":
            assert event.index == open_index
        elif event.type == "content_block_stop":
            assert event.index == open_index
            open_index = None
        else:
            assert open_index is None
            assert (event.type == "message_start") is (not events)
        events.append(event)
    return events
