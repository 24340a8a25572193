"""The providers of a model, over HTTP: equivalents at four providers, measurements, and open circuit breakers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.errors import UpstreamUnreachable
from app.runtime import get_component, get_settings
from app.services.inference.circuit_breaker import THRESHOLDS, CircuitBreakers
from app.services.models import refresh_if_due
from tests.support.catalogs import (
    BASE_PATHS,
    FIREWORKS_LIST,
    PRICES_PATH,
    catalogs_of,
    fireworks_rows,
    list_answer,
    plain_rows,
    price_row,
    provider_environment,
    root_of,
)
from tests.support.chat import post_chat, request, wait_for_row
from tests.support.gateway import GATEWAY_KEY, Gateway
from tests.support.gateways import Gateways
from tests.support.sandbox import Sandbox
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

FLASH, OWN_FLASH = "zai-org/GLM-5.3-Flash", "accounts/fireworks/models/glm-5p3-flash"
BROKEN = "accounts/fireworks/models/sandbox-500"
DEEPSEEK, OWN_DEEPSEEK = "deepseek-ai/DeepSeek-V3.1", "accounts/fireworks/models/deepseek-v3p1"
KEY = {"Authorization": f"Bearer {GATEWAY_KEY}"}


def get_offers(gateway: Gateway, model: str) -> dict[str, Any]:
    """Returns `data` of a model's endpoints."""
    seen = request("GET", f"{gateway.url}/api/catalog/model/{model}/endpoints", headers=gateway.headers)
    assert seen.status == 200, seen.body
    data: dict[str, Any] = seen.json["data"]
    return data


def test_a_model_is_found_at_all_four_providers(gateway_of_four: Gateway) -> None:
    wait_until(lambda: len(get_offers(gateway_of_four, OWN_FLASH)["endpoints"]) == 4, what="the equivalents")
    data = get_offers(gateway_of_four, OWN_FLASH)

    assert (data["id"], data["weights"]) == (OWN_FLASH, "zai-org/glm-5.3-flash")
    found = [(each["tag"], each["model_id"], each["quantization"]) for each in data["endpoints"]]
    assert found == [
        ("fireworks", OWN_FLASH, None),
        ("featherless", FLASH, None),
        ("deepinfra", FLASH, None),
        ("chutes", FLASH + "-TEE", "fp8"),
    ]
    for each in data["endpoints"]:
        path = f"{gateway_of_four.url}/api/catalog/model/{each['model_id']}?gateway={each['tag']}"
        entry = request("GET", path).json["data"]
        assert entry["weights"] == data["weights"] and each["pricing"] == entry["pricing"]
        assert each["context_length"] == entry["context_length"]
        assert each["max_completion_tokens"] == entry["max_output_tokens"]
        assert each["pricing"]["prompt"] is not None
    # The same endpoints for each of the names, and for an id that two providers list.
    for name in (FLASH, FLASH + "-TEE", FLASH.lower()):
        others = get_offers(gateway_of_four, name)["endpoints"]
        assert sorted(each["tag"] for each in others) == ["chutes", "deepinfra", "featherless", "fireworks"]
    # Another quantisation is another model, whether the name or the entry states it.
    for name in (FLASH + "-Turbo", "moonshotai/Kimi-K2.6-TEE"):
        assert [each["model_id"] for each in get_offers(gateway_of_four, name)["endpoints"]] == [name]
    both = get_offers(gateway_of_four, "moonshotai/Kimi-K2.6")["endpoints"]
    assert [each["tag"] for each in both] == ["deepinfra", "fireworks"]


@soak_only("db/test_recent_quality.py::test_it_equals_sums_over_the_rows_before_between_and_after_folds")
def test_what_real_requests_met_is_measured_by_provider_and_known_to_every_worker(
    gateway_of_four: Gateway, gateways: Gateways, session_database_url: str, sandbox: Sandbox
) -> None:
    sent = [
        post_chat(gateway_of_four, OWN_FLASH, provider="fireworks", stream=True),
        post_chat(gateway_of_four, OWN_FLASH, provider="fireworks", stream=True),
        post_chat(gateway_of_four, FLASH, provider="deepinfra"),
        # A caller's mistake, which says nothing about the provider.
        post_chat(gateway_of_four, OWN_FLASH, provider="fireworks", temperature=1.9, reasoning_effort="absurd"),
        post_chat(gateway_of_four, BROKEN, provider="fireworks"),
    ]
    assert [seen.status for seen in sent] == [200, 200, 200, 400, 500]
    for seen in sent:
        wait_for_row(session_database_url, seen.request_id)

    # A worker that starts later and served none of the requests.
    names = ["fireworks", "deepinfra", "chutes"]
    with gateways.running(session_database_url, provider_environment(sandbox.url, names, key="sandbox")) as other:

        def get_measured() -> dict[str, Any] | None:
            found = {each["tag"]: each for each in get_offers(other, OWN_FLASH)["endpoints"]}
            return found if set(found) == set(names) and found["fireworks"]["ttft_ms"] else None

        found = wait_until(get_measured, what="the first reading")
        (broken,) = get_offers(other, BROKEN)["endpoints"]

    own, second, unused = (found[name] for name in names)
    assert (own["uptime_last_30m"], own["error_share"], own["status"]) == (100.0, 0.0, 0)
    assert own["breaker"] == {"state": "closed", "kind": None, "retry_in_s": None}
    assert own["ttft_ms"] == own["latency_last_30m"]["p50"] <= own["latency_last_30m"]["p99"]
    assert own["tokens_per_second"] > 0
    # Only streams have a time to the first token.
    assert second["error_share"] == 0.0 and second["tokens_per_second"] > 0 and second["ttft_ms"] is None
    measured = ("uptime_last_30m", "error_share", "latency_last_30m", "ttft_ms", "tokens_per_second")
    assert [unused[name] for name in measured] == [None] * 5
    assert (broken["error_share"], broken["uptime_last_30m"], broken["ttft_ms"]) == (1.0, 0.0, None)


