"""The model lists of the four providers have the prices, pages, gaps and errors of the real lists."""

from typing import Any

import pytest
import requests

from app.sandbox.behaviours import describe_behaviours
from tests.sandbox.client import PREFIX, Server
from tests.sandbox.conftest import FEATHERLESS_MODELS

FEATHERLESS = "/featherless/v1/models"


def get_entries(server: Server, path: str) -> dict[str, dict[str, Any]]:
    """Returns a whole list by id."""
    response = server.get(path)
    assert response.status_code == 200 and response.headers["x-sandbox"] == "1"
    data = response.json()["data"]
    assert response.json()["object"] == "list"
    return {entry["id"]: entry for entry in data}


def test_fireworks_lists_chat_models_in_the_real_shape(server: Server) -> None:
    entries = get_entries(server, "/inference/v1/models")
    entry = entries[PREFIX + "glm-5p3"]
    assert set(entry) == {
        *("id", "object", "owned_by", "created", "kind", "supports_chat"),
        *("supports_image_input", "supports_tools", "context_length"),
    }
    assert (entry["kind"], entry["context_length"]) == ("HF_BASE_MODEL", 1_048_576)
    slugs = ("deepseek-v3p1", "deepseek-v3", "kimi-k3", "gpt-oss-120b", "qwen3p8-max")
    assert {PREFIX + slug for slug in slugs} <= set(entries)
    assert {entry["owned_by"] for entry in entries.values()} == {"sandbox"}


def test_the_fireworks_list_has_the_errors_of_the_real_one(server: Server) -> None:
    entries = get_entries(server, "/inference/v1/models")
    for slug in ("qwen3-embedding-8b", "qwen3-reranker-8b"):
        entry = entries[PREFIX + slug]
        assert (entry["kind"], entry["supports_chat"]) == ("EMBEDDING_MODEL", True)
    assert any("context_length" not in entry and entry["kind"] == "CUSTOM_MODEL" for entry in entries.values())
    assert not any("/routers/" in name for name in entries)
    assert entries[PREFIX + "llama-v3p2-90b-instruct"]["supports_image_input"] is False
    assert entries[PREFIX + "llama-v3p2-90b-vision-instruct"]["supports_image_input"] is True


def test_fireworks_lists_every_model_that_misbehaves(server: Server) -> None:
    entries = get_entries(server, "/inference/v1/models")
    assert {PREFIX + name for name in describe_behaviours()} <= set(entries)


def test_every_listed_chat_model_can_be_used(server: Server) -> None:
    for name, entry in get_entries(server, "/inference/v1/models").items():
        if "sandbox-" not in name and entry["kind"] not in ("EMBEDDING_MODEL", "FLUMINA_BASE_MODEL"):
            assert server.chat(name, max_tokens=1).status_code == 200, name


def test_prices_are_strings_with_one_row_for_each_serving_mode(server: Server) -> None:
    rows = server.get("/v1/serverless/models").json()["data"]
    glm = {row["serverless_mode"]: row for row in rows if row["id"] == PREFIX + "glm-5p3"}
    assert set(glm) == {"standard", "priority", "fast"}
    assert glm["standard"]["pricing"] == [
        {"sku": "LLM input tokens (uncached)", "amount": "1.4", "unit": "1M tokens"},
        {"sku": "LLM input tokens (cached)", "amount": "0.26", "unit": "1M tokens"},
        {"sku": "LLM output tokens", "amount": "4.4", "unit": "1M tokens"},
    ]
    assert glm["priority"]["service_tier"] == "priority"
    assert glm["fast"]["usage_identifier"] == "accounts/fireworks/routers/glm-5p3-fast"
    assert glm["standard"]["aliases"] == ["accounts/fireworks/routers/glm-latest"]


def test_featherless_lists_all_models_without_pages(server: Server) -> None:
    body = server.get(FEATHERLESS, key=None, limit=5).json()
    assert set(body) == {"object", "data"}
    assert len(body["data"]) == len({entry["id"] for entry in body["data"]}) == FEATHERLESS_MODELS


