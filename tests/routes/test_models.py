"""`GET /v1/models`: one list that OpenAI's and Anthropic's SDKs read; aliases, pages, probes, and missing APIs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.routes.test_chat_openai_client import openai_client
from tests.support.chat import HELLO, PREFIX, Seen, post_chat, request
from tests.support.gateway import Gateway
from tests.support.sdks import anthropic, openai

KIMI = PREFIX + "kimi-k3"
VERSION = {"anthropic-version": "2023-06-01"}


def get(gateway: Gateway, path: str, **headers: str) -> Seen:
    return request("GET", gateway.url + path, headers={"Authorization": f"Bearer {gateway.key}"} | headers)


@pytest.fixture(scope="module")
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=20) as client:
        yield client


def test_every_entry_is_a_model_of_both_sdks(gateway: Gateway) -> None:
    listed = get(gateway, "/v1/models").json
    for entry in listed["data"]:
        model = openai.types.Model
        model.model_validate({name: entry[name] for name in model.model_fields if name in entry}, strict=True)
        anthropic.types.ModelInfo.model_validate_json(as_model_info(entry))
    (kimi,) = [entry for entry in listed["data"] if entry["id"] == KIMI]
    assert kimi == {
        "id": KIMI,
        "object": "model",
        "type": "model",
        "created": 1_780_272_000,
        "created_at": "2026-06-01T00:00:00Z",
        "owned_by": "fireworks",
        "display_name": "kimi-k3",
        "lifecycle": "active",
        "max_input_tokens": 1_048_576,
        "context_length": 1_048_576,
        "max_tokens": None,
    }
    ids = [entry["id"] for entry in listed["data"]]
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert (listed["first_id"], listed["last_id"]) == (ids[0], ids[-1]) and len(set(ids)) == len(ids)
    assert not any(name.startswith("anthropic/") for name in ids)


def as_model_info(entry: dict[str, Any]) -> str:
    return json.dumps({name: entry[name] for name in anthropic.types.ModelInfo.model_fields if name in entry})


def test_anthropics_sdk_lists_pages_and_finds_aliases(gateway: Gateway, claude: anthropic.Anthropic) -> None:
    ids = [entry["id"] for entry in get(gateway, "/v1/models").json["data"]]
    expected = [name for each in ids for name in (each, "anthropic/" + each)]
    assert [model.id for model in claude.models.list()] == expected
    assert [model.id for model in claude.models.list(limit=7)] == expected  # The SDK requests page after page.
    back = claude.models.list(limit=3, before_id=expected[5])
    assert ([model.id for model in back.data], back.has_more) == (expected[2:5], True)
    assert claude.models.retrieve("anthropic/kimi-k3").id == "anthropic/" + KIMI
    assert claude.models.retrieve("kimi-k3").id == KIMI
    with pytest.raises(anthropic.BadRequestError, match="an id from this list"):
        claude.models.list(after_id="nobody")


def test_the_last_page_says_so(gateway: Gateway) -> None:
    whole = get(gateway, "/v1/models").json["data"]
    page = get(gateway, f"/v1/models?limit=1000&after_id={whole[-3]['id']}&beta=true").json
    assert (page["data"], page["has_more"], page["last_id"]) == (whole[-2:], False, whole[-1]["id"])
    empty = get(gateway, f"/v1/models?after_id={whole[-1]['id']}").json
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, False)
    assert get(gateway, "/v1/models?limit=0").error["param"] == "limit"


def test_openais_sdk_lists_them(gateway: Gateway) -> None:
    with openai_client(gateway) as client:
        assert KIMI in [model.id for model in client.models.list()]
        assert client.models.retrieve("fireworks/kimi-k3").id == KIMI


def test_a_client_that_has_the_list_gets_a_304_for_the_same_question_only(gateway: Gateway) -> None:
    etag = get(gateway, "/v1/models").headers["etag"]
    assert get(gateway, "/v1/models", **{"if-none-match": etag}).status == 304
    assert get(gateway, "/v1/models", **VERSION, **{"if-none-match": etag}).status == 200


@pytest.mark.parametrize("name", ["anthropic/kimi-k3", "anthropic/" + KIMI, "anthropic/fireworks/kimi-k3"])
def test_an_alias_is_a_model_everywhere(gateway: Gateway, name: str) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    chat: dict[str, Any] = {"messages": HELLO}
    for path, asked in (("chat/completions", chat), ("completions", {"prompt": "Hi"})):
        for more in ({}, {"provider": "fireworks"}):
            body = {"model": name, "max_tokens": 5} | asked | more
            seen = request("POST", f"{gateway.url}/v1/{path}", headers=headers, json=body)
            assert (seen.status, seen.headers["x-gateway-model"]) == (200, KIMI)
    assert get(gateway, f"/api/catalog/model/{name}").json["data"]["id"] == KIMI


def test_an_alias_is_accepted_on_every_path(gateway: Gateway) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "messages": {"model": "kimi-k3", "max_tokens": 5, "messages": HELLO},
        "messages/count_tokens": {"model": "kimi-k3", "messages": HELLO},
        "responses": {"model": "kimi-k3", "max_output_tokens": 5, "input": "Hi"},
        "embeddings": {"model": "qwen3-embedding-8b", "input": "Hi"},
        "rerank": {"model": "qwen3-reranker-8b", "query": "Hi", "documents": ["Hi", "there"]},
    }
    headers = {"Authorization": f"Bearer {gateway.key}"}
    for path, body in bodies.items():
        model = body["model"]
        seen = request("POST", f"{gateway.url}/v1/{path}", headers=headers, json=body | {"model": f"anthropic/{model}"})
        served = None if path == "messages/count_tokens" else f"accounts/fireworks/models/{model}"
        assert (path, seen.status, seen.headers.get("x-gateway-model")) == (path, 200, served)


def test_an_alias_of_nothing_is_not_found(gateway: Gateway) -> None:
    with openai_client(gateway) as client, pytest.raises(openai.NotFoundError, match="kimi-k3"):
        client.chat.completions.create(model="anthropic/kimi-k33", messages=HELLO)


@pytest.mark.parametrize("path", ["/", "/api/hello", "/health", "/v1/models"])
def test_probes_are_answered(gateway: Gateway, path: str) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"} if path == "/v1/models" else {}
    seen = request("HEAD", gateway.url + path, headers=headers)
    assert (seen.status, seen.body) == (200, b"") and seen.request_id
    assert request("GET", gateway.url + path, headers=headers).status == 200


@pytest.mark.parametrize(
    ("method", "path", "offer"),
    [
        ("POST", "/v1/images/generations", "a model that accepts them"),
        ("POST", "/v1/audio/transcriptions", "a model that accepts it"),
        ("POST", "/v1/moderations", "safety model"),
        ("GET", "/v1/files", "in the messages themselves"),
        ("POST", "/v1/batches", "one by one or side by side"),
    ],
)
def test_an_api_that_is_missing_says_what_is_offered(gateway: Gateway, method: str, path: str, offer: str) -> None:
    seen = request(method, gateway.url + path, headers={"Authorization": f"Bearer {gateway.key}"})
    assert (seen.status, seen.error["type"], seen.error["code"]) == (404, "not_found_error", "api_not_offered")
    assert offer in seen.error["message"]


def test_the_sdk_raises_not_found_for_images(gateway: Gateway) -> None:
    with openai_client(gateway) as client, pytest.raises(openai.NotFoundError, match="no images API"):
        client.images.generate(prompt="a cat", model="dall-e-3")


def test_anthropics_sdk_gets_its_own_errors_wherever_it_asks(gateway: Gateway, claude: anthropic.Anthropic) -> None:
    for ask in (claude.messages.batches.list, claude.beta.files.list, lambda: claude.models.retrieve("no-such-model")):
        with pytest.raises(anthropic.NotFoundError) as caught:
            ask()
        assert isinstance(caught.value.body, dict) and caught.value.request_id
        assert (caught.value.body["type"], caught.value.body["error"]["type"]) == ("error", "not_found_error")
    assert "in the messages themselves" in claude_error(claude.beta.files.list)
    assert "one by one or side by side" in claude_error(claude.messages.batches.list)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="gw_wrong_key", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.models.list()


def claude_error(ask: Callable[[], object]) -> str:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask()
    return str(caught.value)


@pytest.mark.parametrize("provider", [{}, {"provider": "fireworks"}])
def test_an_unknown_model_is_a_404_that_names_the_nearest(gateway: Gateway, provider: dict[str, str]) -> None:
    seen = post_chat(gateway, "deepseek-v3p9", **provider)
    assert (seen.status, seen.error["type"], seen.error["param"]) == (404, "not_found_error", "model")
    assert "accounts/fireworks/models/deepseek-v3p1" in seen.error["message"]
