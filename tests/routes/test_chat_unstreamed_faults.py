"""The client's response to an unstreamed request and the row for each failure of the provider."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.routes.met import Observed, meet_all
from tests.support.answers import chat_answer, head, json_answer
from tests.support.chat import PREFIX, post_chat, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close, hang, pause, reset, send

HTML = json_answer(b"<html><h1>502 Bad Gateway</h1></html>", 502, {"content-type": "text/html"})
HALF = head(200, {"content-type": "application/json", "content-length": "400"}) + b'{"id": "half'


def error_answer(status: int, message: str = "As the provider words it.", **headers: str) -> Script:
    """Returns an error in the shape of Fireworks' model server, which has one `type` for all errors."""
    body = {"error": {"object": "error", "type": "invalid_request_error", "message": message}, "request_id": "up-1"}
    return json_answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


class Fault(NamedTuple):
    """A fault and the resulting status, error type and outcome; `tries` are the attempts on the row."""

    script: Script
    status: int
    kind: str
    outcome: str = "upstream_error"
    tries: int = 1


FAULTS = {
    "400": Fault(error_answer(400), 400, "invalid_request_error"),
    "401": Fault(error_answer(401), 401, "upstream_authentication_error"),
    "403": Fault(error_answer(403), 403, "upstream_authentication_error"),
    "404": Fault(error_answer(404), 404, "not_found_error"),
    "408": Fault(error_answer(408), 408, "upstream_timeout", "upstream_timeout", 3),
    "412": Fault(error_answer(412, "Account acme is suspended."), 503, "upstream_error"),
    "413": Fault(error_answer(413), 413, "invalid_request_error"),
    "422": Fault(
        json_answer({"detail": [{"loc": ["body", "top_k"], "msg": "too big"}]}, 422), 422, "invalid_request_error"
    ),
    "429": Fault(error_answer(429), 429, "rate_limit_error", tries=3),
    "429 for long": Fault(error_answer(429, retry_after="30"), 429, "rate_limit_error"),
    "500": Fault(error_answer(500), 500, "upstream_error", tries=3),
    "502 in HTML": Fault(HTML, 502, "upstream_error", tries=3),
    "503": Fault(json_answer({"error": "overloaded"}, 503), 503, "upstream_error", tries=3),
    "504": Fault(error_answer(504), 504, "upstream_timeout", "upstream_timeout", 3),
    "524": Fault(error_answer(524), 504, "upstream_timeout", "upstream_timeout", 3),
    "529": Fault(error_answer(529), 502, "upstream_error"),
    "302": Fault(json_answer(b"", 302, {"location": "/elsewhere"}), 502, "upstream_error"),
    "silence": Fault([hang()], 504, "upstream_timeout", "upstream_timeout"),
    "silence in the body": Fault([send(HALF), hang()], 504, "upstream_timeout", "upstream_timeout", 0),
    "FIN in the body": Fault([send(HALF), close()], 502, "upstream_error", "upstream_cut", 0),
    "RST in the body": Fault([send(HALF), pause(0.2), reset()], 502, "upstream_error", "upstream_cut", 0),
    "no JSON": Fault(json_answer(b"hello"), 502, "upstream_error", tries=0),
    "no JSON object": Fault(json_answer([1, 2]), 502, "upstream_error", tries=0),
    "an error with status 200": Fault(json_answer({"error": {"message": "no"}}), 502, "upstream_error", tries=0),
    "null choices": Fault(json_answer({"choices": [None]}), 502, "upstream_error", tries=0),
    "a message that is none": Fault(json_answer({"choices": [{"message": "hi"}]}), 502, "upstream_error", tries=0),
}

AllObserved = dict[str, Observed[Fault]]


@pytest.fixture(scope="module")
def observed(hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str) -> AllObserved:
    """The result of each fault, by its name."""
    return meet_all(hasty_gateway, hasty_upstream, session_database_url, FAULTS, stream=False)


@pytest.mark.parametrize("name", FAULTS)
def test_the_client_gets_the_right_status_in_the_one_shape(observed: AllObserved, name: str) -> None:
    fault, seen, _ = observed[name]
    assert (seen.status, seen.error["type"]) == (fault.status, fault.kind)
    assert seen.error.keys() == {"message", "type", "param", "code"} and seen.json.keys() == {"error"}
    assert seen.headers["content-type"] == "application/json" and "<" not in seen.error["message"]


