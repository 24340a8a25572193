"""A new endpoint is one file and one row: a toy one is added to a copy of the project and called over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.answers import json_answer
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.tree import copy_tree

# Everything that the pipeline must know of the endpoint. Its API has an error shape of its own.
TOY = '''
"""`POST /v1/shout`: answers a text in capitals."""

from __future__ import annotations

import json
from typing import Annotated, Any

from msgspec import Meta

from app.errors import GatewayError
from app.services.endpoints.endpoint import Endpoint, ErrorShape, InferenceBody
from app.services.endpoints.stream_summary import ResponseSummary, Usage


class ShoutBody(InferenceBody, kw_only=True):
    """A text, and how loud it should be."""

    text: str
    volume: Annotated[int, Meta(ge=1, le=11)] | None = None


def _summarize(response: Any) -> ResponseSummary:
    if not isinstance(response, dict) or "shout" not in response:
        raise ValueError
    return ResponseSummary("shouter-1", "done", Usage(prompt_tokens=response["heard"], completion_tokens=2))


def _make_error(error: GatewayError) -> bytes:
    return json.dumps({"trouble": error.message, "kind": error.type}).encode()


SHOUT = Endpoint(
    name="shout",
    path="/v1/shout",
    title="a shout",
    body=ShoutBody,
    estimate_prompt_tokens=lambda body: len(body["text"]),
    get_output_bound=lambda body: None,
    summarize=_summarize,
    normalise=lambda response: response | {"shout": response["shout"].upper()},
    errors=ErrorShape(_make_error, _make_error),
)
'''

MODEL = "accounts/fireworks/models/shouter"


@pytest.fixture(scope="module")
def toy_upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def toy_gateway(
    tmp_path_factory: pytest.TempPathFactory, session_database_url: str, toy_upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    place = tmp_path_factory.mktemp("toy")
    tree = copy_tree(place / "gateway")
    (tree / "app/services/endpoints/shout.py").write_text(TOY.lstrip())
    replace(tree / "app/services/endpoints/registry.py", "(CHAT, ", "(CHAT, SHOUT, ")
    replace(
        tree / "app/services/endpoints/registry.py",
        "from app.services.endpoints.endpoint import Endpoint\n",
        "from app.services.endpoints.endpoint import Endpoint\nfrom app.services.endpoints.shout import SHOUT\n",
    )
    # A provider says with one word, and where it has it, that it serves the endpoint.
    replace(
        tree / "app/services/providers/fireworks.py", "serves={", 'serves={"shout": EndpointSupport(path="/shout"), '
    )
    fireworks = {"FIREWORKS_BASE_URL": toy_upstream.base_url, "FIREWORKS_API_KEY": "fw_test"}
    with running_gateway(tree, place, base_settings(place, session_database_url) | fireworks) as gateway:
        yield gateway


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))


def test_it_is_forwarded_answered_and_recorded(toy_gateway: Gateway, toy_upstream: ScriptedUpstream) -> None:
    toy_upstream.on_path("/shout", json_answer({"shout": "HELLO", "heard": 1}))
    body = {"model": MODEL, "text": "hello", "volume": 11, "own": {"field": 1}}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert (response.status_code, response.json()) == (200, {"shout": "HELLO", "heard": 1})
    assert response.headers["x-gateway-model"] == "shouter-1"
    (sent,) = [seen for seen in toy_upstream.requests if seen.path.endswith("/shout")]  # Beside it, lists are fetched.
    assert json.loads(sent.body) == body
    log = next(json.loads(line) for line in toy_gateway.log().splitlines() if response.headers["x-request-id"] in line)
    assert (log["path"], log["outcome"], log["prompt_tokens"], log["completion_tokens"]) == ("/v1/shout", "ok", 1, 2)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"volume": 12}, "`volume` must be a whole number from 1 to 11."),
        ({"text": None}, "`text` must be a string."),
        ({"text": 5}, "`text` must be a string."),
        ({"stream": True}, "`stream` must be false or absent, because this endpoint does not stream."),
    ],
)
def test_its_body_is_checked_and_its_errors_have_its_own_shape(
    toy_gateway: Gateway, change: dict[str, object], trouble: str
) -> None:
    body = {"model": MODEL, "text": "hello"} | change
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert (response.status_code, response.json()) == (400, {"trouble": trouble, "kind": "invalid_request_error"})


def test_a_missing_key_has_its_shape_too(toy_gateway: Gateway) -> None:
    response = requests.post(f"{toy_gateway.url}/v1/shout", json={}, timeout=20)
    assert (response.status_code, response.json()["kind"]) == (401, "authentication_error")


def test_a_response_that_is_none_of_it_is_an_upstream_error(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream
) -> None:
    toy_upstream.on_path("/shout", json_answer({"whisper": "hello"}))
    body = {"model": MODEL, "text": "hello"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 502 and "not a shout" in response.json()["trouble"]


def test_a_bug_is_a_500_whose_traceback_has_the_request_id(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream
) -> None:
    toy_upstream.on_path("/shout", json_answer({"shout": 5, "heard": 1}))
    body = {"model": MODEL, "text": "hello"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 500 and "x-request-id" in response.json()["trouble"]
    lines = [json.loads(line) for line in toy_gateway.log().splitlines() if response.headers["x-request-id"] in line]
    assert sorted(line["event"] for line in lines) == ["request", "request_failed"]
    (failed,) = [line for line in lines if line["event"] == "request_failed"]
    assert "AttributeError: 'int' object has no attribute 'upper'" in failed["traceback"]


def test_a_provider_without_it_is_named(toy_gateway: Gateway) -> None:
    body = {"model": "x", "text": "hello", "provider": "chutes"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 400
    assert response.json()["trouble"] == "Chutes does not serve /v1/shout. Providers that serve it: Fireworks."
