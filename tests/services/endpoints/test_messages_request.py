"""A request of Anthropic's Messages as a chat request: no part of the conversation is lost, and the rest is named."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.endpoints import CountTokensBody, Translated, estimate_message_tokens
from app.services.endpoints.messages import MESSAGES, MessagesTranslation
from app.services.endpoints.tool_names import ToolIds, restore_id, shorten_name
from app.services.inference.validation import validate_body

USER = {"role": "user", "content": "Hello!"}
TOOL = {"name": "Read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}
LONG = "mcp__a_server_with_a_long_name__" + "and_a_tool_with_an_even_longer_one_" * 2
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def translate(messages: list[Any] | None = None, **more: Any) -> Translated:
    body = {"model": "m", "max_tokens": 50, "messages": [USER] if messages is None else messages} | more
    fields = validate_body(body, MESSAGES.body)
    return MessagesTranslation().translate_request(body, fields, lambda name: None)  # type: ignore[arg-type]


def test_an_agents_request_is_translated_whole() -> None:
    translated = translate(
        [
            {"role": "user", "content": [{"type": "text", "text": "<reminder/>"}, {"type": "text", "text": "Look."}]},
            {"role": "system", "content": [{"type": "text", "text": "Linux.", "cache_control": {"type": "ephemeral"}}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Two calls.", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_01AbCdEfGh", "name": "Read", "input": {"path": "ä.png"}},
                    {"type": "tool_use", "id": "toolu_02AbCdEfGh", "name": LONG, "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Go on."},
                    {"type": "tool_result", "tool_use_id": "toolu_02AbCdEfGh", "content": "denied", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "toolu_01AbCdEfGh", "content": [PNG]},
                ],
            },
            {"role": "system", "content": "Be brief."},
        ],
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abc;"},
            {"type": "text", "text": "You are an agent."},
        ],
        tools=[
            {**TOOL, "input_schema": {"$schema": "x", "type": "object"}, "cache_control": {"type": "ephemeral"}},
            {**TOOL, "name": LONG, "strict": False, "eager_input_streaming": True},
            {**TOOL, "name": "Later", "defer_loading": True},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["</stop>"],
        stream=True,
        top_k=5,
        thinking={"type": "adaptive", "display": "updates"},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": json.dumps({"device_id": "3f", "account_uuid": "", "session_id": "5b1c-7e0a"})},
        context_management={"edits": []},
        safeguards={"git": "/srv"},
        service_tier="auto",
    )
    short = shorten_name(LONG)
    assert translated.body == {
        "model": "m",
        "max_tokens": 50,
        "stream": True,
        "top_k": 5,
        "messages": [
            {"role": "system", "content": "You are an agent.\n\nLinux."},
            {"role": "user", "content": "<reminder/>\n\nLook."},
            {
                "role": "assistant",
                "content": "Let me see.",
                "reasoning_content": "Two calls.",
                "tool_calls": [
                    {
                        "id": "toolu_01AbCdEfGh",
                        "type": "function",
                        "function": {"name": "Read", "arguments": '{"path": "ä.png"}'},
                    },
                    {"id": "toolu_02AbCdEfGh", "type": "function", "function": {"name": short, "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "toolu_01AbCdEfGh", "content": "[image: see the next user message]"},
            {"role": "tool", "tool_call_id": "toolu_02AbCdEfGh", "content": "[error] denied"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Image from tool call toolu_01AbCdEfGh:"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                    {"type": "text", "text": "Go on."},
                ],
            },
            {"role": "user", "content": "Be brief."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "Read", "description": "Reads.", "parameters": {"type": "object"}},
            },
            {
                "type": "function",
                "function": {"name": short, "description": "Reads.", "parameters": TOOL["input_schema"]},
            },
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stop": ["</stop>"],
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}},
        "user": "5b1c-7e0a",
    }
    assert translated.dropped == [
        "context_management",
        "safeguards",
        "service_tier",
        "tools[].cache_control",
        "tools[].eager_input_streaming",
        "tools[].defer_loading",
        "tools[].type=web_search_20250305",
        "system[].x-anthropic-billing-header",
        "content[].cache_control",
        "content[].redacted_thinking",
        "thinking.display",
    ]
    assert translated.applied == [
        "tools[].name->shortened",
        "messages[].role=system->joined",
        "messages[].role=system->user",
        "output_config.effort=max->high",
    ]
    assert translated.context.tool_names == {short: LONG} and len(short) == 64


@pytest.mark.parametrize(
    ("blocks", "content"),
    [
        ([{"type": "text", "text": ""}], ""),
        ([], ""),
        ("plain", "plain"),
        (
            [{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}],
            [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
        ),
        (
            [{"type": "document", "title": "A", "source": {"type": "text", "media_type": "text/plain", "data": "b"}}],
            "A\n\nb",
        ),
        ([{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "b"}]}}], "b"),
        (
            [{"type": "search_result", "title": "T", "source": "s", "content": [{"type": "text", "text": "found"}]}],
            "T\ns\n\nfound",
        ),
        ([{"type": "tool_reference", "tool_name": "Read"}], "The tool Read is available now."),
    ],
)
def test_each_kind_of_block_has_its_form(blocks: Any, content: Any) -> None:
    assert translate([{"role": "user", "content": blocks}]).body["messages"] == [{"role": "user", "content": content}]


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}]}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "is required"),
        ({"messages": ["x"]}, "messages[0]", "an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "user, assistant, system"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "is required"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0].type", "be one of text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "is required"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "x"}}]}
                ]
            },
            "messages[0].content[0].source",
            "base64",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
            "messages[0].content[0].source",
            "Document blocks are not supported",
        ),
        (
            {"messages": [{**CALL, "content": [{"type": "tool_use", "id": ""}]}]},
            "messages[0].content[0].id",
            "not empty",
        ),
        ({"messages": [CALL, USER]}, "messages", "'toolu_1' has no tool_result"),
        ({"messages": [CALL]}, "messages", "'toolu_1' has no tool_result"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].tool_use_id", "the id of"),
        (
            {"messages": [CALL, {"role": "user", "content": [RESULT, RESULT]}]},
            "messages[1].content[1].tool_use_id",
            "not be that of another",
        ),
        ({"messages": [{**CALL, "content": CALL["content"] * 2}]}, "messages[0].content[1].id", "differ"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools", "'web_search' runs on"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema", "is required"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "y"}}, "tool_choice.name", "one of `tools`"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "none that can be used"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens", "at least 1024"),
        ({"thinking": {"type": "on"}}, "thinking.type", "enabled, disabled or adaptive"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort", "low, medium, high"),
        ({"system": 5}, "system", "a string or a list"),
    ],
)
def test_what_chat_cannot_express_is_refused_with_its_place(change: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        translate(**change)
    assert refused.value.param == param and words in refused.value.message


@pytest.mark.parametrize(
    ("fields", "effort", "applied"),
    [
        ({}, None, []),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none", []),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1_024}},
            "low",
            ["thinking.budget_tokens=1024->reasoning_effort=low"],
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 5_000}},
            "medium",
            ["thinking.budget_tokens=5000->reasoning_effort=medium"],
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 32_000}},
            "high",
            ["thinking.budget_tokens=32000->reasoning_effort=high"],
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 32_000}, "output_config": {"effort": "low"}}, "low", []),
    ],
)
def test_thinking_becomes_an_effort(fields: dict[str, Any], effort: str | None, applied: list[str]) -> None:
    translated = translate(**fields)
    assert (translated.body.get("reasoning_effort"), translated.applied) == (effort, applied)


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        ("user_0a_account_11_session_22-33", "22-33"),
        (json.dumps({"session_id": "44", "device_id": "x"}), "44"),
        (json.dumps({"session_id": 5}), None),
        ("someone@example.com", None),
    ],
)
def test_only_the_session_of_a_user_id_is_sent(user_id: str, session: str | None) -> None:
    translated = translate(metadata={"user_id": user_id})
    assert translated.body.get("user") == session
    assert translated.dropped == ([] if session else ["metadata"])


class Marks:
    """Makes texts and images with marks, each of which occurs once in a conversation."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._count = 0

    def make(self) -> str:
        self._count += 1
        return f"<{self._count}>"

    def make_blocks(self, most: int) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": self.make()}
            if is_text
            else {"type": "image", "source": {"type": "url", "url": f"https://x/{self.make()}"}}
            for is_text in self._draw(st.lists(st.booleans(), max_size=most))
        ]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    """Draws conversations with the results of calls in any order among other blocks, and the marks in chat's order."""
    marks, messages = Marks(draw), []
    hoisted: list[str] = []
    expected: list[str] = []
    calls: list[str] = []
    for turn in range(draw(st.integers(1, 4))):
        blocks = marks.make_blocks(3)
        results = {call: marks.make_blocks(2) for call in calls}
        told = [{"type": "tool_result", "tool_use_id": call, "content": content} for call, content in results.items()]
        # Merges the two lists in a drawn order, in which blocks of one kind keep theirs.
        order = draw(st.permutations([True] * len(blocks) + [False] * len(told)))
        told = list(draw(st.permutations(told)))
        left = iter(blocks)
        messages.append({"role": "user", "content": [next(left) if shown else told.pop() for shown in order]})
        for kind in ("text", "image"):
            expected += [mark for content in results.values() for mark in get_marks(content, kind)]
        expected += [mark for block in blocks for mark in get_marks([block])]
        if draw(st.booleans()):
            role, text = draw(st.sampled_from(["user", "system"])), marks.make()
            messages.append({"role": role, "content": text})
            (hoisted if role == "system" and turn == 0 else expected).append(text)
        answer: list[dict[str, Any]] = [{"type": "text", "text": marks.make()}]
        expected.append(answer[0]["text"])
        calls = [f"toolu_{turn}_{number}_abcdef" for number in range(draw(st.integers(0, 3)))]
        answer += [{"type": "tool_use", "id": call, "name": "Read", "input": {}} for call in calls]
        messages.append({"role": "assistant", "content": answer})
    final = [{"type": "tool_result", "tool_use_id": call, "content": marks.make()} for call in calls]
    expected += [each["content"] for each in final]
    return [*messages, {"role": "user", "content": final}], hoisted + expected