@pytest.fixture
def client(upstream: ScriptedUpstream) -> Iterator[FlaskClient]:
    """The application with two providers that serve one model, and `a/One` and `a/one` at one of them."""
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3")))
    upstream.on_path(PRICES_PATH, list_answer([price_row(OWN_DEEPSEEK, "0.5", "0.25", "1.5")]))
    upstream.on_path(BASE_PATHS["deepinfra"] + "/models", list_answer(plain_rows(DEEPSEEK, "a/One", "a/one", "b/X")))
    upstream.on_path(BASE_PATHS["chutes"] + "/models", list_answer([*plain_rows("b/X"), {"id": "b/Y", "root": "b/Z"}]))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks", "deepinfra", "chutes"])):
        refresh_if_due()
        client = create_app(get_settings()).test_client()
        wait_until(lambda: len(get(client, DEEPSEEK)["data"]["endpoints"]) == 2, what="the equivalents")
        yield client


def get(client: FlaskClient, model: str, status: int = 200) -> dict[str, Any]:
    """Returns the JSON of a model's endpoints, after checking the status."""
    answer = client.get(f"/api/catalog/model/{model}/endpoints", headers=KEY)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = json.loads(answer.text)
    return body


def test_everything_unknown_is_null_and_the_prices_are_the_catalogs(client: FlaskClient) -> None:
    body = get(client, "deepseek-v3p1")
    own, other = body["data"].pop("endpoints")

    assert set(body) == {"data", "fetched_at", "age_s", "stale", "timestamp"}
    assert set(body["data"]) == {"id", "name", "created", "description", "weights", "architecture"}
    assert own["name"] == "Fireworks | deepseek-v3p1" and other["name"] == "DeepInfra | DeepSeek-V3.1"
    assert own["pricing"] == {"prompt": "0.0000005", "completion": "0.0000015", "input_cache_read": "0.00000025"}
    assert {other[name] for name in ("quantization", "context_length", "uptime_last_30m", "ttft_ms")} == {None}
    assert get(client, f"deepinfra/{DEEPSEEK}")["data"]["id"] == DEEPSEEK


def test_an_open_breaker_is_shown_for_all_models_of_its_provider(client: FlaskClient) -> None:
    breakers = get_component(CircuitBreakers)
    for _ in range(THRESHOLDS["connect"]):
        breakers.record_failure("deepinfra", "b/X", "key-1", UpstreamUnreachable("No connection."))

    own, other = get(client, OWN_DEEPSEEK)["data"]["endpoints"]

    assert (own["status"], own["breaker"]["state"]) == (0, "closed")
    assert (other["status"], other["breaker"]["state"], other["breaker"]["kind"]) == (-1, "open", "connect")
    assert 0 < other["breaker"]["retry_in_s"] <= 5


def test_what_is_not_found_or_in_doubt_is_refused_as_by_the_catalog(client: FlaskClient) -> None:
    missing = get(client, "deepseek-v3p2", 404)["error"]
    assert (missing["code"], missing["param"]) == ("model_not_found", "model") and OWN_DEEPSEEK in missing["message"]
    assert get(client, "A/ONE", 400)["error"]["code"] == "ambiguous_model"
    assert get(client, "x" * 301, 400)["error"]["param"] == "model"
    assert client.get("/api/catalog/model/b/X/endpoints?gateway=nobody", headers=KEY).status_code == 400
    assert [each["tag"] for each in get(client, "b/X")["data"]["endpoints"]] == ["deepinfra", "chutes"]
    lone = get(client, "b/Y")["data"]
    assert lone["weights"] is None and len(lone["endpoints"]) == 1


def test_it_needs_a_key_and_is_a_304_while_nothing_has_changed(client: FlaskClient) -> None:
    path = f"/api/catalog/model/{OWN_DEEPSEEK}/endpoints"
    assert client.get(path).status_code == 401
    etag = client.get(path, headers=KEY).headers["etag"]

    assert client.get(path, headers={**KEY, "If-None-Match": etag}).status_code == 304
    other = client.get("/api/catalog/model/glm-5p3/endpoints", headers=KEY)
    assert other.status_code == 200 and other.headers["etag"] != etag
