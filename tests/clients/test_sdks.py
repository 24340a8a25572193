"""The official SDKs of OpenAI and Anthropic, for Python and for Node, over every endpoint of a running gateway.

Each language is one process that runs all cases at once (sdks.py, sdks.mjs), so both must see the same.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.conftest import RunNode, RunPython
from tests.support.chat import PREFIX
from tests.support.gateway import Gateway
from tests.support.soak import soak_only

MODEL = PREFIX + "deepseek-v3p1"
EMBEDDING = PREFIX + "qwen3-embedding-8b"
CALL = {"text": "I add.", "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}]}
SCRIPT = "What is 2 + 3? @sandbox " + json.dumps([CALL, {"text": "The sum is 5."}])

# API → its finish reason or status for a complete answer.
FINISHED = {"chat": "stop", "responses": "completed", "messages": "end_turn", "completions": "stop"}
AGENTIC = ("chat", "responses", "messages")
WITH_ERRORS = (*FINISHED, "embeddings")
CUTS = (
    "sandbox-cut-after-3",
    "sandbox-reset-after-3",
    "sandbox-clean-end",
    "sandbox-no-done",
    "sandbox-error-event",
    "sandbox-garbage",
)

# Mistake in a request → what it changes in the case, and the class of the SDKs' error.
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong key": ({"key": "gw_wrong"}, "AuthenticationError"),
    "a wrong value": ({}, "BadRequestError"),
    "no such model": ({"model": "no-such-model"}, "NotFoundError"),
    "forbidden": ({"model": PREFIX + "sandbox-403"}, "PermissionDeniedError"),
    "a rate limit": ({"model": PREFIX + "sandbox-429"}, "RateLimitError"),
    "a failure": ({"model": PREFIX + "sandbox-500"}, "InternalServerError"),
}
WRONG: dict[str, dict[str, Any]] = {
    "chat": {"temperature": 9},
    "responses": {"max_output_tokens": 0},
    "messages": {"max_tokens": 0},
    "completions": {"temperature": 9},
    "embeddings": {"dimensions": 0},
}
# Anthropic's agents would blame a 403 on their own key, so a refusal of the gateway's key is a server error here.
ERRORS_OF_MESSAGES = {"forbidden": "InternalServerError"}


NODE = soak_only("clients/test_sdks.py::test_an_answer_and_its_stream_are_complete_and_the_same")


def make_cases(key: str) -> list[dict[str, Any]]:
    """Returns the cases for a gateway with that key."""
    cases = []

    def add(name: str, api: str, mode: str, **more: Any) -> None:
        usual = {"model": MODEL, "prompt": "Hello!", "key": key, "more": {}}
        cases.append(usual | {"name": f"{api} {name}", "api": api, "mode": mode} | more)

    for api in FINISHED:
        add("whole", api, "whole")
        add("stream", api, "stream")
        for cut in CUTS:
            add(cut, api, "stream", model=PREFIX + cut)
    for api in AGENTIC:
        add("tools", api, "tools", prompt=SCRIPT)
        add("tools streamed", api, "tools-streamed", prompt=SCRIPT)
    for api in WITH_ERRORS:
        for name, (more, _) in ERRORS.items():
            add(name, api, "whole", **(more or {"more": WRONG[api]}))
    add("in base64", "embeddings", "whole", model=EMBEDDING)
    add("as numbers", "embeddings", "whole", model=EMBEDDING, more={"encoding_format": "float"})
    add("tokens", "count", "whole")
    add("listed", "models", "whole")
    return cases


@pytest.fixture(scope="module", params=["python", pytest.param("node", marks=NODE)])
def seen(request: pytest.FixtureRequest, gateway: Gateway) -> dict[str, Any]:
    """The result of each case with the SDKs of one language, by the case's name."""
    job = {"url": gateway.url, "key": gateway.key, "cases": make_cases(gateway.key)}
    if request.param == "python":
        run_python: RunPython = request.getfixturevalue("run_python")
        return run_python("sdks.py", job)
    run_node: RunNode = request.getfixturevalue("run_node")
    return run_node("sdks.mjs", job)


@pytest.mark.parametrize("api", FINISHED)
def test_an_answer_and_its_stream_are_complete_and_the_same(seen: dict[str, Any], api: str) -> None:
    whole, streamed = seen[f"{api} whole"], seen[f"{api} stream"]
    assert whole["error"] is None and whole["text"].startswith("[sandbox]") and whole["tokens"] > 2
    assert whole["finish"] == FINISHED[api] and streamed == whole


@pytest.mark.parametrize("api", AGENTIC)
def test_an_agent_calls_its_tool_and_reports(seen: dict[str, Any], api: str) -> None:
    for name in ("tools", "tools streamed"):
        found = seen[f"{api} {name}"]
        assert (found["error"], found["calls"]) == (None, [{"a": 2, "b": 3}])
        assert (found["text"], found["finish"]) == ("The sum is 5.", FINISHED[api])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("api", FINISHED)
def test_a_stream_that_was_cut_raises_after_what_came(seen: dict[str, Any], api: str, cut: str) -> None:
    found = seen[f"{api} {cut}"]
    assert found["error"] and found["error"]["known"]
    # For completions, the SDKs show the chunks as they come, and in this case the last one came.
    assert found["finish"] == ("stop" if (api, cut) == ("completions", "sandbox-no-done") else None)
    assert found["text"].startswith("" if cut == "sandbox-garbage" else "[sandbox")


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("api", WITH_ERRORS)
def test_an_error_has_the_class_that_programs_catch(seen: dict[str, Any], api: str, name: str) -> None:
    wanted = (ERRORS_OF_MESSAGES if api == "messages" else {}).get(name, ERRORS[name][1])
    error = seen[f"{api} {name}"]["error"]
    assert error and (error["name"], error["known"]) == (wanted, True)
    assert error["message"] and error["code"]


def test_tokens_are_counted(seen: dict[str, Any]) -> None:
    assert seen["count tokens"]["error"] is None and seen["count tokens"]["tokens"] > 0


def test_texts_are_embedded_alike_in_both_forms(seen: dict[str, Any]) -> None:
    packed, plain = seen["embeddings in base64"], seen["embeddings as numbers"]
    assert packed["error"] is plain["error"] is None and packed["tokens"] == plain["tokens"] > 0
    assert len(packed["vectors"]) == 2 and packed["vectors"][0] != packed["vectors"][1]
    for one, other in zip(packed["vectors"], plain["vectors"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_both_sdks_list_the_models(seen: dict[str, Any]) -> None:
    listed = seen["models listed"]
    assert (listed["error"], listed["text"], listed["calls"]) == (None, MODEL, [True, True])
