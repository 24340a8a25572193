"""Completions without streaming: their shape, their text and the numbers in them."""

import json

import pytest
import requests

from app.sandbox.tokens import count_tokens
from tests.sandbox.client import PREFIX, USER, Server

GLM, KIMI, GPT_OSS = PREFIX + "glm-5p3", PREFIX + "kimi-k3", PREFIX + "gpt-oss-120b"


def test_a_completion_has_the_shape_of_one_of_fireworks(server: Server) -> None:
    completion = server.chat(GLM).json()
    assert list(completion) == ["id", "object", "created", "model", "choices", "usage"]
    assert completion["id"].startswith("chatcmpl-") and len(completion["id"]) == len("chatcmpl-") + 32
    assert (completion["object"], completion["model"]) == ("chat.completion", GLM)
    [choice] = completion["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert set(choice["message"]) == {"role", "content", "reasoning_content"}
    assert list(completion["usage"]) == ["prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details"]


def test_the_text_says_sandbox_quotes_the_prompt_and_repeats_itself(server: Server) -> None:
    texts = [server.chat().json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("[sandbox]") and '"Hello!"' in texts[0]


def test_the_counts_follow_the_documented_rule(server: Server) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, world!"}]
    completion = server.chat(messages=messages).json()
    usage, text = completion["usage"], completion["choices"][0]["message"]["content"]
    assert usage["prompt_tokens"] == 3 + 4
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}
    assert usage["completion_tokens"] == count_tokens(text)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_headers_have_the_same_numbers_as_the_body(server: Server) -> None:
    response = server.chat(temperature=0.5)
    headers, completion = response.headers, response.json()
    assert headers["x-sandbox"] == "1"
    assert headers["fireworks-prompt-tokens"] == str(completion["usage"]["prompt_tokens"])
    assert headers["fireworks-cached-prompt-tokens"] == "0"
    assert json.loads(headers["fireworks-sampling-options"])["temperature"] == 0.5
    assert completion["id"] == "chatcmpl-" + headers["x-request-id"]
    assert float(headers["fireworks-server-processing-time"]) > 0
    assert headers["x-ratelimit-over-limit"] == "no"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_the_text_with_the_finish_reason_length(server: Server, field: str) -> None:
    completion = server.chat(**{field: 5}).json()
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens"] == 5
    assert completion["choices"][0]["message"]["content"] == "[sandbox] Hello!"


def test_a_reasoning_model_with_a_tiny_limit_has_no_content_key(server: Server) -> None:
    completion = server.chat(GPT_OSS, max_tokens=4).json()
    message = completion["choices"][0]["message"]
    assert set(message) == {"role", "reasoning_content"}
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_reasoning_effort_decides_the_length_of_the_reasoning(server: Server) -> None:
    lengths = {}
    for effort in ("low", "high", 3):
        message = server.chat(GLM, reasoning_effort=effort).json()["choices"][0]["message"]
        lengths[effort] = count_tokens(message["reasoning_content"])
    assert lengths[3] == 3 < lengths["low"] < lengths["high"]
    silent = server.chat(GLM, reasoning_effort="none").json()["choices"][0]["message"]
    assert "reasoning_content" not in silent


def test_a_stop_string_ends_the_text_before_it(server: Server) -> None:
    choice = server.chat(stop=["never found", " Hello"]).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("[sandbox]", "stop")


def test_n_gives_as_many_different_choices(server: Server) -> None:
    completion = server.chat(n=3).json()
    texts = [choice["message"]["content"] for choice in completion["choices"]]
    assert [choice["index"] for choice in completion["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert completion["usage"]["completion_tokens"] == sum(count_tokens(text) for text in texts)


def test_a_prompt_can_ask_for_a_length(server: Server) -> None:
    messages = [{"role": "user", "content": "Write 300 words about rain."}]
    assert server.chat(messages=messages).json()["usage"]["completion_tokens"] == 300


def test_images_are_counted_and_mentioned(server: Server) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Look!"}, image, image]}]
    completion = server.chat(KIMI, messages=messages).json()
    assert "2 images" in completion["choices"][0]["message"]["content"]
    assert completion["usage"]["prompt_tokens"] == 2 + 2 * 256


def test_logprobs_have_the_form_of_openai_or_arrays(server: Server) -> None:
    content = server.chat(logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content).startswith("[sandbox]")
    assert all(entry["logprob"] < 0 and len(entry["top_logprobs"]) == 1 for entry in content)
    legacy = server.chat(logprobs=2).json()["choices"][0]["logprobs"]
    assert len(legacy["tokens"]) == len(legacy["token_logprobs"]) == len(legacy["text_offset"])


def test_perf_metrics_are_present_when_requested(server: Server) -> None:
    assert "perf_metrics" not in server.chat().json()
    metrics = server.chat(perf_metrics_in_response=True).json()["perf_metrics"]
    assert metrics["prompt-tokens"] == 2 and metrics["server-processing-time"] > 0


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "degrees": {"type": "integer", "minimum": 10},
        "sky": {"enum": ["clear", "grey"]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
    },
    "$defs": {"place": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}},
        {"type": "json_object", "schema": SCHEMA},
    ],
)
def test_a_json_schema_gets_json_that_fits_it(server: Server, form: dict[str, object]) -> None:
    messages = [{"role": "user", "content": "Weather in Oslo?"}]
    text = server.chat(messages=messages, response_format=form).json()["choices"][0]["message"]["content"]
    assert json.loads(text) == {"city": "Oslo", "degrees": 10, "sky": "clear", "places": [{"name": "Oslo"}]}


def test_json_object_without_a_schema_gets_some_json(server: Server) -> None:
    completion = server.chat(response_format={"type": "json_object"}).json()
    assert json.loads(completion["choices"][0]["message"]["content"]) == {"sandbox": True, "prompt": "Hello!"}


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("fireworks/glm-5p3", "glm-5p3"),
        ("accounts/fireworks/routers/glm-latest", "glm-5p3"),
        ("accounts/fireworks/routers/kimi-k3-fast", "kimi-k3"),
    ],
)
def test_the_response_to_a_router_or_short_name_has_the_full_name(server: Server, asked: str, served: str) -> None:
    assert server.chat(asked).json()["model"] == PREFIX + served


def test_the_response_has_the_request_id_that_the_client_sent(server: Server) -> None:
    response = requests.post(
        f"{server.url}/inference/v1/chat/completions",
        json={"model": GLM, "messages": USER},
        headers={"Authorization": "Bearer fw_test", "X-Request-Id": "mine-1"},
        timeout=10,
    )
    assert response.headers["x-request-id"] == "mine-1"
