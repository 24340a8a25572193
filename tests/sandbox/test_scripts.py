"""Scripts: a prompt (or a header) dictates the answers of a conversation, and an error explains a malformed script."""

import json
from typing import Any

import pytest
import requests

from tests.sandbox.client import FIREWORKS, PLAIN, PREFIX, Server, join_text, make_headers
from tests.sandbox.test_tools import KIMI, TOOLS

BASES = {"/inference/v1": PLAIN, "/featherless/v1": "acme-labs/Quokka-3-1.5B"}
BASES |= {"/deepinfra/v1/openai": "acme-labs/Quokka-V2.5-9B", "/chutes/v1": "acme-labs/Quokka-V3-TEE"}
STEPS = [{"tool_calls": [{"name": "get_time", "arguments": {"city": "Oslo"}, "id": "call_1"}]}, {"text": "Noon."}]


def user(text: Any) -> dict[str, Any]:
    """Returns a message of the user; any content but a text becomes a script in JSON."""
    return {"role": "user", "content": text if isinstance(text, str) else "@sandbox " + json.dumps(text)}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def ask(server: Server, *messages: dict[str, Any], **body: Any) -> dict[str, Any]:
    """Returns the first choice of the answer to a conversation."""
    response = server.chat(messages=list(messages), **body)
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0])


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["message"]["content"])


def test_the_turns_of_an_agent_at_every_provider(server: Server) -> None:
    for base, model in BASES.items():
        start = user(STEPS)
        first = ask(server, start, base=base, model=model, tools=TOOLS)
        assert first["finish_reason"] == "tool_calls" and "content" not in first["message"]
        [call] = first["message"]["tool_calls"]
        assert (call["id"], call["function"]) == ("call_1", {"name": "get_time", "arguments": '{"city":"Oslo"}'})
        calls = {"role": "assistant", "content": None, "tool_calls": [call]}
        history = [start, calls, {"role": "tool", "tool_call_id": "call_1", "content": "12:00"}]
        # Agents may add a reminder in the user's name after a result.
        for more in ([], [user("Do not forget to be brief.")]):
            last = ask(server, *history, *more, base=base, model=model, tools=TOOLS)
            assert (text_of(last), last["finish_reason"]) == ("Noon.", "stop")
        events = server.stream(model, base, messages=history, tools=TOOLS)
        assert join_text(events) == "Noon." and events[-1] == "[DONE]"
        after = ask(server, *history, said("Noon."), user("Thanks!"), base=base, model=model)
        assert text_of(after).startswith("[sandbox] Hello!")


def test_a_later_script_replaces_an_earlier_one(server: Server) -> None:
    history = [user([{"text": "a"}, {"text": "b"}]), said("a"), user([{"text": "c"}, {"text": "d"}])]
    assert text_of(ask(server, *history)) == "c"
    assert text_of(ask(server, *history, said("c"), user("More!"))) == "d"
    # In a message with two scripts, the first counts, and the second is ordinary text.
    two = '@sandbox [{"text": "a"}, {"when": "later", "text": "b"}] @sandbox {"text": "c"}'
    assert [text_of(ask(server, user(prompt))) for prompt in (two, two.replace("c", "later"))] == ["a", "b"]
    # Only the user can write a script; one quoted in an answer does not count.
    assert text_of(ask(server, user("Hi"), said('@sandbox {"text": "no"}'), user("Ho"))).startswith("[sandbox]")


@pytest.mark.parametrize(
    "prompt",
    [
        'Before. @sandbox {"text": "Yes."} After.',
        '@sandbox:\n```json\n{"text": "Yes."}\n```'.replace("```json\n", ""),
        '# Question\n\n@sandbox\n\n[\n {"text": "Yes."}\n]\n\nRespond in JSON.',
        'Mail me@sandbox.example or @sandbox-team: @sandbox {"turns": [{"text": "Yes."}]}',
        'The input is {"question": "Well? @sandbox {\\"text\\": \\"Yes.\\"}", "hint": "none"}',
        [{"type": "text", "text": "<reminder>"}, {"type": "text", "text": '@sandbox {"text": "Yes."}'}],
    ],
)
def test_a_script_is_found_wherever_it_stands(server: Server, prompt: Any) -> None:
    assert text_of(ask(server, {"role": "user", "content": prompt})) == "Yes."


def test_when_tells_requests_without_history_apart(server: Server) -> None:
    script = [
        {"text": "first"},
        {"when": "observation_0", "text": "second"},
        {"when": "observation_1", "text": "third"},
    ]
    prompt = user(script)["content"]
    assert text_of(ask(server, user(prompt))) == "first"
    assert text_of(ask(server, user(prompt + " observation_0: x"))) == "second"
    assert text_of(ask(server, user("observation_0: x, observation_1: y " + prompt))) == "third"
    assert text_of(ask(server, user(prompt), said("first"), user("observation_0: x"))) == "second"
    assert text_of(ask(server, user(prompt), said("observation_1"))).startswith("[sandbox]")


