"""Ranking at the sandbox, in the forms of Fireworks and of DeepInfra."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.sandbox.client import KEY, PREFIX, TIMEOUT_S, Server, make_headers

DOCUMENTS = ["gold", "paint a fence", "fences"]


def rank(server: Server, path: str, **body: Any) -> requests.Response:
    return requests.post(server.url + path, json=body, headers=make_headers(KEY), timeout=TIMEOUT_S)


def rank_at_fireworks(server: Server, name: str = "qwen3-reranker-8b", **body: Any) -> requests.Response:
    asked = {"model": PREFIX + name, "query": "paint fence", "documents": DOCUMENTS} | body
    return rank(server, "/inference/v1/rerank", **asked)


def rank_at_deepinfra(server: Server, name: str = "acme-labs/Reranker-2", **body: Any) -> requests.Response:
    asked = {"queries": ["paint fence"] * 3, "documents": DOCUMENTS} | body
    return rank(server, "/deepinfra/v1/inference/" + name, **asked)


def test_both_score_alike_and_the_better_document_higher(server: Server) -> None:
    ranked = rank_at_fireworks(server).json()["data"]
    assert [entry["index"] for entry in ranked] == [1, 2, 0] and ranked[0]["document"] == "paint a fence"
    scores = rank_at_deepinfra(server).json()["scores"]
    assert [scores[entry["index"]] for entry in ranked] == [entry["relevance_score"] for entry in ranked]
    best = rank_at_fireworks(server, top_n=1, return_documents=False).json()["data"]
    assert best == [ranked[0] | {"document": None}]


@pytest.mark.parametrize(
    "answer",
    [
        lambda server: rank_at_fireworks(server, user="me"),
        lambda server: rank_at_fireworks(server, documents=[{"text": "a"}]),
        lambda server: rank_at_fireworks(server, "kimi-k3"),
        lambda server: rank_at_fireworks(server, "no-such-model"),
        lambda server: rank_at_fireworks(server, "sandbox-429"),
        lambda server: rank_at_deepinfra(server, queries=["one"]),
        lambda server: rank_at_deepinfra(server, "acme-labs/Embedding-1"),
        lambda server: rank(server, "/chutes/v1/rerank", model="m"),
    ],
)
def test_what_they_refuse(server: Server, answer: Any) -> None:
    assert answer(server).status_code in {400, 404, 422, 429}
