"""Responses requests become chat requests that keep every text, image and output in order, or a 400 that says why."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict, deque
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.endpoints.responses_request import ResponsesBody, translate_request
from app.services.endpoints.translation import Translated
from tests.support.soak import examples

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin end"},
}
AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "Sub-agents.",
    "tools": [{"type": "function", "name": "wait", "description": "Waits.", "parameters": None, "strict": False}],
}


def translate(**fields: Any) -> Translated:
    body = {"model": "m", "input": "hello", **fields}
    return translate_request(body, msgspec.convert(body, ResponsesBody))


def refuse(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        translate(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
    ],
)
def test_a_field_of_chat_gets_its_name_here(name: str, own: str) -> None:
    error = refuse(**{name: 5})
    assert error.param == name and error.message.endswith(f"here it is called `{own}`.")


def call(call_id: str, name: str = "weather", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": arguments, **more}


def output(call_id: str, value: Any = "warm") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


def text(value: str) -> dict[str, Any]:
    return {"type": "input_text", "text": value}


def image(url: str = PIXEL, **more: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url, **more}


def test_an_agents_request() -> None:
    """The complete request of a coding agent in its second turn."""
    translated = translate(
        input=[
            {"type": "message", "role": "developer", "content": [text("You are an agent.")]},
            {"type": "message", "role": "developer", "content": [text("Read only.")]},
            user(text("Fix it."), image(detail="auto")),
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Look first."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
            call("functions.weather:0", arguments='{"city":"Oslo"}'),
            {
                "type": "custom_tool_call",
                "call_id": "functions.apply_patch:1",
                "name": "apply_patch",
                "input": '*** "\n',
            },
            call("functions.wait:2", "wait", namespace="agents", arguments=""),
            {"type": "custom_tool_call_output", "call_id": "functions.apply_patch:1", "output": [text("done")]},
            output("functions.wait:2"),
            output("functions.weather:0", [text("warm"), image()]),
        ],
        tools=[WEATHER, PATCH, AGENTS, {"type": "web_search", "external_web_access": True}],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"effort": "minimal", "summary": "auto"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        include=["reasoning.encrypted_content"],
        client_metadata={"session": "s"},
        store=False,
        stream=True,
        prompt_cache_key="key",
        max_output_tokens=100,
        top_k=5,
    )
    shown = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}}
    functions = [
        ("weather", '{"city":"Oslo"}', "functions.weather:0"),
        ("apply_patch", '{"input": "*** \\"\\n"}', "functions.apply_patch:1"),
        ("agents__wait", "{}", "functions.wait:2"),
    ]
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments, call_id in functions
    ]
    note = "[The image is in the next message of the user.]"
    assert translated.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are an agent.\n\nRead only."},
            {"role": "user", "content": [{"type": "text", "text": "Fix it."}, shown]},
            {"role": "assistant", "content": "Looking.", "reasoning_content": "Look first.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "functions.weather:0", "content": f"warm\n\n{note}"},
            {"role": "tool", "tool_call_id": "functions.apply_patch:1", "content": "done"},
            {"role": "tool", "tool_call_id": "functions.wait:2", "content": "warm"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
        ],
        "tools": [
            {"type": "function", "function": {key: WEATHER[key] for key in ("name", "description", "parameters")}},
            {
                "type": "function",
                "function": {
                    "name": "apply_patch",
                    "description": "Edits files.\n\nThe input must follow this lark grammar:\nstart: begin end",
                    "parameters": {
                        "type": "object",
                        "properties": {"input": {"type": "string"}},
                        "required": ["input"],
                        "additionalProperties": False,
                    },
                },
            },
            {
                "type": "function",
                "function": {
                    "name": "agents__wait",
                    "description": "Waits.",
                    "parameters": {"type": "object", "properties": {}},
                },
            },
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning_effort": "low",
        "max_tokens": 100,
        "stream": True,
        "prompt_cache_key": "key",
        "top_k": 5,
    }
    assert translated.dropped == ["client_metadata", "text.verbosity", "reasoning.summary", "tools[].type=web_search"]
    assert translated.applied == ["input[].role=developer->system", "reasoning.effort=minimal->low"]


def test_instructions_come_first_and_later_ones_become_text_of_the_user() -> None:
    translated = translate(
        instructions="Be brief.",
        input=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            {"role": "developer", "content": "Rhyme."},
            {"role": "assistant", "content": "Hi"},
            {"role": "developer", "content": "Stop rhyming."},
            {"role": "user", "content": "Go on"},
        ],
    )
    assert translated.body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind.\n\nRhyme."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Stop rhyming."},
        {"role": "user", "content": "Go on"},
    ]
    assert translated.applied == [
        "input[].role=developer->system",
        "input[].role=system->joined",
        "input[].role=developer->user",
    ]


def test_calls_of_two_turns_with_the_same_id_keep_their_outputs() -> None:
    items = [call("f:0"), output("f:0", "first"), call("f:0"), output("f:0", "second")]
    messages = translate(input=[user(text("Go")), *items]).body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [message["content"] for message in messages if message["role"] == "tool"] == ["first", "second"]


def test_an_output_that_comes_late_is_moved_to_its_call() -> None:
    items = [call("a"), user(text("Hurry")), output("a")]
    messages = translate(input=items).body["messages"]
    assert [message["role"] for message in messages] == ["assistant", "tool", "user"]


def test_files_of_text_become_text() -> None:
    data = "data:text/plain;base64," + base64.b64encode("höhe".encode()).decode()
    files = [{"type": "input_file", "filename": "a.txt", "file_data": data}]
    plain = {"type": "input_file", "file_data": "data:text/csv,a%2Cb"}
    messages = translate(input=[user(text("Read"), *files, plain)]).body["messages"]
    assert messages == [{"role": "user", "content": "Read\n\na.txt:\n\nhöhe\n\na,b"}]


@pytest.mark.parametrize(
    ("form", "chat"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True, "description": None},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
        ),
        ({"type": "text"}, None),
        (None, None),
    ],
)
def test_formats(form: dict[str, Any] | None, chat: dict[str, Any] | None) -> None:
    assert translate(text={"format": form}).body.get("response_format") == chat


@pytest.mark.parametrize(
    ("choice", "chat", "names"),
    [
        ("required", "required", ["weather", "apply_patch", "agents__wait"]),
        ("none", "none", ["weather", "apply_patch", "agents__wait"]),
        ({"type": "function", "name": "weather"}, "weather", ["weather", "apply_patch", "agents__wait"]),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch", ["weather", "apply_patch", "agents__wait"]),
        (
            {"type": "function", "name": "wait", "namespace": "agents"},
            "agents__wait",
            ["weather", "apply_patch", "agents__wait"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            "required",
            ["weather"],
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "agents"}, PATCH]},
            "auto",
            ["apply_patch", "agents__wait"],
        ),
    ],
)
def test_tool_choices(choice: Any, chat: str, names: list[str]) -> None:
    body = translate(tools=[WEATHER, PATCH, AGENTS], tool_choice=choice).body
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    named = {"type": "function", "function": {"name": chat}}
    assert body["tool_choice"] == (named if chat in names else chat)


def test_names_of_functions_are_what_providers_accept_and_stand_for_their_tools() -> None:
    long = {"type": "function", "name": "n" * 64, "parameters": {}}
    tools = [
        {"type": "namespace", "name": "space", "tools": [long, {"type": "function", "name": "a.b"}]},
        {"type": "function", "name": "space__c"},
        {"type": "namespace", "name": "space__c", "tools": []},
        {"type": "namespace", "name": "other", "tools": [long]},
        {"type": "function", "name": "x__y"},
        {"type": "namespace", "name": "x", "tools": [{"type": "function", "name": "y"}]},
    ]
    translated = translate(tools=tools)
    names = [tool["function"]["name"] for tool in translated.body["tools"]]
    assert len(set(names)) == len(names) == 6
    assert all(len(name) <= 64 and name.replace("_", "").isalnum() for name in names)
    found = [translated.context.tools.find_tool(name) for name in names]
    assert [(tool.namespace, tool.name) for tool in found] == [
        ("space", "n" * 64),
        ("space", "a.b"),
        (None, "space__c"),
        ("other", "n" * 64),
        (None, "x__y"),
        ("x", "y"),
    ]
    # A call in the input gets the name of its tool in this request.
    again = translate(tools=tools, input=[call("a", "y", namespace="x"), output("a")]).body
    assert again["messages"][0]["tool_calls"][0]["function"]["name"] == again["tools"][5]["function"]["name"]


def test_tools_in_the_input_are_added() -> None:
    extra = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
    body = translate(input=[extra, {"role": "user", "content": "Hi"}]).body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather"]
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_without_tools_the_fields_about_them_are_left_out() -> None:
    body = translate(tools=[], tool_choice="auto", parallel_tool_calls=True).body
    assert body.keys() == {"model", "messages"}


def test_log_probabilities_are_asked_for() -> None:
    assert translate(top_logprobs=3).body["top_logprobs"] == 3
    body = translate(include=["message.output_text.logprobs"])
    assert (body.body["logprobs"], body.body["top_logprobs"], body.dropped) == (True, 0, [])


def test_what_is_not_passed_on_is_named() -> None:
    fields = {
        "store": True,
        "truncation": "auto",
        "include": ["file_search_call.results"],
        "max_tool_calls": 3,
        "service_tier": "priority",
        "stream_options": {"include_obfuscation": False},
        "metadata": {"a": "b"},
        "safety_identifier": "s",  # Handled later by chat's own rules.
    }
    translated = translate(**fields)
    named = {"store", "truncation", "include", "max_tool_calls", "service_tier", "stream_options"}
    assert set(translated.dropped) == named
    assert translated.body.keys() == {"model", "messages", "safety_identifier"}
    assert translate(store=False, truncation="disabled", stream=False).dropped == []


STATELESS = "stores no responses"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", STATELESS),
        ({"conversation": {"id": "c"}}, "conversation", STATELESS),
        ({"prompt": {"id": "p"}}, "prompt", STATELESS),
        ({"background": True}, "background", STATELESS),
        ({"messages": [{}]}, "messages", "`input`"),
        ({"n": 2}, "n", "absent"),
        ({"n": []}, "n", "absent"),
        ({"input": []}, "input", "be a string or a list of items, and not be empty"),
        ({"input": ""}, "input", "be a string or a list of items, and not be empty"),
        ({"input": [5]}, "input[0]", "object"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "'item_reference'"),
        ({"input": [{"id": "x"}]}, "input[0].type", "'item_reference'"),
        ({"input": [{"type": "compaction"}]}, "input[0].type", "'compaction'"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type", "'computer_call_output'"),
        ({"input": [{"type": ["message"]}]}, "input[0].type", "string"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role", "`assistant`"),
        ({"input": [user({"type": "input_image", "file_id": "f"})]}, "input[0].content[0].image_url", "data URL"),
        ({"input": [user({"type": "input_file", "file_id": "f"})]}, "input[0].content[0].file_data", "text/*"),
        ({"input": [user({"type": "input_file", "file_data": "data:application/pdf;base64,QQ=="})]}, None, "text/*"),
        ({"input": [user({"type": "video"})]}, "input[0].content[0]", "input_text"),
        ({"input": [{"role": "assistant", "content": [image()]}]}, "input[0].content[0]", "text"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content", "is required"),
        ({"input": [call("a")]}, "input[0].call_id", "has no output"),
        ({"input": [call("a"), output("a"), call("a")]}, "input[2].call_id", "'a' has no output"),
        ({"input": [output("a")]}, "input[0].call_id", "output of the call 'a'"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role", "is required"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "list of parts"),
        ({"input": [call("")]}, "input[0].call_id", "empty"),
        ({"input": [{**call("a"), "arguments": {}}]}, "input[0].arguments", "string"),
        ({"input": [{"type": "additional_tools", "tools": [WEATHER]}]}, "input", "contain a message"),
        ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "is required"),
        ({"tools": ["weather"]}, "tools[0]", "`type`"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name", "'weather'"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools", "is required"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]},
            "tools[0].tools[0].type",
            "custom",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no tool to call"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "names no tool"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.tools", "no tool"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": []}}, "tool_choice", "`mode`"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "json_schema"),
        ({"reasoning": {"effort": "silly"}}, "reasoning.effort", "be one of none, minimal, low, medium, high"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "is required"),
        ({"text": {"format": {}}}, "text.format.type", "is required"),
    ],
)
def test_what_has_no_counterpart_is_refused(fields: dict[str, Any], param: str | None, words: str) -> None:
    error = refuse(**fields)
    assert param is None or error.param == param
    assert words in error.message and error.message.endswith(".")


def test_the_codes_that_clients_know() -> None:
    assert refuse(previous_response_id="resp_1").code == "previous_response_not_found"


# The marks in the contents are numbered once a conversation is complete, so that each can be traced.
MARK = "mark0."
PARTS = st.lists(st.sampled_from([text(MARK), image(f"https://host/{MARK}")]), min_size=1, max_size=3)
REASONING = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": MARK}]}
SAID = {"role": "assistant", "content": [{"type": "output_text", "text": MARK}]}


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws the items of an input in which some calls of different turns have the same id."""
    items: list[dict[str, Any]] = []
    for turn in range(draw(st.integers(1, 3))):
        items.append({"role": draw(st.sampled_from(["user", "user", "system", "developer"])), "content": draw(PARTS)})
        outputs = []
        for number in range(draw(st.integers(0, 4))):
            item = draw(st.sampled_from([REASONING, SAID, None]))
            if item is None:
                call_id = f"call{number}" if draw(st.booleans()) else f"call{turn}.{number}"
                item = call(call_id, arguments=json.dumps({"mark": MARK}))
                outputs.append(output(call_id, draw(PARTS | st.just(MARK))))
            items.append(item)
        items += draw(st.permutations(outputs))
    numbers = count()
    numbered: list[dict[str, Any]] = json.loads(
        re.sub(r"mark0", lambda found: f"mark{next(numbers)}", json.dumps(items))
    )
    return numbered


