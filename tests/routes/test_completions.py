"""`POST /v1/completions` over HTTP, with the official OpenAI client: sandbox, faults of a provider, records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.routes.test_chat_openai_client import openai_client
from tests.support.answers import DONE, Event, chat_answer, error_event, json_answer, sse_stream, usage_of
from tests.support.chat import PREFIX, Seen, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script
from tests.support.sdks import openai

MODEL = PREFIX + "deepseek-v3p1"
MODELS = {
    "fireworks": MODEL,
    "featherless": "acme-labs/Quokka-3-8B-Instruct",
    "deepinfra": "acme-labs/Quokka-V2.5-9B",
    "chutes": "acme-labs/Quokka-V3-Mini-TEE",
}
ENVELOPE = {"id": "cmpl-1", "object": "text_completion", "created": 1_795_348_800, "model": PREFIX + "served"}


@pytest.fixture(scope="module")
def client(gateway_of_four: Gateway) -> Iterator[openai.OpenAI]:
    """A client of the gateway in front of the sandbox's four providers."""
    with openai_client(gateway_of_four) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(scripted_gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(scripted_gateway) as client:
        yield client


def post(gateway: Gateway, body: dict[str, Any]) -> Seen:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    return request("POST", f"{gateway.url}/v1/completions", headers=headers, json=body)


def piece(text: str, index: int = 0, finish: str | None = None, usage: dict[str, Any] | None = None) -> Event:
    """Returns a chunk of a stream of completions."""
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    return ENVELOPE | {"choices": [choice], "usage": usage}


@pytest.mark.parametrize("provider", MODELS)
def test_every_provider_completes_in_both_modes(
    client: openai.OpenAI, gateway_of_four: Gateway, session_database_url: str, provider: str
) -> None:
    ask: dict[str, Any] = {"model": MODELS[provider], "prompt": "Once upon a time"}
    ask["extra_body"] = {"provider": provider}
    answer = client.completions.with_raw_response.create(**ask)
    whole = answer.parse()
    assert whole.object == "text_completion" and whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].text.startswith("[sandbox]") and "Once upon a time" in whole.choices[0].text
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    row = wait_for_row(session_database_url, answer.headers["x-request-id"])
    assert (row["endpoint"], row["gateway"], row["outcome"]) == ("/v1/completions", provider, "ok")
    assert (row["prompt_tokens"], row["usage_source"]) == (whole.usage.prompt_tokens, "provider")


def test_all_four_forms_of_a_prompt(client: openai.OpenAI) -> None:
    for prompt, texts in (("a", ["a"]), (["a", "b"], ["a", "b"]), ([5, 6], ["<5><6>"]), ([[5], [6]], ["<5>", "<6>"])):
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=100)
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
        assert all(f'"{text}"' in choice.text for text, choice in zip(texts, answer.choices, strict=True))


def test_several_prompts_with_several_answers_take_turns_in_a_stream(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "prompt": ["one", "two"], "n": 2, "stop": "!"}
    whole = client.completions.create(**ask)
    order, texts = [], ["", "", "", ""]
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            order.append(choice.index)
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices] and order[:4] == [0, 1, 2, 3]


def test_echo_and_both_forms_of_logprobs(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "prompt": "2 + 2 =", "echo": True, "max_tokens": 2}
    legacy = client.completions.create(**ask, logprobs=1).choices[0]
    assert legacy.text.startswith("2 + 2 =") and legacy.logprobs.tokens[0] == "2"
    assert legacy.logprobs.token_logprobs[0] is None and legacy.logprobs.text_offset[:3] == [0, 1, 3]
    newer = client.completions.create(**ask, extra_body={"logprobs": True}).choices[0]
    assert [each["token"] for each in newer.logprobs.content] == legacy.logprobs.tokens
    chunks = list(client.completions.create(**ask, logprobs=1, stream=True))
    tokens = [
        token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.tokens
    ]
    assert tokens == legacy.logprobs.tokens


def test_a_prompt_can_be_scored_without_generating(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="How likely", echo=True, max_tokens=0, logprobs=0)
    assert answer.choices[0].text == "How likely" and answer.usage.completion_tokens == 0


