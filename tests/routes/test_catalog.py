"""The catalog over HTTP: lists, pages, searches, conditional requests, and errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.runtime import get_component, get_settings
from app.services import models
from app.services.models import cache, representations
from app.services.models.catalog import get_catalog
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from tests.support.answers import json_answer
from tests.support.application import use_application
from tests.support.catalogs import (
    BASE_PATHS,
    FIREWORKS_LIST,
    PRICES_PATH,
    catalogs_of,
    fireworks_rows,
    list_answer,
    pages_answer,
    plain_rows,
    price_row,
    provider_environment,
    root_of,
)
from tests.support.gateway import GATEWAY_KEY
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

GLM = "accounts/fireworks/models/glm-5p3"
SLUGS = ["glm-5p3", "deepseek-v3p1", *(f"model-{number}" for number in range(28))]
DOWN = json_answer({"error": {"message": "oops"}}, 500)


@pytest.fixture
def upstream_lists(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> ScriptedUpstream:
    """A scripted upstream with thirty Fireworks models, three of Featherless, and one that two providers share."""
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows(*SLUGS)))
    upstream.on_path(PRICES_PATH, list_answer([price_row(GLM, "1.4", "0.26", "4.4")]))
    upstream.on_path(BASE_PATHS["featherless"] + "/models", pages_answer([plain_rows("a/One", "a/Two", "b/Three")]))
    upstream.on_path(BASE_PATHS["chutes"] + "/models", list_answer(plain_rows("a/One")))
    return upstream


@pytest.fixture
def client(upstream_lists: ScriptedUpstream) -> Iterator[FlaskClient]:
    """The application with Fireworks, Featherless and Chutes configured."""
    names = ["fireworks", "featherless", "chutes"]
    with catalogs_of(provider_environment(root_of(upstream_lists), names)):
        yield use_application(get_settings()).test_client()


def get(client: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    """Returns the JSON of a GET, after checking its status."""
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    body: dict[str, Any] = json.loads(answer.text)
    return body


def ids(body: dict[str, Any]) -> list[str]:
    """Returns the ids of a list's entries."""
    return [entry["id"] for entry in body["data"]]


def test_a_gateways_list_has_everything_and_says_when_it_was_fetched(client: FlaskClient) -> None:
    body = get(client, "/api/catalog/models?gateway=fireworks")

    assert ids(body) == [f"accounts/fireworks/models/{slug}" for slug in SLUGS]
    assert {key: body[key] for key in ("total", "returned", "offset", "limit", "gateway", "age_s", "stale")} == {
        "total": 30,
        "returned": 30,
        "offset": 0,
        "limit": 1000,
        "gateway": "fireworks",
        "age_s": 0,
        "stale": False,
    }
    assert body["fetched_at"] <= body["timestamp"]
    assert body["timestamp"].endswith("Z")
    assert "unavailable" not in body


def test_an_entry_has_its_price_in_usd_per_token_and_nothing_of_the_raw_object(client: FlaskClient) -> None:
    entry = get(client, "/api/catalog/models?gateway=fireworks&search=glm")["data"][0]

    assert entry["pricing"] == {"prompt": "0.0000014", "completion": "0.0000044", "input_cache_read": "0.00000026"}
    assert entry["pricing_source"] == "fireworks"
    assert not {"kind", "object", "supports_chat", "owned_by"} & entry.keys()


@pytest.mark.parametrize(
    ("query", "total", "returned"),
    [
        ("limit=7", 30, 7),
        ("limit=7&offset=28", 30, 2),
        ("offset=30", 30, 0),
        ("limit=1000&offset=10000000", 30, 0),
        ("search=MODEL-1", 11, 11),
        ("search=model-1&limit=3&offset=9", 11, 2),
        ("search=deepseek+v3.1", 1, 1),
        ("search=nothing+like+it", 0, 0),
        ("search=" + "+".join(["model-1"] * 12), 11, 11),
        ("provider=fireworks", 30, 30),
        ("provider=FireWorks", 30, 30),
        ("provider=somebody", 0, 0),
        ("search=", 30, 30),
    ],
)
def test_lists_are_filtered_and_paged(client: FlaskClient, query: str, total: int, returned: int) -> None:
    body = get(client, f"/api/catalog/models?gateway=fireworks&{query}")

    assert (body["total"], body["returned"], len(body["data"])) == (total, returned, returned)


def test_pages_put_together_are_the_list(client: FlaskClient) -> None:
    pages = [get(client, f"/api/catalog/models?gateway=fireworks&limit=9&offset={offset}") for offset in (0, 9, 18, 27)]

    assert sum((ids(page) for page in pages), []) == [f"accounts/fireworks/models/{slug}" for slug in SLUGS]


@pytest.mark.parametrize(
    "path", ["/api/catalog/models?gateway=all", "/api/catalog/models", "/api/catalog/models?gateway="]
)
def test_all_gateways_are_merged_and_a_shared_model_is_listed_once_for_each(client: FlaskClient, path: str) -> None:
    body = get(client, path)

    assert (body["total"], body["gateway"]) == (34, "all")
    shared = [entry["source_gateway"] for entry in body["data"] if entry["id"] == "a/One"]
    assert shared == ["featherless", "chutes"]