@pytest.mark.parametrize("name", FAULTS)
def test_the_row_says_what_the_client_saw_and_each_attempt(observed: AllObserved, name: str) -> None:
    fault, seen, row = observed[name]
    assert (row["status"], row["error_type"], row["outcome"]) == (fault.status, fault.kind, fault.outcome)
    assert len(row["attempts"]) == fault.tries
    assert (row["stream"], row["usage_source"], row["cost_usd"]) == (False, "none", None)
    assert row["error_code"] == (seen.error["code"] or None)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.tries == 3])
def test_what_was_tried_in_vain_says_when_to_retry_and_does_not_forbid_it(observed: AllObserved, name: str) -> None:
    headers = observed[name].seen.headers
    assert headers["retry-after"] == "2" and "x-should-retry" not in headers


@pytest.mark.parametrize("name", ["400", "404", "413", "422", "429"])
def test_what_the_caller_can_mend_is_told_in_the_providers_words(observed: AllObserved, name: str) -> None:
    wording = "top_k: too big" if name == "422" else "As the provider words it"
    assert wording in observed[name].seen.error["message"]


@pytest.mark.parametrize("name", ["401", "403"])
def test_a_refusal_of_the_gateways_own_key_is_told_as_the_operators_concern(observed: AllObserved, name: str) -> None:
    seen = observed[name].seen
    assert "Your key for the gateway is fine" in seen.error["message"] and "FIREWORKS_API_KEY" in seen.error["message"]
    assert seen.headers["x-should-retry"] == "false"


def test_a_suspended_account_is_not_named(observed: AllObserved) -> None:
    seen = observed["412"].seen
    assert "acme" not in seen.body.decode() and seen.headers["x-should-retry"] == "false"


def test_a_rate_limit_says_how_long_to_wait(observed: AllObserved) -> None:
    assert observed["429 for long"].seen.headers["retry-after"] == "30"
    assert "x-should-retry" not in observed["429 for long"].seen.headers
    assert int(observed["429"].seen.headers["retry-after"]) > 0


def test_the_providers_request_id_is_on_the_row(observed: AllObserved) -> None:
    assert (observed["500"].row["upstream_request_id"], observed["500"].row["upstream_status"]) == ("up-1", 500)


def test_what_a_sparse_answer_leaves_out_is_null_and_the_rest_is_kept(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    sparse = {"id": "c-1", "choices": [{"message": {"reasoning_content": "hm"}, "finish_reason": "length"}], "x": 1}
    hasty_upstream.on_model("sparse", json_answer(sparse))
    seen = post_chat(hasty_gateway, PREFIX + "sparse")
    message = {"role": "assistant", "content": None, "reasoning_content": "hm"}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    assert seen.json == {"id": "c-1", "object": "chat.completion", "choices": [choice], "usage": None, "x": 1}
    row = wait_for_row(session_database_url, seen.request_id)
    # Counted: "hm" is one token, "Hello!" is two, and its message adds four.
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 6, 1)
    assert row["usage_source"] == "counted"


def test_absurd_usage_does_not_cost_the_client_its_answer(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    hasty_upstream.on_model("absurd", chat_answer("hi", usage={"prompt_tokens": "many", "completion_tokens": -1}))
    seen = post_chat(hasty_gateway, PREFIX + "absurd")
    assert seen.json["choices"][0]["message"]["content"] == "hi"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["usage_source"], row["prompt_tokens"], row["completion_tokens"]) == ("counted", 6, 1)


@pytest.mark.parametrize("usage", [10.5, "n/a", [], {}, True, None, {"prompt_tokens": None}])
def test_a_usage_without_a_readable_number_is_counted(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str, usage: object
) -> None:
    choice = {"message": {"content": "eight letters"}, "finish_reason": "stop"}
    hasty_upstream.on_model("uncounted", json_answer({"choices": [choice], "usage": usage}))
    row = wait_for_row(session_database_url, post_chat(hasty_gateway, PREFIX + "uncounted").request_id)
    assert (row["usage_source"], row["prompt_tokens"], row["completion_tokens"]) == ("counted", 6, 4)


def test_a_provider_that_does_not_answer_for_embeddings_is_a_timeout(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream
) -> None:
    hasty_upstream.on_model("never-embeds", [hang()])
    body = {"model": PREFIX + "never-embeds", "input": "a"}
    seen = request("POST", f"{hasty_gateway.url}/v1/embeddings", json=body, headers=hasty_gateway.headers)
    assert (seen.status, seen.error["code"]) == (504, "upstream_first_byte_timeout")