def test_a_long_answer_is_collected_from_a_stream(gateway_of_four: Gateway) -> None:
    seen = post(gateway_of_four, {"model": MODEL, "prompt": ["Write 12 words", "Hi"], "max_tokens": 20_480})
    assert seen.status == 200 and seen.json["object"] == "text_completion"
    assert [choice["index"] for choice in seen.json["choices"]] == [0, 1]
    assert seen.json["usage"]["completion_tokens"] > 12 and "logprobs" in seen.json["choices"][0]


def test_what_fireworks_lacks_is_left_out_if_it_means_nothing(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_path("/completions", sse_stream([piece("a", finish="stop", usage=usage_of(3, 1)), DONE]))
    options = {
        "suffix": None,
        "best_of": None,
        "stream_options": {"include_usage": True},
        "store": True,
        "provider": "fireworks",
    }
    body = {"model": PREFIX + "m", "prompt": "a", "stream": True}
    seen = post(scripted_gateway, body | options)
    assert seen.status == 200 and seen.headers["x-gateway-dropped-params"] == "store, suffix, best_of, stream_options"
    assert upstream.calls[-1].path == "/inference/v1/completions" and upstream.calls[-1].json == body


def test_a_refusal_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="a list of token ids") as caught:
        client.completions.create(model=MODEL, prompt=[])
    assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="suffix"):  # The provider's own error: it takes no suffix.
        client.completions.create(model=MODEL, prompt="a", suffix="b")


BROKEN: dict[str, tuple[Script, str, str]] = {
    "one of two prompts unfinished": (
        sse_stream([piece("a"), piece("b", 1), piece("", 1, "stop"), DONE]), "upstream_cut", "counted"
    ),
    "one of two prompts missing": (sse_stream([piece("a", finish="stop"), DONE]), "upstream_cut", "counted"),
    "cut": (sse_stream([piece("a"), piece("b", 1)], ending="fin"), "upstream_cut", "counted"),
    "no end marker": (sse_stream([piece("a", 0, "stop"), piece("b", 1, "stop")]), "upstream_cut", "counted"),
    "error event": (sse_stream([piece("a"), error_event()]), "upstream_error", "counted"),
    "a choice that failed": (sse_stream([piece("a"), piece("", 1, "error")]), "upstream_error", "counted"),
    "no JSON": (sse_stream([piece("a"), b"data: {no\n\n"]), "upstream_cut", "counted"),
    "texts in an unknown form": (
        sse_stream([piece("a"), ENVELOPE | {"choices": [{"index": 1, "text": {"a": 1}}]}]), "upstream_cut", "counted"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_stream_raises_and_its_row_says_so(
    scripted: openai.OpenAI, upstream: ScriptedUpstream, session_database_url: str, fault: str
) -> None:
    script, outcome, source = BROKEN[fault]
    upstream.on_path("/completions", script)
    stream = scripted.completions.create(model=PREFIX + "m", prompt=["x", "y"], stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code in (outcome, None)
    row = wait_for_row(session_database_url, stream.response.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"], row["endpoint"]) == (outcome, source, "/v1/completions")


def test_odd_chunks_are_repaired(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    odd = [
        {"text": "a"},
        {"index": "0", "text": None},
        {"index": 0, "delta": {"content": "b"}},
        {"index": 0, "text": 5},
    ]
    events: list[Event] = [ENVELOPE | {"choices": [choice]} for choice in odd]
    upstream.on_path("/completions", sse_stream([*events, piece("c", finish="stop"), DONE]))
    seen = post(scripted_gateway, {"model": PREFIX + "m", "prompt": "x", "stream": True})
    choices = [json.loads(event[6:])["choices"][0] for event in seen.events[:-1]]
    assert "".join(choice["text"] for choice in choices) == "ab5c" and {choice["index"] for choice in choices} == {0}


def test_a_whole_answer_without_usage_is_counted(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    upstream.on_path("/completions", json_answer({"choices": [{"text": "twelve chars", "finish_reason": "stop"}]}))
    seen = post(scripted_gateway, {"model": PREFIX + "m", "prompt": ["abcd", "efgh"]})
    assert seen.json["choices"][0] == {"index": 0, "text": "twelve chars", "logprobs": None, "finish_reason": "stop"}
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (2, 3, "counted")


def test_an_answer_of_chat_is_none_of_completions(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.on_path("/completions", chat_answer("hi"))
    seen = post(scripted_gateway, {"model": PREFIX + "m", "prompt": "x"})
    assert seen.status == 502 and "not a completion" in seen.error["message"]
