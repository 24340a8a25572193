"""Tool calls, whole and streamed, and the text that follows a tool's result."""

import json
import re
from typing import Any

import pytest

from tests.sandbox.client import PLAIN, PREFIX, Server

KIMI = PREFIX + "kimi-k3"
WEATHER = [{"role": "user", "content": "What is the weather in Oslo?"}]


def make_tool(name: str) -> dict[str, Any]:
    """Returns a tool with one required and one optional parameter."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius"]}},
        "required": ["city"],
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [make_tool("get_weather"), make_tool("get_time")]


def test_a_tool_is_called_with_its_required_arguments(server: Server) -> None:
    choice = server.chat(PLAIN, messages=WEATHER, tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert set(choice["message"]) == {"role", "tool_calls"}
    [call] = choice["message"]["tool_calls"]
    assert re.fullmatch("call_[0-9a-f]{24}", call["id"])
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_kimi_names_its_calls_after_function_and_index(server: Server) -> None:
    message = server.chat(KIMI, messages=WEATHER, tools=TOOLS).json()["choices"][0]["message"]
    [call] = message["tool_calls"]
    assert (call["index"], call["id"]) == (0, "functions.get_weather:0")


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "get_time"}}, {"type": "function", "name": "get_time"}]
)
def test_a_forced_tool_is_the_one_called(server: Server, choice: dict[str, Any]) -> None:
    completion = server.chat(messages=WEATHER, tools=TOOLS, tool_choice=choice).json()
    assert completion["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_time"


def test_no_tool_is_called_when_the_client_forbids_it(server: Server) -> None:
    completion = server.chat(messages=WEATHER, tools=TOOLS, tool_choice="none").json()
    assert completion["choices"][0]["finish_reason"] == "stop"


def test_parallel_calls_stream_one_after_the_other_by_index(server: Server) -> None:
    *chunks, done = server.stream(KIMI, messages=WEATHER, tools=TOOLS, parallel_tool_calls=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
    heads = [piece for piece in pieces if "id" in piece]
    assert [head["function"] for head in heads] == [
        {"name": "get_weather", "arguments": ""},
        {"name": "get_time", "arguments": ""},
    ]
    for index in (0, 1):
        arguments = "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == index)
        assert json.loads(arguments) == {"city": "Oslo"}
    assert (chunks[-1]["choices"][0]["finish_reason"], done) == ("tool_calls", "[DONE]")


def test_a_tool_result_is_followed_by_text(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    history = [
        *WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3 degrees"},
    ]
    choice = server.chat(messages=history, tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert '"3 degrees"' in choice["message"]["content"]


def test_a_limit_can_cut_the_arguments(server: Server) -> None:
    choice = server.chat(messages=WEATHER, tools=TOOLS, max_tokens=2).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city'


@pytest.mark.parametrize(
    ("limit", "text", "arguments"),
    [
        (2, "One moment", []),
        (4, "One moment, please", []),
        (6, "One moment, please", ['{"city']),
        (9, "One moment, please", ['{"city":"Oslo"}']),
        (10, "One moment, please", ['{"city":"Oslo"}', '{"']),
    ],
)
def test_a_limit_counts_the_text_and_begins_no_call_that_it_has_no_token_for(
    server: Server, limit: int, text: str, arguments: list[str]
) -> None:
    calls = [{"name": name, "arguments": {"city": "Oslo"}} for name in ("get_weather", "get_time")]
    script = json.dumps({"text": "One moment, please", "tool_calls": calls})
    body = server.chat(messages=[{"role": "user", "content": "@sandbox " + script}], tools=TOOLS, max_tokens=limit)
    completion = body.json()
    [choice] = completion["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "length")
    called = [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])]
    assert (called, completion["usage"]["completion_tokens"]) == (arguments, limit)


def test_an_invalid_schema_is_refused(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": 1, "required": ["x"]}}}
    response = server.chat(tools=[tool])
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("JSON Schema not supported: could not understand")
