"""Streamed completions: framing, order of the chunks, the three places of usage, and aborted streams."""

from itertools import islice
from typing import Any

import pytest
import requests

from app.sandbox.tokens import count_tokens
from tests.sandbox.client import PLAIN, PREFIX, TIMEOUT_S, Server, join_text, make_headers, parse_events
from tests.support.waiting import wait_until

KIMI, QWEN = PREFIX + "kimi-k3", PREFIX + "qwen3p8-max"
IN_FINISH = PREFIX + "deepseek-v4p1-flash"
ONLY_IF_REQUESTED = PREFIX + "minimax-m3"
WITH_USAGE = {"stream_options": {"include_usage": True}}


def test_a_stream_is_data_lines_that_end_with_done(server: Server) -> None:
    with server.chat(stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-sandbox"] == "1"
        assert response.headers["fireworks-prompt-tokens"] == "2"
        blocks = response.content.decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks[-1] == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)


def test_the_chunks_have_the_shape_and_order_of_the_real_ones(server: Server) -> None:
    *chunks, done = server.stream(KIMI)
    assert done == "[DONE]"
    for chunk in chunks:
        assert list(chunk) == ["id", "object", "created", "model", "choices", "usage"]
        assert (chunk["object"], chunk["usage"]) == ("chat.completion.chunk", None)
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0] == {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}
    assert choices[-1] == {"index": 0, "delta": {}, "finish_reason": "stop", "raw_output": None}
    kinds = [next(iter(choice["delta"])) for choice in choices[1:-1]]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"reasoning_content", "content"}


def test_a_stream_has_the_text_of_the_unstreamed_completion(server: Server) -> None:
    message = server.chat(KIMI).json()["choices"][0]["message"]
    events = server.stream(KIMI)
    assert join_text(events) == message["content"]
    assert join_text(events, "reasoning_content") == message["reasoning_content"]


def test_usage_is_in_the_finish_chunk_of_some_models(server: Server) -> None:
    chunks = server.stream(IN_FINISH)[:-1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == count_all(chunks)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_usage_is_in_a_chunk_of_its_own_when_requested(server: Server) -> None:
    assert all(chunk["usage"] is None for chunk in server.stream(KIMI)[:-1])
    chunks = server.stream(KIMI, **WITH_USAGE)[:-1]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == count_all(chunks)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_usage_of_some_models_is_absent_unless_requested(server: Server) -> None:
    assert all(chunk["usage"] is None for chunk in server.stream(ONLY_IF_REQUESTED)[:-1])
    last = server.stream(ONLY_IF_REQUESTED, **WITH_USAGE)[-2]
    assert last["choices"][0]["finish_reason"] == "stop" and last["usage"]["total_tokens"] > 0


def count_all(chunks: list[Any]) -> int:
    """Returns the number of tokens of all texts of a stream."""
    return count_tokens(join_text(chunks)) + count_tokens(join_text(chunks, "reasoning_content"))


def test_a_finish_chunk_may_have_the_last_text(server: Server) -> None:
    events = server.stream(QWEN)
    finish = events[-2]["choices"][0]
    assert finish["finish_reason"] == "stop" and finish["delta"]["content"]
    assert join_text(events) == server.chat(QWEN).json()["choices"][0]["message"]["content"]


def test_perf_metrics_are_in_the_last_chunk(server: Server) -> None:
    assert "perf_metrics" in server.stream(IN_FINISH, perf_metrics_in_response=True)[-2]
    assert "perf_metrics" in server.stream(KIMI, perf_metrics_in_response=True, **WITH_USAGE)[-2]


def test_the_choices_of_one_stream_take_turns(server: Server) -> None:
    events = server.stream(PLAIN, n=2, **WITH_USAGE)
    order = [event["choices"][0]["index"] for event in events[:-2]]
    assert order[:6] == [0, 1, 0, 1, 0, 1]
    assert "(answer 1 of 2)" in join_text(events, index=0)
    assert "(answer 2 of 2)" in join_text(events, index=1)
    finishes = [event["choices"][0] for event in events[:-2] if event["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in finishes) == [0, 1]


def test_streamed_logprobs_join_to_the_text(server: Server) -> None:
    events = server.stream(logprobs=True)
    entries = [entry for event in events[:-1] for entry in get_logprobs(event)]
    assert "".join(entry["token"] for entry in entries) == join_text(events)


def get_logprobs(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the logprobs of a chunk."""
    return list((event["choices"][0].get("logprobs") or {}).get("content", []))


def test_a_stream_changes_the_counters(server: Server) -> None:
    before = server.get_stats()
    events = server.stream(KIMI)
    after = server.get_stats()
    changed = {name for name in after if after[name] != before[name]}
    assert changed >= {"requests", "streams_started", "streams_finished", "prompt_tokens"}
    assert after["streams_started"] == before["streams_started"] + 1
    assert after["streams_finished"] == before["streams_finished"] + 1
    assert after["completion_tokens"] == before["completion_tokens"] + count_all(events)
    assert after["by_model"][KIMI] == before["by_model"].get(KIMI, 0) + 1


@pytest.mark.parametrize("name", ["sandbox-stall", "sandbox-slow-first-token-60", "sandbox-drip"])
def test_a_disconnect_is_noticed_while_nothing_is_sent(server: Server, name: str) -> None:
    before = server.get_stats()["streams_aborted"]
    with server.misbehave(name, stream=True) as response:
        assert response.status_code == 200
    wait_until(lambda: server.get_stats()["streams_aborted"] == before + 1)


def test_a_disconnect_stops_the_generation(server: Server) -> None:
    before = server.get_stats()
    long = [{"role": "user", "content": "Write 90000 words."}]
    with server.chat(stream=True, messages=long) as response:
        assert len(list(islice(response.iter_content(None), 10))) == 10
    wait_until(lambda: server.get_stats()["streams_aborted"] == before["streams_aborted"] + 1)
    generated = server.get_stats()["completion_tokens"] - before["completion_tokens"]
    assert 0 < generated < 90_000


def test_a_connection_is_used_again_after_a_stream(server: Server) -> None:
    with requests.Session() as session:
        for _ in range(2):
            response = session.post(
                f"{server.url}/inference/v1/chat/completions",
                json={"model": PLAIN, "messages": [{"role": "user", "content": "Hi"}], "stream": True},
                headers=make_headers("fw_test"),
                timeout=TIMEOUT_S,
            )
            assert parse_events(response.content)[-1] == "[DONE]"
            assert response.headers["connection"] == "keep-alive"