def test_the_publisher_filter_works_over_all_gateways(client: FlaskClient) -> None:
    body = get(client, "/api/catalog/models?provider=a")

    assert [(entry["source_gateway"], entry["id"]) for entry in body["data"]] == [
        ("featherless", "a/One"),
        ("featherless", "a/Two"),
        ("chutes", "a/One"),
    ]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=%EF%BC%91", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("gateway=openai", "gateway"),
        ("gateway=firework", "gateway"),
        ("search=" + "x" * 201, "search"),
        ("search=" + "+".join("a" * 13), "search"),
    ],
)
def test_bad_values_are_refused_with_the_parameter_named(client: FlaskClient, query: str, param: str) -> None:
    error = get(client, f"/api/catalog/models?{query}", 400)["error"]

    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_an_unknown_gateway_is_answered_with_the_known_ones(client: FlaskClient) -> None:
    message = get(client, "/api/catalog/models?gateway=openai", 400)["error"]["message"]

    assert "fireworks, featherless, deepinfra, chutes, all" in message


def test_a_gateway_without_a_key_names_its_setting(client: FlaskClient) -> None:
    for path in ("/api/catalog/models?gateway=deepinfra", "/api/catalog/model/a/One?gateway=deepinfra"):
        error = get(client, path, 503)["error"]
        assert (error["type"], error["param"]) == ("configuration_error", "DEEPINFRA_API_KEY")
        assert error["message"] == "DeepInfra API key not configured"


def test_an_unchanged_list_is_a_304(client: FlaskClient) -> None:
    path = "/api/catalog/models?gateway=fireworks"
    first = client.get(path)

    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.data) == (304, b"")
    # A cache copies the headers of a 304 into the response that it stores, which has a body.
    assert not {"content-type", "content-length"} & {name.lower() for name, _ in again.headers}
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"something-else"'}).status_code == 200


def test_the_etag_follows_the_list_and_the_query(client: FlaskClient, upstream_lists: ScriptedUpstream) -> None:
    paths = [f"/api/catalog/models?gateway={query}" for query in ("fireworks", "fireworks&limit=9", "chutes", "all")]
    etags = [client.get(path).headers["etag"] for path in paths]
    assert len(set(etags)) == 4

    upstream_lists.on_path(FIREWORKS_LIST, list_answer(fireworks_rows(*SLUGS, "new")))
    get_catalog(FIREWORKS).fetch()

    changed = [client.get(path).headers["etag"] for path in paths]
    assert [new == old for new, old in zip(changed, etags, strict=True)] == [False, False, True, False]


def test_a_list_is_compressed_for_clients_that_accept_gzip(client: FlaskClient) -> None:
    path = "/api/catalog/models?gateway=fireworks"

    packed = client.get(path, headers={"Accept-Encoding": "br, gzip"})
    plain = client.get(path, headers={"Accept-Encoding": "gzip;q=0, identity"})

    assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "accept-encoding")
    assert "content-encoding" not in plain.headers
    assert json.loads(gzip.decompress(packed.data))["data"] == json.loads(plain.data)["data"]
    assert len(packed.data) < len(plain.data) / 4


def test_openais_list_has_a_strong_etag_for_each_encoding(client: FlaskClient) -> None:
    key = {"Authorization": f"Bearer {GATEWAY_KEY}"}
    forms = [key, key | {"Accept-Encoding": "gzip"}]
    answers = [client.get("/v1/models", headers=form) for form in forms]
    plain, packed = (answer.headers["etag"] for answer in answers)

    assert plain.startswith('"') and packed.startswith('"')
    assert plain != packed
    assert gzip.decompress(answers[1].data) == answers[0].data
    for form, etag in zip(forms, (plain, packed), strict=True):
        # A proxy that compresses the response makes the validator weak, and it must still match.
        for asked in (etag, f"W/{etag}"):
            assert client.get("/v1/models", headers=form | {"If-None-Match": asked}).status_code == 304


def test_the_cache_of_responses_is_bounded(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representations, "_MAX_KEPT_BYTES", 60_000)
    for limit in range(1, 31):
        assert get(client, f"/api/catalog/models?gateway=fireworks&limit={limit}")["returned"] == limit

    rendered_cache = get_component(representations.RenderedCache)
    assert rendered_cache._bytes <= 60_000
    assert rendered_cache._bytes == sum(rendered.size for _, rendered in rendered_cache._kept.values())


def test_a_failing_refresh_shows_as_stale_with_its_age(client: FlaskClient, upstream_lists: ScriptedUpstream) -> None:
    path = "/api/catalog/models?gateway=fireworks"
    fresh = client.get(path)
    upstream_lists.on_path(FIREWORKS_LIST, DOWN)
    models._fireworks_models_cache["timestamp"] -= 2000

    stale = client.get(path)
    wait_until(lambda: get_catalog(FIREWORKS).last_error, what="the refresh to fail")

    body = get(client, path)
    assert (body["stale"], body["age_s"] >= 2000, body["total"]) == (True, True, 30)
    assert stale.headers["etag"] != fresh.headers["etag"]


def test_a_cold_start_with_upstream_down_is_a_503_that_says_when_to_retry(
    client: FlaskClient, upstream_lists: ScriptedUpstream
) -> None:
    upstream_lists.on_path(FIREWORKS_LIST, DOWN)

    for _ in range(3):
        answer = client.get("/api/catalog/models?gateway=fireworks")
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert json.loads(answer.text)["error"]["code"] == "catalog_unavailable"


def test_all_gateways_are_listed_without_the_one_that_fails_and_it_is_named(
    client: FlaskClient, upstream_lists: ScriptedUpstream
) -> None:
    upstream_lists.on_path(FIREWORKS_LIST, DOWN)

    body = get(client, "/api/catalog/models")

    assert (body["total"], body["unavailable"]) == (4, ["fireworks"])


def test_all_gateways_failing_is_a_503(client: FlaskClient, upstream_lists: ScriptedUpstream) -> None:
    for path in BASE_PATHS.values():
        upstream_lists.on_path(path + "/models", DOWN)

    assert get(client, "/api/catalog/models", 503)["error"]["type"] == "unavailable_error"
