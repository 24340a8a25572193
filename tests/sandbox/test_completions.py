"""Completions of a text at the sandbox: Fireworks' refusals, the place of usage, and the models that misbehave."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.sandbox.client import FIREWORKS, KEY, PLAIN, PREFIX, TIMEOUT_S, Server, make_headers, parse_events


def complete(server: Server, model: str = PLAIN, base: str = FIREWORKS, **body: Any) -> requests.Response:
    """POSTs a request for completions of "Hello" unless the body has a prompt."""
    return requests.post(
        f"{server.url}{base}/completions",
        json={"model": model, "prompt": "Hello"} | body,
        headers=make_headers(KEY),
        timeout=TIMEOUT_S,
        stream=bool(body.get("stream")),
    )


@pytest.mark.parametrize(
    "field",
    [{"suffix": "a"}, {"best_of": 1}, {"tools": []}, {"messages": []}, {"stream_options": {}}, {"suffix": None}],
)
def test_fireworks_refuses_what_its_schema_lacks(server: Server, field: dict[str, Any]) -> None:
    answer = complete(server, **field)
    assert answer.status_code == 400 and "Extra inputs are not permitted" in answer.json()["error"]["message"]
    assert complete(server, "acme-labs/Quokka-V2.5-9B", "/deepinfra/v1/openai", **field).status_code == 200


@pytest.mark.parametrize(
    "change", [{"prompt": None}, {"logprobs": 6}, {"max_tokens": -1}, {"max_tokens": 5000}, {"n": 0}]
)
def test_fireworks_refuses_values_out_of_range(server: Server, change: dict[str, Any]) -> None:
    assert complete(server, **change).status_code == 400


def test_usage_comes_unasked_in_fireworks_last_chunk_and_asked_for_elsewhere(server: Server) -> None:
    *chunks, done = parse_events(complete(server, stream=True, prompt=["a", "b"]).content)
    assert done == "[DONE]" and chunks[-1]["usage"]["prompt_tokens"] == 2
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    other = ("acme-labs/Quokka-V2.5-9B", "/deepinfra/v1/openai")
    assert parse_events(complete(server, *other, stream=True).content)[-2]["usage"] is None
    options = {"include_usage": True}
    last = parse_events(complete(server, *other, stream=True, stream_options=options).content)[-2]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0


def test_a_script_in_a_prompt_is_obeyed_at_every_provider(server: Server) -> None:
    usage = {"prompt_tokens": 900, "cached_tokens": 800, "completion_tokens": 70_000}
    turn = {"reasoning": "Hm.", "text": ["ye", "s STOP", " no"], "finish_reason": "length", "usage": usage}
    prompt = "Well? @sandbox " + json.dumps(turn) + " Be brief."
    others = [("acme-labs/Quokka-V2.5-9B", "/deepinfra/v1/openai"), ("acme-labs/Quokka-V3-TEE", "/chutes/v1")]
    for model, base in [(PLAIN, FIREWORKS), ("acme-labs/Quokka-3-1.5B", "/featherless/v1"), *others]:
        body = complete(server, model, base, prompt=prompt).json()
        assert [(one["text"], one["finish_reason"]) for one in body["choices"]] == [("yes STOP no", "length")]
        seen = body["usage"]
        assert (seen["prompt_tokens"], seen["completion_tokens"], seen["total_tokens"]) == (900, 70_000, 70_900)
        assert seen["prompt_tokens_details"] == {"cached_tokens": 800}
    *chunks, done = parse_events(complete(server, prompt=prompt, stream=True).content)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["ye", "s STOP", " no", ""] and done == "[DONE]"
    assert chunks[-1]["usage"]["completion_tokens"] == 70_000


def test_scripts_of_completions_have_limits_turns_and_mistakes_like_those_of_chat(server: Server) -> None:
    script = '@sandbox [{"json": {"a": 1}}, {"when": "Observation 1", "text": "b c"}] '
    texts = ["Hello", script, script + "Observation 1: x"]
    several = complete(server, prompt=texts).json()
    assert [one["text"][:9] for one in several["choices"]] == ["[sandbox]", '{"a": 1}', "b c"]
    cut = complete(server, prompt=texts[2], max_tokens=1, n=2).json()
    assert [(one["text"], one["finish_reason"]) for one in cut["choices"]] == [("b", "length")] * 2
    assert cut["usage"]["completion_tokens"] == 2
    assert complete(server, prompt=texts[2], stop=" c").json()["choices"][0]["text"] == "b"
    call = '@sandbox {"tool_calls": [{"name": "f"}]}'
    assert complete(server, prompt=call).json()["choices"][0]["text"].startswith("[sandbox]")
    wrong = complete(server, prompt='@sandbox {"txt": ""}')
    assert wrong.status_code == 400 and "unknown field, 'txt'" in wrong.json()["error"]["message"]


def test_the_models_that_misbehave_do_so_here_too(server: Server) -> None:
    assert complete(server, PREFIX + "sandbox-429").status_code == 429
    assert [complete(server, PREFIX + "sandbox-flaky", prompt="once").status_code for _ in range(2)] == [503, 200]
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        assert complete(server, PREFIX + "sandbox-cut-after-2", stream=True).content
    events = parse_events(complete(server, PREFIX + "sandbox-no-done", stream=True).content)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert "error" in parse_events(complete(server, PREFIX + "sandbox-error-event", stream=True).content)[-1]
    huge = complete(server, PREFIX + "sandbox-huge-event").json()
    assert len(huge["choices"][0]["text"]) == 100_000
