"""The official OpenAI client against /v1/responses: whole answers, streams, tools, errors, cut streams, records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydantic import BaseModel

from tests.routes.test_chat_openai_client import openai_client
from tests.support.answers import DONE, chunk, error_event, json_answer, sse_stream, usage_chunk, usage_of
from tests.support.chat import PREFIX, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script
from tests.support.sdks import httpx2, openai

MODEL = PREFIX + "deepseek-v3p1"
SCRIPTED = PREFIX + "scripted"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "Sub-agents.",
    "tools": [{"type": "function", "name": "wait", "description": "Waits."}],
}


class City(BaseModel):
    name: str
    inhabitants: int


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """A client of the gateway in front of the sandbox."""
    with openai_client(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(scripted_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """A client of the gateway in front of the scripted upstream."""
    with openai_client(scripted_gateway) as client:
        yield client


def call_piece(index: int, arguments: str, name: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece = {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})
    event = chunk()
    event["choices"][0]["delta"] = {"tool_calls": [piece]}
    return event


def thought(text: str) -> dict[str, Any]:
    event = chunk()
    event["choices"][0]["delta"] = {"reasoning_content": text}
    return event


USAGE = usage_of(20, 9, prompt_tokens_details={"cached_tokens": 16}, completion_tokens_details={"reasoning_tokens": 4})
AGENT_TURN = [
    thought("Look "),
    thought("first."),
    chunk("I look."),
    call_piece(0, "", "weather", "functions.weather:0"),
    call_piece(0, '{"city": "Os'),
    call_piece(0, 'lo"}'),
    call_piece(1, '{"input": "*** Begin', "apply_patch", "functions.apply_patch:1"),
    call_piece(1, ' Patch\\n"}'),
    call_piece(2, "{}", "agents__wait", "functions.agents__wait:2"),
    chunk(finish="tool_calls"),
    usage_chunk(USAGE),
    DONE,
]


def read_strictly(response: openai.types.responses.Response) -> openai.types.responses.Response:
    """Returns a response after its JSON has been validated, which the SDK itself does not do."""
    return openai.types.responses.Response.model_validate_json(response.to_json(), strict=True)


def test_a_whole_response(client: openai.OpenAI, gateway: Gateway, session_database_url: str) -> None:
    raw = client.responses.with_raw_response.create(
        model=MODEL, input="Hello!", instructions="Be kind.", metadata={"a": "b"}, temperature=0.5, store=True
    )
    response = read_strictly(raw.parse())
    assert response.output_text.startswith("[sandbox] Hello!") and response.status == "completed"
    assert response.instructions == "Be kind." and response.metadata == {"a": "b"} and response.temperature == 0.5
    assert response.model == MODEL and response.to_dict()["store"] is False
    assert response.usage is not None and response.usage.input_tokens > 0
    assert raw.headers["x-gateway-dropped-params"] == "store"
    row = wait_for_row(session_database_url, raw.headers["x-request-id"])
    assert (row["endpoint"], row["outcome"], row["usage_source"]) == ("/v1/responses", "ok", "provider")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        response.usage.input_tokens,
        response.usage.output_tokens,
    )
    assert response.id == "resp_" + row["request_id"].replace("-", "")


def test_a_stream_says_the_same(client: openai.OpenAI, session_database_url: str) -> None:
    whole = client.responses.create(model=MODEL, input="Hello!")
    with client.responses.stream(model=MODEL, input="Hello!") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert len(deltas) > 1 and "".join(deltas) == final.output_text == whole.output_text
    assert final.usage == whole.usage
    row = wait_for_row(session_database_url, _to_request_id(final.id))
    assert row["stream"] is True and row["outcome"] == "ok" and row["events"] > len(deltas)


def _to_request_id(response_id: str) -> str:
    digits = response_id.removeprefix("resp_")
    return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])


def test_a_parsed_answer(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input="Name a city.", text_format=City)
    assert isinstance(response.output_parsed, City)


def test_an_agents_turns(scripted: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    """Sends the output of a turn back as input together with the outputs of its calls, as agents do."""
    tools: Any = [WEATHER, PATCH, AGENTS, {"type": "web_search"}]
    upstream.enqueue(sse_stream(AGENT_TURN))
    with scripted.responses.stream(model=SCRIPTED, input="The weather?", tools=tools) as stream:
        events = list(stream)
        final = stream.get_final_response()
    reasoning, message, weather, patch, wait = read_strictly(final).output
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert reasoning.type == "reasoning" and reasoning.content[0].text == "Look first."
    assert message.type == "message" and message.content[0].text == "I look."
    assert weather.type == "function_call" and json.loads(weather.arguments) == {"city": "Oslo"}
    assert patch.type == "custom_tool_call" and patch.input == "*** Begin Patch\n"
    assert wait.type == "function_call" and (wait.namespace, wait.name) == ("agents", "wait")
    assert final.usage.to_dict() == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 29,
    }

    history: Any = [{"role": "user", "content": "The weather?"}]
    history += [item.to_dict() for item in final.output]
    history += [{"type": "function_call_output", "call_id": weather.call_id, "output": "warm"}]
    history += [{"type": "custom_tool_call_output", "call_id": patch.call_id, "output": "done"}]
    history += [{"type": "function_call_output", "call_id": wait.call_id, "output": ""}]
    answer = scripted.responses.create(model=SCRIPTED, input=history, tools=tools)
    assert read_strictly(answer).output_text == "Hello from the script."
    sent = upstream.calls[-1].json["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "tool", "tool", "tool"]
    assert sent[1]["reasoning_content"] == "Look first."
    names = [each["function"]["name"] for each in sent[1]["tool_calls"]]
    assert names == ["weather", "apply_patch", "agents__wait"]


def test_the_last_item_of_a_response_that_was_cut_off_is_incomplete(
    scripted: openai.OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.default = sse_stream([chunk("Once upon"), chunk(finish="length"), usage_chunk(), DONE])
    with scripted.responses.stream(model=SCRIPTED, input="A story", max_output_tokens=16) as stream:
        *_, last = stream
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].to_dict()["status"] == last.response.status == "incomplete"
    assert upstream.calls[-1].json["max_tokens"] == 16


def test_a_call_that_was_cut_is_in_no_output(scripted: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    patch = call_piece(0, '{"input": "*** Begin Patch\\n*** Delete', "apply_patch", "a")
    ask: Any = {"model": SCRIPTED, "input": "Delete it", "tools": [PATCH]}
    upstream.default = sse_stream([chunk("I do."), patch, chunk(finish="length"), usage_chunk(), DONE])
    with scripted.responses.stream(**ask) as stream:
        *events, last = stream
    assert last.type == "response.incomplete" and [item.type for item in last.response.output] == ["message"]
    assert [event.item.type for event in events if event.type == "response.output_item.done"] == ["message"]
    whole = read_strictly(scripted.responses.create(**ask, max_output_tokens=9000))  # Collected from the same stream.
    assert whole.status == "incomplete" and [item.type for item in whole.output] == ["message"]

    # Some providers report tool_calls even if the output limit cut the call.
    upstream.default = sse_stream([patch, chunk(finish="tool_calls"), usage_chunk(), DONE])
    with pytest.raises((httpx2.RemoteProtocolError, openai.APIConnectionError)):
        for event in scripted.responses.create(**ask, stream=True):
            last = event
    assert last.type == "response.failed" and last.response.output == []
    assert "incomplete arguments" in last.response.error.message


def test_a_whole_answer_in_place_of_a_stream_and_the_other_way_round(
    scripted: openai.OpenAI, upstream: ScriptedUpstream
) -> None:
    with scripted.responses.stream(model=SCRIPTED, input="Hello") as stream:  # The default answer is whole.
        assert stream.get_final_response().output_text == "Hello from the script."
    upstream.enqueue(sse_stream(AGENT_TURN))
    # Above 4096 tokens, Fireworks requires a stream.
    response = scripted.responses.create(model=SCRIPTED, input="Hello", tools=[WEATHER], max_output_tokens=9000)
    assert upstream.calls[-1].json["stream"] is True
    assert [item.type for item in read_strictly(response).output][:3] == ["reasoning", "message", "function_call"]


CUTS: dict[str, Script] = {
    "no [DONE]": sse_stream([chunk("Some"), chunk(" text")]),
    "connection lost": sse_stream([chunk("Some"), call_piece(0, '{"city":', "weather", "a")], ending="fin"),
    "connection reset": sse_stream([chunk("Some")], ending="reset"),
    "error event": sse_stream([chunk("Some"), error_event()]),
    "rate limit": sse_stream([chunk("Some"), {"error": {"message": "Slow down.", "code": 429}}]),
    "context": sse_stream(
        [chunk("Some"), {"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}}]
    ),
}
CODES = {"rate limit": "rate_limit_exceeded", "context": "context_length_exceeded"}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_stream_fails_and_raises(
    name: str, scripted: openai.OpenAI, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    upstream.enqueue(CUTS[name])
    events = []
    with pytest.raises((httpx2.RemoteProtocolError, openai.APIConnectionError)):
        for event in scripted.responses.create(model=SCRIPTED, input="Hello", tools=[WEATHER], stream=True):
            events.append(event)
    last = events[-1]
    assert last.type == "response.failed" and last.response.status == "failed"
    assert last.response.error.code == CODES.get(name, "server_error")
    assert "response.completed" not in {event.type for event in events}
    done = [event.item.type for event in events if event.type == "response.output_item.done"]
    assert "function_call" not in done
    row = wait_for_row(session_database_url, _to_request_id(last.response.id))
    assert row["outcome"] in {"upstream_cut", "upstream_error"} and row["status"] == 200


def test_errors_have_the_sdks_classes(
    scripted: openai.OpenAI, upstream: ScriptedUpstream, scripted_gateway: Gateway
) -> None:
    responses = scripted.responses
    with pytest.raises(openai.BadRequestError, match="stores no responses") as stored:
        responses.create(model=SCRIPTED, input="x", previous_response_id="resp_1")
    assert (stored.value.code, stored.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.BadRequestError, match="`input` is required"):
        scripted.post("/responses", body={"model": SCRIPTED}, cast_to=object)
    with pytest.raises(openai.BadRequestError, match="`max_output_tokens` must be a whole number of at least 1"):
        responses.create(model=SCRIPTED, input="x", max_output_tokens=0)
    with pytest.raises(openai.BadRequestError, match="`metadata` must be an object"):
        responses.create(model=SCRIPTED, input="x", metadata="m")  # type: ignore[arg-type]
    for method in (responses.retrieve, responses.delete, responses.cancel, responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match="stores no responses") as missing:
            method("resp_1")
        assert missing.value.code == "api_not_offered"
    for name, advice in (("input_tokens", "count_tokens estimates"), ("compact", "Ask the model for a summary")):
        with pytest.raises(openai.NotFoundError, match=advice) as missing:
            scripted.post(f"/responses/{name}", body={"model": SCRIPTED, "input": "x"}, cast_to=object)
        assert missing.value.code == "api_not_offered"
    with pytest.raises(openai.NotFoundError, match="Model"):
        responses.create(model="no-such-model", input="x")
    with openai_client(scripted_gateway, key="gw_wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.responses.create(model=SCRIPTED, input="x")
    upstream.enqueue(json_answer({"error": {"message": "Slow down."}}, 429, {"retry-after": "0"}))
    with pytest.raises(openai.RateLimitError, match="Slow down"):
        responses.create(model=SCRIPTED, input="x", stream=True, extra_headers={"x-stainless-retry-count": "1"})
    assert len(upstream.calls) == 1


def test_fields_of_a_provider_pass_and_what_has_changed_is_named(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = {
        "model": "scripted",
        "provider": "Fireworks",
        "input": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        "client_metadata": {"path": "/somewhere"},
        "include": ["reasoning.encrypted_content"],
        "safety_identifier": "s",
        "top_k": 5,
        "tools": [WEATHER, {"type": "web_search"}],
    }
    url = f"{scripted_gateway.url}/v1/responses"
    response = requests.post(url, json=body, headers=scripted_gateway.headers, timeout=20)
    assert response.status_code == 200, response.text
    assert response.headers["x-gateway-applied-params"] == "input[].role=developer->system"
    dropped = response.headers["x-gateway-dropped-params"].split(", ")
    assert dropped == ["client_metadata", "tools[].type=web_search", "safety_identifier"]
    sent = upstream.calls[-1]
    assert sent.path.endswith("/chat/completions") and sent.json["top_k"] == 5
    assert sent.json["model"] == SCRIPTED and "provider" not in sent.json
    assert [tool["name"] for tool in response.json()["tools"]] == ["weather"]
    assert "/somewhere" not in scripted_gateway.log()
