"""`POST /v1/rerank` and `/v2/rerank` over HTTP: one form of answer, whatever the provider's own form is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.support.answers import json_answer
from tests.support.catalogs import list_answer
from tests.support.chat import PREFIX, Seen, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only

MODELS = {"fireworks": PREFIX + "qwen3-reranker-8b", "deepinfra": "acme-labs/Reranker-2"}
QUERY = "How do I paint a wooden fence?"
TEXTS = ["Gold fell in spring.", "How to paint a wooden fence.", "Painting wood: a guide."]
DOCUMENTS: list[Any] = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]


def post(gateway: Gateway, path: str = "/v1/rerank", **body: Any) -> Seen:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    body = {"model": PREFIX + "m", "query": QUERY, "documents": DOCUMENTS} | body
    return request("POST", gateway.url + path, headers=headers, json=body)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("provider", MODELS)
def test_both_providers_rank_alike(
    gateway_of_four: Gateway, session_database_url: str, provider: str, path: str
) -> None:
    seen = post(gateway_of_four, path, model=MODELS[provider])
    results, tokens = seen.json["results"], seen.json["usage"]["prompt_tokens"]
    assert [result["index"] for result in results] == [1, 2, 0] and results[0].keys() == {"index", "relevance_score"}
    assert 1 >= results[0]["relevance_score"] > results[1]["relevance_score"] > results[2]["relevance_score"] >= 0
    assert seen.json["meta"] == {"tokens": {"input_tokens": tokens}} and seen.json["model"] == MODELS[provider]
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["endpoint"], row["gateway"], row["outcome"]) == (path, provider, "ok")
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (tokens, 0, "provider")
    price = {"fireworks": "0.2", "deepinfra": "0.05"}[provider]
    assert (row["cost_kind"], row["cost_usd"]) == ("exact", Decimal(tokens) * Decimal(price) / 1_000_000)
    assert row["stated_cost_usd"] == (row["cost_usd"] if provider == "deepinfra" else None)


@pytest.mark.parametrize("provider", MODELS)
def test_the_best_are_shown_with_their_texts_if_asked(gateway_of_four: Gateway, provider: str) -> None:
    seen = post(gateway_of_four, model=MODELS[provider], top_n=2, return_documents=True)
    texts = [result["document"] for result in seen.json["results"]]
    assert texts == [{"text": "How to paint a wooden fence."}, {"text": "Painting wood: a guide."}]
    assert len(post(gateway_of_four, model=MODELS[provider], top_n=9).json["results"]) == 3


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"rank_fields": ["title"]}, "rank_fields", "what should be compared"),
        ({"max_chunks_per_doc": 2}, "max_chunks_per_doc", "in parts"),
        ({"max_tokens_per_doc": 2}, "max_tokens_per_doc", "shorten"),
        ({"documents": []}, "documents", "at least one"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1]", "an object with `text`"),
        ({"query": ""}, "query", "not be empty"),
        ({"query": None}, "query", "is required"),
        ({"top_n": 0}, "top_n", "at least 1"),
    ],
)
def test_what_no_provider_can_do_is_refused(
    scripted_gateway: Gateway, change: dict[str, Any], param: str, message: str
) -> None:
    seen = post(scripted_gateway, **change)
    assert (seen.status, seen.error["param"]) == (400, param) and message in seen.error["message"]


def test_fireworks_gets_texts_and_its_data_become_results(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    data = [{"index": at, "relevance_score": at / 10, "document": None} for at in (1, 0, 2)]
    upstream.on_path("/rerank", json_answer({"object": "list", "model": "m", "data": data}))
    documents = [{"text": text, "id": at, "url": None} for at, text in enumerate(TEXTS)]
    more = {"task": "Find a guide", "user": "me", "rank_fields": None, "documents": documents}
    seen = post(scripted_gateway, top_n=1, return_documents=True, **more)
    assert seen.json == {
        "model": "m",
        "results": [{"index": 2, "relevance_score": 0.2, "document": {"text": "Painting wood: a guide."}}],
    }
    assert upstream.calls[-1].json == {
        "model": PREFIX + "m",
        "query": QUERY,
        "documents": TEXTS,
        "return_documents": False,
        "task": "Find a guide",
    }
    dropped = sorted(seen.headers["x-gateway-dropped-params"].split(", "))
    assert dropped == ["documents[].id", "documents[].url", "rank_fields", "user"]


@soak_only("routes/test_rerank.py::test_both_providers_rank_alike")
def test_deepinfra_is_asked_at_its_own_path_with_the_query_for_each_document(
    gateways: Gateways, session_database_url: str, upstream: ScriptedUpstream
) -> None:
    model = "Qwen/Qwen3-Reranker-0.6B"
    base = f"http://127.0.0.1:{upstream.port}/v1/openai"
    upstream.on_path("/models", list_answer([{"id": model, "metadata": None}]))
    scores = {"scores": [0.1, 0.9, 0.5], "input_tokens": 164, "request_id": "r1", "inference_status": {"cost": 1e-6}}
    upstream.on_path("/inference/" + model, json_answer(scores))
    settings = {"DEEPINFRA_API_KEY": "di_test", "DEEPINFRA_BASE_URL": base}
    with gateways.running(session_database_url, settings) as gateway:
        seen = post(gateway, model=model.lower(), task="Find a guide")
    assert seen.json == {
        "id": "r1",
        "model": model.lower(),
        "results": [{"index": at, "relevance_score": scores["scores"][at]} for at in (1, 2, 0)],
        "usage": {"prompt_tokens": 164, "total_tokens": 164},
        "meta": {"tokens": {"input_tokens": 164}},
    }
    sent = upstream.calls[-1]
    assert sent.path == "/v1/inference/" + model
    assert sent.json == {
        "queries": [QUERY] * 3,
        "documents": TEXTS,
        "instruction": "Find a guide",
    }


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"index": 0, "relevance_score": 1}]},
        {"data": [{"index": at, "relevance_score": 1} for at in (0, 1, 7)]},
        {"data": [{"index": at, "relevance_score": None} for at in (0, 1, 2)]},
        {"data": "no"},
        ["no"],
        b'{"data": [{"index": 0, "relevance_score": NaN}]}',
        {"error": {"message": "busy", "code": 503}},
    ],
)
def test_what_is_no_ranking_is_an_upstream_error(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, answer: object
) -> None:
    upstream.on_path("/rerank", json_answer(answer))
    seen = post(scripted_gateway)
    assert seen.status in {502, 503} and seen.error["type"] == "upstream_error"
    assert wait_for_row(session_database_url, seen.request_id)["outcome"] == "upstream_error"


def test_others_do_not_serve_it(gateway_of_four: Gateway) -> None:
    seen = post(gateway_of_four, provider="chutes")
    assert (seen.status, seen.error["code"]) == (400, "endpoint_not_served")
    assert seen.error["message"].endswith("Use one of: Fireworks, DeepInfra.")
    unknown = post(gateway_of_four, model="rerank-v3.5")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