def test_featherless_entries_have_prices_in_both_units(server: Server) -> None:
    entries = server.get(FEATHERLESS, key=None).json()["data"]
    always = {"id", "is_gated", "created", "model_class", "owned_by", "context_length", "pricing"}
    assert all(always <= set(entry) for entry in entries)
    for entry in entries:
        pricing = entry["pricing"]
        assert float(pricing["prompt"]) * 1e6 == pytest.approx(pricing["input"])
        assert float(pricing["completion"]) * 1e6 == pytest.approx(pricing["output"])
        assert "e" not in pricing["prompt"]


def test_featherless_pages_overlap_and_reach_every_model(server: Server) -> None:
    whole = {entry["id"] for entry in server.get(FEATHERLESS).json()["data"]}
    seen: list[str] = []
    for page in range(1, 10):
        body = server.get(FEATHERLESS, page=page, per_page=1000).json()
        assert len(body["data"]) <= 1000
        seen += [entry["id"] for entry in body["data"]]
        if not body["data"]:
            break
    assert set(seen) == whole
    assert len(seen) > len(whole)


def test_featherless_counts_more_models_and_pages_than_there_are(server: Server) -> None:
    body = server.get(FEATHERLESS, page=1, per_page=1000).json()
    pagination = body["pagination"]
    assert set(pagination) == {"current_page", "per_page", "total_items", "total_pages"}
    assert pagination["total_items"] == body["total"] > 2 * FEATHERLESS_MODELS
    last = server.get(FEATHERLESS, page=pagination["total_pages"], per_page=1000).json()
    assert last["data"] == [] and last["pagination"]["current_page"] == pagination["total_pages"]


def test_featherless_raises_small_pages_and_refuses_large_ones(server: Server) -> None:
    small = server.get(FEATHERLESS, page=1, per_page=5).json()
    assert len(small["data"]) == small["pagination"]["per_page"] == 100
    for query in ({"per_page": 1001}, {"per_page": "x"}, {"page": 0}):
        response = server.get(FEATHERLESS, **query)
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "code"}


def test_featherless_shows_one_model(server: Server) -> None:
    entry = server.get(FEATHERLESS).json()["data"][0]
    assert server.get(f"{FEATHERLESS}/{entry['id']}").json() == entry
    assert server.get(f"{FEATHERLESS}/no/such").status_code == 404


def test_featherless_refuses_the_default_agent_of_libraries(server: Server) -> None:
    for agent in ("python-requests/2.34", "node", "Python-urllib/3.11"):
        response = requests.get(server.url + FEATHERLESS, headers={"User-Agent": agent}, timeout=10)
        assert (response.status_code, response.text) == (404, "Gone.")


def test_deepinfra_lists_metadata_and_models_without_any(server: Server) -> None:
    entries = get_entries(server, "/deepinfra/v1/openai/models")
    assert len(entries) == 193
    bare = [entry for entry in entries.values() if entry["metadata"] is None]
    assert len(bare) == 50
    known = [entry["metadata"] for entry in entries.values() if entry["metadata"]]
    assert all(set(one) >= {"description", "context_length", "max_tokens", "pricing", "tags"} for one in known)
    kinds = {tag for one in known for tag in one["tags"]}
    assert kinds >= {"chat", "embed", "image-gen", "tts", "stt", "vision", "reasoning"}
    image = next(one for one in known if one["tags"] == ["image-gen"])
    assert image["context_length"] == 0 and "per_image_unit" in image["pricing"]


def test_chutes_lists_prices_twice_and_leaves_gaps(server: Server) -> None:
    entries = get_entries(server, "/chutes/v1/models")
    assert len(entries) == 16
    assert any("/" not in name for name in entries)
    for entry in entries.values():
        assert entry["pricing"]["prompt"] == entry["price"]["input"]["usd"]
    gaps = [entry for entry in entries.values() if "context_length" not in entry]
    assert gaps and all("tao" not in entry["price"]["input"] for entry in gaps)
    assert any(entry.get("context_length", 0) < entry["max_model_len"] for entry in entries.values())


@pytest.mark.parametrize("path", [FEATHERLESS, "/deepinfra/v1/openai/models", "/chutes/v1/models"])
def test_the_other_lists_need_no_key(server: Server, path: str) -> None:
    assert server.get(path, key=None).status_code == 200