def get_marks(content: Any, kind: str = "") -> list[str]:
    """Returns the marks in any value, in their order; `kind` chooses blocks of one type."""
    if kind:
        content = [block for block in content if block["type"] == kind]
    return re.findall(r"<\d+>", json.dumps(content))


@given(conversations())
def test_every_text_image_and_result_is_kept_in_its_order(case: tuple[list[dict[str, Any]], list[str]]) -> None:
    messages, expected = case
    chat = translate(messages).body["messages"]
    assert get_marks(chat) == expected
    for position, message in enumerate(chat):
        calls = message.get("tool_calls") or []
        after = chat[position + 1 : position + 1 + len(calls)]
        assert [each.get("tool_call_id") for each in after] == [call["id"] for call in calls]
        assert message["role"] != "system" or position == 0


@given(st.lists(st.text(max_size=70) | st.sampled_from(["functions.Bash:0", "call_0", ""]), max_size=5), st.uuids())
def test_ids_are_safe_different_and_found_again(originals: list[str], request_id: object) -> None:
    ids = ToolIds(str(request_id))
    made = [ids.make_id(each) for each in originals]
    assert len(set(made)) == len(made)
    assert all(each.replace("-", "").replace("_", "").isalnum() and each.isascii() for each in made)
    for original, each in zip(originals, made, strict=True):
        if original.isascii() and 0 < len(original) <= 48:
            assert restore_id(each) == original


