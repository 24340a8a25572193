"""A whole answer in place of a stream, read as events; and other fields that a provider writes in its events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.services.endpoints import CHAT, Usage
from app.services.streaming import EventReader
from app.services.streaming.sse import MAX_EVENT_BYTES

ANSWER: dict[str, Any] = {
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "Hello there"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 3},
}


def make_reader(**more: Any) -> EventReader:
    return EventReader(CHAT, "Provider", key_setting="KEY", show_usage=False, **more)


def read_all(reader: EventReader, content: bytes) -> bytes:
    return reader.read(content, 1.0) + reader.read_end(2.0)


def test_a_whole_answer_is_read_as_the_events_of_its_stream() -> None:
    reader = make_reader()
    shown = read_all(reader, json.dumps(ANSWER).encode())
    assert b'"content":"Hello there"' in shown and shown.endswith(b"data: [DONE]\n\n")
    assert reader.error is None and reader.summary.is_done
    summary = reader.summary
    assert (summary.usage, summary.model, summary.finish_reason) == (Usage(11, 3), "m", "stop")


def test_a_whole_answer_is_collected() -> None:
    assert CHAT.stream is not None
    collector = CHAT.stream.make_collector()
    assert read_all(make_reader(collector=collector), json.dumps(ANSWER).encode()) == b""
    response = collector.make_response()
    assert response["choices"][0]["message"]["content"] == "Hello there" and response["usage"] == ANSWER["usage"]


def test_the_tokens_of_a_whole_answer_without_usage_are_estimated_from_its_text() -> None:
    reader = make_reader()
    read_all(reader, json.dumps(ANSWER | {"usage": None}).encode())
    assert reader.summary.usage is None and reader.summary.output_events == 3  # Eleven characters.


@pytest.mark.parametrize("content", [b'{"choices": [\n\n{"mess', b'{"choices": [7]}', b'{"a"' + b" " * MAX_EVENT_BYTES])
def test_a_document_that_is_no_answer_is_not_requested_again(content: bytes) -> None:
    reader = make_reader()
    read_all(reader, content[:20])
    if len(content) > 100:
        reader = make_reader()
        reader.read(b'{"a"\n\n', 1.0)
        for _ in range(9):
            reader.read(content[: MAX_EVENT_BYTES // 8] + b"\n\n", 1.0)
    assert reader.error is not None and reader.error.should_retry is False
    assert "charged" in reader.error.message


def test_a_failed_choice_is_an_error_with_its_usage() -> None:
    choice = {"message": {"content": "Hel"}, "finish_reason": "error", "error": {"code": 503, "message": "It broke."}}
    reader = make_reader()
    read_all(reader, json.dumps(ANSWER | {"choices": [choice]}).encode())
    assert reader.error is not None and reader.error.status == 503 and "It broke" in reader.error.message
    assert reader.summary.usage == Usage(11, 3)


CHUNK = json.dumps({"choices": [{"index": 0, "delta": {"content": "fw_REPLACE_ME2"}}]}).encode()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b": key fw_REPLACE_ME1\n\n", b": key fw_[redacted]\n\n"),
        (b": PROCESSING\n\n", b": PROCESSING\n\n"),
        (b"id: fw_REPLACE_ME1\ndata: " + CHUNK + b"\n\n", b"id: fw_[redacted]\ndata: " + CHUNK + b"\n\n"),
        (b"event: fw_REPLACE_ME1\r\ndata: " + CHUNK + b"\r\n\r\n",
         b"event: fw_[redacted]\r\ndata: " + CHUNK + b"\r\n\r\n"),
        (b"data: " + CHUNK + b"\n\n", b"data: " + CHUNK + b"\n\n"),
    ],
)  # fmt: skip
def test_keys_beside_the_data_of_an_event_are_redacted_and_the_data_is_kept(sent: bytes, shown: bytes) -> None:
    assert make_reader().read(sent, 1.0) == shown