def find_marks(value: Any) -> list[int]:
    """Returns the numbers of the marks in a JSON value, in their order."""
    return [int(number) for number in re.findall(r"mark(\d+)", json.dumps(value))]


@settings(max_examples=examples(200), deadline=None)
@given(conversations())
def test_every_text_image_and_output_is_kept_in_order(items: list[dict[str, Any]]) -> None:
    messages = translate(input=items).body["messages"]
    assert sorted(find_marks(messages)) == find_marks(items)

    outputs: dict[str, deque[list[int]]] = defaultdict(deque)
    for item in items:
        if item.get("type") == "function_call_output":
            value = item["output"]
            texts = [value] if isinstance(value, str) else [part["text"] for part in value if "text" in part]
            outputs[item["call_id"]].append(find_marks(texts))
    of_user = {mark for item in items if item.get("role") == "user" for mark in find_marks(item)}
    seen: dict[str, list[int]] = defaultdict(list)
    for position, message in enumerate(messages):
        assert message["role"] != "system" or position == 0
        for field in ("content", "reasoning_content", "tool_calls"):
            seen[f"{message['role']} {field}"] += find_marks(message.get(field))
        calls = message.get("tool_calls", [])
        answers = messages[position + 1 : position + 1 + len(calls)]
        for made, answer in zip(calls, answers, strict=True):
            assert (answer["role"], answer["tool_call_id"]) == ("tool", made["id"])
            assert find_marks(answer["content"]) == outputs[made["id"]].popleft()
    assert not any(outputs.values())
    for marks in (
        seen["system content"],
        seen["assistant content"],
        seen["assistant reasoning_content"],
        seen["assistant tool_calls"],
        [mark for mark in seen["user content"] if mark in of_user],
    ):
        assert marks == sorted(marks)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "message", "user", "function", "custom", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "name", "tools", "call_id", "arguments", "output", "input", "mode"]
                + [
                    "namespace",
                    "image_url",
                    "detail",
                    "summary",
                    "format",
                    "schema",
                    "description",
                    "file_data",
                    "mark",
                ]
            ),
            inner | st.sampled_from(["function_call", "reasoning", "input_image", "namespace", "allowed_tools"]),
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(JSON, max_size=4), st.lists(JSON, max_size=3), JSON, st.none() | st.dictionaries(st.just("format"), JSON)
)
def test_no_shape_of_a_request_makes_it_fail(items: list[Any], tools: list[Any], choice: Any, form: Any) -> None:
    try:
        translated = translate(input=items, tools=tools, tool_choice=choice, text=form)
    except (BadRequest, msgspec.ValidationError):
        return
    json.dumps([translated.body, translated.context.make_response("r", status="completed")])