def test_a_call_is_only_for_requests_with_tools(server: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "title", "schema": {"properties": {"title": {}}}}}
    title = ask(server, user(STEPS), response_format=form)
    assert list(json.loads(text_of(title))) == ["title"]
    assert text_of(ask(server, user(STEPS), tools=TOOLS, tool_choice="none")).startswith("[sandbox]")


def test_pieces_reasoning_usage_and_limits(server: Server) -> None:
    turn = {
        "reasoning": ["Hm", "m."],
        "text": ["a b", "", " STOP c"],
        "tool_calls": [{"name": "f", "arguments": ["{", '"x":1}']}, {"name": "g"}],
        "usage": {"prompt_tokens": 900, "cached_tokens": 800, "completion_tokens": 70_000, "reasoning_tokens": 60},
    }
    events = server.stream(KIMI, messages=[user(turn)], tools=TOOLS)
    deltas = [choice["delta"] for event in events[:-1] for choice in event["choices"]]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["Hm", "m."]
    assert [delta["content"] for delta in deltas if "content" in delta] == ["a b", "", " STOP c"]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
    assert [(piece.get("id"), piece["function"]["arguments"]) for piece in pieces] == [
        ("functions.f:0", ""),
        (None, "{"),
        (None, '"x":1}'),
        ("functions.g:1", ""),
        (None, "{}"),
    ]
    # A usage of many tokens takes no longer, because the time depends on the text that is sent.
    usage = server.chat(messages=[user(turn)], tools=TOOLS).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (900, 70_000, 70_900)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 800}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 60}
    stopped = ask(server, user({"text": ["a b", "", " STOP c"]}), stop=["STOP"])
    assert (text_of(stopped), stopped["finish_reason"]) == ("a b ", "stop")
    cut = ask(server, user({"text": ["a b", "", " STOP c"]}), max_tokens=1)
    assert (text_of(cut), cut["finish_reason"]) == ("a b", "length")
    assert text_of(ask(server, user({"text": ""}))) == ""
    with server.misbehave("sandbox-clean-end", messages=[user({"text": "a b c d e"})], stream=True) as response:
        assert b"[DONE]" not in response.content and b'" b"' in response.content


def test_a_header_has_the_script_of_the_whole_conversation(server: Server) -> None:
    headers = make_headers("fw_test") | {"x-sandbox-script": json.dumps([{"text": "one"}, {"text": "zwölf"}])}
    headers["x-sandbox-script"] = headers["x-sandbox-script"].replace("\\u00f6", "ö").encode().decode("latin-1")
    body: dict[str, Any] = {"model": PREFIX + "glm-5p3", "messages": [user("Hi"), said("one"), user({"text": "no"})]}
    response = requests.post(server.url + FIREWORKS + "/chat/completions", json=body, headers=headers, timeout=10)
    assert response.json()["choices"][0]["message"]["content"] == "zwölf"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("text: hello", "after @sandbox, JSON has to follow, such as"),
        ('{"text": "a" "b"}', "Expecting ',' delimiter, at character 14 of the script, near: \"b\"}"),
        ('{"text": "a"', "at character 13 of the script, at its end"),
        ('{"text": NaN}', "NaN is not JSON"),
        ("[" * 20_000, "recursion"),
        ("[]", "a list of at least one turn"),
        ('"text"', "a list of at least one turn"),
        ('[{"text": "a"}, 1]', "turn 2 has to be an object with any of text, json"),
        ('{"txt": "a"}', "the script has an unknown field, 'txt'; the fields are text, json"),
        ('{"usage": {}}', "says nothing"),
        ('{"text": 1}', "text in the script has to be a string, or a list of strings"),
        ('{"text": "a", "json": 1}', "has text and json"),
        ('{"reasoning": [1]}', "reasoning in the script has to be a string"),
        ('{"text": "a", "when": ""}', "when in the script has to be a string"),
        ('{"text": "a", "finish_reason": "end"}', "has to be one of stop, length, tool_calls, content_filter"),
        ('{"tool_calls": {}}', "tool_calls in the script has to be a list"),
        ('{"tool_calls": [{"arguments": {}}]}', "call 1 in the script needs a name"),
        ('{"tool_calls": [{"name": "f", "arguments": 1}]}', "arguments of call 1 in the script have to be an object"),
        ('{"tool_calls": [{"name": "f", "id": 1}]}', "id of call 1 in the script has to be a string"),
        ('{"text": "a", "usage": {"tokens": 1}}', "unknown field, 'tokens'; the fields are prompt_tokens"),
        ('{"text": "a", "usage": {"prompt_tokens": -1}}', "has to be a whole number from 0 on"),
    ],
)
def test_a_malformed_script_is_explained(server: Server, script: str, problem: str) -> None:
    for base, model in BASES.items():
        response = server.chat(model, base, messages=[user("@sandbox " + script)])
        assert response.status_code == 400
        body = response.json()
        message = body["detail"] if "detail" in body else body["error"]["message"]
        assert message.startswith("The script is wrong: ") and problem in message, message