def test_ids_of_an_answer_come_back_as_the_provider_wrote_them() -> None:
    first = ToolIds("a").make_id("functions.Bash:0")
    assert first != ToolIds("b").make_id("functions.Bash:0")
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": first, "name": "Bash", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": first, "content": None}]}
    chat = translate([USER, call, result]).body["messages"]
    assert chat[1]["tool_calls"][0]["id"] == chat[2]["tool_call_id"] == "functions.Bash:0"
    assert chat[1]["content"] is None and chat[2]["content"] == ""


def test_the_beginning_of_an_answer_stays_the_last_message() -> None:
    begun = {"role": "assistant", "content": "{"}
    assert translate([USER, begun]).body["messages"][-1] == begun


def test_the_mark_of_a_long_context_is_no_part_of_the_model() -> None:
    assert translate(model="kimi-k3[1m]").body["model"] == "kimi-k3"


def test_tokens_are_estimated_with_tools_and_images() -> None:
    def count(**more: Any) -> int:
        body = {"model": "m", "messages": [USER]} | more
        fields = validate_body(body, CountTokensBody)
        assert isinstance(fields, CountTokensBody)
        return estimate_message_tokens(body, fields)

    assert count() == 5
    assert 990 < count(system="word " * 800) < 1_200
    assert count(tools=[TOOL]) > count() + 15
    assert count(messages=[{"role": "user", "content": [PNG]}]) > 1_000
