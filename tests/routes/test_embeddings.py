"""`POST /v1/embeddings` over HTTP, with the official OpenAI client: sandbox, faults of a provider, records, prices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.routes.test_chat_openai_client import openai_client
from tests.support.answers import json_answer
from tests.support.chat import PREFIX, Seen, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close
from tests.support.sdks import openai

QWEN = PREFIX + "qwen3-embedding-8b"
MODELS = {
    "fireworks": QWEN,
    "featherless": "acme-labs/Quokka-3-7B-Embedding",
    "deepinfra": "acme-labs/Embedding-1",
}
TEXTS = ["The cat sat on the mat", "A cat sat on a mat", "Quarterly revenue grew"]
HALF = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
PACKED = "AAAAPwAAgL4="


@pytest.fixture(scope="module")
def client(gateway_of_four: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(gateway_of_four) as client:
        yield client


def post(gateway: Gateway, **body: Any) -> Seen:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    return request("POST", f"{gateway.url}/v1/embeddings", headers=headers, json={"input": "a"} | body)


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


@pytest.mark.parametrize("provider", MODELS)
def test_every_provider_embeds_and_similar_texts_are_similar(
    client: openai.OpenAI, session_database_url: str, provider: str
) -> None:
    ask: dict[str, Any] = {"model": MODELS[provider], "input": TEXTS, "extra_body": {"provider": provider}}
    answer = client.embeddings.with_raw_response.create(**ask)  # By default the SDK requests base64.
    packed = answer.parse()
    plain = client.embeddings.create(**ask, encoding_format="float")
    vectors = [item.embedding for item in packed.data]
    assert [item.index for item in packed.data] == [0, 1, 2]
    for one, other in zip(vectors, (item.embedding for item in plain.data), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert cosine(vectors[0], vectors[1]) > 0.5 > cosine(vectors[0], vectors[2])
    row = wait_for_row(session_database_url, answer.headers["x-request-id"])
    assert (row["endpoint"], row["gateway"], row["outcome"]) == ("/v1/embeddings", provider, "ok")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (packed.usage.prompt_tokens, 0)
    assert row["usage_source"] == "provider"


def test_the_cost_is_exact(gateway_of_four: Gateway, session_database_url: str) -> None:
    seen = post(gateway_of_four, model=QWEN, input=TEXTS)
    row = wait_for_row(session_database_url, seen.request_id)
    assert row["cost_kind"] == "exact"
    assert row["cost_usd"] == Decimal(row["prompt_tokens"]) * Decimal("0.1") / 1_000_000


def test_dimensions_are_the_providers_to_give_or_refuse(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model=QWEN, input="a", dimensions=64).data[0].embedding) == 64
    with pytest.raises(openai.BadRequestError, match="not resizable"):
        client.embeddings.create(model="thenlper/gte-base", input="a", dimensions=64)
    with pytest.raises(openai.BadRequestError, match="`dimensions` must be .* at least 32 for DeepInfra") as caught:
        client.embeddings.create(model=MODELS["deepinfra"], input="a", dimensions=31)
    assert caught.value.param == "dimensions"
    assert len(client.embeddings.create(model=MODELS["deepinfra"], input="a", dimensions=32).data[0].embedding) == 32


@pytest.mark.parametrize("more", [{}, {"provider": "fireworks"}])
def test_a_model_that_no_list_has_goes_to_fireworks_as_it_is_written(
    gateway_of_four: Gateway, session_database_url: str, more: dict[str, str]
) -> None:
    seen = post(gateway_of_four, model="nomic-ai/nomic-embed-text-v1.5", **more)
    assert seen.status == 200 and len(seen.json["data"][0]["embedding"]) == 768
    assert seen.headers["x-gateway-provider"] == "fireworks"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["model_served"], row["cost_kind"]) == ("nomic-ai/nomic-embed-text-v1.5", "unknown")
    unknown = post(gateway_of_four, model="nobody/knows-it", **more)
    assert unknown.status == 404 and wait_for_row(session_database_url, unknown.request_id)["model_served"] is None


def test_chutes_has_none(gateway_of_four: Gateway) -> None:
    seen = post(gateway_of_four, model="x", provider="chutes")
    assert (seen.status, seen.error["code"]) == (400, "endpoint_not_served")


def test_langchains_ids_of_tokens_get_advice(client: openai.OpenAI, gateway_of_four: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=QWEN, input=[[9906, 11], [1917]])
    meant = post(gateway_of_four, model=QWEN, input=[[9906, 11], [1917]], token_ids=True)
    assert meant.status == 200 and meant.json["usage"]["prompt_tokens"] > 0
    assert "x-gateway-dropped-params" not in meant.headers


@pytest.mark.parametrize("sent", [HALF["embedding"], PACKED])
@pytest.mark.parametrize("asked", ["float", "base64", None])
def test_the_form_is_what_was_asked_for_whatever_was_sent(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, sent: Any, asked: str | None
) -> None:
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    answer = {"object": "list", "data": [HALF | {"embedding": sent}], "model": "m", "usage": usage}
    upstream.on_path("/embeddings", json_answer(answer))
    seen = post(scripted_gateway, model=PREFIX + "m", encoding_format=asked, user="me", provider="fireworks")
    expected = PACKED if asked == "base64" else HALF["embedding"]
    assert seen.json == answer | {"data": [HALF | {"embedding": expected}]}
    formats = {"encoding_format": asked} if asked else {}
    assert upstream.calls[-1].json == {"model": PREFIX + "m", "input": "a"} | formats
    dropped = seen.headers["x-gateway-dropped-params"].split(", ")
    assert sorted(dropped) == ["user"] if asked else ["encoding_format", "user"]


BROKEN: dict[str, tuple[Script, str | None]] = {
    "no data": (json_answer({"object": "list", "data": [], "model": "m"}), None),
    "too few": (json_answer({"object": "list", "data": [HALF, HALF], "model": "m"}), None),
    "no numbers": (json_answer(b'{"data": [{"embedding": [1, null]}]}'), None),
    "NaN": (json_answer(b'{"data": [{"embedding": [NaN]}]}'), None),
    "an error with status 200": (json_answer({"error": {"message": "busy", "code": 503}}), None),
    "not JSON": (json_answer(b"<html>"), None),
    "cut": ([*json_answer({"data": [HALF]}, headers={"content-length": "9999"}), close()], "upstream_cut"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_answer_is_an_upstream_error_and_its_row_says_so(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, fault: str
) -> None:
    script, code = BROKEN[fault]
    upstream.on_path("/embeddings", script)
    seen = post(scripted_gateway, model=PREFIX + "m")
    assert seen.status in {502, 503} and seen.error["code"] == code
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["endpoint"]) == (code or "upstream_error", "/v1/embeddings")


def test_an_answer_without_data_raises_in_the_sdk(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.on_path("/embeddings", json_answer({"object": "list", "data": []}))
    with openai_client(scripted_gateway) as client, pytest.raises(openai.InternalServerError, match="embeddings"):
        client.embeddings.create(model=PREFIX + "m", input="a")


def test_a_stream_of_embeddings_is_refused(scripted_gateway: Gateway) -> None:
    seen = post(scripted_gateway, model=PREFIX + "m", stream=True)
    assert seen.status == 400 and "does not stream" in seen.error["message"]


def test_the_catalog_says_which_models_embed_where_it_is_known(gateway_of_four: Gateway) -> None:
    def says(model: str) -> bool | None:
        entry = request("GET", f"{gateway_of_four.url}/api/catalog/model/{model}").json["data"]
        capability: bool | None = entry["capabilities"]["embeddings"]
        return capability

    assert [says(model) for model in MODELS.values()] == [True, True, True]
    assert says(PREFIX + "qwen3-reranker-8b") is False and says(PREFIX + "kimi-k3") is None
